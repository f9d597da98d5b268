//! A server and agent in one that answers what a test tells it to and remembers what it was asked.
//!
//! Owns no semantics: replies are queued by method name. A call without a queued reply is refused
//! with a text that names it, so a test cannot pass by accident.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use steeple_api::pb;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

type Queued = Result<Box<dyn Any + Send>, Status>;
type StreamOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A call that was made.
pub(crate) struct Call {
    /// The method in snake case.
    pub(crate) method: &'static str,
    /// Its metadata.
    pub(crate) metadata: MetadataMap,
    message: Box<dyn Any + Send>,
}

impl Call {
    /// The request message.
    pub(crate) fn message<T: 'static>(&self) -> &T {
        self.message.downcast_ref().expect("the test names the method's own request type")
    }
}

/// The fake; it stops when dropped.
pub(crate) struct Fake {
    service: Service,
    socket: PathBuf,
    folder: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Listens on a socket of its own.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).expect("the folder is new");
        let service = Service::default();
        let task = tokio::spawn(serve(service.clone(), listener));
        Self { service, socket, folder, task }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A folder for the test's files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Queues a reply.
    pub(crate) fn answer<T: Any + Send>(&self, method: &'static str, reply: T) -> &Self {
        self.queue(method, Ok(Box::new(reply)))
    }

    /// Queues a refusal.
    pub(crate) fn refuse(&self, method: &'static str, status: Status) -> &Self {
        self.queue(method, Err(status))
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.service.calls.lock().expect("no test panics with it held"))
    }

    /// The only call so far.
    pub(crate) fn only_call(&self) -> Call {
        let mut calls = self.calls();
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(methods.len(), 1, "{methods:?}");
        calls.remove(0)
    }

    fn queue(&self, method: &'static str, reply: Queued) -> &Self {
        let mut replies = self.service.replies.lock().expect("no test panics with it held");
        replies.entry(method).or_default().push_back(reply);
        self
    }
}

async fn serve(service: Service, listener: UnixListener) {
    tonic::transport::Server::builder()
        .add_service(pb::server::agent::v1::agent_server::AgentServer::new(service.clone()))
        .add_service(pb::server::bundle::v1::bundle_server::BundleServer::new(service.clone()))
        .add_service(pb::server::entry::v1::entry_server::EntryServer::new(service.clone()))
        .add_service(
            pb::server::localauthority::v1::local_authority_server::LocalAuthorityServer::new(
                service.clone(),
            ),
        )
        .add_service(pb::server::svid::v1::svid_server::SvidServer::new(service.clone()))
        .add_service(pb::server::trustdomain::v1::trust_domain_server::TrustDomainServer::new(
            service.clone(),
        ))
        .add_service(pb::cluster::v1::cluster_server::ClusterServer::new(service.clone()))
        .add_service(pb::cluster::v1::rebuild_server::RebuildServer::new(service.clone()))
        .add_service(pb::health::health_server::HealthServer::new(service.clone()))
        .add_service(pb::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer::new(
            service,
        ))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .expect("the listener outlives the test");
}

#[derive(Clone, Default)]
struct Service {
    replies: Arc<Mutex<HashMap<&'static str, VecDeque<Queued>>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Service {
    fn take<Q: Any + Send, R: Any>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<Response<R>, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call { method, metadata, message: Box::new(message) };
        self.calls.lock().expect("no handler panics with it held").push(call);
        let mut replies = self.replies.lock().expect("no handler panics with it held");
        let queued = replies.get_mut(method).and_then(VecDeque::pop_front);
        let reply =
            queued.unwrap_or_else(|| Err(Status::aborted(format!("{method} was not expected"))))?;
        let reply = reply.downcast().expect("the test queued the method's own reply type");
        Ok(Response::new(*reply))
    }

    /// As [`Self::take_stream`], but afterwards the stream ends.
    fn take_all<Q: Any + Send, R: Any + Send>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<Response<StreamOf<R>>, Status> {
        let messages: Response<Vec<R>> = self.take(method, request)?;
        let all = tokio_stream::iter(messages.into_inner().into_iter().map(Ok));
        Ok(Response::new(Box::pin(all)))
    }

    /// A stream's messages are queued as one vector; afterwards the stream stays open.
    fn take_stream<Q: Any + Send, R: Any + Send>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<Response<StreamOf<R>>, Status> {
        let messages: Response<Vec<R>> = self.take(method, request)?;
        let first = tokio_stream::iter(messages.into_inner().into_iter().map(Ok));
        let stream = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A service whose handlers hand each call to the queue. One macro for the whole `impl`, since
/// `async_trait` rewrites what it sees and a macro inside would come too late.
macro_rules! service {
    (
        $service:path;
        $($method:ident: $request:ty => $reply:ty,)*
        $([$streamed:ident: $opening:ty => $stream:ident of $message:ty])*
        $(; $([$whole:ident: $asked:ty => $all:ident of $part:ty])*)?
    ) => {
        #[tonic::async_trait]
        impl $service for Service {
            $(async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$reply>, Status> {
                self.take(stringify!($method), request)
            })*
            $(type $stream = StreamOf<$message>;

            async fn $streamed(
                &self,
                request: Request<$opening>,
            ) -> Result<Response<Self::$stream>, Status> {
                self.take_stream(stringify!($streamed), request)
            })*
            $($(type $all = StreamOf<$part>;

            async fn $whole(
                &self,
                request: Request<$asked>,
            ) -> Result<Response<Self::$all>, Status> {
                self.take_all(stringify!($whole), request)
            })*)?
        }
    };
}

mod entry {
    use steeple_api::pb::server::entry::v1::*;

    use super::*;

    service! {
        entry_server::Entry;
        count_entries: CountEntriesRequest => CountEntriesResponse,
        list_entries: ListEntriesRequest => ListEntriesResponse,
        get_entry: GetEntryRequest => pb::types::Entry,
        batch_create_entry: BatchCreateEntryRequest => BatchCreateEntryResponse,
        batch_update_entry: BatchUpdateEntryRequest => BatchUpdateEntryResponse,
        batch_delete_entry: BatchDeleteEntryRequest => BatchDeleteEntryResponse,
        get_authorized_entries: GetAuthorizedEntriesRequest => GetAuthorizedEntriesResponse,
        [sync_authorized_entries: Streaming<SyncAuthorizedEntriesRequest>
            => SyncAuthorizedEntriesStream of SyncAuthorizedEntriesResponse]
    }
}

mod agent {
    use steeple_api::pb::server::agent::v1::*;

    use super::*;

    service! {
        agent_server::Agent;
        count_agents: CountAgentsRequest => CountAgentsResponse,
        list_agents: ListAgentsRequest => ListAgentsResponse,
        get_agent: GetAgentRequest => pb::types::Agent,
        delete_agent: DeleteAgentRequest => (),
        ban_agent: BanAgentRequest => (),
        renew_agent: RenewAgentRequest => RenewAgentResponse,
        create_join_token: CreateJoinTokenRequest => pb::types::JoinToken,
        post_status: PostStatusRequest => PostStatusResponse,
        [attest_agent: Streaming<AttestAgentRequest> => AttestAgentStream of AttestAgentResponse]
    }
}

mod bundle {
    use steeple_api::pb::server::bundle::v1::*;

    use super::*;

    service! {
        bundle_server::Bundle;
        count_bundles: CountBundlesRequest => CountBundlesResponse,
        get_bundle: GetBundleRequest => pb::types::Bundle,
        append_bundle: AppendBundleRequest => pb::types::Bundle,
        publish_jwt_authority: PublishJwtAuthorityRequest => PublishJwtAuthorityResponse,
        publish_wit_authority: PublishWitAuthorityRequest => PublishWitAuthorityResponse,
        list_federated_bundles: ListFederatedBundlesRequest => ListFederatedBundlesResponse,
        get_federated_bundle: GetFederatedBundleRequest => pb::types::Bundle,
        batch_create_federated_bundle: BatchCreateFederatedBundleRequest
            => BatchCreateFederatedBundleResponse,
        batch_update_federated_bundle: BatchUpdateFederatedBundleRequest
            => BatchUpdateFederatedBundleResponse,
        batch_set_federated_bundle: BatchSetFederatedBundleRequest
            => BatchSetFederatedBundleResponse,
        batch_delete_federated_bundle: BatchDeleteFederatedBundleRequest
            => BatchDeleteFederatedBundleResponse,
    }
}

mod trust_domain {
    use steeple_api::pb::server::trustdomain::v1::*;

    use super::*;

    service! {
        trust_domain_server::TrustDomain;
        list_federation_relationships: ListFederationRelationshipsRequest
            => ListFederationRelationshipsResponse,
        get_federation_relationship: GetFederationRelationshipRequest
            => pb::types::FederationRelationship,
        batch_create_federation_relationship: BatchCreateFederationRelationshipRequest
            => BatchCreateFederationRelationshipResponse,
        batch_update_federation_relationship: BatchUpdateFederationRelationshipRequest
            => BatchUpdateFederationRelationshipResponse,
        batch_delete_federation_relationship: BatchDeleteFederationRelationshipRequest
            => BatchDeleteFederationRelationshipResponse,
        refresh_bundle: RefreshBundleRequest => (),
    }
}

mod svid {
    use steeple_api::pb::server::svid::v1::*;

    use super::*;

    service! {
        svid_server::Svid;
        mint_x509svid: MintX509svidRequest => MintX509svidResponse,
        mint_jwtsvid: MintJwtsvidRequest => MintJwtsvidResponse,
        mint_witsvid: MintWitsvidRequest => MintWitsvidResponse,
        batch_new_x509svid: BatchNewX509svidRequest => BatchNewX509svidResponse,
        new_jwtsvid: NewJwtsvidRequest => NewJwtsvidResponse,
        batch_new_witsvid: BatchNewWitsvidRequest => BatchNewWitsvidResponse,
        new_downstream_x509ca: NewDownstreamX509caRequest => NewDownstreamX509caResponse,
    }
}

mod cluster {
    use steeple_api::pb::cluster::v1::*;

    use super::*;

    service! {
        cluster_server::Cluster;
        status: StatusRequest => StatusResponse,
        members: MembersRequest => MembersResponse,
        transfer_leadership: TransferLeadershipRequest => TransferLeadershipResponse,
        remove_member: RemoveMemberRequest => RemoveMemberResponse,
        promote_member: PromoteMemberRequest => PromoteMemberResponse,
        demote_member: DemoteMemberRequest => DemoteMemberResponse,
        decide_agents: DecideAgentsRequest => DecideAgentsResponse,
        upgrade_status: UpgradeStatusRequest => UpgradeStatusResponse,
        finalize_upgrade: FinalizeUpgradeRequest => FinalizeUpgradeResponse,
        rotation: RotationRequest => RotationResponse,
        rekey: RekeyRequest => RekeyResponse,
        check: CheckRequest => CheckResponse,
        ; [save_snapshot: SaveSnapshotRequest => SaveSnapshotStream of SaveSnapshotResponse]
    }
}

mod rebuild {
    use steeple_api::pb::cluster::v1::*;

    use super::*;

    service! {
        rebuild_server::Rebuild;
        restore_snapshot: Streaming<RestoreSnapshotRequest> => RestoreSnapshotResponse,
        recover: RecoverRequest => RecoverResponse,
    }
}

mod local_authority {
    use steeple_api::pb::server::localauthority::v1::*;

    use super::*;

    service! {
        local_authority_server::LocalAuthority;
        get_jwt_authority_state: GetJwtAuthorityStateRequest => GetJwtAuthorityStateResponse,
        prepare_jwt_authority: PrepareJwtAuthorityRequest => PrepareJwtAuthorityResponse,
        activate_jwt_authority: ActivateJwtAuthorityRequest => ActivateJwtAuthorityResponse,
        taint_jwt_authority: TaintJwtAuthorityRequest => TaintJwtAuthorityResponse,
        revoke_jwt_authority: RevokeJwtAuthorityRequest => RevokeJwtAuthorityResponse,
        get_x509_authority_state: GetX509AuthorityStateRequest => GetX509AuthorityStateResponse,
        prepare_x509_authority: PrepareX509AuthorityRequest => PrepareX509AuthorityResponse,
        activate_x509_authority: ActivateX509AuthorityRequest => ActivateX509AuthorityResponse,
        taint_x509_authority: TaintX509AuthorityRequest => TaintX509AuthorityResponse,
        taint_x509_upstream_authority: TaintX509UpstreamAuthorityRequest => TaintX509UpstreamAuthorityResponse,
        revoke_x509_authority: RevokeX509AuthorityRequest => RevokeX509AuthorityResponse,
        revoke_x509_upstream_authority: RevokeX509UpstreamAuthorityRequest => RevokeX509UpstreamAuthorityResponse,
        get_wit_authority_state: GetWitAuthorityStateRequest => GetWitAuthorityStateResponse,
        prepare_wit_authority: PrepareWitAuthorityRequest => PrepareWitAuthorityResponse,
        activate_wit_authority: ActivateWitAuthorityRequest => ActivateWitAuthorityResponse,
        taint_wit_authority: TaintWitAuthorityRequest => TaintWitAuthorityResponse,
        revoke_wit_authority: RevokeWitAuthorityRequest => RevokeWitAuthorityResponse,
    }
}

mod health {
    use steeple_api::pb::health::*;

    use super::*;

    service! {
        health_server::Health;
        check: HealthCheckRequest => HealthCheckResponse,
        list: HealthListRequest => HealthListResponse,
        [watch: HealthCheckRequest => WatchStream of HealthCheckResponse]
    }
}

mod workload {
    use steeple_api::pb::workload::*;

    use super::*;

    service! {
        spiffe_workload_api_server::SpiffeWorkloadApi;
        fetch_jwtsvid: JwtsvidRequest => JwtsvidResponse,
        validate_jwtsvid: ValidateJwtsvidRequest => ValidateJwtsvidResponse,
        [fetch_x509svid: X509svidRequest => FetchX509SVIDStream of X509svidResponse]
        [fetch_x509_bundles: X509BundlesRequest => FetchX509BundlesStream of X509BundlesResponse]
        [fetch_jwt_bundles: JwtBundlesRequest => FetchJWTBundlesStream of JwtBundlesResponse]
        [fetch_witsvid: WitsvidRequest => FetchWITSVIDStream of WitsvidResponse]
        [fetch_wit_bundles: WitBundlesRequest => FetchWITBundlesStream of WitBundlesResponse]
    }
}

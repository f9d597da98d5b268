//! A server without a store: the services an agent calls, over real TLS, with faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt as _, stream};
use steeple_api::pb;
use steeple_api::pb::types::permission_denied_details::Reason;
use steeple_api::{convert, metadata, status};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{BundleSource, server_config};
use steeple_spiffe_core::{SpiffeId, TrustDomain};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};

use crate::authority::Authority;
use crate::connection::{Connection, HasCertificate};
use crate::scene::DEADLINE;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server knows, what it does wrong, and what it was asked.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, pb::types::Entry>,
    pub(crate) tokens: BTreeSet<String>,
    pub(crate) can_reattest: bool,
    pub(crate) agent_ttl: Duration,
    pub(crate) svid_ttl: Duration,
    /// Answers calls of agents with this reason.
    pub(crate) refuse: Option<Reason>,
    /// Answers everything so: a server without quorum.
    pub(crate) unavailable: bool,
    /// Batches larger than this fail.
    pub(crate) batch_max: usize,
    /// Offers the push stream.
    pub(crate) pushes: bool,
    /// Who signs beside the authority: its root is in the bundle too.
    pub(crate) next: Option<Arc<Authority>>,
    /// Who signs agents, if it is not the authority.
    pub(crate) signs_agents: Option<Arc<Authority>>,
    /// Asks for acknowledgements: the receipt of the last answer. `None`: an older server.
    pub(crate) receipt: Option<u64>,
    /// What the last caller that acknowledges said it holds.
    pub(crate) held: Option<u64>,
    pub(crate) acknowledged: Vec<u64>,
    /// Keeps the bundle of `partner.test` to itself for now.
    pub(crate) withholds_partner: bool,
    /// Who signs in the federated trust domain `partner.test`, while its bundle is held.
    pub(crate) partner: Option<Arc<Authority>>,
    /// How long a JWT-SVID takes.
    pub(crate) jwt_takes: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) calls: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeServer {
    pub(crate) authority: Arc<Authority>,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Serves until dropped; then open connections die as those of a killed process do.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Listening {
    /// Stops it as SIGSTOP does a process: connections stay open, the kernel accepts more, nothing
    /// is ever answered. Until what is returned is dropped.
    pub(crate) fn freeze(&self) -> std::sync::mpsc::Sender<()> {
        let (thaw, frozen) = std::sync::mpsc::channel();
        let runtime = self.runtime.as_ref().expect("it serves");
        // Its only worker waits here.
        runtime.spawn(async move {
            let _thawed = frozen.recv();
        });
        thaw
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeServer {
    pub(crate) fn new() -> Self {
        Self::of(Authority::new("example.org"))
    }

    /// Another replica: the same authority, a state of its own.
    pub(crate) fn of(authority: Arc<Authority>) -> Self {
        let state = State {
            entries: BTreeMap::new(),
            tokens: BTreeSet::from(["token".to_owned()]),
            can_reattest: false,
            agent_ttl: Duration::from_secs(3600),
            svid_ttl: Duration::from_secs(3600),
            refuse: None,
            unavailable: false,
            batch_max: 500,
            pushes: true,
            next: None,
            signs_agents: None,
            receipt: Some(0),
            held: None,
            acknowledged: Vec::new(),
            withholds_partner: false,
            partner: Some(Authority::new("partner.test")),
            jwt_takes: Duration::ZERO,
            jwt_ttl: Duration::from_secs(300),
            calls: BTreeMap::new(),
        };
        Self {
            authority,
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    pub(crate) fn calls(&self, method: &str) -> usize {
        self.state().calls.get(method).copied().unwrap_or(0)
    }

    /// Changes the state and tells agents that hold a push stream.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|revision| *revision += 1);
    }

    fn bundle(&self) -> Bundle {
        let mut bundle = self.authority.bundle();
        let next = self.state().next.clone();
        bundle
            .x509_authorities
            .extend(next.into_iter().flat_map(|one| one.bundle().x509_authorities));
        bundle
    }

    /// An entry with this id and path for workloads of this user.
    pub(crate) fn entry(&self, id: &str) -> pb::types::Entry {
        let uid = nix::unistd::geteuid();
        pb::types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(convert::id::to_pb(&self.authority.id(&format!("/{id}")))),
            selectors: vec![pb::types::Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{uid}"),
            }],
            created_at: 1,
            ..Default::default()
        }
    }

    pub(crate) fn add_entry(&self, entry: pb::types::Entry) {
        self.change(|state| {
            state.entries.insert(entry.id.clone(), entry);
        });
    }

    /// Listens on a free port, or again on a port it had.
    pub(crate) fn listen(&self, address: Option<SocketAddr>) -> Listening {
        use pb::agent_ext::v1::updates_server::UpdatesServer;
        use pb::server::agent::v1::agent_server::AgentServer;
        use pb::server::bundle::v1::bundle_server::BundleServer;
        use pb::server::entry::v1::entry_server::EntryServer;
        use pb::server::svid::v1::svid_server::SvidServer;

        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().expect("address"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let inside = runtime.enter();
        let socket = TcpSocket::new_v4().expect("socket");
        // Connections of a server that was killed must not keep its port.
        socket.set_reuseaddr(true).expect("reuse");
        // One that was dropped a moment ago still lets go of it.
        let deadline = std::time::Instant::now() + DEADLINE;
        while let Err(error) = socket.bind(address) {
            assert!(std::time::Instant::now() < deadline, "bind {address}: {error}");
            std::thread::yield_now();
        }
        let listener = socket.listen(64).expect("listen");
        let address = listener.local_addr().expect("address");
        let identity = Arc::new(ArcSwap::new(self.authority.server_identity()));
        let accept = Arc::new(|id: &SpiffeId| id.is_agent());
        let bundles = Arc::new(self.clone());
        let tls = server_config(identity, bundles, accept, Arc::new(SystemClock)).expect("TLS");
        let acceptor = TlsAcceptor::from(tls);
        let connections = stream::unfold((listener, acceptor), |(listener, acceptor)| async {
            let (stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("no delay");
            let accepted = acceptor.accept(stream).await;
            Some((accepted.map(Connection), (listener, acceptor)))
        });
        // A handshake that fails is one connection's trouble.
        let connections = connections.filter(|accepted| std::future::ready(accepted.is_ok()));
        let served = tonic::transport::Server::builder()
            .add_service(AgentServer::new(self.clone()))
            .add_service(BundleServer::new(self.clone()))
            .add_service(EntryServer::new(self.clone()))
            .add_service(SvidServer::new(self.clone()))
            .add_service(UpdatesServer::new(self.clone()))
            .serve_with_incoming(connections);
        runtime.spawn(async move { served.await.expect("serve") });
        drop(inside);
        Listening { address, runtime: Some(runtime) }
    }

    fn enter(&self, method: &'static str) -> Result<(), Status> {
        let mut state = self.state();
        *state.calls.entry(method).or_default() += 1;
        if state.unavailable {
            return Err(Status::unavailable("no leader: 1 of 3 voters reachable"));
        }
        Ok(())
    }

    /// As [`Self::enter`], for methods of agents.
    fn enter_as_agent<T>(&self, method: &'static str, request: &Request<T>) -> Result<(), Status> {
        self.enter(method)?;
        let shown = request.extensions().get::<HasCertificate>();
        if !shown.is_some_and(|shown| shown.0) {
            return Err(Status::permission_denied("authorization denied"));
        }
        match self.state().refuse {
            Some(reason) => Err(status::permission_denied("authorization denied", reason)),
            None => Ok(()),
        }
    }

    fn admit(
        &self,
        params: pb::server::agent::v1::attest_agent_request::Params,
    ) -> Result<pb::server::agent::v1::attest_agent_response::Result, Status> {
        let data = params.data.expect("data");
        let csr = params.params.expect("params").csr;
        let token = String::from_utf8(data.payload).expect("token");
        let mut state = self.state();
        if !state.tokens.contains(&token) {
            let text = "failed to attest: join token does not exist or has already been used";
            return Err(Status::invalid_argument(text));
        }
        if !state.can_reattest {
            state.tokens.remove(&token);
        }
        let id = self.authority.id(&format!("/spire/agent/{}/{token}", data.r#type));
        Ok(pb::server::agent::v1::attest_agent_response::Result {
            svid: Some(state.signs_agents.as_ref().unwrap_or(&self.authority).svid(
                &id,
                &csr,
                state.agent_ttl,
            )),
            reattestable: state.can_reattest,
        })
    }
}

impl BundleSource for FakeServer {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (*trust_domain == self.authority.trust_domain).then(|| Arc::new(FakeServer::bundle(self)))
    }
}

/// Methods that no agent calls, as `async_trait` wants them.
macro_rules! not_for_agents {
    ($($method:ident($request:ty) -> $response:ty;)*) => {
        $(fn $method<'a, 'b>(
            &'a self,
            _request: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("not for agents")) })
        })*
    };
}

mod agent_service {
    use super::*;
    use pb::server::agent::v1::*;

    #[tonic::async_trait]
    impl agent_server::Agent for FakeServer {
        type AttestAgentStream = Answers<AttestAgentResponse>;

        async fn attest_agent(
            &self,
            request: Request<Streaming<AttestAgentRequest>>,
        ) -> Result<Response<Self::AttestAgentStream>, Status> {
            self.enter("AttestAgent")?;
            let first = request.into_inner().message().await?.expect("first message");
            let Some(attest_agent_request::Step::Params(params)) = first.step else {
                return Err(Status::invalid_argument("malformed param"));
            };
            let step = attest_agent_response::Step::Result(self.admit(params)?);
            let answer = AttestAgentResponse { step: Some(step) };
            Ok(Response::new(Box::pin(stream::iter([Ok(answer)]))))
        }

        async fn renew_agent(
            &self,
            request: Request<RenewAgentRequest>,
        ) -> Result<Response<RenewAgentResponse>, Status> {
            self.enter_as_agent("RenewAgent", &request)?;
            let csr = request.into_inner().params.expect("params").csr;
            let id = self.authority.id("/spire/agent/join_token/token");
            let ttl = self.state().agent_ttl;
            let svid = Some(self.authority.svid(&id, &csr, ttl));
            Ok(Response::new(RenewAgentResponse { svid }))
        }

        async fn post_status(
            &self,
            request: Request<PostStatusRequest>,
        ) -> Result<Response<PostStatusResponse>, Status> {
            self.enter_as_agent("PostStatus", &request)?;
            Ok(Response::new(PostStatusResponse {}))
        }

        not_for_agents! {
            count_agents(CountAgentsRequest) -> CountAgentsResponse;
            list_agents(ListAgentsRequest) -> ListAgentsResponse;
            get_agent(GetAgentRequest) -> pb::types::Agent;
            delete_agent(DeleteAgentRequest) -> ();
            ban_agent(BanAgentRequest) -> ();
            create_join_token(CreateJoinTokenRequest) -> pb::types::JoinToken;
        }
    }
}

mod bundle_service {
    use super::*;
    use pb::server::bundle::v1::*;

    #[tonic::async_trait]
    impl bundle_server::Bundle for FakeServer {
        async fn get_bundle(
            &self,
            request: Request<GetBundleRequest>,
        ) -> Result<Response<pb::types::Bundle>, Status> {
            self.enter("GetBundle")?;
            let mut reply = Response::new(convert::bundle::to_pb(&self.bundle()));
            let mut state = self.state();
            let held = metadata::number(request.metadata(), metadata::BUNDLE_HELD);
            if held.is_some() {
                state.held = held;
                if let Some(receipt) = &mut state.receipt {
                    *receipt += 1;
                    let receipt = (*receipt).into();
                    reply.metadata_mut().insert(metadata::BUNDLE_RECEIPT, receipt);
                }
            }
            Ok(reply)
        }

        async fn get_federated_bundle(
            &self,
            request: Request<GetFederatedBundleRequest>,
        ) -> Result<Response<pb::types::Bundle>, Status> {
            self.enter_as_agent("GetFederatedBundle", &request)?;
            let mut changes = self.changed.subscribe();
            while self.state().withholds_partner {
                changes.changed().await.expect("the server has the sender");
            }
            let name = request.into_inner().trust_domain;
            let partner = self.state().partner.clone().filter(|_| name == "partner.test");
            let partner = partner.ok_or_else(|| Status::not_found("bundle not found"))?;
            Ok(Response::new(convert::bundle::to_pb(&partner.bundle())))
        }

        not_for_agents! {
            count_bundles(CountBundlesRequest) -> CountBundlesResponse;
            append_bundle(AppendBundleRequest) -> pb::types::Bundle;
            publish_jwt_authority(PublishJwtAuthorityRequest) -> PublishJwtAuthorityResponse;
            publish_wit_authority(PublishWitAuthorityRequest) -> PublishWitAuthorityResponse;
            list_federated_bundles(ListFederatedBundlesRequest) -> ListFederatedBundlesResponse;
            batch_create_federated_bundle(BatchCreateFederatedBundleRequest) -> BatchCreateFederatedBundleResponse;
            batch_update_federated_bundle(BatchUpdateFederatedBundleRequest) -> BatchUpdateFederatedBundleResponse;
            batch_set_federated_bundle(BatchSetFederatedBundleRequest) -> BatchSetFederatedBundleResponse;
            batch_delete_federated_bundle(BatchDeleteFederatedBundleRequest) -> BatchDeleteFederatedBundleResponse;
        }
    }
}

mod entry_service {
    use super::*;
    use pb::server::entry::v1::*;

    const PAGE: usize = 500;

    #[tonic::async_trait]
    impl entry_server::Entry for FakeServer {
        type SyncAuthorizedEntriesStream = Answers<SyncAuthorizedEntriesResponse>;

        async fn sync_authorized_entries(
            &self,
            request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
        ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
            self.enter_as_agent("SyncAuthorizedEntries", &request)?;
            let mut requests = request.into_inner();
            requests.message().await?.expect("mask");
            let entries: Vec<_> = self.state().entries.values().cloned().collect();
            if entries.len() <= PAGE {
                let all = SyncAuthorizedEntriesResponse { entries, ..Default::default() };
                return Ok(Response::new(Box::pin(stream::iter([Ok(all)]))));
            }
            let revision = |entry: &pb::types::Entry| EntryRevision {
                id: entry.id.clone(),
                revision_number: entry.revision_number,
                created_at: entry.created_at,
            };
            let revisions: Vec<_> = entries.iter().map(revision).collect();
            let pages = revisions.len().div_ceil(PAGE);
            let revisions: Vec<_> = revisions
                .chunks(PAGE)
                .enumerate()
                .map(|(page, chunk)| {
                    Ok(SyncAuthorizedEntriesResponse {
                        entry_revisions: chunk.to_vec(),
                        more: page + 1 < pages,
                        ..Default::default()
                    })
                })
                .collect();
            let server = self.clone();
            let bodies = requests.map(move |asked| {
                let mut state = server.state();
                let ids = asked?.ids;
                *state.calls.entry("entry bodies").or_default() += ids.len();
                let found = ids.iter().filter_map(|id| state.entries.get(id)).cloned().collect();
                Ok(SyncAuthorizedEntriesResponse { entries: found, ..Default::default() })
            });
            Ok(Response::new(Box::pin(stream::iter(revisions).chain(bodies))))
        }

        not_for_agents! {
            count_entries(CountEntriesRequest) -> CountEntriesResponse;
            list_entries(ListEntriesRequest) -> ListEntriesResponse;
            get_entry(GetEntryRequest) -> pb::types::Entry;
            batch_create_entry(BatchCreateEntryRequest) -> BatchCreateEntryResponse;
            batch_update_entry(BatchUpdateEntryRequest) -> BatchUpdateEntryResponse;
            batch_delete_entry(BatchDeleteEntryRequest) -> BatchDeleteEntryResponse;
            get_authorized_entries(GetAuthorizedEntriesRequest) -> GetAuthorizedEntriesResponse;
        }
    }
}

mod svid_service {
    use super::*;
    use pb::server::svid::v1::*;

    #[tonic::async_trait]
    impl svid_server::Svid for FakeServer {
        async fn batch_new_x509svid(
            &self,
            request: Request<BatchNewX509svidRequest>,
        ) -> Result<Response<BatchNewX509svidResponse>, Status> {
            self.enter_as_agent("BatchNewX509SVID", &request)?;
            let params = request.into_inner().params;
            let state = self.state();
            if params.len() > state.batch_max {
                return Err(Status::resource_exhausted("rate exceeds burst size"));
            }
            let sign = |param: NewX509svidParams| {
                let Some(entry) = state.entries.get(&param.entry_id) else {
                    let status =
                        status::item(tonic::Code::NotFound, "entry not found or not authorized");
                    return batch_new_x509svid_response::Result {
                        status: Some(status),
                        svid: None,
                    };
                };
                let id = convert::id::any_id(entry.spiffe_id.as_ref()).expect("id");
                let svid = self.authority.svid(&id, &param.csr, state.svid_ttl);
                batch_new_x509svid_response::Result { status: Some(status::ok()), svid: Some(svid) }
            };
            let results = params.into_iter().map(sign).collect();
            Ok(Response::new(BatchNewX509svidResponse { results }))
        }

        async fn new_jwtsvid(
            &self,
            request: Request<NewJwtsvidRequest>,
        ) -> Result<Response<NewJwtsvidResponse>, Status> {
            self.enter_as_agent("NewJWTSVID", &request)?;
            let takes = self.state().jwt_takes;
            // Nothing is waited for: being slow is what the test is about.
            tokio::time::sleep(takes).await;
            let message = request.into_inner();
            let state = self.state();
            let entry = state.entries.get(&message.entry_id);
            let entry = entry.ok_or_else(|| Status::not_found("entry not found"))?;
            let id = convert::id::any_id(entry.spiffe_id.as_ref()).expect("id");
            let svid = Some(self.authority.token(&id, &message.audience, state.jwt_ttl));
            Ok(Response::new(NewJwtsvidResponse { svid }))
        }

        not_for_agents! {
            mint_x509svid(MintX509svidRequest) -> MintX509svidResponse;
            mint_jwtsvid(MintJwtsvidRequest) -> MintJwtsvidResponse;
            mint_witsvid(MintWitsvidRequest) -> MintWitsvidResponse;
            batch_new_witsvid(BatchNewWitsvidRequest) -> BatchNewWitsvidResponse;
            new_downstream_x509ca(NewDownstreamX509caRequest) -> NewDownstreamX509caResponse;
        }
    }
}

#[tonic::async_trait]
impl pb::agent_ext::v1::updates_server::Updates for FakeServer {
    type WatchStream = Answers<pb::agent_ext::v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<pb::agent_ext::v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.enter_as_agent("Watch", &request)?;
        if !self.state().pushes {
            return Err(Status::unimplemented("unknown service"));
        }
        let mut changes = self.changed.subscribe();
        changes.mark_changed();
        let steps = stream::unfold(changes, |mut changes| async {
            changes.changed().await.ok()?;
            let revision = *changes.borrow_and_update() + 1;
            let step = pb::agent_ext::v1::WatchResponse { revision, ..Default::default() };
            Some((Ok(step), changes))
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn acknowledge(
        &self,
        request: Request<pb::agent_ext::v1::AcknowledgeRequest>,
    ) -> Result<Response<pb::agent_ext::v1::AcknowledgeResponse>, Status> {
        self.enter_as_agent("Acknowledge", &request)?;
        let mut state = self.state();
        if state.receipt.is_none() {
            return Err(Status::unimplemented("unknown method Acknowledge"));
        }
        state.acknowledged.push(request.into_inner().receipt);
        Ok(Response::new(pb::agent_ext::v1::AcknowledgeResponse {}))
    }
}

//! The incoming half of the peer network: every call, checked, then handed to consensus or `cluster/`.
//!
//! Owns who may call what. A caller is who its certificate says. Consensus calls need a member of our
//! cluster and epoch, speaking for itself. A caller that our membership does not name is heard only if
//! it may know a newer membership than we do: a member that lags must be able to vote for, and be fed
//! by, one that was added meanwhile; one that was removed may not disturb us.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::core::Core;
use crate::error::RunError;
use crate::ids::MemberId;
use crate::limits::ATTEMPT_TIMEOUT;
use crate::net::channels::MESSAGE_BYTES_MAX;
use crate::net::listener;
use crate::net::name::PeerName;
use crate::net::network::{BEGAN_HEADER, EPOCH_HEADER, PeerNetwork};
use crate::net::pb::raft::v1 as pb;
use crate::net::pb::raft::v1::peer_server::{Peer, PeerServer};
use crate::net::refusals::Refusal;
use crate::net::reversion;
use crate::net::snapshot::{receive_body, receive_header};
use crate::net::transport::Incoming;
use crate::net::{proposals, wire};
use crate::observe::Observation;
use crate::offload::offload;
use crate::raft::{LogId, TypeConfig, Vote};
use crate::snapshot::SnapshotBody;
use crate::upgrade::RaiseError;

/// A connection without a sign of life for this long is closed.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// As large as a client's window.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Answers what is not consensus': implemented by `cluster/`.
pub(crate) trait Greeter: Send + Sync + fmt::Debug {
    /// Says who we are and how we stand.
    fn hello(&self, caller: MemberId) -> BoxFuture<'_, pb::Introduction>;

    /// Considers a founding set.
    fn adopt(&self, caller: MemberId, set: pb::FoundingSet) -> BoxFuture<'_, Result<(), Status>>;

    /// Takes a member in, if this one leads.
    fn join(
        &self,
        caller: MemberId,
        request: pb::JoinRequest,
    ) -> BoxFuture<'_, Result<pb::JoinReply, Status>>;

    /// Commits a member's new address, if this one leads.
    fn update_address(
        &self,
        caller: MemberId,
        address: String,
    ) -> BoxFuture<'_, Result<pb::UpdateAddressReply, Status>>;

    /// Changes the membership as an operator of another member asked, if this one leads.
    fn change_members(
        &self,
        request: pb::ChangeMembersRequest,
    ) -> BoxFuture<'_, Result<(), Status>>;
}

/// Serves peers until told to stop.
///
/// # Errors
///
/// If the gRPC server fails.
pub(crate) async fn serve(
    core: Arc<Core>,
    network: Arc<PeerNetwork>,
    greeter: Arc<dyn Greeter>,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (sender, receiver) = listener::ready_queue();
    let accepting = listener::accept(
        incoming,
        network.dialler.tls.clone(),
        network.refusals.clone(),
        network.clock.clone(),
        sender,
    );
    let service = PeerServer::new(PeerService { core, network, greeter })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_INTERVAL))
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(receiver));
    tokio::select! {
        biased;
        () = accepting => Err(RunError::Network("the peer listener ended".to_owned())),
        served = serving => Err(RunError::Network(match served {
            Ok(()) => "the peer server ended".to_owned(),
            Err(error) => crate::net::chain(&error),
        })),
        () = stop.cancelled() => Ok(()),
    }
}

#[derive(Debug)]
struct PeerService {
    core: Arc<Core>,
    network: Arc<PeerNetwork>,
    greeter: Arc<dyn Greeter>,
}

impl PeerService {
    fn refuse(&self, refusal: Refusal, who: &PeerName, detail: &str) -> Status {
        let clock = self.network.clock.as_ref();
        self.network.refusals.note(refusal, &who.to_string(), detail, clock);
        Status::permission_denied(detail)
    }

    /// The name that the handshake has proven.
    fn caller<T>(request: &Request<T>) -> Result<PeerName, Status> {
        let name = request.extensions().get::<PeerName>().cloned();
        name.ok_or_else(|| Status::unauthenticated("no peer certificate"))
    }

    /// The caller, if it is of our cluster and epoch.
    fn of_our_cluster<T>(&self, request: &Request<T>) -> Result<(MemberId, PeerName), Status> {
        let name = Self::caller(request)?;
        let ours = self.network.cluster_id();
        let member = match &name {
            PeerName::Member { cluster, member } if Some(*cluster) == ours => *member,
            PeerName::Member { .. } | PeerName::Newcomer { .. } => {
                let detail = match ours {
                    Some(ours) => format!("this member belongs to cluster {ours}"),
                    None => "this member belongs to no cluster yet".to_owned(),
                };
                return Err(self.refuse(Refusal::Cluster, &name, &detail));
            }
        };
        let (theirs, began) = epoch_of(request);
        self.network.note_epoch(theirs, began);
        let ours = self.network.epoch();
        // Zero: not known yet, by a member that has not applied the first command.
        if theirs != 0 && ours != 0 {
            if theirs != ours {
                let detail = format!("epoch is {ours}, not {theirs}");
                return Err(self.refuse(Refusal::Epoch, &name, &detail));
            }
            if self.network.is_twin(theirs, began) {
                let detail =
                    format!("epoch {ours} was begun twice, by another restore or recovery");
                return Err(self.refuse(Refusal::Epoch, &name, &detail));
            }
        }
        self.network.addresses.heard(member, self.network.clock.boot_time());
        Ok((member, name))
    }

    /// The caller, if the current membership names it.
    fn member<T>(&self, request: &Request<T>) -> Result<MemberId, Status> {
        let (member, name) = self.of_our_cluster(request)?;
        if self.is_known(member) {
            return Ok(member);
        }
        let detail = format!("member {member} does not belong to this cluster (any more)");
        Err(self.refuse(Refusal::Member, &name, &detail))
    }

    /// Whether the membership names it; everyone, as long as there is none.
    fn is_known(&self, member: MemberId) -> bool {
        let metrics = self.core.raft.metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        membership.get_node(&member.0).is_some() || membership.nodes().next().is_none()
    }

    /// Whether a log that ends there may hold a membership that is newer than ours.
    fn is_ahead(&self, last: Option<&LogId>) -> bool {
        let metrics = self.core.raft.metrics();
        let now = metrics.borrow_watched();
        last > now.membership_config.log_id().as_ref()
    }

    fn candidate(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<openraft::raft::VoteRequest<TypeConfig>, Status> {
        let (member, name) = self.of_our_cluster(&request)?;
        self.fenced()?;
        let vote = wire::vote_request_from_pb(request.get_ref()).map_err(garbled)?;
        self.speaks_for_itself(member, &name, &vote.vote)?;
        self.belongs(member, &name, vote.last_log_id.as_ref())?;
        Ok(vote)
    }

    /// A member that our membership does not name is one only if it may know a newer membership.
    fn belongs(
        &self,
        member: MemberId,
        name: &PeerName,
        last: Option<&LogId>,
    ) -> Result<(), Status> {
        if self.is_known(member) || self.is_ahead(last) {
            return Ok(());
        }
        let detail = format!("member {member} does not belong to this cluster (any more)");
        Err(self.refuse(Refusal::Member, name, &detail))
    }

    fn speaks_for_itself(
        &self,
        member: MemberId,
        name: &PeerName,
        vote: &Vote,
    ) -> Result<(), Status> {
        if vote.leader_id.node_id == member.0 {
            return Ok(());
        }
        let detail = format!("member {member} sent a vote of {:016x}", vote.leader_id.node_id);
        Err(self.refuse(Refusal::Impersonation, name, &detail))
    }

    /// An append that its sender may send: only ever as a leader, for itself.
    fn append_of(
        &self,
        member: MemberId,
        name: &PeerName,
        request: pb::AppendRequest,
    ) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
        // Consensus may have stopped by now, and would log each.
        self.fenced()?;
        let confirmed = request.confirmed;
        let append = wire::append_from_pb(request).map_err(garbled)?;
        self.speaks_for_itself(member, name, &append.vote)?;
        self.holds(member, &append.vote, confirmed)?;
        Ok(append)
    }

    /// Refuses to go on if this member lacks what it confirmed, as its leader says.
    fn holds(&self, leader: MemberId, vote: &Vote, confirmed: u64) -> Result<(), Status> {
        // What consensus has seen is enough where it is more; it may be a moment behind the disk, and
        // while a snapshot takes the place of the log it is before it.
        let seen = self.core.raft.metrics().borrow_watched().last_log_index.unwrap_or(0);
        if seen >= confirmed {
            return Ok(());
        }
        let ends = reversion::ends_before(self.core.engine.log.as_ref(), vote, confirmed);
        let ends = ends.map_err(|error| Status::internal(format!("read log: {error}")))?;
        let Some(ends) = ends else { return Ok(()) };
        self.core.fence.trip(format!(
            "this member's disk holds less than it acknowledged: its log ends at entry {ends}, and \
             it had confirmed entry {confirmed} to leader {leader}"
        ));
        self.fenced()
    }

    /// A member behind the fence says nothing that another may build on, in the moment that it takes
    /// to end.
    fn fenced(&self) -> Result<(), Status> {
        match self.core.fence.reason() {
            Some(reason) => Err(Status::failed_precondition(reason)),
            None => Ok(()),
        }
    }

    fn heard_leader(&self, from: MemberId) {
        let now = self.network.clock.boot_time();
        self.core.leader_heard.note(now);
        self.network.addresses.heard(from, now);
    }
}

/// The epoch that a caller is of, zero: not known yet; and when that began, if it says so.
fn epoch_of<T>(request: &Request<T>) -> (u32, Option<i64>) {
    let header = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
    let epoch = header(EPOCH_HEADER).and_then(|text| text.parse().ok()).unwrap_or(0);
    (epoch, header(BEGAN_HEADER).and_then(|text| text.parse().ok()))
}

fn garbled(error: crate::codec::CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl fmt::Display) -> Status {
    Status::unavailable(format!("consensus stopped: {error}"))
}

type Replies = Pin<Box<dyn Stream<Item = Result<pb::AppendReply, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let vote = self.candidate(request)?;
        let reply = self.core.raft.vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_reply_to_pb(&reply)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let vote = self.candidate(request)?;
        let reply = self.core.raft.pre_vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_reply_to_pb(&reply)))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        let (member, name) = self.of_our_cluster(&request)?;
        let append = self.append_of(member, &name, request.into_inner())?;
        let prev = append.prev_log_id;
        let last = append.entries.last().map(|entry| entry.log_id).or(prev);
        let reply = self.core.raft.append_entries(append).await.map_err(stopped)?;
        match &reply {
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => self.heard_leader(member),
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(Response::new(wire::append_reply_to_pb(&reply, prev, last)))
    }

    type StreamAppendStream = Replies;

    async fn stream_append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let (member, name) = self.of_our_cluster(&request)?;
        let cluster = self.network.cluster_id();
        let service = Self {
            core: self.core.clone(),
            network: self.network.clone(),
            greeter: self.greeter.clone(),
        };
        let service = Arc::new(service);
        let failure = Arc::new(Mutex::new(None));
        let (checker, noted) = (service.clone(), failure.clone());
        let appends = request.into_inner().map(move |request| {
            // A founder may adopt another set while a stream is open.
            if checker.network.cluster_id() != cluster {
                return Err(Status::permission_denied("this member left that cluster"));
            }
            checker.append_of(member, &name, request?)
        });
        // Consensus takes no errors: the first ends the stream and is told behind the last reply.
        let appends = appends.scan((), move |(), append| {
            let append = append.map_err(|status| *lock(&noted) = Some(status)).ok();
            std::future::ready(append)
        });
        let replies = self.core.raft.stream_append(appends).map(move |reply| {
            let reply = reply.map_err(stopped)?;
            match &reply {
                Ok(_) | Err(StreamAppendError::Conflict(_)) => service.heard_leader(member),
                Err(StreamAppendError::HigherVote(_)) => {}
            }
            Ok(wire::stream_reply_to_pb(&reply))
        });
        let end = futures::stream::once(async move { lock(&failure).take() });
        let replies = replies.chain(end.filter_map(async |failure| failure.map(Err)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let (member, name) = self.of_our_cluster(&request)?;
        let mut chunks = request.into_inner();
        let (vote, meta, first) = receive_header(&mut chunks).await?;
        self.speaks_for_itself(member, &name, &vote)?;
        self.fenced()?;
        self.belongs(member, &name, meta.last_log_id.as_ref())?;
        // Each may be as large as the registry.
        let _installing = self.core.installing.try_acquire().map_err(|_taken| {
            Status::resource_exhausted("another snapshot is being installed here")
        })?;
        let snapshots = self.core.engine.snapshots.clone();
        let sink = crate::net::snapshot::blocking(move || snapshots.sink()).await?;
        let snapshot = receive_body(first, &mut chunks, sink).await?;
        let snapshot = checked(snapshot).await?;
        let index = meta.last_log_id.as_ref().map_or(0, |id| id.index);
        let bytes = snapshot.len();
        let snapshot = openraft::Snapshot { meta, snapshot };
        let reply = self.core.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        self.heard_leader(member);
        tracing::debug!(from = %member, log_index = index, bytes, "snapshot came from a peer");
        let vote = Some(crate::raft::convert::vote_to_pb(&reply.vote));
        Ok(Response::new(pb::SnapshotReply { vote }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        let (member, name) = self.of_our_cluster(&request)?;
        let transfer = wire::transfer_from_pb(request.get_ref()).map_err(garbled)?;
        self.speaks_for_itself(member, &name, transfer.from_leader())?;
        // All voters are told, whoever is to take over.
        self.core.hand_overs.note(transfer.from_leader().leader_id.term);
        self.fenced()?;
        if self.core.stands_down() {
            return Err(Status::failed_precondition("this member is stopping"));
        }
        let reply = self.core.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        Ok(Response::new(wire::transfer_reply_to_pb(&reply)))
    }

    async fn forward_proposal(
        &self,
        request: Request<pb::ForwardProposalRequest>,
    ) -> Result<Response<pb::ForwardProposalReply>, Status> {
        self.member(&request)?;
        self.fenced()?;
        let envelope = request.into_inner().envelope;
        Ok(Response::new(proposals::serve_proposal(&self.core, envelope).await))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        self.member(&request)?;
        self.fenced()?;
        Ok(Response::new(proposals::serve_read(&self.core, ATTEMPT_TIMEOUT).await))
    }

    async fn update_address(
        &self,
        request: Request<pb::UpdateAddressRequest>,
    ) -> Result<Response<pb::UpdateAddressReply>, Status> {
        let member = self.member(&request)?;
        let address = request.into_inner().address;
        Ok(Response::new(self.greeter.update_address(member, address).await?))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<pb::ChangeMembersReply>, Status> {
        self.member(&request)?;
        self.greeter.change_members(request.into_inner()).await?;
        Ok(Response::new(pb::ChangeMembersReply {}))
    }

    async fn raise_feature_level(
        &self,
        request: Request<pb::RaiseFeatureLevelRequest>,
    ) -> Result<Response<pb::RaiseFeatureLevelReply>, Status> {
        self.member(&request)?;
        match self.core.raise_as_leader(request.into_inner().to).await {
            Ok(()) => Ok(Response::new(pb::RaiseFeatureLevelReply {})),
            Err(RaiseError::Refused(text)) => Err(Status::failed_precondition(text)),
            Err(RaiseError::Unavailable(error)) => Err(Status::unavailable(error.text)),
        }
    }

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<pb::ObserveReply>, Status> {
        self.member(&request)?;
        let checkpoints = self.core.checkpoints().await;
        let checkpoints = checkpoints.map_err(|error| Status::internal(error.to_string()))?;
        // The clock last: it counts as of the answer.
        let said = Observation { checkpoints, ..self.core.observation() };
        Ok(Response::new(crate::observe::to_pb(&said)))
    }

    async fn ask(
        &self,
        request: Request<pb::AskRequest>,
    ) -> Result<Response<pb::AskReply>, Status> {
        self.member(&request)?;
        let answer = self.core.answer(request.into_inner().question).await;
        let answer = answer.map_err(Status::failed_precondition)?;
        Ok(Response::new(pb::AskReply { answer }))
    }

    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloReply>, Status> {
        let name = Self::caller(&request)?;
        let caller = name.member();
        if let PeerName::Member { cluster, .. } = name
            && Some(cluster) == self.network.cluster_id()
        {
            let (epoch, began) = epoch_of(&request);
            self.network.note_epoch(epoch, began);
        }
        let introduction = self.greeter.hello(caller).await;
        Ok(Response::new(pb::HelloReply { introduction: Some(introduction) }))
    }

    async fn adopt(
        &self,
        request: Request<pb::AdoptRequest>,
    ) -> Result<Response<pb::AdoptReply>, Status> {
        let caller = Self::caller(&request)?.member();
        let set = request.into_inner().set.unwrap_or_default();
        self.greeter.adopt(caller, set).await?;
        Ok(Response::new(pb::AdoptReply {}))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, Status> {
        let caller = Self::caller(&request)?.member();
        Ok(Response::new(self.greeter.join(caller, request.into_inner()).await?))
    }
}

/// A snapshot that is what its sender once wrote. Consensus takes one that is not for a failure of our
/// own disk, and ends this member for it.
async fn checked(snapshot: SnapshotBody) -> Result<SnapshotBody, Status> {
    let body = snapshot.clone();
    let verified = offload(move || crate::snapshot::verify(&body)).await;
    match verified {
        Ok(Ok(_)) => Ok(snapshot),
        Ok(Err(error)) => {
            let text = format!("the snapshot is damaged: {}", crate::net::chain(&error));
            tracing::warn!("{text}");
            Err(Status::data_loss(text))
        }
        Err(error) => Err(Status::internal(format!("check snapshot: {error}"))),
    }
}

fn lock(failure: &Mutex<Option<Status>>) -> std::sync::MutexGuard<'_, Option<Status>> {
    failure.lock().unwrap_or_else(PoisonError::into_inner)
}

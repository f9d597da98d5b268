//! The outgoing half of the peer network: one per member, shared by everything that calls others.
//!
//! Owns the credentials, the address book and the channels of this member, and the calls that are not
//! consensus': Hello, Adopt, Join, forwarding. Consensus' calls are `client`'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use prost::bytes::Bytes;
use rustls::pki_types::CertificateDer;
use steeple_spiffe_core::Clock;
use steeple_spiffe_core::random::Random;
use tokio::time::Instant;
use tonic::codegen::InterceptedService;
use tonic::service::Interceptor;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::acks::Acks;
use crate::cluster_key::ClusterKeys;
use crate::config::Config;
use crate::error::{OpenError, Unavailable};
use crate::forward::{ForwardError, Forwarder};
use crate::ids::{ClusterId, MemberId};
use crate::net::addresses::AddressBook;
use crate::net::channels::{Channels, Lane, MESSAGE_BYTES_MAX, over};
use crate::net::client::NetworkFactory;
use crate::net::dial::{DialError, Dialler, Expected, chain, is_key_refusal, said};
use crate::net::name::PeerName;
use crate::net::pb;
use crate::net::proposals;
use crate::net::refusals::Refusals;
use crate::net::reversion::Confirmations;
use crate::net::tls::{PeerTls, TlsError};
use crate::observe::{self, Observation};
use crate::outcome::Applied;
use crate::questions::AskError;
use crate::upgrade::RaiseError;

/// Hello, Adopt and Join read at most one small record: a peer that needs longer is not there.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

/// Longer than the leader waits for the commits of a change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(12);

/// Metadata that carries the epoch.
pub(crate) const EPOCH_HEADER: &str = "steeple-epoch";

/// Metadata that carries when the epoch began.
pub(crate) const BEGAN_HEADER: &str = "steeple-epoch-began";

/// What [`PeerNetwork::open`] is made of.
#[derive(Debug)]
pub(crate) struct PeerNetworkParts {
    pub(crate) config: Arc<Config>,
    pub(crate) transport: Arc<dyn crate::net::Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) member_id: MemberId,
    /// If the member belongs to a cluster, or has adopted a founding set.
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) acks: Arc<Acks>,
}

/// The way to the other members.
pub(crate) struct PeerNetwork {
    pub(crate) member_id: MemberId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) addresses: Arc<AddressBook>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) dialler: Dialler,
    channels: Channels,
    cluster_name: String,
    cluster_id: ArcSwapOption<ClusterId>,
    epoch: Arc<AtomicU32>,
    /// When it began, in Unix milliseconds; zero: it is the first; [`UNKNOWN`]: not known yet.
    began_ms: Arc<AtomicI64>,
    /// Nothing is sent as a leader.
    muted: AtomicBool,
    /// What members have confirmed to this one as their leader.
    pub(crate) confirmations: Confirmations,
    /// Which members still follow it.
    pub(crate) acks: Arc<Acks>,
    /// The highest epoch of our cluster that was met.
    newest_epoch: AtomicU32,
    /// When our epoch was last met with another beginning.
    twin: ArcSwapOption<Duration>,
}

/// A gRPC client of a peer.
pub(crate) type PeerClient =
    pb::raft::v1::peer_client::PeerClient<InterceptedService<Channel, EpochHeader>>;

/// A process that answers for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// The member.
    pub(crate) name: PeerName,
    /// What it has proven that with.
    certificate: Option<CertificateDer<'static>>,
}

/// Why a greeting got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    /// The peer was not met.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It refused, in its own words.
    #[error("{address}: {reason}")]
    Refused {
        /// Which address.
        address: String,
        /// Why.
        reason: String,
    },
}

impl PeerNetwork {
    /// Makes the credentials; opens no connection.
    ///
    /// # Errors
    ///
    /// If a certificate cannot be made.
    pub(crate) fn open(parts: PeerNetworkParts) -> Result<Arc<Self>, OpenError> {
        let seeds = parts.config.keys.peer_ca_seeds();
        let name = peer_name(&parts.config.cluster_name, parts.cluster_id, parts.member_id);
        let tls = PeerTls::new(&seeds, &name).map_err(|error| OpenError::Network(chain(&error)))?;
        let dialler = Dialler { transport: parts.transport, tls: Arc::new(tls) };
        let addresses = Arc::new(AddressBook::default());
        Ok(Arc::new(Self {
            member_id: parts.member_id,
            clock: parts.clock,
            random: parts.random,
            channels: Channels::new(dialler.clone(), addresses.clone()),
            addresses,
            refusals: Arc::default(),
            dialler,
            cluster_name: parts.config.cluster_name.clone(),
            cluster_id: ArcSwapOption::from(parts.cluster_id.map(Arc::new)),
            confirmations: Confirmations::default(),
            acks: parts.acks,
            epoch: Arc::default(),
            began_ms: Arc::new(AtomicI64::new(UNKNOWN)),
            muted: AtomicBool::new(false),
            newest_epoch: AtomicU32::default(),
            twin: ArcSwapOption::empty(),
        }))
    }

    /// For consensus.
    pub(crate) fn factory(self: &Arc<Self>) -> NetworkFactory {
        NetworkFactory::new(self.clone())
    }

    /// The cluster whose members we speak to and listen to.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id.load().as_deref().copied()
    }

    /// Takes the name of a member of that cluster.
    ///
    /// # Errors
    ///
    /// If the certificate cannot be made.
    pub(crate) fn enter(&self, cluster: ClusterId) -> Result<(), TlsError> {
        if self.cluster_id() == Some(cluster) {
            return Ok(());
        }
        self.dialler.tls.rename(&peer_name(&self.cluster_name, Some(cluster), self.member_id))?;
        self.cluster_id.store(Some(Arc::new(cluster)));
        Ok(())
    }

    /// Accepts peer certificates of all keys that are held now, and presents one of the key that seals.
    /// Returns the id of that key.
    ///
    /// # Errors
    ///
    /// If a certificate cannot be made; what was accepted and presented stays.
    pub(crate) fn renew_certificates(&self, keys: &ClusterKeys) -> Result<String, TlsError> {
        self.dialler.tls.renew(&keys.peer_ca_seeds())
    }

    /// The epoch that calls carry and must carry.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// When that epoch began, in Unix milliseconds; zero: it is the first; `None`: not known yet.
    pub(crate) fn began_ms(&self) -> Option<i64> {
        known(&self.began_ms)
    }

    /// Follows the replicated epoch.
    pub(crate) fn set_epoch(&self, epoch: u32, began_ms: Option<i64>) {
        self.began_ms.store(began_ms.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Sends nothing as a leader, or does so again.
    pub(crate) fn set_muted(&self, muted: bool) {
        self.muted.store(muted, Ordering::Relaxed);
    }

    /// Whether nothing is to be sent as a leader.
    pub(crate) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Relaxed)
    }

    /// Notes the epoch of a member of our cluster, and when it began; `None`: it does not say so.
    pub(crate) fn note_epoch(&self, epoch: u32, began_ms: Option<i64>) {
        self.newest_epoch.fetch_max(epoch, Ordering::Relaxed);
        if self.is_twin(epoch, began_ms) {
            self.twin.store(Some(Arc::new(self.clock.boot_time())));
        }
    }

    /// Whether an epoch has our number and is another: the cluster was restored or recovered twice.
    pub(crate) fn is_twin(&self, epoch: u32, began_ms: Option<i64>) -> bool {
        let same = epoch != 0 && epoch == self.epoch.load(Ordering::Acquire);
        same && self.began_ms().zip(began_ms).is_some_and(|(ours, theirs)| ours != theirs)
    }

    /// Whether a member was met lately whose epoch has our number and another beginning: the cluster was
    /// restored or recovered twice, and both still run.
    pub(crate) fn has_twin(&self) -> bool {
        let met = self.twin.load();
        let age = met.as_ref().map(|met| self.clock.boot_time().saturating_sub(**met));
        age.is_some_and(|age| age < TWIN_FOR)
    }

    /// The highest epoch of our cluster that was met; zero before.
    pub(crate) fn newest_epoch(&self) -> u32 {
        self.newest_epoch.load(Ordering::Relaxed)
    }

    /// A client of a member; `None` before a cluster is known.
    pub(crate) fn client(&self, member: MemberId, lane: Lane) -> Option<PeerClient> {
        let channel = self.channels.to(self.cluster_id()?, member, lane);
        Some(self.client_over(channel))
    }

    /// Forgets members that are no longer any.
    pub(crate) fn retain(&self, keep: impl Fn(MemberId) -> bool + Copy) {
        self.channels.retain(keep);
        self.addresses.retain(keep);
    }

    /// Asks who is at an address.
    ///
    /// # Errors
    ///
    /// If no one answers, or not one that holds the cluster key.
    pub(crate) async fn hello(
        &self,
        address: &str,
        introduction: pb::raft::v1::Introduction,
    ) -> Result<pb::raft::v1::Introduction, GreetError> {
        let (mut client, found) = self.greet(address).await?;
        let request = pb::raft::v1::HelloRequest { introduction: Some(introduction) };
        let reply = client.hello(self.brief(request)).await.map_err(|s| refused(address, &s))?;
        let introduction = reply.into_inner().introduction.unwrap_or_default();
        if introduction.member_id != found.member().0 {
            let reason =
                format!("it says member {:016x} and proves {found}", introduction.member_id);
            return Err(GreetError::Refused { address: address.to_owned(), reason });
        }
        self.addresses.heard(found.member(), self.clock.boot_time());
        Ok(introduction)
    }

    /// Asks the founder at an address to adopt a founding set.
    ///
    /// # Errors
    ///
    /// If it does not answer or refuses.
    pub(crate) async fn adopt(
        &self,
        address: &str,
        set: pb::raft::v1::FoundingSet,
    ) -> Result<(), GreetError> {
        let (mut client, _) = self.greet(address).await?;
        let request = pb::raft::v1::AdoptRequest { set: Some(set) };
        client.adopt(self.brief(request)).await.map_err(|status| refused(address, &status))?;
        Ok(())
    }

    /// Asks the member at an address to take us in.
    ///
    /// # Errors
    ///
    /// If it does not answer or refuses.
    pub(crate) async fn join(
        &self,
        address: &str,
        request: pb::raft::v1::JoinRequest,
    ) -> Result<pb::raft::v1::JoinReply, GreetError> {
        let (mut client, _) = self.greet(address).await?;
        // The leader waits for a commit.
        let mut request = Request::new(request);
        request.set_timeout(GREETING_TIMEOUT * 4);
        let reply = client.join(request).await.map_err(|status| refused(address, &status))?;
        Ok(reply.into_inner())
    }

    /// Asks a member whether it lives, on a connection that is kept, and hears how it stands.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub(crate) async fn ping(
        &self,
        member: MemberId,
        introduction: pb::raft::v1::Introduction,
    ) -> Result<pb::raft::v1::Introduction, Status> {
        let mut client = self
            .client(member, Lane::Control)
            .ok_or_else(|| Status::failed_precondition("no cluster yet"))?;
        let request = pb::raft::v1::HelloRequest { introduction: Some(introduction) };
        let reply = client.hello(self.brief(request)).await;
        self.note(member, &reply);
        let introduction = reply?.into_inner().introduction.unwrap_or_default();
        self.addresses.introduced(member, &introduction.version, self.clock.boot_time());
        Ok(introduction)
    }

    /// Asks a member how it stands.
    ///
    /// # Errors
    ///
    /// If it does not answer by the deadline, or does not know the question.
    pub(crate) async fn observe(
        &self,
        member: MemberId,
        deadline: Instant,
    ) -> Result<Observation, Status> {
        let mut client = self
            .client(member, Lane::Control)
            .ok_or_else(|| Status::failed_precondition("no cluster yet"))?;
        let call = client.observe(until(pb::raft::v1::ObserveRequest {}, deadline));
        let reply = match tokio::time::timeout_at(deadline, call).await {
            Ok(reply) => reply,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        self.note(member, &reply);
        Ok(observe::from_pb(reply?.into_inner()))
    }

    /// Tells the leader where we are.
    ///
    /// # Errors
    ///
    /// If it does not answer, does not lead or refuses.
    pub(crate) async fn update_address(
        &self,
        leader: MemberId,
        address: String,
    ) -> Result<(), Status> {
        let mut client = self
            .client(leader, Lane::Control)
            .ok_or_else(|| Status::failed_precondition("no cluster yet"))?;
        let request = pb::raft::v1::UpdateAddressRequest { address };
        let reply = client.update_address(self.brief(request)).await?.into_inner();
        match reply.not_leader {
            Some(_) => Err(Status::failed_precondition("member does not lead")),
            None => Ok(()),
        }
    }

    /// Passes an operator's change of the membership on to the leader.
    ///
    /// # Errors
    ///
    /// Its refusal, or that it does not answer or lead.
    pub(crate) async fn change_members(
        &self,
        leader: MemberId,
        request: pb::raft::v1::ChangeMembersRequest,
    ) -> Result<(), Status> {
        let mut client = self
            .client(leader, Lane::Control)
            .ok_or_else(|| Status::failed_precondition("no cluster yet"))?;
        let mut request = Request::new(request);
        request.set_timeout(CHANGE_TIMEOUT);
        client.change_members(request).await.map(|_| ())
    }

    /// Who answers at an address, by its certificate alone.
    ///
    /// # Errors
    ///
    /// If no one does.
    pub(crate) async fn who_is_at(&self, address: &str) -> Result<PeerName, DialError> {
        let (_, found) = self.dialler.dial(address, Expected::Anyone).await?;
        Ok(found)
    }

    /// Who answers at an address, with the certificate that it presents: each process makes its own, so
    /// that two of one name are told apart.
    ///
    /// # Errors
    ///
    /// If no one does.
    pub(crate) async fn process_at(&self, address: &str) -> Result<Process, DialError> {
        let (connection, name) = self.dialler.dial(address, Expected::Anyone).await?;
        let presented = connection.get_ref().1.peer_certificates();
        let certificate = presented.and_then(<[_]>::first).cloned().map(CertificateDer::into_owned);
        Ok(Process { name, certificate })
    }

    async fn greet(&self, address: &str) -> Result<(PeerClient, PeerName), GreetError> {
        let (connection, found) = self.dialler.dial(address, Expected::Anyone).await?;
        let channel = over(connection).await.map_err(|error| {
            if is_key_refusal(&error) {
                return DialError::KeyDiffers { address: address.to_owned() };
            }
            DialError::Unreachable { address: address.to_owned(), reason: chain(&error) }
        })?;
        Ok((self.client_over(channel), found))
    }

    fn client_over(&self, channel: Channel) -> PeerClient {
        let header = EpochHeader { epoch: self.epoch.clone(), began_ms: self.began_ms.clone() };
        pb::raft::v1::peer_client::PeerClient::with_interceptor(channel, header)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn brief<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(GREETING_TIMEOUT);
        request
    }

    /// Notes what the end of a call says about the peer.
    pub(crate) fn note<T>(&self, member: MemberId, result: &Result<T, Status>) {
        let now = self.clock.boot_time();
        match result {
            Err(status) if is_transport_failure(status) => self.addresses.failed(member, now),
            Ok(_) | Err(_) => self.addresses.heard(member, now),
        }
    }
}

impl fmt::Debug for PeerNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerNetwork")
            .field("member_id", &self.member_id)
            .field("cluster_id", &self.cluster_id())
            .finish_non_exhaustive()
    }
}

fn peer_name(cluster_name: &str, cluster: Option<ClusterId>, member: MemberId) -> PeerName {
    match cluster {
        Some(cluster) => PeerName::Member { cluster, member },
        None => PeerName::Newcomer { cluster_name: cluster_name.to_owned(), member },
    }
}

fn refused(address: &str, status: &Status) -> GreetError {
    if is_key_refusal(status) {
        return GreetError::Dial(DialError::KeyDiffers { address: address.to_owned() });
    }
    GreetError::Refused { address: address.to_owned(), reason: status.message().to_owned() }
}

/// Whether the peer was not reached, or did not answer in time: nothing is known of it.
pub(crate) fn is_transport_failure(status: &Status) -> bool {
    // A refusal by TLS comes as `Unknown` with a transport error as its source.
    let lost = std::error::Error::source(status).is_some();
    lost || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// A second epoch of our number counts as running for so long after it was last met: its members call
/// each few seconds, and are looked for as often.
const TWIN_FOR: Duration = Duration::from_secs(60);

/// When an epoch began that is not known yet.
const UNKNOWN: i64 = -1;

fn known(began_ms: &AtomicI64) -> Option<i64> {
    Some(began_ms.load(Ordering::Relaxed)).filter(|began| *began != UNKNOWN)
}

/// Puts the current epoch on each call.
#[derive(Clone, Debug)]
pub(crate) struct EpochHeader {
    epoch: Arc<AtomicU32>,
    began_ms: Arc<AtomicI64>,
}

impl Interceptor for EpochHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        request.metadata_mut().insert(EPOCH_HEADER, epoch.into());
        if let Some(began) = known(&self.began_ms) {
            request.metadata_mut().insert(BEGAN_HEADER, began.into());
        }
        Ok(request)
    }
}

impl Forwarder for PeerNetwork {
    fn forward(
        &self,
        leader: MemberId,
        envelope: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Applied, ForwardError>> {
        Box::pin(async move {
            let mut client = self.leader_client(leader)?;
            let request = pb::raft::v1::ForwardProposalRequest { envelope };
            let call = client.forward_proposal(until(request, deadline));
            let reply = match tokio::time::timeout_at(deadline, call).await {
                Ok(reply) => reply,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            self.note(leader, &reply);
            match reply {
                Ok(reply) => proposals::read_reply(reply.into_inner()),
                Err(status) => Err(proposals::lost(&status)),
            }
        })
    }

    fn read_index(
        &self,
        leader: MemberId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ForwardError>> {
        Box::pin(async move {
            use pb::raft::v1::read_index_reply::Result as Wire;
            let mut client = self.leader_client(leader)?;
            let call = client.read_index(until(pb::raft::v1::ReadIndexRequest {}, deadline));
            let reply = match tokio::time::timeout_at(deadline, call).await {
                Ok(reply) => reply,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            self.note(leader, &reply);
            // A read that was not confirmed has changed nothing: it may always be tried again.
            match reply.map(|reply| reply.into_inner().result) {
                Ok(Some(Wire::Index(index))) => Ok(index),
                Ok(Some(Wire::NotLeader(not_leader))) => Err(proposals::not_leader(not_leader)),
                Ok(Some(Wire::Unconfirmed(text))) => Err(ForwardError::NotSent(text)),
                Ok(None) => Err(ForwardError::NotSent("the leader's answer is empty".to_owned())),
                Err(status) => Err(ForwardError::NotSent(said(&status))),
            }
        })
    }

    fn raise_level(
        &self,
        leader: MemberId,
        to: u32,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RaiseError>> {
        Box::pin(async move {
            let unavailable = |text: String| {
                RaiseError::Unavailable(Unavailable { text, retry_after: GREETING_TIMEOUT })
            };
            let mut client =
                self.leader_client(leader).map_err(|error| unavailable(error.to_string()))?;
            let request = pb::raft::v1::RaiseFeatureLevelRequest { to };
            let call = client.raise_feature_level(until(request, deadline));
            let reply = match tokio::time::timeout_at(deadline, call).await {
                Ok(reply) => reply,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            self.note(leader, &reply);
            match reply {
                Ok(_) => Ok(()),
                Err(status) if status.code() == Code::FailedPrecondition => {
                    Err(RaiseError::Refused(status.message().to_owned()))
                }
                Err(status) => Err(unavailable(said(&status))),
            }
        })
    }

    fn ask(
        &self,
        member: MemberId,
        question: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, AskError>> {
        Box::pin(async move {
            let unanswered = |text: String| AskError::Unanswered { member, text };
            let client = self.client(member, Lane::Control);
            let mut client = client.ok_or_else(|| unanswered("no cluster yet".to_owned()))?;
            let call = client.ask(until(pb::raft::v1::AskRequest { question }, deadline));
            let reply = match tokio::time::timeout_at(deadline, call).await {
                Ok(reply) => reply,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            self.note(member, &reply);
            match reply {
                Ok(reply) => Ok(reply.into_inner().answer),
                Err(status) if status.code() == Code::Unimplemented => Err(AskError::Older(member)),
                Err(status) => Err(unanswered(said(&status))),
            }
        })
    }

    fn answers(&self, member: MemberId) -> Option<bool> {
        self.addresses.answers(member)
    }

    fn version(&self, member: MemberId) -> Option<String> {
        self.addresses.version(member)
    }
}

impl PeerNetwork {
    fn leader_client(&self, leader: MemberId) -> Result<PeerClient, ForwardError> {
        self.client(leader, Lane::Control)
            .ok_or_else(|| ForwardError::NotSent("no cluster yet".to_owned()))
    }
}

fn until<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

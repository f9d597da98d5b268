//! openraft's network: consensus calls to one other member.
//!
//! Owns deadlines, the shape of errors (unreachable peers must be told apart from slow ones) and the
//! size limit of an append. Which connection carries what is decided here, opening it is `channels`'.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::CodecError;
use crate::ids::MemberId;
use crate::mutants::{self, Mutant};
use crate::net::channels::{Lane, MESSAGE_BYTES_MAX};
use crate::net::dial::said;
use crate::net::network::{PeerClient, PeerNetwork, is_transport_failure};
use crate::net::reversion::Answer;
use crate::net::{pb, wire};
use crate::raft::{LogId, PeerNode, TypeConfig, Vote};
use crate::snapshot::SnapshotBody;

/// An append that a follower has not answered for this long has failed: it must have come through a
/// stalled disk or a dead connection. Longer than a slow disk's sync, since what was sent in vain is
/// sent again; leadership does not depend on it, heartbeats have their own lane and deadline.
const APPEND_STALL: Duration = Duration::from_secs(2);

/// Room for what a message holds besides entries.
const MESSAGE_OVERHEAD: usize = 64 * 1024;

/// Most bytes of entries in one append. An entry is at most a quarter of it.
const APPEND_BYTES_MAX: usize = MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD;

const _: () = assert!(APPEND_BYTES_MAX >= crate::limits::COMMAND_BYTES_MAX + MESSAGE_OVERHEAD);

/// First and longest wait between attempts to reach a peer. The longest bounds how late replication
/// starts after a partition has healed.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Makes a client for each member.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFactory {
    network: Arc<PeerNetwork>,
}

impl NetworkFactory {
    pub(crate) fn new(network: Arc<PeerNetwork>) -> Self {
        Self { network }
    }

    fn make(&self, target: u64, node: &PeerNode, lane: Lane) -> MemberClient {
        let target = MemberId(target);
        self.network.addresses.commit(target, &node.address);
        MemberClient { network: self.network.clone(), target, lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = MemberClient;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> MemberClient {
        self.make(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> MemberClient {
        self.make(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &PeerNode) -> MemberClient {
        self.make(target, node, Lane::Snapshot)
    }
}

/// Consensus calls to one member.
#[derive(Debug)]
pub(crate) struct MemberClient {
    network: Arc<PeerNetwork>,
    target: MemberId,
    /// Where appends go.
    lane: Lane,
}

impl MemberClient {
    fn peer(&self, lane: Lane) -> Result<PeerClient, RPCError<TypeConfig>> {
        if self.network.is_muted() && is_leaders(lane) {
            return Err(muted());
        }
        self.network
            .client(self.target, lane)
            .ok_or_else(|| Unreachable::from_string("no cluster yet").into())
    }

    /// Runs a call until its deadline and notes what its end says about the peer.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(limit, call).await {
            Ok(result) => {
                self.network.note(self.target, &result);
                result.map(Response::into_inner).map_err(|status| failed(&status))
            }
            Err(_) => {
                self.network.addresses.failed(self.target, self.network.clock.boot_time());
                Err(self.timed_out(action, limit).into())
            }
        }
    }

    /// Keeps an answer from consensus if the member has lost what it had confirmed.
    fn check(&self, vote: &Vote, answer: &Answer) -> Result<(), RPCError<TypeConfig>> {
        let now = self.network.clock.boot_time();
        let checked = self.network.confirmations.check(self.target, vote, answer, now);
        checked.map_err(|reverted| Unreachable::new(&reverted).into())
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.network.member_id.0, target: self.target.0, timeout }
    }

    async fn open_stream<S>(
        &mut self,
        mut input: S,
        limit: Duration,
    ) -> Result<Option<Replies>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // Consensus waits out its back-off where it makes the next request. Taken before the call:
        // a peer that refuses connections would else be dialled again and again without a pause.
        let Some(first) = input.next().await else { return Ok(None) };
        let vote = first.vote;
        let stands_still = Arc::new(AtomicBool::new(false));
        let input = futures::stream::iter([first]).chain(input);
        let input = while_it_moves(input, stands_still.clone());
        let sent = Arc::new(AtomicU64::new(0));
        let requests = sized(input, sent.clone());
        let mut peer = self.peer(Lane::Append)?;
        let call = peer.stream_append(Request::new(requests));
        // The first append is on its way with the call.
        let limit = limit.max(APPEND_STALL);
        let replies = self.call(RPCTypes::AppendEntries, limit, call).await?;
        Ok(Some(Replies { replies, vote, sent, stands_still, received: 0, ended: false }))
    }

    async fn next_reply(&self, mut replies: Replies) -> Option<(StreamReply, Replies)> {
        if replies.ended {
            return None;
        }
        let reply = loop {
            match tokio::time::timeout(APPEND_STALL, replies.replies.message()).await {
                Ok(Ok(None)) if replies.stands_still.load(Ordering::Acquire) => break Err(gone()),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(_))) if self.network.is_muted() => break Err(muted()),
                Ok(Ok(Some(reply))) => {
                    self.network.addresses.heard(self.target, self.network.clock.boot_time());
                    let answer = wire::stream_reply_from_pb(&reply);
                    break answer
                        .map_err(|error| garbled(&error))
                        .and_then(|answer| self.check(&replies.vote, &answer).map(|()| answer));
                }
                Ok(Err(status)) => {
                    self.network.note::<()>(self.target, &Err(status.clone()));
                    break Err(failed(&status));
                }
                // Nothing to say since nothing was asked.
                Err(_) if replies.sent.load(Ordering::Acquire) == replies.received => {}
                Err(_) => break Err(self.timed_out(RPCTypes::AppendEntries, APPEND_STALL).into()),
            }
        };
        replies.received += 1;
        replies.ended = !matches!(reply, Ok(Ok(_)));
        Some((reply, replies))
    }
}

type StreamReply = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// The answers to a stream of appends.
struct Replies {
    replies: Streaming<pb::raft::v1::AppendReply>,
    /// In whose name the requests are.
    vote: Vote,
    /// Requests taken from openraft, and answers given back: both only grow.
    sent: Arc<AtomicU64>,
    /// Whether the requests were ended for saying the same again, see [`while_it_moves`].
    stands_still: Arc<AtomicBool>,
    received: u64,
    ended: bool,
}

/// Ends a stream of appends that asks the same again: no entries, though more are committed than it
/// stands at. Consensus has begun it anew from where it once began, which is purged by now; the log gives
/// it nothing, and it would never go on. What is told then lets it begin from what the member has.
fn while_it_moves<S>(
    input: S,
    stands_still: Arc<AtomicBool>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let mut empty_at = None;
    input.take_while(move |request| {
        let index = |id: &Option<LogId>| id.map(|id| id.index);
        let (prev, commit) = (index(&request.prev_log_id), index(&request.leader_commit));
        let now = (request.entries.is_empty() && prev < commit).then_some(prev);
        let repeated = now.is_some() && now == empty_at;
        empty_at = now;
        if repeated {
            stands_still.store(true, Ordering::Release);
        }
        std::future::ready(!repeated)
    })
}

/// Why a stream that stood still was ended.
fn gone() -> RPCError<TypeConfig> {
    let text = "what was to be sent is purged; beginning anew from what the member has";
    NetworkError::from_string(text).into()
}

impl RaftNetworkV2<TypeConfig> for MemberClient {
    type SnapshotData = SnapshotBody;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (vote, prev) = (rpc.vote, rpc.prev_log_id);
        let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
        let (mut request, upto) = fit(rpc);
        if self.lane == Lane::Heartbeat {
            request.confirmed = self.network.confirmations.of(self.target, &vote);
        }
        let mut peer = self.peer(self.lane)?;
        let sent = self.network.acks.stamp();
        let call = peer.append(Request::new(request));
        let reply = self.call(RPCTypes::AppendEntries, option.hard_ttl(), call).await?;
        let reply = wire::append_reply_from_pb(&reply).map_err(|error| garbled(&error))?;
        let reply = match (reply, upto) {
            (AppendEntriesResponse::Success, Some(upto)) => {
                AppendEntriesResponse::PartialSuccess(Some(upto))
            }
            (reply, _) => reply,
        };
        if prev.is_some() || !matches!(reply, AppendEntriesResponse::Conflict) {
            self.check(&vote, &reply.clone().into_stream_result(prev, last))?;
        }
        if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
            self.network.acks.note(self.target, vote.leader_id.term, sent);
        }
        Ok(reply)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, StreamReply>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.lane == Lane::Heartbeat {
            return stream_append_sequential(self, input, option);
        }
        if mutants::on(Mutant::AckBeforeQuorum)
            && let Ok(peer) = self.peer(Lane::Append)
        {
            return Box::pin(std::future::ready(Ok(assumed(peer, input))));
        }
        Box::pin(async move {
            let opened = self.open_stream(input, option.hard_ttl()).await?;
            let Some(replies) = opened else { return Ok(futures::stream::empty().boxed()) };
            let this = &*self;
            let stream = futures::stream::unfold(replies, |replies| this.next_reply(replies));
            Ok(Box::pin(stream) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Control)?;
        let call = peer.vote(Request::new(wire::vote_request_to_pb(&rpc)));
        let reply = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        wire::vote_reply_from_pb(&reply).map_err(|error| garbled(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Control)?;
        let call = peer.pre_vote(Request::new(wire::vote_request_to_pb(&rpc)));
        let reply = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        wire::vote_reply_from_pb(&reply).map_err(|error| garbled(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotBody>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut peer = self.peer(Lane::Snapshot)?;
        let stall = option.hard_ttl();
        let sending = crate::net::snapshot::send(&mut peer, vote, snapshot, stall);
        let result = tokio::select! {
            biased;
            result = sending => result,
            closed = cancel => return Err(closed.into()),
        };
        self.network.note(self.target, &result);
        match result {
            Ok(reply) => {
                let vote = wire::required_vote(reply.vote.as_ref());
                Ok(SnapshotResponse::new(vote.map_err(|error| garbled(&error))?))
            }
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
                Err(self.timed_out(RPCTypes::InstallSnapshot, stall).into())
            }
            Err(status) => Err(failed(&status).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Control)?;
        let call = peer.transfer_leader(Request::new(wire::transfer_to_pb(&request)));
        let reply = self.call(RPCTypes::TransferLeader, option.hard_ttl(), call).await?;
        wire::transfer_reply_from_pb(&reply).map_err(|error| garbled(&error))
    }

    fn backoff(&self) -> Option<Backoff> {
        let random = self.network.random.clone();
        let waits = (0_u32..).map(move |attempt| {
            let longest = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(attempt.min(16)));
            // At least half, so that jitter never makes it busy.
            longest.min(BACKOFF_MAX).mul_f64(0.5 + random.unit_f64() / 2.0)
        });
        Some(Backoff::new(waits))
    }
}

/// For a deliberate bug: each append is answered as it is sent, as if the follower had stored it. It
/// is sent until the follower has.
fn assumed<'s, S>(peer: PeerClient, input: S) -> BoxStream<'s, StreamReply>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let answer = move |request: AppendEntriesRequest<TypeConfig>| {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let (request, mut peer) = (fit(request).0, peer.clone());
        tokio::spawn(async move {
            for _ in 0..200 {
                let reply = peer.append(Request::new(request.clone())).await;
                let reply = reply.map(|reply| wire::append_reply_from_pb(reply.get_ref()));
                if matches!(reply, Ok(Ok(AppendEntriesResponse::Success))) {
                    return;
                }
                tokio::time::sleep(BACKOFF_MIN).await;
            }
        });
        Ok(Ok(last))
    };
    input.map(answer).boxed()
}

/// Requests in wire form, counted as they are taken. One that is too large is cut, and is then the
/// last: openraft resumes from the answer.
fn sized<S>(
    input: S,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = pb::raft::v1::AppendRequest> + Send + 'static
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let cut = Arc::new(AtomicBool::new(false));
    let was_cut = cut.clone();
    input
        .map(move |request| {
            sent.fetch_add(1, Ordering::AcqRel);
            let (request, upto) = fit(request);
            cut.store(upto.is_some(), Ordering::Release);
            (request, was_cut.load(Ordering::Acquire))
        })
        .scan(false, |ended, (request, is_cut)| {
            let item = (!*ended).then_some(request);
            *ended = is_cut;
            std::future::ready(item)
        })
}

/// An append in wire form, and how far it goes if it had to be cut to the size limit.
fn fit(request: AppendEntriesRequest<TypeConfig>) -> (pb::raft::v1::AppendRequest, Option<LogId>) {
    let mut wire = wire::append_to_pb(&request);
    let mut bytes = 0;
    let fitting = wire
        .entries
        .iter()
        .take_while(|entry| {
            bytes += entry.encoded_len();
            bytes <= APPEND_BYTES_MAX
        })
        .count();
    // An entry that alone is too large is not hidden: the peer's refusal names the limit.
    let kept = fitting.max(1);
    if kept >= wire.entries.len() {
        return (wire, None);
    }
    wire.entries.truncate(kept);
    let upto = request.entries.get(kept - 1).map(|entry| entry.log_id);
    (wire, upto)
}

/// Whether only a leader speaks there.
fn is_leaders(lane: Lane) -> bool {
    match lane {
        Lane::Heartbeat | Lane::Append | Lane::Snapshot => true,
        Lane::Control => false,
    }
}

fn muted() -> RPCError<TypeConfig> {
    Unreachable::from_string("this leader is stalled").into()
}

/// A peer that was not reached is left alone for a while; one that answered strangely is not.
fn failed(status: &Status) -> RPCError<TypeConfig> {
    let text = said(status);
    if is_transport_failure(status) || is_refusal(status) {
        return Unreachable::from_string(text).into();
    }
    NetworkError::from_string(text).into()
}

/// The peer does not take us for a member (yet, or any more): asking faster does not help.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::FailedPrecondition)
}

fn garbled(error: &CodecError) -> RPCError<TypeConfig> {
    NetworkError::new(error).into()
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use prost::bytes::Bytes;

    use super::*;
    use crate::raft::{CommittedLeaderId, Entry, EnvelopeBytes, LeaderId, LogId};

    fn request(sizes: &[usize]) -> AppendEntriesRequest<TypeConfig> {
        let leader = CommittedLeaderId { term: 1, node_id: 1 };
        let entries = sizes.iter().zip(1..).map(|(size, index)| Entry {
            log_id: LogId::new(leader, index),
            payload: EntryPayload::Normal(EnvelopeBytes(Bytes::from(vec![0; *size]))),
        });
        AppendEntriesRequest {
            vote: Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: true },
            prev_log_id: None,
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_is_cut_to_the_message_limit_and_says_how_far_it_goes() {
        let mib = 1024 * 1024;
        let cases: [(&[usize], usize, Option<u64>); 5] = [
            (&[], 0, None),
            (&[10, 10], 2, None),
            (&[mib, mib, mib, mib, mib], 3, Some(3)),
            (&[5 * mib], 1, None),
            (&[5 * mib, 1], 1, Some(1)),
        ];
        for (sizes, kept, upto) in cases {
            let (wire, cut) = fit(request(sizes));
            assert_eq!(wire.entries.len(), kept, "{sizes:?}");
            assert_eq!(cut.map(|id| id.index), upto, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_append_is_the_last_of_its_stream() {
        let mib = 1024 * 1024;
        let input =
            futures::stream::iter([request(&[1]), request(&[mib, mib, mib, mib]), request(&[1])]);
        let sent = Arc::new(AtomicU64::new(0));
        let out: Vec<_> = sized(input, sent).map(|request| request.entries.len()).collect().await;
        assert_eq!(out, [1, 3]);
    }
}

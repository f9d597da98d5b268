//! Consensus messages to and from `steeple.raft.v1`.
//!
//! Owns the conversion only. What is kept on disk too (log ids, votes, entries, memberships) is
//! converted in `raft/convert.rs`. A message that lacks what it must have is an error, never a default.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec::CodecError;
use crate::net::pb;
use crate::raft::convert::{
    entry_from_pb, entry_to_pb, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb,
};
use crate::raft::{Entry, LogId, TypeConfig, Vote};

pub(crate) fn vote_request_to_pb(request: &VoteRequest<TypeConfig>) -> pb::raft::v1::VoteRequest {
    pb::raft::v1::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_pb(
    request: &pb::raft::v1::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let last_log_id = request.last_log_id.as_ref().map(log_id_from_pb);
    let mut converted = VoteRequest::new(required_vote(request.vote.as_ref())?, last_log_id);
    converted.leadership_transfer = request.leadership_transfer;
    Ok(converted)
}

pub(crate) fn vote_reply_to_pb(reply: &VoteResponse<TypeConfig>) -> pb::raft::v1::VoteReply {
    pb::raft::v1::VoteReply {
        vote: Some(vote_to_pb(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub(crate) fn vote_reply_from_pb(
    reply: &pb::raft::v1::VoteReply,
) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let last_log_id = reply.last_log_id.as_ref().map(log_id_from_pb);
    Ok(VoteResponse::new(required_vote(reply.vote.as_ref())?, last_log_id, reply.granted))
}

pub(crate) fn append_to_pb(
    request: &AppendEntriesRequest<TypeConfig>,
) -> pb::raft::v1::AppendRequest {
    pb::raft::v1::AppendRequest {
        vote: Some(vote_to_pb(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request.entries.iter().map(entry_to_pb).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
        confirmed: 0,
    }
}

pub(crate) fn append_from_pb(
    request: pb::raft::v1::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let prev_log_id = request.prev_log_id.as_ref().map(log_id_from_pb);
    let entries: Vec<Entry> =
        request.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?;
    // Consensus takes them as they come, and would write a log with a hole.
    let mut next = prev_log_id.map_or(0, |prev| prev.index.saturating_add(1));
    for entry in &entries {
        if entry.log_id.index != next {
            let text = format!("entry {} comes where {next} should", entry.log_id.index);
            return Err(CodecError::new("append", text));
        }
        next = next.saturating_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: required_vote(request.vote.as_ref())?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.as_ref().map(log_id_from_pb),
    })
}

/// The answer to a single append whose bounds are known to the caller.
pub(crate) fn append_reply_to_pb(
    reply: &AppendEntriesResponse<TypeConfig>,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> pb::raft::v1::AppendReply {
    use pb::raft::v1::append_reply::Result as Wire;
    let result = match reply {
        AppendEntriesResponse::Success => Wire::Success(matched(last)),
        AppendEntriesResponse::PartialSuccess(upto) => Wire::Partial(matched(*upto)),
        AppendEntriesResponse::Conflict => Wire::Conflict(matched(prev)),
        AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(vote_to_pb(vote)),
    };
    pb::raft::v1::AppendReply { result: Some(result) }
}

pub(crate) fn append_reply_from_pb(
    reply: &pb::raft::v1::AppendReply,
) -> Result<AppendEntriesResponse<TypeConfig>, CodecError> {
    use pb::raft::v1::append_reply::Result as Wire;
    match reply.result.as_ref().ok_or_else(|| CodecError::missing("result of an append"))? {
        Wire::Success(_) => Ok(AppendEntriesResponse::Success),
        Wire::Partial(upto) => Ok(AppendEntriesResponse::PartialSuccess(unmatched(upto))),
        Wire::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
        Wire::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote_from_pb(vote))),
    }
}

pub(crate) fn stream_reply_to_pb(
    reply: &StreamAppendResult<TypeConfig>,
) -> pb::raft::v1::AppendReply {
    use pb::raft::v1::append_reply::Result as Wire;
    let result = match reply {
        Ok(upto) => Wire::Success(matched(*upto)),
        Err(StreamAppendError::Conflict(at)) => Wire::Conflict(matched(Some(*at))),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote_to_pb(vote)),
    };
    pb::raft::v1::AppendReply { result: Some(result) }
}

pub(crate) fn stream_reply_from_pb(
    reply: &pb::raft::v1::AppendReply,
) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    use pb::raft::v1::append_reply::Result as Wire;
    match reply.result.as_ref().ok_or_else(|| CodecError::missing("result of an append"))? {
        Wire::Success(upto) | Wire::Partial(upto) => Ok(Ok(unmatched(upto))),
        Wire::Conflict(at) => {
            let at = unmatched(at).ok_or_else(|| CodecError::missing("place of a conflict"))?;
            Ok(Err(StreamAppendError::Conflict(at)))
        }
        Wire::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_pb(vote)))),
    }
}

pub(crate) fn transfer_to_pb(
    request: &TransferLeaderRequest<TypeConfig>,
) -> pb::raft::v1::TransferLeaderRequest {
    pb::raft::v1::TransferLeaderRequest {
        from_leader: Some(vote_to_pb(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_pb),
    }
}

pub(crate) fn transfer_from_pb(
    request: &pb::raft::v1::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let from = required_vote(request.from_leader.as_ref())?;
    let last = request.last_log_id.as_ref().map(log_id_from_pb);
    Ok(TransferLeaderRequest::new(from, request.to, last))
}

pub(crate) fn transfer_reply_to_pb(
    reply: &TransferLeaderResponse<TypeConfig>,
) -> pb::raft::v1::TransferLeaderReply {
    use pb::raft::v1::transfer_leader_reply::{LogNotFlushed, Refusal, VoteChanged};
    let refusal = match reply {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            Some(Refusal::VoteChanged(VoteChanged {
                expected: Some(vote_to_pb(expected)),
                actual: Some(vote_to_pb(actual)),
            }))
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Some(Refusal::LogNotFlushed(LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_pb),
                actual: actual.as_ref().map(log_id_to_pb),
            }))
        }
    };
    pb::raft::v1::TransferLeaderReply { refusal }
}

pub(crate) fn transfer_reply_from_pb(
    reply: &pb::raft::v1::TransferLeaderReply,
) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    use pb::raft::v1::transfer_leader_reply::Refusal;
    Ok(match &reply.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(changed)) => Err(TransferLeaderError::VoteChanged {
            expected: required_vote(changed.expected.as_ref())?,
            actual: required_vote(changed.actual.as_ref())?,
        }),
        Some(Refusal::LogNotFlushed(not_flushed)) => Err(TransferLeaderError::LogNotFlushed {
            expected: not_flushed.expected.as_ref().map(log_id_from_pb),
            actual: not_flushed.actual.as_ref().map(log_id_from_pb),
        }),
    })
}

pub(crate) fn required_vote(vote: Option<&pb::store::v1::Vote>) -> Result<Vote, CodecError> {
    vote.map(vote_from_pb).ok_or_else(|| CodecError::missing("vote"))
}

fn matched(upto: Option<LogId>) -> pb::raft::v1::Matched {
    pb::raft::v1::Matched { log_id: upto.as_ref().map(log_id_to_pb) }
}

fn unmatched(matched: &pb::raft::v1::Matched) -> Option<LogId> {
    matched.log_id.as_ref().map(log_id_from_pb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{CommittedLeaderId, LeaderId};

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term, node_id: 7 }, index)
    }

    fn vote(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 7 }, committed: true }
    }

    #[test]
    fn votes_survive_the_wire() {
        let mut request = VoteRequest::<TypeConfig>::new(vote(3), Some(log_id(2, 9)));
        request.leadership_transfer = true;
        assert_eq!(vote_request_from_pb(&vote_request_to_pb(&request)).unwrap(), request);
        let reply = VoteResponse::<TypeConfig>::new(vote(4), None, true);
        assert_eq!(vote_reply_from_pb(&vote_reply_to_pb(&reply)).unwrap(), reply);
        vote_request_from_pb(&pb::raft::v1::VoteRequest::default()).unwrap_err();
    }

    #[test]
    fn append_replies_survive_the_wire() {
        let (prev, last) = (Some(log_id(1, 4)), Some(log_id(1, 6)));
        let cases = [
            AppendEntriesResponse::<TypeConfig>::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(1, 5))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote(8)),
        ];
        for reply in cases {
            let wire = append_reply_to_pb(&reply, prev, last);
            assert_eq!(append_reply_from_pb(&wire).unwrap(), reply);
            let streamed = stream_reply_from_pb(&wire).unwrap();
            assert_eq!(streamed, reply.into_stream_result(prev, last));
            assert_eq!(stream_reply_from_pb(&stream_reply_to_pb(&streamed)).unwrap(), streamed);
        }
        append_reply_from_pb(&pb::raft::v1::AppendReply::default()).unwrap_err();
    }

    #[test]
    fn transfers_survive_the_wire() {
        let request = TransferLeaderRequest::<TypeConfig>::new(vote(3), 9, Some(log_id(3, 1)));
        assert_eq!(transfer_from_pb(&transfer_to_pb(&request)).unwrap(), request);
        let cases: [TransferLeaderResponse<TypeConfig>; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote(1), actual: vote(2) }),
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 1)), actual: None }),
        ];
        for reply in cases {
            assert_eq!(transfer_reply_from_pb(&transfer_reply_to_pb(&reply)).unwrap(), reply);
        }
    }
}

//! Proposals and confirmed reads on behalf of another member's clients: what leader and caller say.
//!
//! Owns the question "may it have been appended?", which decides whether the caller may say
//! *unavailable* or must say *indeterminate*.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use prost::bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::codec::{applied_from_pb, applied_to_pb};
use crate::core::Core;
use crate::forward::ForwardError;
use crate::ids::MemberId;
use crate::limits::ATTEMPT_TIMEOUT;
use crate::net::dial::said;
use crate::net::pb;
use crate::net::pb::raft::v1::forward_proposal_reply::Result as Forwarded;
use crate::net::pb::raft::v1::read_index_reply::Result as Read;
use crate::outcome::Applied;

/// Proposes here what another member forwarded.
pub(crate) async fn serve_proposal(
    core: &Core,
    envelope: Bytes,
) -> pb::raft::v1::ForwardProposalReply {
    let deadline = Instant::now() + ATTEMPT_TIMEOUT;
    let result = match core.accept_forwarded(envelope, deadline).await {
        Ok(applied) => Forwarded::Applied(applied_to_pb(&applied)),
        Err(ForwardError::NotLeader { leader }) => Forwarded::NotLeader(hint(core, leader)),
        Err(ForwardError::NotSent(text)) => Forwarded::Refused(text),
        Err(ForwardError::Unknown(text)) => Forwarded::Indeterminate(text),
    };
    pb::raft::v1::ForwardProposalReply { result: Some(result) }
}

/// What the leader's answer to a forwarded proposal means.
pub(crate) fn read_reply(
    reply: pb::raft::v1::ForwardProposalReply,
) -> Result<Applied, ForwardError> {
    match reply.result {
        Some(Forwarded::Applied(applied)) => {
            applied_from_pb(applied).map_err(|error| ForwardError::Unknown(error.to_string()))
        }
        Some(Forwarded::NotLeader(answer)) => Err(not_leader(answer)),
        Some(Forwarded::Refused(text)) => Err(ForwardError::NotSent(text)),
        Some(Forwarded::Indeterminate(text)) => Err(ForwardError::Unknown(text)),
        None => Err(ForwardError::Unknown("the leader's answer is empty".to_owned())),
    }
}

/// What the lack of an answer means.
pub(crate) fn lost(status: &Status) -> ForwardError {
    let text = said(status);
    // Refused before it was read.
    let refused = matches!(
        status.code(),
        Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument
    );
    // A dial that failed has sent nothing; anything else may have.
    if refused || never_connected(status) {
        return ForwardError::NotSent(text);
    }
    ForwardError::Unknown(text)
}

fn never_connected(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        if error.is::<crate::net::dial::DialError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Confirms here that this member leads, for another member's read.
pub(crate) async fn serve_read(core: &Core, within: Duration) -> pb::raft::v1::ReadIndexReply {
    let result = match core.confirm_as_leader(within).await {
        Ok(index) => Read::Index(index),
        Err(ForwardError::NotLeader { leader }) => Read::NotLeader(hint(core, leader)),
        Err(ForwardError::NotSent(text) | ForwardError::Unknown(text)) => Read::Unconfirmed(text),
    };
    pb::raft::v1::ReadIndexReply { result: Some(result) }
}

/// What an answer "not me" means to a forwarder.
pub(crate) fn not_leader(answer: pb::raft::v1::NotLeader) -> ForwardError {
    ForwardError::NotLeader { leader: answer.leader.map(|hint| MemberId(hint.member_id)) }
}

/// Names the leader, as far as it is known here.
pub(crate) fn hint(core: &Core, leader: Option<MemberId>) -> pb::raft::v1::NotLeader {
    let address = |leader: MemberId| {
        let metrics = core.raft.metrics();
        let now = metrics.borrow_watched();
        now.membership_config.get_node(&leader.0).map(|node| node.address.clone())
    };
    pb::raft::v1::NotLeader {
        leader: leader.map(|leader| pb::raft::v1::LeaderHint {
            member_id: leader.0,
            address: address(leader).unwrap_or_default(),
        }),
    }
}

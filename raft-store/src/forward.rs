//! What a member that does not lead asks of the one that does. Implemented by the peer network.

use std::fmt;

use futures::future::BoxFuture;
use prost::bytes::Bytes;
use tokio::time::Instant;

use crate::ids::MemberId;
use crate::outcome::Applied;
use crate::questions::AskError;
use crate::upgrade::RaiseError;

/// Why the leader gave no answer that settles the question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForwardError {
    /// It did not come to a proposal: not connected, refused before anything was sent, overloaded.
    #[error("{0}")]
    NotSent(String),
    /// The other member does not lead; it may know who does.
    #[error("member does not lead")]
    NotLeader {
        /// Who leads, as far as it knows.
        leader: Option<MemberId>,
    },
    /// The answer was lost: the command may be in the log.
    #[error("{0}")]
    Unknown(String),
}

/// The way to the leader, and what is known of the others.
pub(crate) trait Forwarder: Send + Sync + fmt::Debug {
    /// Hands an encoded envelope (without a time) to the leader and waits until it is applied there.
    /// Ends by the deadline.
    fn forward(
        &self,
        leader: MemberId,
        envelope: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Applied, ForwardError>>;

    /// Asks the leader for a log index that was committed after this call began, confirmed with a
    /// quorum. Ends by the deadline.
    fn read_index(
        &self,
        leader: MemberId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ForwardError>>;

    /// Asks the leader to raise the feature level. Ends by the deadline.
    fn raise_level(
        &self,
        leader: MemberId,
        to: u32,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RaiseError>>;

    /// Passes a question of our server on to a member's. Ends by the deadline.
    fn ask(
        &self,
        member: MemberId,
        question: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, AskError>>;

    /// Whether the member answered when it was last asked; `None`: it has not been asked yet.
    fn answers(&self, member: MemberId) -> Option<bool>;

    /// The version of its program, if it has said so.
    fn version(&self, member: MemberId) -> Option<String>;
}

/// The forwarder of a member without a peer network: there is no one else.
#[derive(Debug)]
pub(crate) struct NoPeers;

impl Forwarder for NoPeers {
    fn forward(
        &self,
        leader: MemberId,
        _envelope: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Applied, ForwardError>> {
        Box::pin(async move { Err(no_network(leader)) })
    }

    fn read_index(
        &self,
        leader: MemberId,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ForwardError>> {
        Box::pin(async move { Err(no_network(leader)) })
    }

    fn raise_level(
        &self,
        leader: MemberId,
        _to: u32,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RaiseError>> {
        Box::pin(async move { Err(RaiseError::Refused(no_network(leader).to_string())) })
    }

    fn ask(
        &self,
        member: MemberId,
        _question: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, AskError>> {
        let text = no_network(member).to_string();
        Box::pin(async move { Err(AskError::Unanswered { member, text }) })
    }

    fn answers(&self, _member: MemberId) -> Option<bool> {
        None
    }

    fn version(&self, _member: MemberId) -> Option<String> {
        None
    }
}

fn no_network(leader: MemberId) -> ForwardError {
    ForwardError::NotSent(format!("no peer listener is configured to reach member {leader}"))
}

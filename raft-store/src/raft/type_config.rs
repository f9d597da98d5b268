//! The types that openraft is configured with.
//!
//! Owns the binding of our things to openraft's parameters. No openraft type leaves `raft/`, `net/`
//! and `cluster/`; on disk and on the wire they have messages of our own (`proto/…/log.proto`,
//! converted in `raft/convert.rs`).

use std::fmt;
use std::sync::Arc;

use openraft::alias::{
    CommittedLeaderIdOf, EntryOf, LeaderIdOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf,
};
use prost::bytes::Bytes;

use crate::outcome::Applied;
use crate::raft::runtime::StoreRuntime;
use crate::raft::state_machine::StateMachine;

openraft::declare_raft_types!(
    /// Members are named by their 64-bit id; entries carry encoded envelopes.
    pub(crate) TypeConfig:
        D = EnvelopeBytes,
        R = Reply,
        NodeId = u64,
        Node = PeerNode,
        AsyncRuntime = StoreRuntime,
);

/// The consensus instance of this member.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
/// Names a log entry.
pub(crate) type LogId = LogIdOf<TypeConfig>;
/// A leader: term and member.
pub(crate) type LeaderId = LeaderIdOf<TypeConfig>;
/// A leader whose leadership was granted.
pub(crate) type CommittedLeaderId = CommittedLeaderIdOf<TypeConfig>;
/// A vote.
pub(crate) type Vote = VoteOf<TypeConfig>;
/// A log entry.
pub(crate) type Entry = EntryOf<TypeConfig>;
/// Who belongs to the cluster.
pub(crate) type Membership = openraft::Membership<u64, PeerNode>;
/// A membership and the entry that made it effective.
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What consensus says of itself.
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
/// What a snapshot contains.
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// An encoded `Envelope`: what an ordinary log entry holds. Kept as bytes on its way through the log
/// and the network; only apply decodes it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EnvelopeBytes(pub(crate) Bytes);

impl fmt::Debug for EnvelopeBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Join tokens travel in commands: contents stay out of logs.
        write!(f, "envelope of {} bytes", self.0.len())
    }
}

impl fmt::Display for EnvelopeBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply answers: `None` for entries that hold no command (blank, membership).
pub(crate) type Reply = Option<Arc<Applied>>;

/// How a member is reached: a hint, never an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerNode {
    /// Host and port of the peer listener.
    pub(crate) address: String,
    /// A name for people.
    pub(crate) name: String,
    /// An operator took its vote: autopilot does not give it back.
    pub(crate) demoted: bool,
}

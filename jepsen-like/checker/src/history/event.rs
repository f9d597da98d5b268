//! The lines of a history. Owns their shape; what clients ask and hear is `operation`'s.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::operation::{Agent, Entry, Operation, Relationship, Reply};

/// Version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;

/// One line: when the recorder wrote it, and what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The recorder's monotonic clock in nanoseconds. Never decreases along the lines.
    pub at_ns: u64,
    /// The recorder's wall clock in Unix milliseconds. For people; nothing is decided by it.
    #[serde(default)]
    pub wall_ms: i64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The first line, and no other.
    Header(Header),
    /// A client is about to call. Written before the request leaves.
    Invoke(Invoke),
    /// A call has ended. Written after the reply arrived or the client gave up.
    Complete(Complete),
    /// A fault was installed or removed.
    Nemesis(Fault),
    /// Something that coverage counts: an election, a snapshot install.
    Mark(Mark),
    /// A member's state hash.
    StateHash(StateHash),
    /// What a subscriber of the change feed received.
    Feed(Feed),
    /// A bundle that an observer saw.
    Bundle(Bundle),
}

/// The run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format.
    pub version: u32,
    /// What ran, for people.
    #[serde(default)]
    pub name: String,
    /// The seed that makes the run again.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Whether the registry must still be initialised by a recorded operation.
    #[serde(default)]
    pub uninitialised: bool,
    /// Trust domains whose bundles are stored from the start.
    #[serde(default)]
    pub bundles: BTreeSet<String>,
    /// Whether the leader prunes expired rows without a recorded operation.
    #[serde(default)]
    pub background_prune: bool,
    /// Whether the feed has one batch for every log entry, also for those that change nothing.
    #[serde(default)]
    pub feed_is_dense: bool,
}

/// The start of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoke {
    /// Who calls. A client has one call at a time; what calls concurrently is several clients.
    pub client: u64,
    /// Names the call; its completion has the same number.
    pub call: u64,
    /// The member that was asked, if one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The request id that the call carried. Attempts of one request share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was asked.
    pub op: Operation,
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// Which call.
    pub call: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a call ended. A replicated refusal is `ok`: the decision is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// A decision or a read came back.
    Ok {
        /// The state that the reply reflects (`steeple-revision`).
        revision: u64,
        /// Cluster time of the command in Unix milliseconds, where the client is told it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_ms: Option<i64>,
        /// Whether the reply said that it may be stale (`steeple-staleness`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
        /// What came back.
        reply: Reply,
    },
    /// The call surely had and will have no effect.
    Failed {
        /// What the client was told.
        #[serde(default)]
        text: String,
    },
    /// It may have had an effect, or may yet have one.
    Unknown {
        /// What the client was told.
        #[serde(default)]
        text: String,
    },
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which one: `partition_halves`, `kill`.
    pub fault: String,
    /// What became of it.
    pub state: FaultState,
    /// The members it hit.
    #[serde(default)]
    pub members: Vec<String>,
    /// Whether the leader was among them.
    #[serde(default)]
    pub hit_leader: bool,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// It is in force.
    Installed,
    /// It is over.
    Removed,
    /// It could not be installed for a known reason.
    Skipped,
    /// Nobody knows. A run with such a fault is unacceptable.
    Indeterminate,
}

/// Something that coverage counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// What: `election`, `snapshot_install`, `membership_change`, `final_phase`.
    pub what: String,
}

/// The state hash of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateHash {
    /// Whose.
    pub member: String,
    /// At which revision.
    pub revision: u64,
    /// Feature level; hashes are comparable within one.
    #[serde(default)]
    pub level: u32,
    /// The hash as text.
    pub hash: String,
}

/// What a subscriber of the change feed received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Who.
    pub subscriber: String,
    /// What.
    pub step: FeedStep,
}

/// A step of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedStep {
    /// The subscription starts behind a full state of this revision: at first, or as a resync.
    Start {
        /// The revision.
        revision: u64,
    },
    /// The subscriber comes back with the last revision it has.
    Resume {
        /// The revision.
        revision: u64,
    },
    /// A batch of changes.
    Batch {
        /// The revision that it leads to.
        revision: u64,
        /// The changes in order.
        #[serde(default)]
        changes: Vec<Change>,
    },
}

/// A change of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// An entry was created or updated.
    EntryWritten(std::sync::Arc<Entry>),
    /// An entry is gone.
    EntryDeleted {
        /// Which.
        id: String,
    },
    /// An agent was admitted or changed.
    AgentWritten(std::sync::Arc<Agent>),
    /// An agent is gone.
    AgentDeleted {
        /// Which.
        id: String,
    },
    /// A federation relationship was created or updated.
    RelationshipWritten(std::sync::Arc<Relationship>),
    /// A federation relationship was ended.
    RelationshipDeleted {
        /// With whom.
        trust_domain: String,
    },
    /// A bundle changed.
    BundleWritten {
        /// Whose.
        trust_domain: String,
        /// Its sequence number.
        sequence: u64,
    },
    /// Something that the models do not know, such as the cluster's own row.
    Other {
        /// What.
        what: String,
    },
}

/// A bundle that an observer saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Who saw it. An observer looks at one bundle at a time.
    pub observer: String,
    /// The member that served it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Whose bundle.
    pub trust_domain: String,
    /// Its sequence number.
    pub sequence: u64,
    /// A digest of its content.
    pub digest: String,
}

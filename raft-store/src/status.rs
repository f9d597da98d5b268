//! What a member says of itself and of its cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{ClusterId, MemberId};
use crate::observe::{Mismatch, Observed};

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, as far as this member knows.
    pub leader: Option<MemberId>,
    /// The term that is current here.
    pub term: u64,
    /// Whether this member leads.
    pub is_self: bool,
}

/// Where a member stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// No cluster yet; the text says what it waits for.
    Forming {
        /// For instance `waiting for founders: 2 of 3`.
        text: String,
    },
    /// Asks a cluster to be taken in.
    Joining {
        /// Why it is not in yet, with the fix; empty while nothing has gone wrong.
        text: String,
    },
    /// Belongs to a cluster.
    Member,
}

/// A member's part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts for the quorum.
    Voter,
    /// Follows, does not count.
    Learner,
}

/// Another member, or this one, seen from this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub id: MemberId,
    /// A name for people; empty if none.
    pub name: String,
    /// Where it said it can be reached.
    pub address: String,
    /// Its part.
    pub role: Role,
    /// Whether it answered when this member last asked it, which it does every 2 s; of this member:
    /// yes. `None`: it has not been asked yet.
    pub reachable: Option<bool>,
    /// The version of its program, as it said when it was last asked.
    pub version: Option<String>,
    /// On the leader: log entries it still has to receive. On others: log entries that it had not
    /// applied when it was last asked, as far as this member knows. `None`: not known.
    pub lag: Option<u64>,
    /// What it said of itself when it was last asked; of this member: how it stands now.
    pub observed: Option<Observed>,
}

/// A cheap snapshot of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// This member.
    pub member_id: MemberId,
    /// Its cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// Where it stands.
    pub state: MemberState,
    /// The leader, as far as known. A leader that has lost its quorum does not count as one: the
    /// others may have chosen another.
    pub leader: Option<MemberId>,
    /// The current term.
    pub term: u64,
    /// Index of the last applied log entry.
    pub applied_index: u64,
    /// Index up to which the log is known to be committed.
    pub commit_index: u64,
    /// Index of the last log entry.
    pub last_log_index: u64,
    /// How long ago this member was in contact with a quorum (leader) or its leader (follower).
    pub quorum_contact_age: Option<Duration>,
    /// By how many milliseconds this member's clock is ahead of the median of a quorum's; `None`: they
    /// were never compared.
    pub clock_ahead_ms: Option<i64>,
    /// How long ago they were compared; `None`: never.
    pub clock_compared_ago: Option<Duration>,
    /// Why this member would not decide about time if it led, if so.
    pub clock_doubt: Option<String>,
    /// While the set of voters is being changed: those it leads to. Until that is done, what is decided
    /// needs a majority of the old set and of this one.
    pub voters_next: Option<BTreeSet<MemberId>>,
    /// State hashes that differ between members, if they do.
    pub mismatch: Option<Mismatch>,
    /// Everyone, this member included, by id.
    pub members: Vec<MemberView>,
}

/// A configured peer that is a member of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignPeer {
    /// Where it was met.
    pub address: String,
    /// Whose member it is.
    pub cluster: ClusterId,
}

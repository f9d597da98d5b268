//! Whether this member is in contact with its cluster, and since when not.
//!
//! A leader is in contact while a quorum has acknowledged it within an election timeout, a follower
//! while it has heard its leader within one. Ages are boot-time clock: a suspended machine does not
//! think itself fresh.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Contact with the cluster, seen from one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    /// In contact with a quorum (leader) or with the leader (follower).
    InContact,
    /// Out of contact.
    Lost {
        /// Boot-time clock at the last contact, or at the start if there was none since.
        since: Duration,
        /// Whether a member that answers is in contact with a leader: then the cluster goes on without
        /// this member, and what it knows may be out of date by anything.
        elsewhere: bool,
        /// What is missing, for people.
        text: String,
    },
}

/// When this member last heard a leader. Set by the peer listener, read by the handle.
#[derive(Debug, Default)]
pub(crate) struct LeaderHeard {
    /// Milliseconds of boot time; zero: never.
    at_ms: AtomicU64,
}

impl LeaderHeard {
    /// Notes that an accepted append or heartbeat came in at boot time `now`.
    pub(crate) fn note(&self, now: Duration) {
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        self.at_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Boot time of the last note.
    pub(crate) fn last(&self) -> Option<Duration> {
        match self.at_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }
}

//! What an operator may ask of the membership, and how it is answered.
//!
//! The usual cases are autopilot's. Whether a request is safe is decided in `cluster/by_hand`, by the
//! leader, whichever member was asked.

use std::fmt;

use tokio::sync::oneshot;

use crate::core::Core;
use crate::error::Unavailable;
use crate::ids::MemberId;

/// Where the consensus library logs, as an error, each change of the membership that it refuses: also for
/// want of a leader, every 2 s. Whoever asked for the change is told, and says what matters.
pub const REFUSED_CHANGE_TARGET: &str = "openraft::raft::api::management";

/// A change of the membership by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The member loses its seat and is forgotten; its process ends.
    Remove {
        /// Which member.
        member: MemberId,
        /// Even if fewer than a majority of the voters that stay are healthy; they must answer.
        force: bool,
    },
    /// A learner votes from now on, also if that makes an even number.
    Promote(MemberId),
    /// A voter only follows from now on; autopilot does not promote it again.
    Demote(MemberId),
}

impl MemberChange {
    /// The member that it is about.
    pub fn member(self) -> MemberId {
        match self {
            Self::Remove { member, .. } | Self::Promote(member) | Self::Demote(member) => member,
        }
    }

    /// Whether the member has no vote afterwards.
    pub(crate) fn takes_the_vote(self) -> bool {
        match self {
            Self::Remove { .. } | Self::Demote(_) => true,
            Self::Promote(_) => false,
        }
    }
}

impl fmt::Display for MemberChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { member, force: false } => write!(f, "remove {member}"),
            Self::Remove { member, force: true } => write!(f, "remove {member} by force"),
            Self::Promote(member) => write!(f, "promote {member}"),
            Self::Demote(member) => write!(f, "demote {member}"),
        }
    }
}

/// Why the membership was not changed by hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberChangeError {
    /// The change is not possible or not safe; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// No leader answered, or the change was not committed in time: look, then try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What an operator asks the leader for, through any member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Another membership.
    Change(MemberChange),
    /// That another voter leads; the most caught-up one if none is named.
    HandOver(Option<MemberId>),
}

/// A request on its way to the member's own task.
#[derive(Debug)]
pub(crate) struct Requested {
    pub(crate) asked: Asked,
    pub(crate) answer: oneshot::Sender<Result<(), MemberChangeError>>,
}

impl Core {
    /// Has the member's own task carry a request out, here or through the leader. Returns once it is
    /// committed.
    pub(crate) async fn ask(&self, asked: Asked) -> Result<(), MemberChangeError> {
        let stopping = || {
            let text = "this member is stopping".to_owned();
            Unavailable { text, retry_after: self.config.election_timeout_max() }
        };
        let (answer, answered) = oneshot::channel();
        let request = Requested { asked, answer };
        self.changes.send(request).await.map_err(|_stopped| stopping())?;
        answered.await.map_err(|_dropped| stopping())?
    }
}

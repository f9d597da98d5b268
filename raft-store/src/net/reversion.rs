//! Members whose log went back: restored from an old copy of their disk, or on a disk that lied.
//!
//! Owns the memory of how far each member has confirmed our log while this one leads. Consensus takes
//! such a member for a defect of its own and ends the process; but the healthy leader is not at fault,
//! so what the member says is kept from it, and the member named. It is fed again by the next leader,
//! which has heard nothing of it yet.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::StreamAppendError;

use crate::ids::MemberId;
use crate::raft::{LogId, TypeConfig, Vote};

/// What a member says about an append.
pub(crate) type Answer = openraft::raft::StreamAppendResult<TypeConfig>;

/// At most one line about a member in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A member has less than it confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "member {member} holds less than it acknowledged: its log ends before entry {conflict}, and it had \
     confirmed entry {confirmed}; stop it, move its DATA_DIR/raft away and start it to join anew"
)]
pub(crate) struct Reverted {
    member: MemberId,
    confirmed: u64,
    conflict: u64,
}

/// How far members have confirmed the log of one leader.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    members: Mutex<BTreeMap<MemberId, Confirmed>>,
}

#[derive(Debug)]
struct Confirmed {
    vote: Vote,
    index: u64,
    logged: Option<Duration>,
}

impl Confirmations {
    /// Takes note of what a member answers to the leader of `vote`, at boot time `now`.
    ///
    /// # Errors
    ///
    /// [`Reverted`]: the answer must not reach consensus.
    pub(crate) fn check(
        &self,
        member: MemberId,
        vote: &Vote,
        answer: &Answer,
        now: Duration,
    ) -> Result<(), Reverted> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let index = |log_id: &LogId| log_id.index;
        match answer {
            Ok(matched) => {
                let Some(matched) = matched.as_ref().map(index) else { return Ok(()) };
                let known = members.entry(member).or_insert_with(|| Confirmed {
                    vote: *vote,
                    index: 0,
                    logged: None,
                });
                if known.vote == *vote {
                    known.index = known.index.max(matched);
                } else {
                    *known = Confirmed { vote: *vote, index: matched, logged: None };
                }
                Ok(())
            }
            Err(StreamAppendError::Conflict(at)) => match members.get_mut(&member) {
                Some(known) if known.vote == *vote && at.index <= known.index => {
                    let error = Reverted { member, confirmed: known.index, conflict: at.index };
                    if known.logged.is_none_or(|last| now.saturating_sub(last) >= LOG_INTERVAL) {
                        known.logged = Some(now);
                        tracing::error!("{error}");
                    }
                    Err(error)
                }
                Some(_) | None => Ok(()),
            },
            Err(StreamAppendError::HigherVote(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::raft::CommittedLeaderId;

    fn vote(term: u64) -> Vote {
        Vote::new_committed(term, 1)
    }

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    #[test]
    fn only_less_than_was_confirmed_to_this_leader_is_a_reversion() {
        let (one, two) = (MemberId(1), MemberId(2));
        let confirmations = Confirmations::default();
        let matched = |index| Ok(Some(log_id(index)));
        let conflict = |index| Err(StreamAppendError::Conflict(log_id(index)));
        let table: [(&str, MemberId, u64, Answer, bool); 9] = [
            ("a conflict of a member that confirmed nothing", one, 1, conflict(9), true),
            ("it finds where it is", one, 1, matched(5), true),
            ("and goes on", one, 1, matched(9), true),
            ("a conflict above", one, 1, conflict(10), true),
            ("another member's", two, 1, conflict(3), true),
            ("an old answer does not lower it", one, 1, matched(4), true),
            ("a conflict at what was confirmed", one, 1, conflict(9), false),
            ("a conflict with the next leader", one, 2, conflict(3), true),
            ("which starts anew", one, 2, matched(3), true),
        ];
        for (what, member, term, answer, expected) in table {
            let checked = confirmations.check(member, &vote(term), &answer, Duration::ZERO);
            assert_eq!(checked.is_ok(), expected, "{what}: {checked:?}");
        }
    }
}

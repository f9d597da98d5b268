//! Members whose log went back: restored from an old copy of their disk, or on a disk that lied.
//!
//! Owns the memory of how far each member has confirmed our log while this one leads. Consensus takes
//! such a member for a defect of its own and ends the process; but the healthy leader is not at fault,
//! so what the member says is kept from it.
//!
//! And the member is told with each heartbeat what it has confirmed. It compares that with its log and
//! fences itself if it lacks any of it: from then on it votes for no one, who might lack the same. A
//! member that does not listen (an older version) is fed by the next leader, which has heard nothing of
//! it yet.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::StreamAppendError;
use prost::Message;

use crate::ids::MemberId;
use crate::pb;
use crate::raft::convert::vote_from_pb;
use crate::raft::{LogId, TypeConfig, Vote};
use crate::storage::{LogDisk, LogValue};

/// What a member says about an append.
pub(crate) type Answer = openraft::raft::StreamAppendResult<TypeConfig>;

/// At most one line about a member in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A member has less than it confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "member {member} holds less than it acknowledged: its log ends before entry {conflict}, and it had \
     confirmed entry {confirmed}; it is told so and ends; move its DATA_DIR/raft away and start it to join anew"
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

    /// Up to where a member has confirmed the log of the leader of `vote`; zero: not at all yet.
    pub(crate) fn of(&self, member: MemberId, vote: &Vote) -> u64 {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let known = members.get(&member).filter(|known| known.vote == *vote);
        known.map_or(0, |known| known.index)
    }
}

/// Where our log ends, if that is before an entry that we had confirmed to the leader of `vote`.
///
/// Within one leader's time a log loses nothing that was confirmed to that leader. A later leader may
/// have cut it since; then our vote is a later one, and the word of the earlier leader means nothing.
///
/// # Errors
///
/// If the log cannot be read.
pub(crate) fn ends_before(
    log: &dyn LogDisk,
    vote: &Vote,
    confirmed: u64,
) -> io::Result<Option<u64>> {
    let bounds = log.bounds()?;
    let ends = match (bounds.last, bounds.purged) {
        (Some(last), _) => last.index,
        (None, Some(purged)) => decode::<pb::store::LogId>(&purged)?.index,
        (None, None) => 0,
    };
    // Read after the log: whoever cut it has our vote since before.
    let voted = match log.get(LogValue::Vote)? {
        Some(bytes) => Some(vote_from_pb(&decode(&bytes)?)),
        None => None,
    };
    let overtaken = voted.is_some_and(|voted| voted > *vote);
    Ok((ends < confirmed && !overtaken).then_some(ends))
}

fn decode<M: Message + Default>(bytes: &[u8]) -> io::Result<M> {
    M::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::mem::MemoryDisk;
    use crate::raft::CommittedLeaderId;
    use crate::raft::convert::{log_id_to_pb, vote_to_pb};
    use crate::storage::LogRecord;

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
        let told = [(one, 1), (one, 2), (two, 1)].map(|(m, term)| confirmations.of(m, &vote(term)));
        assert_eq!(told, [0, 3, 0], "only the last leader's counts");
    }

    #[test]
    fn a_member_believes_that_it_lost_something_only_of_a_leader_it_did_not_leave() {
        let log = MemoryDisk::new().engine().log;
        let ends = |term, confirmed| ends_before(log.as_ref(), &vote(term), confirmed).unwrap();
        let keep =
            |vote: Vote| log.put(LogValue::Vote, &vote_to_pb(&vote).encode_to_vec()).unwrap();
        assert_eq!((ends(1, 0), ends(1, 1)), (None, Some(0)), "an empty log");
        keep(vote(4));
        log.append(&[1, 2, 3].map(|index| LogRecord { index, bytes: Vec::new() })).unwrap();
        let table = [(4, 3, None), (4, 4, Some(3)), (5, 4, Some(3)), (3, 4, None)];
        for (term, confirmed, expected) in table {
            assert_eq!(ends(term, confirmed), expected, "term {term}, entry {confirmed}");
        }
        log.purge(9, &log_id_to_pb(&log_id(9)).encode_to_vec()).unwrap();
        assert_eq!((ends(4, 9), ends(4, 10)), (None, Some(9)), "what is purged was there");
    }
}

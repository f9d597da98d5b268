//! Leadership that is given away: who takes it, whether it stays there, which terms it explains.
//!
//! Owns the choice, which is pure, and the memory of hand-overs: a term that one of them began says
//! nothing of leaders that do not last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::MemberId;
use crate::observe::offset;

/// Hand-overs that are remembered until their term is over: what peers tell is bounded.
const NOTED_MAX: usize = 64;

/// Who takes over: one that would keep leadership before one that would make way for its clock,
/// then the one with most of the log.
pub(crate) fn successor(
    candidates: impl Iterator<Item = u64>,
    matched: impl Fn(u64) -> Option<u64>,
    make_way: &BTreeMap<MemberId, i64>,
) -> Option<u64> {
    candidates.max_by_key(|id| (!make_way.contains_key(&MemberId(*id)), matched(*id)))
}

/// Refuses, with the fix, if each of these members would make way for its clock once it led.
pub(crate) fn check_lasts(
    wanted: &[MemberId],
    make_way: &BTreeMap<MemberId, i64>,
) -> Result<(), String> {
    let clocks = wanted.iter().filter_map(|member| {
        let ahead_ms = make_way.get(member)?;
        Some(format!("the clock of member {member} is {}", offset(*ahead_ms)))
    });
    let clocks: Vec<String> = clocks.collect();
    if clocks.is_empty() || clocks.len() < wanted.len() {
        return Ok(());
    }
    Err(format!(
        "{}: a leader with such a clock gives leadership up at once; set it right first",
        clocks.join(", ")
    ))
}

/// Hand-overs that this member made or heard of, and the terms that began without one.
#[derive(Debug, Default)]
pub(crate) struct HandOvers {
    /// Terms whose leaders asked another member to take over.
    terms: Mutex<BTreeSet<u64>>,
    elections: AtomicU64,
}

impl HandOvers {
    /// Notes that the leader of a term asks another member to take over.
    pub(crate) fn note(&self, term: u64) {
        let mut terms = self.lock();
        terms.insert(term);
        if terms.len() > NOTED_MAX {
            terms.pop_first();
        }
    }

    /// Counts the terms that have begun from `known` to `term`, but for those after a hand-over.
    pub(crate) fn count(&self, known: u64, term: u64) -> u64 {
        let mut terms = self.lock();
        let planned = terms.iter().filter(|left| (known..term).contains(*left)).count() as u64;
        terms.retain(|left| *left >= term);
        let begun = term.saturating_sub(known).saturating_sub(planned);
        self.elections.fetch_add(begun, Ordering::Relaxed);
        begun
    }

    /// How many were counted so far.
    pub(crate) fn elections(&self) -> u64 {
        self.elections.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // Nothing is half done when a holder panics.
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(ahead_ms: &[(u64, i64)]) -> BTreeMap<MemberId, i64> {
        ahead_ms.iter().map(|(id, ahead_ms)| (MemberId(*id), *ahead_ms)).collect()
    }

    #[test]
    fn a_clock_that_is_right_comes_before_a_long_log() {
        let matched = |id: u64| [None, Some(10), Some(30), Some(20)][id as usize];
        /// A name, who may take over, whose clocks are wrong by how much, and who does.
        type Case<'a> = (&'a str, &'a [u64], &'a [(u64, i64)], Option<u64>);
        let table: [Case<'_>; 5] = [
            ("nobody", &[], &[], None),
            ("the longest log", &[0, 1, 2, 3], &[], Some(2)),
            ("but for its clock", &[0, 1, 2, 3], &[(2, 30_000)], Some(3)),
            ("one that has said nothing yet", &[0, 2], &[(2, -30_000)], Some(0)),
            ("better one than none", &[1, 2], &[(1, 20_000), (2, 30_000)], Some(2)),
        ];
        for (case, candidates, make_way, expected) in table {
            let found = successor(candidates.iter().copied(), matched, &clocks(make_way));
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn leadership_that_would_come_back_at_once_is_not_handed_over_by_hand() {
        let wrong = clocks(&[(2, 30_000), (3, -12_340)]);
        for (case, wanted) in
            [("nobody", vec![]), ("a right one", vec![1]), ("a right one among them", vec![2, 1])]
        {
            let wanted: Vec<MemberId> = wanted.into_iter().map(MemberId).collect();
            assert_eq!(check_lasts(&wanted, &wrong), Ok(()), "{case}");
        }
        let refused = check_lasts(&[MemberId(2), MemberId(3)], &wrong).unwrap_err();
        assert_eq!(
            refused,
            "the clock of member 0000000000000002 is 30.0 s ahead of the median of a quorum's, \
             the clock of member 0000000000000003 is 12.3 s behind the median of a quorum's: a \
             leader with such a clock gives leadership up at once; set it right first"
        );
    }

    #[test]
    fn terms_after_a_hand_over_are_no_elections() {
        let hand_overs = HandOvers::default();
        assert_eq!(hand_overs.count(1, 2), 1, "a leader was lost");
        hand_overs.note(2);
        assert_eq!(hand_overs.count(2, 3), 0, "it was handed over");
        assert_eq!(hand_overs.count(3, 4), 1, "an old hand-over explains nothing");
        hand_overs.note(4);
        hand_overs.note(5);
        assert_eq!(hand_overs.count(4, 7), 1, "two of three");
        hand_overs.note(7);
        assert_eq!(hand_overs.count(7, 9), 1, "whom it was handed to did not win at once");
        hand_overs.note(3);
        assert_eq!(hand_overs.count(9, 10), 1, "it was told late");
        assert_eq!(hand_overs.elections(), 5);
    }
}

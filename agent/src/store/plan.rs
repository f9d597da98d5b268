//! Decides which SVIDs to sign and which to drop. Pure: no clock, no lock, no network.
//!
//! Rules of `spire-semantics` 9.1: what a live workload waits for comes first and is never dropped,
//! beyond the limit the least recently used go, and free room is filled with entries nobody asked
//! for yet. An SVID that is due is replaced, never dropped first: a bad or missing update must not
//! take away the last good one.

use std::collections::BTreeSet;

use steeple_spiffe_core::EntryId;

/// How a cached SVID stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SvidState {
    /// There is none, or it has expired.
    Missing,
    /// It is of another version of the entry, or chains to a tainted authority.
    Outdated,
    /// The rotation condition holds.
    Due,
    /// Nothing to do, or too early for it.
    Fresh,
}

/// One entry as the planner sees it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The entry.
    pub entry: &'a EntryId,
    /// Whether a live workload subscription matches it.
    pub is_wanted: bool,
    /// Whether it may be fetched before a workload asks.
    pub prefetch: bool,
    /// When a workload last subscribed to it, as a counter; 0 = never.
    pub last_access: u64,
    /// Its SVID.
    pub svid: SvidState,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries to sign SVIDs for, most urgent first.
    pub sign: Vec<EntryId>,
    /// Entries whose SVIDs to drop.
    pub evict: Vec<EntryId>,
}

/// Plans for a cache of `limit` SVIDs. Candidates come by ascending entry id, and equally urgent ones
/// stay in that order.
pub fn plan(candidates: &[Candidate<'_>], limit: usize) -> Plan {
    let is_cached = |c: &&Candidate<'_>| c.svid != SvidState::Missing;
    let held = candidates.iter().filter(|c| c.is_wanted || is_cached(c)).count();

    let mut droppable: Vec<_> =
        candidates.iter().filter(|c| !c.is_wanted).filter(is_cached).collect();
    droppable.sort_by_key(|c| c.last_access);
    droppable.truncate(held.saturating_sub(limit));
    let dropped: BTreeSet<&EntryId> = droppable.iter().map(|c| c.entry).collect();

    let mut sign: Vec<(u8, &EntryId)> = candidates
        .iter()
        .filter(|c| !dropped.contains(c.entry))
        .filter_map(|c| urgency(c).map(|urgency| (urgency, c.entry)))
        .collect();
    let room = limit.saturating_sub(held);
    let prefetch = candidates
        .iter()
        .filter(|c| !c.is_wanted && c.prefetch && c.svid == SvidState::Missing)
        .take(room);
    sign.extend(prefetch.map(|c| (PREFETCH, c.entry)));
    sign.sort_by_key(|(urgency, _)| *urgency);
    Plan {
        sign: sign.into_iter().map(|(_, entry)| entry.clone()).collect(),
        evict: dropped.into_iter().cloned().collect(),
    }
}

/// The least urgent class: nobody asked for it.
const PREFETCH: u8 = 5;

/// The class of an entry whose SVID is wanted or cached; `None` when there is nothing to do.
fn urgency(candidate: &Candidate<'_>) -> Option<u8> {
    match (candidate.svid, candidate.is_wanted) {
        (SvidState::Missing, true) => Some(0),
        (SvidState::Outdated, true) => Some(1),
        (SvidState::Outdated, false) => Some(2),
        (SvidState::Due, true) => Some(3),
        (SvidState::Due, false) => Some(4),
        (SvidState::Missing, false) | (SvidState::Fresh, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: bool = true;
    const IDLE: bool = false;

    fn check(rows: &[(&str, bool, u64, SvidState)], limit: usize, sign: &[&str], evict: &[&str]) {
        let ids: Vec<EntryId> =
            rows.iter().map(|row| EntryId::parse(row.0).expect("test id")).collect();
        let candidates: Vec<Candidate<'_>> = rows
            .iter()
            .zip(&ids)
            .map(|(&(id, is_wanted, last_access, svid), entry)| Candidate {
                entry,
                is_wanted,
                prefetch: !id.starts_with("lazy"),
                last_access,
                svid,
            })
            .collect();
        let plan = plan(&candidates, limit);
        let texts =
            |ids: &[EntryId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts(&plan.sign), sign, "sign, {rows:?} limit {limit}");
        assert_eq!(texts(&plan.evict), evict, "evict, {rows:?} limit {limit}");
    }

    #[test]
    fn what_is_waited_for_comes_first_then_outdated_then_due_then_prefetch() {
        use SvidState::{Due, Fresh, Missing, Outdated};
        check(
            &[
                ("a", IDLE, 0, Missing),
                ("b", IDLE, 1, Due),
                ("c", WANTED, 2, Due),
                ("d", IDLE, 3, Outdated),
                ("e", WANTED, 4, Outdated),
                ("f", WANTED, 5, Missing),
                ("g", IDLE, 6, Fresh),
            ],
            10,
            &["f", "e", "d", "c", "b", "a"],
            &[],
        );
    }

    #[test]
    fn room_is_filled_only_with_entries_that_allow_prefetch() {
        use SvidState::{Fresh, Missing};
        check(
            &[
                ("a", IDLE, 0, Missing),
                ("b", IDLE, 0, Missing),
                ("c", IDLE, 0, Missing),
                ("d", IDLE, 0, Fresh),
                ("lazy", IDLE, 0, Missing),
            ],
            3,
            &["a", "b"],
            &[],
        );
        check(&[("lazy", WANTED, 0, Missing)], 3, &["lazy"], &[]);
    }

    #[test]
    fn beyond_the_limit_the_least_recently_used_idle_svids_go() {
        use SvidState::{Due, Fresh, Missing};
        check(
            &[
                ("a", IDLE, 7, Fresh),
                ("b", WANTED, 1, Fresh),
                ("c", IDLE, 5, Due),
                ("d", WANTED, 2, Missing),
                ("e", IDLE, 6, Fresh),
            ],
            3,
            &["d"],
            &["c", "e"],
        );
    }

    #[test]
    fn a_wanted_svid_is_kept_even_beyond_the_limit() {
        use SvidState::{Fresh, Missing};
        check(
            &[("a", WANTED, 1, Fresh), ("b", WANTED, 2, Missing), ("c", IDLE, 0, Missing)],
            1,
            &["b"],
            &[],
        );
    }
}

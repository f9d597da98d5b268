//! The one order of changes that all members must agree on, put together from what they say.
//!
//! Owns agreement (log and state), completeness of feeds, and time that never goes back. The first
//! member that shows a revision defines it; every other must show the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_raft_store::{Change, ChangeBatch, StateSum};
use steeple_spiffe_core::entry::EntryId;
use steeple_spiffe_core::time::Timestamp;

use crate::authorities;
use crate::member::FeedItem;
use crate::rows::{self, Key};
use crate::view::Read;
use crate::workload::TRUST_DOMAIN;

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which check found it.
    pub(crate) check: &'static str,
    /// What was found.
    pub(crate) text: String,
}

impl Violation {
    /// A violation.
    pub(crate) fn new(check: &'static str, text: String) -> Self {
        Self { check, text }
    }
}

/// The log index of a revision: what is left without the epoch.
pub(crate) fn index_of(revision: u64) -> u64 {
    revision & ((1 << 40) - 1)
}

/// What all members must agree on.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    batches: BTreeMap<u64, Arc<ChangeBatch>>,
    /// Each row's values with the revisions from which they hold.
    rows: BTreeMap<Key, Vec<(u64, Option<Change>)>>,
    /// Revisions of which nobody showed the batch: between `.0` and `.1`, exclusive.
    unseen: Vec<(u64, u64)>,
    last: u64,
    time: Timestamp,
    /// The newest time that any leader's clock has shown.
    leaders_time: Timestamp,
    digests: BTreeMap<u64, ([u8; 32], String)>,
    sums: BTreeMap<u64, (StateSum, String)>,
    entries: LiveEntries,
}

/// The ids of the entries that exist, for whoever wants any of them.
#[derive(Debug, Default)]
struct LiveEntries {
    ids: Vec<EntryId>,
    places: BTreeMap<EntryId, usize>,
}

impl LiveEntries {
    fn add(&mut self, id: &EntryId) {
        if !self.places.contains_key(id) {
            self.places.insert(id.clone(), self.ids.len());
            self.ids.push(id.clone());
        }
    }

    fn remove(&mut self, id: &EntryId) {
        let Some(place) = self.places.remove(id) else { return };
        self.ids.swap_remove(place);
        if let Some(moved) = self.ids.get(place) {
            self.places.insert(moved.clone(), place);
        }
    }
}

impl Reference {
    /// The newest revision.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Cluster time of the newest revision.
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// The batch of a revision, if anyone showed it.
    pub(crate) fn batch(&self, revision: u64) -> Option<&Arc<ChangeBatch>> {
        self.batches.get(&revision)
    }

    /// How many batches were seen.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.len() as u64
    }

    /// The newest value of a row.
    pub(crate) fn row(&self, key: &Key) -> Option<&Change> {
        self.rows.get(key)?.last()?.1.as_ref()
    }

    /// The value of a row at a revision.
    pub(crate) fn row_at(&self, key: &Key, revision: u64) -> Option<&Change> {
        at(self.rows.get(key)?, revision)
    }

    /// The ids of the entries that exist, in no order.
    pub(crate) fn entries(&self) -> &[EntryId] {
        &self.entries.ids
    }

    /// A member leads, and its clock shows this, or the median of all clocks does: only leaders say what
    /// time it is.
    pub(crate) fn leader_says(&mut self, now: Timestamp) {
        self.leaders_time = self.leaders_time.max(now);
    }

    /// Takes in what a member's feed said; `cursor` is where its subscription stands.
    pub(crate) fn take(
        &mut self,
        member: &str,
        cursor: &mut Option<u64>,
        item: &FeedItem,
    ) -> Result<(), Violation> {
        match item {
            FeedItem::Start { revision, rows, .. } => {
                *cursor = Some(*revision);
                self.start(member, *revision, rows)
            }
            FeedItem::Batch(batch) => {
                let revision = batch.revision.as_u64();
                let follows = cursor.is_some_and(|cursor| {
                    index_of(revision) == index_of(cursor) + 1 && revision > cursor
                });
                if !follows {
                    let text = format!("{member}: batch {revision} follows {cursor:?}");
                    return Err(Violation::new("feed", text));
                }
                *cursor = Some(revision);
                self.batch_of(member, revision, batch)
            }
        }
    }

    fn batch_of(
        &mut self,
        member: &str,
        revision: u64,
        batch: &Arc<ChangeBatch>,
    ) -> Result<(), Violation> {
        if let Some(known) = self.batches.get(&revision) {
            if known != batch {
                let text = format!("{member} has {batch:?} where others have {known:?}");
                return Err(Violation::new("agreement", text));
            }
            return Ok(());
        }
        if revision <= self.last {
            // Behind a snapshot that was seen first.
            self.batches.insert(revision, batch.clone());
            return Ok(());
        }
        if batch.time < self.time {
            let text = format!("{member}: {revision} is at {} after {}", batch.time, self.time);
            return Err(Violation::new("cluster-time", text));
        }
        if batch.time > self.leaders_time.max(self.time) {
            let text = format!(
                "{member}: {revision} is at {}, which no leader's clock has shown",
                batch.time
            );
            return Err(Violation::new("cluster-time", text));
        }
        self.time = batch.time;
        self.last = revision;
        for change in &batch.changes {
            self.set(rows::key(change), revision, rows::value(change));
        }
        self.batches.insert(revision, batch.clone());
        let bundle = self.bundle();
        batch.changes.iter().try_for_each(|change| authorities::look(change, bundle)).map_err(
            |text| Violation::new("authorities", format!("{member} at {revision}: {text}")),
        )
    }

    /// The own bundle.
    fn bundle(&self) -> Option<&Change> {
        self.row(&Key::Bundle(TRUST_DOMAIN.to_owned()))
    }

    fn set(&mut self, key: Key, revision: u64, value: Option<Change>) {
        match (&value, &key) {
            (Some(Change::EntryWritten { entry, .. }), _) => self.entries.add(&entry.id),
            (None, Key::Entry(id)) => {
                if let Ok(id) = EntryId::parse(id) {
                    self.entries.remove(&id);
                }
            }
            (_, _) => {}
        }
        self.rows.entry(key).or_default().push((revision, value));
    }

    fn start(&mut self, member: &str, revision: u64, rows: &[Change]) -> Result<(), Violation> {
        let found: BTreeMap<Key, &Change> =
            rows.iter().map(|change| (rows::key(change), change)).collect();
        if revision <= self.last {
            return self.compare(member, revision, &found);
        }
        let gone: Vec<Key> = self
            .rows
            .iter()
            .filter(|(key, versions)| {
                !found.contains_key(key) && versions.last().is_some_and(|(_, row)| row.is_some())
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.set(key, revision, None);
        }
        for (key, change) in found {
            if self.row(&key) != Some(change) {
                self.set(key, revision, Some(change.clone()));
            }
        }
        self.unseen.push((self.last, revision));
        self.last = revision;
        Ok(())
    }

    /// Compares what a read of a member showed with the rows of the same revision.
    pub(crate) fn compare_read(
        &self,
        member: &str,
        revision: u64,
        what: &Read,
        rows: &[Change],
    ) -> Result<(), Violation> {
        if *what == Read::Everything {
            let found: BTreeMap<Key, &Change> =
                rows.iter().map(|change| (rows::key(change), change)).collect();
            return self.compare(member, revision, &found);
        }
        if self.is_unseen(revision) {
            return Ok(());
        }
        let (from, to) = what.keys();
        let mut expected =
            self.rows.range(from..to).filter_map(|(_, versions)| at(versions, revision));
        let mut found = rows.iter();
        loop {
            match (found.next(), expected.next()) {
                (None, None) => return Ok(()),
                (found, expected) if found == expected => {}
                (found, expected) => {
                    let text = format!(
                        "{member} at {revision}, {what:?}: {found:?}, should be {expected:?}"
                    );
                    return Err(Violation::new("state", text));
                }
            }
        }
    }

    /// Whether nobody showed the batch of a revision.
    pub(crate) fn is_unseen(&self, revision: u64) -> bool {
        self.unseen.iter().any(|(from, to)| *from < revision && revision < *to)
    }

    fn compare(
        &self,
        member: &str,
        revision: u64,
        found: &BTreeMap<Key, &Change>,
    ) -> Result<(), Violation> {
        if self.is_unseen(revision) {
            return Ok(());
        }
        let expected =
            self.rows.iter().filter_map(|(key, versions)| Some((key, at(versions, revision)?)));
        if found.iter().map(|(key, row)| (key, *row)).eq(expected.clone()) {
            return Ok(());
        }
        let expected: BTreeMap<&Key, &Change> = expected.collect();
        let differs = found
            .keys()
            .chain(expected.keys().copied())
            .find(|key| found.get(*key) != expected.get(*key));
        let text = match differs {
            Some(key) => format!(
                "{member} at {revision}: {key:?} is {:?}, should be {:?}",
                found.get(key),
                expected.get(key)
            ),
            None => format!("{member} at {revision}: rows differ"),
        };
        Err(Violation::new("state", text))
    }

    /// Takes in what a member says of its whole state: at one place in the log all states are one,
    /// entries are of one leader, and leaders follow each other in the order of consensus.
    pub(crate) fn sum(&mut self, member: &str, sum: StateSum) -> Result<(), Violation> {
        if let Some((known, of)) = self.sums.get(&sum.index) {
            return match known == &sum {
                true => Ok(()),
                false if (known.term, known.leader) != (sum.term, sum.leader) => {
                    let text = format!("{of} has {known:?}, {member} has {sum:?}");
                    Err(Violation::new("election-safety", text))
                }
                false => {
                    let text =
                        format!("{member} and {of} have different states at index {}", sum.index);
                    Err(Violation::new("state-digest", text))
                }
            };
        }
        let of = |(sum, _): &(StateSum, String)| (sum.term, sum.leader);
        let before = self.sums.range(..sum.index).next_back().map(|(_, sum)| of(sum));
        let after = self.sums.range(sum.index..).next().map(|(_, sum)| of(sum));
        let leader = (sum.term, sum.leader);
        if before.is_some_and(|before| before > leader) || after.is_some_and(|after| after < leader)
        {
            let text = format!(
                "{member} has {sum:?}; entries before it are of {before:?}, those after it of {after:?}"
            );
            return Err(Violation::new("election-safety", text));
        }
        self.sums.insert(sum.index, (sum, member.to_owned()));
        Ok(())
    }

    /// Takes in the digest of a member's whole state at a log index.
    pub(crate) fn digest(
        &mut self,
        member: &str,
        index: u64,
        digest: [u8; 32],
    ) -> Result<(), Violation> {
        match self.digests.get(&index) {
            Some((known, of)) if *known != digest => {
                let text = format!("{member} and {of} have different states at index {index}");
                Err(Violation::new("state-digest", text))
            }
            Some(_) => Ok(()),
            None => {
                self.digests.insert(index, (digest, member.to_owned()));
                Ok(())
            }
        }
    }
}

/// The value that holds at a revision.
fn at(versions: &[(u64, Option<Change>)], revision: u64) -> Option<&Change> {
    let at = versions.partition_point(|(since, _)| *since <= revision);
    versions.get(at.checked_sub(1)?)?.1.as_ref()
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::MemberId;

    use super::*;

    fn sum(index: u64, term: u64, leader: u64) -> StateSum {
        StateSum { index, term, leader: MemberId(leader), rows: index }
    }

    #[test]
    fn a_log_in_the_order_of_its_leaders_is_taken_in_any_order() {
        let mut reference = Reference::default();
        // A second leader in term 2 may follow the first, with a greater id.
        for (index, term, leader) in [(5, 2, 3), (1, 1, 9), (9, 2, 7), (7, 2, 3), (12, 3, 1)] {
            reference.sum("m1", sum(index, term, leader)).unwrap();
        }
        reference.sum("m2", sum(7, 2, 3)).unwrap();
    }

    #[test]
    fn leaders_that_both_commit_out_of_their_order_are_found() {
        for (second, check) in [
            // Two leaders of one term: the lesser id has committed after the greater one.
            (sum(9, 2, 3), "election-safety"),
            // A leader of an older term.
            (sum(9, 1, 9), "election-safety"),
            // The same entry, of two leaders.
            (sum(5, 2, 3), "election-safety"),
            // A later leader's entry before.
            (sum(3, 2, 8), "election-safety"),
            // The same entry, another state.
            (StateSum { rows: 1, ..sum(5, 2, 7) }, "state-digest"),
        ] {
            let mut reference = Reference::default();
            reference.sum("m1", sum(5, 2, 7)).unwrap();
            let broken = reference.sum("m2", second).unwrap_err();
            assert_eq!(broken.check, check, "{second:?}");
        }
    }

    #[test]
    fn a_time_that_no_leader_has_shown_is_found() {
        let mut reference = Reference::default();
        reference.leader_says(Timestamp::from_unix_ms(100));
        let batch = |revision: u64, ms: i64| {
            let revision = steeple_raft_store::Revision::from_u64(revision);
            let time = Timestamp::from_unix_ms(ms);
            FeedItem::Batch(Arc::new(ChangeBatch { revision, time, changes: Vec::new() }))
        };
        let mut cursor = Some(0);
        reference.take("m1", &mut cursor, &batch(1, 100)).unwrap();
        let broken = reference.take("m1", &mut cursor, &batch(2, 101)).unwrap_err();
        assert_eq!(broken.check, "cluster-time");
    }
}

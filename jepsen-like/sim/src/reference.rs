//! The one order of changes that all members must agree on, put together from what they say.
//!
//! Owns agreement (log and state), completeness of feeds, and time that never goes back. The first
//! member that shows a revision defines it; every other must show the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_raft_store::{Change, ChangeBatch};
use steeple_spiffe_core::time::Timestamp;

use crate::member::FeedItem;
use crate::rows::{self, Key};

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
    digests: BTreeMap<u64, ([u8; 32], String)>,
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

    /// The newest values of all rows.
    pub(crate) fn current(&self) -> impl Iterator<Item = &Change> {
        self.rows.values().filter_map(|versions| versions.last()?.1.as_ref())
    }

    /// Takes in what a member's feed said; `cursor` is where its subscription stands.
    pub(crate) fn take(
        &mut self,
        member: &str,
        cursor: &mut Option<u64>,
        item: &FeedItem,
    ) -> Result<(), Violation> {
        match item {
            FeedItem::Start(revision, rows) => {
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
        self.time = batch.time;
        self.last = revision;
        for change in &batch.changes {
            let versions = self.rows.entry(rows::key(change)).or_default();
            versions.push((revision, rows::value(change)));
        }
        self.batches.insert(revision, batch.clone());
        Ok(())
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
            self.rows.entry(key).or_default().push((revision, None));
        }
        for (key, change) in found {
            let versions = self.rows.entry(key).or_default();
            if versions.last().and_then(|(_, row)| row.as_ref()) != Some(change) {
                versions.push((revision, Some(change.clone())));
            }
        }
        self.unseen.push((self.last, revision));
        self.last = revision;
        Ok(())
    }

    /// Compares rows that a member showed with those of the same revision.
    pub(crate) fn compare_rows(
        &self,
        member: &str,
        revision: u64,
        rows: &[Change],
    ) -> Result<(), Violation> {
        let found: BTreeMap<Key, &Change> =
            rows.iter().map(|change| (rows::key(change), change)).collect();
        self.compare(member, revision, &found)
    }

    fn compare(
        &self,
        member: &str,
        revision: u64,
        found: &BTreeMap<Key, &Change>,
    ) -> Result<(), Violation> {
        if self.unseen.iter().any(|(from, to)| *from < revision && revision < *to) {
            return Ok(());
        }
        let expected: BTreeMap<Key, &Change> = self
            .rows
            .iter()
            .filter_map(|(key, versions)| {
                let at = versions.partition_point(|(since, _)| *since <= revision);
                let row = versions.get(at.checked_sub(1)?)?.1.as_ref()?;
                Some((key.clone(), row))
            })
            .collect();
        if *found == expected {
            return Ok(());
        }
        let differs =
            found.keys().chain(expected.keys()).find(|key| found.get(*key) != expected.get(*key));
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

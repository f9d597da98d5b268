//! The ordered stream of changes, from apply to everyone who builds views.
//!
//! Guarantees, by name. **Ordered**: batches come in log order. **Unique**: each once. **Complete**: a
//! subscription's snapshot plus its batches is the whole state, without a gap between the two.
//! **Bounded**: a slow reader is told to start over ([`Resync`]) and never holds up apply.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use steeple_spiffe_core::time::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::apply::{TableError, Tables, snapshot_changes};
use crate::change::{Change, ChangeBatch};
use crate::error::StoreError;
use crate::ids::Revision;
use crate::limits::FEED_BATCHES_MAX;
use crate::mutants::{self, Mutant};

/// What apply has reached, as watchers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Index of the last applied log entry.
    pub(crate) index: u64,
    /// The same with its epoch.
    pub(crate) revision: Revision,
    /// Cluster time.
    pub(crate) time: Timestamp,
    /// Whether the cluster's first command has been applied.
    pub(crate) formed: bool,
    /// What command types may be proposed; zero before the first command.
    pub(crate) feature_level: u32,
}

/// The reader was too slow, or the member took over a snapshot: subscribe again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change stream must be read anew from a snapshot")]
pub struct Resync;

/// All rows at one revision, and every change after it.
#[derive(Debug)]
pub struct Subscription {
    /// The state that `snapshot` shows.
    pub revision: Revision,
    /// Cluster time of that state.
    pub time: Timestamp,
    /// Every row, as `…Written` changes: cluster, bundles, relationships, refreshes, journal,
    /// agents, entries; each kind by key.
    pub snapshot: Vec<Change>,
    changes: broadcast::Receiver<Item>,
}

impl Subscription {
    /// The next batch. Cancel safe.
    pub async fn next(&mut self) -> Result<Arc<ChangeBatch>, Resync> {
        match self.changes.recv().await {
            Ok(Item::Batch(batch)) => Ok(batch),
            Ok(Item::Reset) | Err(_) => {
                metrics::counter!("spire_server_cluster_feed_resyncs").increment(1);
                Err(Resync)
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Item {
    Batch(Arc<ChangeBatch>),
    Reset,
}

/// The sending side: owned by the state machine, shared with the handle for subscriptions.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Held for writing while tables and stream move together, for reading while a subscriber pairs a
    /// snapshot with its place in the stream. Guards no data of its own.
    gate: RwLock<()>,
    sender: broadcast::Sender<Item>,
    reached: watch::Sender<Reached>,
    /// Moves with the rows that say which cluster keys are in use.
    key_rows: watch::Sender<()>,
}

impl Feed {
    pub(crate) fn new(reached: Reached) -> Self {
        let (sender, _) = broadcast::channel(FEED_BATCHES_MAX);
        let (reached, _) = watch::channel(reached);
        Self { gate: RwLock::new(()), sender, reached, key_rows: watch::channel(()).0 }
    }

    /// What has been applied, to wait on.
    pub(crate) fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.subscribe()
    }

    /// Resolves when a row has changed that says which cluster keys are in use.
    pub(crate) fn key_rows(&self) -> watch::Receiver<()> {
        self.key_rows.subscribe()
    }

    /// What has been applied, now.
    pub(crate) fn reached_now(&self) -> Reached {
        *self.reached.borrow()
    }

    /// Commits to the tables by `commit` and publishes, as one step for subscribers.
    pub(crate) fn publish(
        &self,
        reached: Reached,
        batches: Vec<ChangeBatch>,
        commit: impl FnOnce() -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        commit()?;
        let moves_keys = batches.iter().any(|batch| batch.changes.iter().any(says_which_keys));
        for batch in batches {
            // An error only says that no one listens.
            self.sender.send(Item::Batch(Arc::new(batch))).ok();
        }
        self.reached.send_replace(reached);
        if moves_keys {
            self.key_rows.send_replace(());
        }
        Ok(())
    }

    /// Replaces the whole state by `commit`: every subscriber starts over.
    pub(crate) fn reset(
        &self,
        commit: impl FnOnce() -> Result<Reached, TableError>,
    ) -> Result<(), TableError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let reached = commit()?;
        self.sender.send(Item::Reset).ok();
        self.reached.send_replace(reached);
        self.key_rows.send_replace(());
        Ok(())
    }

    /// Pairs a consistent read of all rows with the stream that continues it.
    pub(crate) fn subscribe(&self, tables: &dyn Tables) -> Result<Subscription, StoreError> {
        let mut gate: Option<RwLockReadGuard<'_, ()>> =
            Some(self.gate.read().unwrap_or_else(PoisonError::into_inner));
        let mut reached = Reached::default();
        let mut changes = None;
        let mut snapshot = Vec::new();
        tables.read_consistent(&mut |rows| {
            // The view is fixed by now: note the place in the stream, then let apply go on while the
            // rows are read.
            reached = self.reached_now();
            changes = Some(self.sender.subscribe());
            drop(gate.take());
            snapshot = snapshot_changes(rows)?;
            Ok(())
        })?;
        let changes = changes.unwrap_or_else(|| self.sender.subscribe());
        if mutants::on(Mutant::FeedOffByOne) {
            reached.revision = Revision::from_u64(reached.revision.as_u64() + 1);
        }
        Ok(Subscription { revision: reached.revision, time: reached.time, snapshot, changes })
    }
}

fn says_which_keys(change: &Change) -> bool {
    matches!(
        change,
        Change::ClusterWritten(_) | Change::JournalWritten(_) | Change::SealedWritten { .. }
    )
}

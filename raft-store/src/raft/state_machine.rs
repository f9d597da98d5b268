//! The state machine as openraft wants it: apply in batches, snapshots out and in.
//!
//! Owns the batch: all entries that are ready are applied into one write set, which is committed with
//! the applied log id and membership inside, then published. What a command does is `apply`'s.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use tokio::time::Instant;

use crate::apply::{self, Done, Rows, SINGLE, Table, TableError, Tables, Transaction, WriteSet};
use crate::change::ChangeBatch;
use crate::codec::CodecError;
use crate::error::StoreError;
use crate::feed::{Feed, Reached};
use crate::ids::Revision;
use crate::mutants::{self, Mutant};
use crate::offload::offload;
use crate::pb;
use crate::raft::convert::{
    log_id_from_pb, log_id_to_pb, snapshot_meta_from_pb, snapshot_meta_to_pb,
    stored_membership_from_pb, stored_membership_to_pb,
};
use crate::raft::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::snapshot::{self, SnapshotBody, SnapshotSink, Snapshots};
use crate::storage::Engine;

/// Most log entries in one write set: large enough that a write per batch costs nothing, small enough
/// that answers do not wait for strangers.
const BATCH_ENTRIES_MAX: usize = 256;

/// Tables that follow the log.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    tables: Arc<dyn Tables>,
    snapshots: Arc<dyn Snapshots>,
    feed: Arc<Feed>,
    /// Held while a snapshot becomes the newest: one that was built here must not take the place of a
    /// newer one that was received meanwhile.
    keeping: Arc<Mutex<()>>,
}

type Snapshot = SnapshotOf<TypeConfig, SnapshotBody>;

impl StateMachine {
    /// Opens the tables: ends a replacement that a crash cut short, and brings tables up to a newer
    /// snapshot.
    pub(crate) fn open(engine: &Engine) -> Result<(Self, Arc<Feed>), TableError> {
        let tables = Arc::clone(&engine.tables);
        if let Some(body) = engine.snapshots.current()? {
            // To its end: others may be fed from it.
            let meta = snapshot_meta_from_pb(&snapshot::verify(&body)?)?;
            let (applied, _) = read_applied(tables.as_ref())?;
            if tables.is_half_replaced()? || applied < meta.last_log_id {
                replace(tables.as_ref(), &body)?;
            }
        } else if tables.is_half_replaced()? {
            return Err(CodecError::new("tables", "half replaced, and no snapshot is kept").into());
        }
        let feed = Arc::new(Feed::new(read_reached(tables.as_ref())?));
        let machine = Self {
            tables,
            snapshots: Arc::clone(&engine.snapshots),
            feed: Arc::clone(&feed),
            keeping: Arc::default(),
        };
        Ok((machine, feed))
    }

    /// Applies a batch of entries and returns what to answer, in order.
    pub(crate) fn apply_batch(
        &self,
        entries: &[Entry],
    ) -> Result<Vec<Option<apply::Applied>>, TableError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Vec::new());
        };
        let reached = self.feed.reached_now();
        if reached.formed && first.log_id.index != reached.index + 1 {
            // To go on would be to differ from all others without a word.
            let text = format!("entry {} comes after {}", first.log_id.index, reached.index);
            return Err(CodecError::new("apply", text).into());
        }
        let mut txn = Transaction::new(self.tables.as_ref());
        let mut answers = Vec::with_capacity(entries.len());
        let mut batches: Vec<ChangeBatch> = Vec::with_capacity(entries.len());
        let mut membership = None;
        for entry in entries {
            let index = entry.log_id.index;
            let Done { applied, batch } = match &entry.payload {
                EntryPayload::Blank => apply::apply_nothing(&mut txn, index)?,
                EntryPayload::Normal(envelope) => apply::apply(&mut txn, index, &envelope.0)?,
                EntryPayload::Membership(new) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), new.clone()));
                    apply::apply_nothing(&mut txn, index)?
                }
            };
            answers.push(applied);
            batches.push(batch);
        }
        let membership = match membership {
            Some(membership) => membership,
            None => read_applied(self.tables.as_ref())?.1,
        };
        let cluster = apply::read_cluster(&txn)?;
        let mut writes = txn.into_writes();
        write_applied(&mut writes, Some(&last.log_id), &membership);
        let (revision, time) =
            batches.last().map_or_else(Default::default, |batch| (batch.revision, batch.time));
        let reached = Reached {
            index: last.log_id.index,
            revision,
            time,
            formed: cluster.is_some(),
            feature_level: cluster.map_or(0, |cluster| cluster.feature_level),
        };
        if mutants::on(Mutant::AppliedIndexApart)
            && let Some(applied) = writes.remove(&(Table::Applied, SINGLE.to_vec()))
        {
            let tables = Arc::clone(&self.tables);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                tables.commit([((Table::Applied, SINGLE.to_vec()), applied)].into()).ok();
            });
        }
        self.feed.publish(reached, batches, || self.tables.commit(writes))?;
        Ok(answers)
    }
}

/// Adds the row of [`Table::Applied`] to a write set.
pub(crate) fn write_applied(
    writes: &mut WriteSet,
    log_id: Option<&LogId>,
    membership: &StoredMembership,
) {
    let row = pb::store::AppliedRow {
        log_id: log_id.map(log_id_to_pb),
        membership: Some(stored_membership_to_pb(membership)),
    };
    writes.insert((Table::Applied, SINGLE.to_vec()), Some(row.encode_to_vec()));
}

fn read_applied(rows: &dyn Tables) -> Result<(Option<LogId>, StoredMembership), TableError> {
    let Some(bytes) = rows.get(Table::Applied, SINGLE)? else { return Ok(Default::default()) };
    read_applied_row(&bytes)
}

/// What the applied row says: the last applied entry, and the membership.
pub(crate) fn read_applied_row(
    bytes: &[u8],
) -> Result<(Option<LogId>, StoredMembership), TableError> {
    let row = pb::store::AppliedRow::decode(bytes)
        .map_err(|error| CodecError::new("applied row", error))?;
    let membership = match &row.membership {
        Some(membership) => stored_membership_from_pb(membership)?,
        None => StoredMembership::default(),
    };
    Ok((row.log_id.as_ref().map(log_id_from_pb), membership))
}

fn read_reached(tables: &dyn Tables) -> Result<Reached, TableError> {
    let (applied, _) = read_applied(tables)?;
    let index = applied.map_or(0, |id| id.index);
    let cluster = apply::read_cluster(tables)?;
    Ok(Reached {
        index,
        revision: Revision::new(cluster.as_ref().map_or(0, |cluster| cluster.epoch), index),
        time: tables_time(tables)?,
        formed: cluster.is_some(),
        feature_level: cluster.map_or(0, |cluster| cluster.feature_level),
    })
}

fn tables_time(tables: &dyn Tables) -> Result<steeple_spiffe_core::Timestamp, TableError> {
    let mut time = steeple_spiffe_core::Timestamp::default();
    tables.read_consistent(&mut |rows| {
        time = apply::read_time(rows)?;
        Ok(())
    })?;
    Ok(time)
}

/// Replaces all rows by those of a snapshot that is kept and was checked.
fn replace(tables: &dyn Tables, body: &SnapshotBody) -> Result<(), TableError> {
    tables.begin_replace()?;
    let meta = snapshot::read(body, &mut |rows| tables.load(rows))?;
    let meta = snapshot_meta_from_pb(&meta)?;
    let mut writes = WriteSet::new();
    write_applied(&mut writes, meta.last_log_id.as_ref(), &meta.last_membership);
    tables.end_replace(writes)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(read_applied(self.tables.as_ref())?)
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ready = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(chunk) = ready.next().await {
            let mut entries = Vec::with_capacity(chunk.len());
            let mut responders = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let answers = self.apply_batch(&entries).map_err(|error| {
                tracing::error!(%error, "failed to apply: this member must stop");
                io::Error::from(error)
            })?;
            for (responder, answer) in responders.into_iter().zip(answers) {
                if let Some(responder) = responder {
                    responder.send(answer.map(Arc::new));
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: self.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotBody,
    ) -> Result<(), io::Error> {
        let machine = self.clone();
        let meta = meta.clone();
        let installed = offload(move || machine.install(&meta, &snapshot));
        installed.await.map_err(io::Error::other)??;
        tracing::info!("Snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(body) = self.snapshots.current()? else { return Ok(None) };
        let meta = snapshot::read_meta(&body)?;
        let meta = snapshot_meta_from_pb(&meta).map_err(TableError::from)?;
        Ok(Some(Snapshot { meta, snapshot: body }))
    }
}

impl StateMachine {
    fn install(&self, meta: &SnapshotMeta, body: &SnapshotBody) -> Result<(), TableError> {
        let found = snapshot_meta_from_pb(&snapshot::verify(body)?)?;
        if found != *meta {
            return Err(CodecError::new("snapshot", "it is not the one that was announced").into());
        }
        // Kept first: a crash from here on is mended from it at the next start.
        {
            let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.snapshots.keep(body)?;
        }
        self.feed.reset(|| {
            replace(self.tables.as_ref(), body)?;
            read_reached(self.tables.as_ref())
        })
    }
}

/// A digest of the rows that a snapshot holds, and the index they are the state of.
pub(crate) fn digest(tables: &dyn Tables) -> Result<(u64, [u8; 32]), StoreError> {
    let mut found = (0, [0; 32]);
    tables.read_consistent(&mut |rows: &dyn Rows| {
        let (last_log_id, last_membership) = match rows.get(Table::Applied, SINGLE)? {
            Some(bytes) => read_applied_row(&bytes)?,
            None => Default::default(),
        };
        let meta = snapshot_meta_to_pb(&SnapshotMeta { last_log_id, last_membership });
        let body = snapshot::write(rows, meta, SnapshotSink::Memory(Vec::new()))?;
        let length = usize::try_from(body.len()).unwrap_or(usize::MAX);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body.read_at(0, length)?);
        let hash = <[u8; 32]>::try_from(hash.as_ref()).unwrap_or_default();
        found = (last_log_id.map_or(0, |id| id.index), hash);
        Ok(())
    })?;
    Ok(found)
}

/// Builds a snapshot beside running apply.
#[derive(Debug)]
pub(crate) struct Builder {
    machine: StateMachine,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotBody;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let machine = self.machine.clone();
        let started = Instant::now();
        let built = offload(move || machine.build().map_err(io::Error::from));
        let snapshot = built.await.map_err(io::Error::other)??;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
        metrics::histogram!("spire_server_cluster_snapshot_elapsed_time").record(elapsed_ms);
        metrics::gauge!("spire_server_cluster_snapshot_size").set(snapshot.snapshot.len() as f64);
        Ok(snapshot)
    }
}

impl StateMachine {
    /// Makes a snapshot of the tables as they are, and keeps it.
    pub(crate) fn build(&self) -> Result<Snapshot, TableError> {
        let mut sink = Some(self.snapshots.sink()?);
        let mut built = None;
        self.tables.read_consistent(&mut |rows: &dyn Rows| {
            let (last_log_id, last_membership) = match rows.get(Table::Applied, SINGLE)? {
                Some(bytes) => read_applied_row(&bytes)?,
                None => Default::default(),
            };
            let mut meta = SnapshotMeta { last_log_id, last_membership };
            if mutants::on(Mutant::SnapshotDropsMembership) {
                meta.last_membership = StoredMembership::default();
            }
            let sink = sink.take().ok_or_else(|| io::Error::other("snapshot sink is used up"))?;
            let body = snapshot::write(rows, snapshot_meta_to_pb(&meta), sink)?;
            built = Some(Snapshot { meta, snapshot: body });
            Ok(())
        })?;
        let built = built.ok_or_else(|| io::Error::other("no snapshot was written"))?;
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = match self.snapshots.current()? {
            Some(body) => {
                let meta = snapshot_meta_from_pb(&snapshot::read_meta(&body)?)?;
                (meta.last_log_id > built.meta.last_log_id)
                    .then_some(Snapshot { meta, snapshot: body })
            }
            None => None,
        };
        if let Some(newer) = newer {
            return Ok(newer);
        }
        self.snapshots.keep(&built.snapshot)?;
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use openraft::vote::RaftLeaderId;

    use steeple_spiffe_core::Timestamp;

    use super::*;
    use crate::apply::testing::{START_MS, envelope, init};
    use crate::mem::MemoryDisk;
    use crate::raft::{CommittedLeaderId, EnvelopeBytes};

    #[test]
    fn entries_are_applied_without_a_gap_or_not_at_all() {
        let (machine, feed) = StateMachine::open(&MemoryDisk::new().engine()).unwrap();
        let log_id = |index| LogId::new(CommittedLeaderId::new(1, 1), index);
        let command = envelope(&init(), [1; 16], Timestamp::from_unix_ms(START_MS));
        let command = EntryPayload::Normal(EnvelopeBytes(command.into()));
        let first = Entry::new(log_id(1), command);
        machine.apply_batch(&[Entry::new_blank(log_id(0)), first]).unwrap();
        let apply = |indexes: &[u64]| {
            let blank = |index| Entry::new_blank(log_id(index));
            machine.apply_batch(&indexes.iter().copied().map(blank).collect::<Vec<_>>())
        };
        let error = apply(&[3, 4]).unwrap_err();
        assert!(error.to_string().contains("entry 3 comes after 1"), "{error}");
        assert_eq!(feed.reached_now().index, 1);
        apply(&[2, 3]).unwrap();
        assert!(apply(&[3]).is_err(), "it is applied already");
        assert_eq!(feed.reached_now().index, 3);
    }
}

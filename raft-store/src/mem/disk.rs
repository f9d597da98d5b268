//! A disk in memory: log, snapshot and local records, and the tables on it.
//!
//! Everything is durable as it is written, except by [`MemoryDisk::crash`], which takes back log writes
//! that were never synced and, with them, the tables: they are rebuilt from the log, as after a power
//! cut. For simulation a sync takes time, and a crash may keep some of what was not synced.
//!
//! What is torn: one call of the log is one record of RocksDB's write-ahead log, with a checksum. A
//! torn last record is found at the next start and dropped as a whole, which cannot be told from a
//! record that never reached the disk. So a crash keeps a prefix of calls, and cuts between calls.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::apply::{Rows, Table, TableError, Tables, WriteSet};
use crate::ids::MemberId;
use crate::local::{LocalDisk, LocalRecords};
use crate::mem::MemoryTables;
use crate::raft::state_machine::read_applied_row;
use crate::snapshot::{SnapshotBody, SnapshotSink, Snapshots};
use crate::storage::{Engine, LogBounds, LogDisk, LogRecord, LogValue, Syncing, TimedSync};

/// A disk in memory.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    log: Arc<MemoryLog>,
    tables: Arc<MemoryTables>,
    snapshots: Arc<MemorySnapshots>,
    local: Arc<MemoryLocal>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An empty disk whose syncs take time.
    pub fn simulated(times: Arc<dyn SyncTimes>) -> Arc<Self> {
        let log = MemoryLog { state: Arc::default(), times: Some(times) };
        Arc::new(Self { log: Arc::new(log), ..Self::default() })
    }

    /// A disk as it is found after a power cut now: log writes that were not synced are lost.
    ///
    /// The store that runs on this disk is not affected; open another on the returned one.
    pub fn crash(&self) -> Arc<Self> {
        self.crash_keeping(0)
    }

    /// As [`Self::crash`], but the first `keep` of the writes that were not synced had reached the
    /// disk.
    pub fn crash_keeping(&self, keep: usize) -> Arc<Self> {
        let state = lock(&self.log.state).after_crash(keep);
        let log = MemoryLog { state: Arc::new(Mutex::new(state)), times: self.log.times.clone() };
        let kept = lock(&self.snapshots.current).clone();
        Arc::new(Self {
            log: Arc::new(log),
            tables: Arc::default(),
            snapshots: Arc::new(MemorySnapshots { current: Mutex::new(kept) }),
            local: Arc::new(MemoryLocal {
                records: Mutex::new(lock(&self.local.records).clone()),
                is_full: AtomicBool::default(),
            }),
        })
    }

    /// Changes the last byte of a row, unseen by anyone: what a disk does that rots.
    ///
    /// # Errors
    ///
    /// If the tables hold no such row.
    pub fn rot(&self, table: u32, key: &[u8]) -> Result<(), TableError> {
        let missing = || TableError::Io(io::ErrorKind::NotFound.into());
        let table = Table::from_number(table).ok_or_else(missing)?;
        let mut value = self.tables.get(table, key)?.ok_or_else(missing)?;
        if let Some(last) = value.last_mut() {
            *last ^= 1;
        }
        self.tables.commit(WriteSet::from([((table, key.to_vec()), Some(value))]))
    }

    /// From now on no record of the member's own is written: what a full disk does.
    pub fn refuse_records(&self) {
        self.local.is_full.store(true, Ordering::Relaxed);
    }

    /// How many writes a crash now could lose.
    pub fn unsynced(&self) -> usize {
        lock(&self.log.state).unsynced.len()
    }

    /// What the tables hold, in few numbers that are equal on every member. `None`: nothing yet.
    ///
    /// # Errors
    ///
    /// If the applied row does not decode.
    pub fn state(&self) -> io::Result<Option<StateSum>> {
        let (Some(applied), rows) = self.tables.summed() else { return Ok(None) };
        let (last, _) = read_applied_row(&applied)?;
        Ok(last.map(|id| {
            let leader = MemberId(id.leader_id.node_id);
            StateSum { index: id.index, term: id.leader_id.term, leader, rows }
        }))
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine {
            log: self.log.clone(),
            tables: self.tables.clone(),
            snapshots: self.snapshots.clone(),
            local: LocalRecords::new(self.local.clone()),
        }
    }
}

/// What [`MemoryDisk::state`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSum {
    /// The last log entry that is applied.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// That leader.
    pub leader: MemberId,
    /// A sum over all rows.
    pub rows: u64,
}

/// How long syncs take, and whether they work: the part of a disk that a simulation decides.
pub trait SyncTimes: Send + Sync + fmt::Debug {
    /// How long the sync takes that begins now.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn next(&self) -> io::Result<Duration>;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct MemoryLog {
    state: Arc<Mutex<LogState>>,
    times: Option<Arc<dyn SyncTimes>>,
}

#[derive(Debug, Default)]
struct LogState {
    content: LogContent,
    /// How to take back what was written since the last sync, oldest first: one element a call.
    unsynced: VecDeque<Vec<Undo>>,
    /// Writes that were ever made durable.
    synced: u64,
}

#[derive(Clone, Debug, Default)]
struct LogContent {
    records: BTreeMap<u64, Vec<u8>>,
    values: BTreeMap<LogValue, Vec<u8>>,
    purged: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Undo {
    Record(u64, Option<Vec<u8>>),
    Records(BTreeMap<u64, Vec<u8>>),
    Value(LogValue, Option<Vec<u8>>),
    Purged(Option<Vec<u8>>),
}

impl LogState {
    /// Makes durable what was written until `mark`, a number of writes.
    fn sync_until(&mut self, mark: u64) {
        while self.synced < mark && self.unsynced.pop_front().is_some() {
            self.synced += 1;
        }
    }

    fn mark(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// The log as a crash leaves it.
    fn after_crash(&self, keep: usize) -> Self {
        let mut content = self.content.clone();
        for undo in self.unsynced.iter().skip(keep).rev().flat_map(|call| call.iter().rev()) {
            match undo {
                Undo::Record(index, None) => {
                    content.records.remove(index);
                }
                Undo::Record(index, Some(bytes)) => {
                    content.records.insert(*index, bytes.clone());
                }
                Undo::Records(records) => content.records.extend(records.clone()),
                Undo::Value(key, None) => {
                    content.values.remove(key);
                }
                Undo::Value(key, Some(bytes)) => {
                    content.values.insert(*key, bytes.clone());
                }
                Undo::Purged(purged) => content.purged.clone_from(purged),
            }
        }
        Self { content, unsynced: VecDeque::new(), synced: 0 }
    }
}

impl LogDisk for MemoryLog {
    fn bounds(&self) -> io::Result<LogBounds> {
        let state = lock(&self.state);
        let last = state.content.records.last_key_value();
        Ok(LogBounds {
            purged: state.content.purged.clone(),
            last: last.map(|(index, bytes)| LogRecord { index: *index, bytes: bytes.clone() }),
        })
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogRecord>> {
        let state = lock(&self.state);
        let mut bytes_read = 0;
        let mut records = Vec::new();
        if from >= to {
            return Ok(records);
        }
        for (index, bytes) in state.content.records.range(from..to) {
            bytes_read += bytes.len();
            if bytes_read > bytes_max && !records.is_empty() {
                break;
            }
            records.push(LogRecord { index: *index, bytes: bytes.clone() });
        }
        Ok(records)
    }

    fn append(&self, records: &[LogRecord]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let mut undo = Vec::with_capacity(records.len());
        for record in records {
            let before = state.content.records.insert(record.index, record.bytes.clone());
            undo.push(Undo::Record(record.index, before));
        }
        state.unsynced.push_back(undo);
        Ok(())
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let removed = state.content.records.split_off(&from);
        state.unsynced.push_back(vec![Undo::Records(removed)]);
        Ok(())
    }

    fn purge(&self, upto: u64, purged: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let kept = state.content.records.split_off(&upto.saturating_add(1));
        let removed = std::mem::replace(&mut state.content.records, kept);
        let before = state.content.purged.replace(purged.to_vec());
        state.unsynced.push_back(vec![Undo::Records(removed), Undo::Purged(before)]);
        Ok(())
    }

    fn put(&self, key: LogValue, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let before = state.content.values.insert(key, bytes.to_vec());
        state.unsynced.push_back(vec![Undo::Value(key, before)]);
        Ok(())
    }

    fn get(&self, key: LogValue) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.state).content.values.get(&key).cloned())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let mark = state.mark();
        state.sync_until(mark);
        Ok(())
    }

    fn syncing(&self) -> Syncing {
        match &self.times {
            None => Syncing::Free,
            Some(times) => {
                let (state, times) = (Arc::clone(&self.state), Arc::clone(times));
                Syncing::Timed(Arc::new(SimulatedSync { state, times }))
            }
        }
    }
}

#[derive(Debug)]
struct SimulatedSync {
    state: Arc<Mutex<LogState>>,
    times: Arc<dyn SyncTimes>,
}

impl TimedSync for SimulatedSync {
    fn begin(&self) -> BoxFuture<'static, io::Result<()>> {
        // What is written while the sync runs is not covered by it.
        let mark = lock(&self.state).mark();
        let (state, takes) = (Arc::clone(&self.state), self.times.next());
        Box::pin(async move {
            tokio::time::sleep(takes?).await;
            lock(&state).sync_until(mark);
            Ok(())
        })
    }
}

#[derive(Debug, Default)]
struct MemorySnapshots {
    current: Mutex<Option<SnapshotBody>>,
}

impl Snapshots for MemorySnapshots {
    fn current(&self) -> io::Result<Option<SnapshotBody>> {
        Ok(lock(&self.current).clone())
    }

    fn sink(&self) -> io::Result<SnapshotSink> {
        Ok(SnapshotSink::Memory(Vec::new()))
    }

    fn keep(&self, body: &SnapshotBody) -> io::Result<()> {
        *lock(&self.current) = Some(body.clone());
        Ok(())
    }
}

#[derive(Debug, Default)]
struct MemoryLocal {
    records: Mutex<BTreeMap<String, Vec<u8>>>,
    is_full: AtomicBool,
}

impl LocalDisk for MemoryLocal {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.records).get(name).cloned())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        lock(&self.records).insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.records).remove(name);
        Ok(())
    }

    fn claim(&self, _member: MemberId) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Takes(Duration);

    impl SyncTimes for Takes {
        fn next(&self) -> io::Result<Duration> {
            Ok(self.0)
        }
    }

    fn record(index: u64) -> LogRecord {
        LogRecord { index, bytes: vec![1] }
    }

    fn indexes(disk: &MemoryDisk) -> Vec<u64> {
        disk.log.read(0, u64::MAX, usize::MAX).unwrap().iter().map(|r| r.index).collect()
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_whole_writes() {
        let disk = MemoryDisk::new();
        disk.log.append(&[record(1)]).unwrap();
        disk.log.sync().unwrap();
        disk.log.append(&[record(2), record(3)]).unwrap();
        disk.log.truncate(3).unwrap();
        disk.log.append(&[record(3), record(4)]).unwrap();
        assert_eq!(disk.unsynced(), 3);
        for (keep, left) in
            [(0, vec![1]), (1, vec![1, 2, 3]), (2, vec![1, 2]), (3, vec![1, 2, 3, 4])]
        {
            assert_eq!(indexes(&disk.crash_keeping(keep)), left, "{keep}");
        }
        assert_eq!(indexes(&disk.crash()), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timed_sync_covers_what_was_written_before_it_began() {
        let disk = MemoryDisk::simulated(Arc::new(Takes(Duration::from_millis(5))));
        let Syncing::Timed(timed) = disk.log.syncing() else { panic!("not timed") };
        disk.log.append(&[record(1)]).unwrap();
        let sync = timed.begin();
        disk.log.append(&[record(2)]).unwrap();
        assert_eq!(indexes(&disk.crash()), [0; 0]);
        sync.await.unwrap();
        assert_eq!(indexes(&disk.crash()), [1]);
    }
}

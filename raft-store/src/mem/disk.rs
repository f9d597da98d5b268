//! A disk in memory: log, snapshot and local records, and the tables on it.
//!
//! Everything is durable as it is written, except by [`MemoryDisk::crash`], which takes back log writes
//! that were never synced and, with them, the tables: they are rebuilt from the log, as after a power
//! cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::MemberId;
use crate::local::{LocalDisk, LocalRecords};
use crate::mem::MemoryTables;
use crate::snapshot::{SnapshotBody, SnapshotSink, Snapshots};
use crate::storage::{Engine, LogBounds, LogDisk, LogRecord, LogValue};

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

    /// A disk as it is found after a power cut now: log writes that were not synced are lost.
    ///
    /// The store that runs on this disk is not affected; open another on the returned one.
    pub fn crash(&self) -> Arc<Self> {
        let content = lock(&self.log.state).synced();
        let state = LogState { content, unsynced: Vec::new() };
        let kept = lock(&self.snapshots.current).clone();
        Arc::new(Self {
            log: Arc::new(MemoryLog { state: Mutex::new(state) }),
            tables: Arc::default(),
            snapshots: Arc::new(MemorySnapshots { current: Mutex::new(kept) }),
            local: Arc::new(MemoryLocal { records: Mutex::new(lock(&self.local.records).clone()) }),
        })
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct MemoryLog {
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    content: LogContent,
    /// How to take back what was written since the last sync, oldest first.
    unsynced: Vec<Undo>,
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
    /// The content as of the last sync.
    fn synced(&self) -> LogContent {
        let mut content = self.content.clone();
        for undo in self.unsynced.iter().rev() {
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
        content
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
        for record in records {
            let before = state.content.records.insert(record.index, record.bytes.clone());
            state.unsynced.push(Undo::Record(record.index, before));
        }
        Ok(())
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let removed = state.content.records.split_off(&from);
        state.unsynced.push(Undo::Records(removed));
        Ok(())
    }

    fn purge(&self, upto: u64, purged: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let kept = state.content.records.split_off(&upto.saturating_add(1));
        let removed = std::mem::replace(&mut state.content.records, kept);
        let before = state.content.purged.replace(purged.to_vec());
        state.unsynced.push(Undo::Records(removed));
        state.unsynced.push(Undo::Purged(before));
        Ok(())
    }

    fn put(&self, key: LogValue, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let before = state.content.values.insert(key, bytes.to_vec());
        state.unsynced.push(Undo::Value(key, before));
        Ok(())
    }

    fn get(&self, key: LogValue) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.state).content.values.get(&key).cloned())
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.state).unsynced.clear();
        Ok(())
    }

    fn sync_is_free(&self) -> bool {
        true
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
}

impl LocalDisk for MemoryLocal {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.records).get(name).cloned())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
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

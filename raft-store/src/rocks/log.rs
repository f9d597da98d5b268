//! The log in RocksDB.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{ReadOptions, WriteBatch};

use crate::rocks::db::{Database, to_io};
use crate::rocks::keys;
use crate::storage::{LogBounds, LogDisk, LogRecord, LogValue, Syncing};

/// Purged entries between two removals of whole files, each of which costs a sync.
const FILES_EVERY: u64 = 4_096;

/// The log of this member.
#[derive(Debug)]
pub(super) struct RocksLog {
    database: Database,
    /// Up to which index whole files were removed.
    files_gone: AtomicU64,
}

impl RocksLog {
    /// The log in a database.
    pub(super) fn new(database: Database) -> Self {
        Self { database, files_gone: AtomicU64::new(0) }
    }
}

impl LogDisk for RocksLog {
    fn bounds(&self) -> io::Result<LogBounds> {
        let meta = self.database.family(keys::META)?;
        let log = self.database.family(keys::LOG)?;
        let db = self.database.db();
        let purged = db.get_cf(meta, keys::PURGED).map_err(to_io)?;
        let mut iterator = db.raw_iterator_cf(log);
        iterator.seek_to_last();
        iterator.status().map_err(to_io)?;
        let last = match iterator.item() {
            Some((key, bytes)) => Some(record(key, bytes)?),
            None => None,
        };
        Ok(LogBounds { purged, last })
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogRecord>> {
        let log = self.database.family(keys::LOG)?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::log_index(to));
        let mut iterator = self.database.db().raw_iterator_cf_opt(log, options);
        let mut records = Vec::new();
        let mut bytes_read = 0;
        iterator.seek(keys::log_index(from));
        while let Some((key, bytes)) = iterator.item() {
            bytes_read += bytes.len();
            if bytes_read > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record(key, bytes)?);
            iterator.next();
        }
        iterator.status().map_err(to_io)?;
        Ok(records)
    }

    fn append(&self, records: &[LogRecord]) -> io::Result<()> {
        let log = self.database.family(keys::LOG)?;
        let mut batch = WriteBatch::default();
        for record in records {
            batch.put_cf(log, keys::log_index(record.index), &record.bytes);
        }
        self.database.write(batch)
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        let log = self.database.family(keys::LOG)?;
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(log, keys::log_index(from), keys::log_index(u64::MAX));
        self.database.write(batch)
    }

    fn purge(&self, upto: u64, purged: &[u8]) -> io::Result<()> {
        let log = self.database.family(keys::LOG)?;
        let meta = self.database.family(keys::META)?;
        let end = keys::log_index(upto.saturating_add(1));
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, keys::PURGED, purged);
        batch.delete_range_cf(log, keys::log_index(0), end);
        self.database.write(batch)?;
        // Now and then whole files below the purged index go at once; the rest at the next compaction.
        if upto < self.files_gone.load(Ordering::Relaxed).saturating_add(FILES_EVERY) {
            return Ok(());
        }
        // The mark is durable before a file goes: after a power cut the log would begin behind it.
        self.database.sync()?;
        self.files_gone.store(upto, Ordering::Relaxed);
        self.database.db().delete_file_in_range_cf(log, keys::log_index(0), end).map_err(to_io)
    }

    fn put(&self, key: LogValue, bytes: &[u8]) -> io::Result<()> {
        let meta = self.database.family(keys::META)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, keys::log_value(key), bytes);
        self.database.write(batch)
    }

    fn get(&self, key: LogValue) -> io::Result<Option<Vec<u8>>> {
        let meta = self.database.family(keys::META)?;
        self.database.db().get_cf(meta, keys::log_value(key)).map_err(to_io)
    }

    fn sync(&self) -> io::Result<()> {
        self.database.sync()
    }

    fn syncing(&self) -> Syncing {
        Syncing::Blocking
    }
}

fn record(key: &[u8], bytes: &[u8]) -> io::Result<LogRecord> {
    let index = keys::index_of(key)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "key of the log is no index"))?;
    Ok(LogRecord { index, bytes: bytes.to_vec() })
}

//! Storage that trips the fence when it reads damaged data.
//!
//! A checksum that does not fit says that this member's disk has lost something: whatever asked for it
//! must not guess, and whoever asks next might be told something else. So the first such error of a
//! log or of tables ends the member, wherever it came up. Errors of decoding are not judged here.

use std::io;
use std::sync::Arc;

use crate::apply::{Row, Rows, Table, TableError, TableRow, Tables, WriteSet};
use crate::fence::Fence;
use crate::storage::{Engine, LogBounds, LogDisk, LogRecord, LogValue, Syncing};

/// Puts a guard before log and tables.
pub(crate) fn guard(engine: Engine, fence: &Arc<Fence>) -> Engine {
    let guard = Guard { fence: Arc::clone(fence) };
    Engine {
        log: Arc::new(GuardedLog { inner: engine.log, guard: guard.clone() }),
        tables: Arc::new(GuardedTables { inner: engine.tables, guard }),
        ..engine
    }
}

#[derive(Clone, Debug)]
struct Guard {
    fence: Arc<Fence>,
}

impl Guard {
    fn io<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.fence.trip(format!("the registry on this member's disk is damaged: {error}"));
        }
        result
    }

    fn table<T>(&self, result: Result<T, TableError>) -> Result<T, TableError> {
        match result {
            Err(TableError::Io(error)) => Ok(self.io(Err(error))?),
            Ok(_) | Err(TableError::Codec(_)) => result,
        }
    }
}

#[derive(Debug)]
struct GuardedLog {
    inner: Arc<dyn LogDisk>,
    guard: Guard,
}

impl LogDisk for GuardedLog {
    fn bounds(&self) -> io::Result<LogBounds> {
        self.guard.io(self.inner.bounds())
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogRecord>> {
        self.guard.io(self.inner.read(from, to, bytes_max))
    }

    fn append(&self, records: &[LogRecord]) -> io::Result<()> {
        self.guard.io(self.inner.append(records))
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        self.guard.io(self.inner.truncate(from))
    }

    fn purge(&self, upto: u64, purged: &[u8]) -> io::Result<()> {
        self.guard.io(self.inner.purge(upto, purged))
    }

    fn put(&self, key: LogValue, bytes: &[u8]) -> io::Result<()> {
        self.guard.io(self.inner.put(key, bytes))
    }

    fn get(&self, key: LogValue) -> io::Result<Option<Vec<u8>>> {
        self.guard.io(self.inner.get(key))
    }

    fn sync(&self) -> io::Result<()> {
        self.guard.io(self.inner.sync())
    }

    fn syncing(&self) -> Syncing {
        self.inner.syncing()
    }
}

#[derive(Debug)]
struct GuardedTables {
    inner: Arc<dyn Tables>,
    guard: Guard,
}

impl Rows for GuardedTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.guard.table(self.inner.get(table, key))
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        self.guard.table(self.inner.scan(table, from, limit))
    }
}

impl Tables for GuardedTables {
    fn read_consistent(
        &self,
        body: &mut dyn FnMut(&dyn Rows) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        self.guard.table(self.inner.read_consistent(body))
    }

    fn commit(&self, writes: WriteSet) -> Result<(), TableError> {
        self.guard.table(self.inner.commit(writes))
    }

    fn begin_replace(&self) -> Result<(), TableError> {
        self.guard.table(self.inner.begin_replace())
    }

    fn load(&self, rows: Vec<TableRow>) -> Result<(), TableError> {
        self.guard.table(self.inner.load(rows))
    }

    fn end_replace(&self, writes: WriteSet) -> Result<(), TableError> {
        self.guard.table(self.inner.end_replace(writes))
    }

    fn is_half_replaced(&self) -> Result<bool, TableError> {
        self.guard.table(self.inner.is_half_replaced())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecError;

    #[test]
    fn damaged_data_trips_the_fence_and_other_errors_do_not() {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "block checksum mismatch");
        let table: [(&str, Result<(), TableError>, bool); 4] = [
            ("no error", Ok(()), false),
            ("another error", Err(TableError::Io(io::Error::other("disk is full"))), false),
            ("does not decode", Err(CodecError::missing("row").into()), false),
            ("damaged", Err(TableError::Io(damaged())), true),
        ];
        for (case, result, trips) in table {
            let guard = Guard { fence: Arc::default() };
            let is_error = result.is_err();
            assert_eq!(guard.table(result).is_err(), is_error, "{case}");
            assert_eq!(guard.fence.reason().is_some(), trips, "{case}");
        }
        let guard = Guard { fence: Arc::default() };
        guard.io::<()>(Err(damaged())).unwrap_err();
        let reason = guard.fence.reason().unwrap();
        assert!(reason.ends_with("damaged: block checksum mismatch"), "{reason}");
    }
}

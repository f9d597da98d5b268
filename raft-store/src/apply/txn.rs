//! How apply sees the tables: rows of bytes, read from anywhere, written into a set that is committed
//! as one.
//!
//! A [`Transaction`] spans one batch of log entries; each command has its own savepoint in it, so a
//! command that is rejected half way leaves nothing behind.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;

use crate::apply::table::Table;
use crate::codec::CodecError;

/// The tables cannot be read or written, or a row does not decode. Never retried.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk failed.
    #[error("access tables")]
    Io(#[from] io::Error),
    /// What is stored does not decode, or contradicts itself.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<TableError> for io::Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Io(error) => error,
            TableError::Codec(error) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Key and value of a row.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// Reading of tables.
pub(crate) trait Rows {
    /// The row, if there is one.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;

    /// The first `limit` rows whose keys are not below `from`, ascending.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError>;
}

/// A row with its table.
pub(crate) type TableRow = (Table, Vec<u8>, Vec<u8>);

/// New values of rows; `None` deletes.
pub(crate) type WriteSet = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// Tables that last. Reading through [`Rows`] sees the newest state.
pub(crate) trait Tables: Rows + Send + Sync + fmt::Debug {
    /// Runs `body` on a view that later commits do not change.
    fn read_consistent(
        &self,
        body: &mut dyn FnMut(&dyn Rows) -> Result<(), TableError>,
    ) -> Result<(), TableError>;

    /// Writes all or nothing. Durable at the latest when the log is next synced; what is lost by a
    /// crash before is applied again from the log.
    fn commit(&self, writes: WriteSet) -> Result<(), TableError>;

    /// Removes every row and marks the tables as being replaced: a crash before
    /// [`Self::end_replace`] is found at the next start.
    fn begin_replace(&self) -> Result<(), TableError>;

    /// Adds rows while they are being replaced.
    fn load(&self, rows: Vec<TableRow>) -> Result<(), TableError>;

    /// Writes the last rows and takes the mark away; durable on return.
    fn end_replace(&self, writes: WriteSet) -> Result<(), TableError>;

    /// Whether a replacement was begun and not ended.
    fn is_half_replaced(&self) -> Result<bool, TableError>;
}

/// Writes over tables, not yet committed.
pub(crate) struct Transaction<'a> {
    base: &'a dyn Rows,
    /// Of commands that are done.
    kept: WriteSet,
    /// Of the current command.
    current: WriteSet,
    /// No remembered outcome is older than this, in Unix milliseconds, where a command has looked.
    pub(super) outcomes_since: Option<i64>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(base: &'a dyn Rows) -> Self {
        Self { base, kept: WriteSet::new(), current: WriteSet::new(), outcomes_since: None }
    }

    /// Everything written by commands that are done.
    pub(crate) fn into_writes(self) -> WriteSet {
        self.kept
    }

    /// What the current command has written so far.
    pub(crate) fn current(&self) -> &WriteSet {
        &self.current
    }

    /// Ends the current command and keeps what it wrote.
    pub(crate) fn keep(&mut self) {
        // One by one: `append` would build all of what is kept anew with each command.
        self.kept.extend(std::mem::take(&mut self.current));
    }

    /// Ends the current command and forgets what it wrote.
    pub(crate) fn discard(&mut self) {
        self.current.clear();
    }

    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.current.insert((table, key.to_vec()), Some(value));
    }

    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        self.current.insert((table, key.to_vec()), None);
    }

    /// Writes over the rows of `table` from `from` on, ascending; the current command's hide earlier
    /// ones.
    fn written(&self, table: Table, from: &[u8]) -> impl Iterator<Item = Written<'_>> {
        let start = || (Bound::Included((table, from.to_vec())), Bound::Unbounded);
        let mut kept = self.kept.range(start()).take_while(move |w| w.0.0 == table).peekable();
        let mut current =
            self.current.range(start()).take_while(move |w| w.0.0 == table).peekable();
        std::iter::from_fn(move || {
            let order = match (kept.peek(), current.peek()) {
                (Some(kept), Some(current)) => kept.0.cmp(current.0),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                Ordering::Less => kept.next(),
                Ordering::Equal => {
                    kept.next();
                    current.next()
                }
                Ordering::Greater => current.next(),
            }
        })
        .map(|((_, key), value)| (key.as_slice(), value.as_deref()))
    }
}

/// A key and its new value; `None` if it was deleted.
type Written<'a> = (&'a [u8], Option<&'a [u8]>);

impl Rows for Transaction<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let full = (table, key.to_vec());
        match self.current.get(&full).or_else(|| self.kept.get(&full)) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        let mut rows = Vec::new();
        let mut written = self.written(table, from).peekable();
        let mut from = from.to_vec();
        // Merges page by page of the base, so that its cost is that of what is returned.
        loop {
            let page = self.base.scan(table, &from, limit)?;
            let is_last = page.len() < limit;
            for (key, value) in page {
                while let Some((new, value)) = written.next_if(|(new, _)| *new < key.as_slice()) {
                    rows.extend(value.map(|value| (new.to_vec(), value.to_vec())));
                }
                from.clone_from(&key);
                match written.next_if(|(new, _)| *new == key.as_slice()) {
                    Some((_, value)) => rows.extend(value.map(|value| (key, value.to_vec()))),
                    None => rows.push((key, value)),
                }
                if rows.len() >= limit {
                    rows.truncate(limit);
                    return Ok(rows);
                }
            }
            if is_last {
                let rest = written.filter_map(|(key, value)| Some((key.to_vec(), value?.to_vec())));
                rows.extend(rest.take(limit - rows.len()));
                return Ok(rows);
            }
            from.push(0);
        }
    }
}

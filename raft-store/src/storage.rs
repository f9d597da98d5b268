//! What the disk must do, as traits: log, tables, snapshots, and the member's own records.
//!
//! `rocks/` and `mem/` implement them; `raft/` uses them. Bytes and indexes only: nothing here knows
//! consensus or commands. Any error of a write is fatal for the member and is never retried.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::apply::Tables;
use crate::local::LocalRecords;
use crate::snapshot::Snapshots;

/// Everything a member keeps.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) log: Arc<dyn LogDisk>,
    pub(crate) tables: Arc<dyn Tables>,
    pub(crate) snapshots: Arc<dyn Snapshots>,
    pub(crate) local: LocalRecords,
}

/// One log entry as the disk sees it.
#[derive(Clone, Debug)]
pub(crate) struct LogRecord {
    pub(crate) index: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The bounds of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogBounds {
    /// Encoded log id of the last purged entry.
    pub(crate) purged: Option<Vec<u8>>,
    /// The last entry that is present.
    pub(crate) last: Option<LogRecord>,
}

/// The log and what must be durable in order with it.
///
/// Writes become readable at once and durable by the next [`Self::sync`]; their order on disk is the
/// order of the calls.
pub(crate) trait LogDisk: Send + Sync + fmt::Debug {
    fn bounds(&self) -> io::Result<LogBounds>;

    /// Entries with `from <= index < to`, ascending. Stops early once `bytes_max` is exceeded, but
    /// returns at least one entry if there is one.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogRecord>>;

    fn append(&self, records: &[LogRecord]) -> io::Result<()>;

    /// Removes every entry with `index >= from`.
    fn truncate(&self, from: u64) -> io::Result<()>;

    /// Removes every entry with `index <= upto` and keeps `purged` (an encoded log id) in its place.
    fn purge(&self, upto: u64, purged: &[u8]) -> io::Result<()>;

    /// Writes one of the small values that belong to the log.
    fn put(&self, key: LogValue, bytes: &[u8]) -> io::Result<()>;

    fn get(&self, key: LogValue) -> io::Result<Option<Vec<u8>>>;

    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;

    /// How [`Self::sync`] is waited for.
    fn syncing(&self) -> Syncing;
}

/// How a sync is waited for.
#[derive(Clone, Debug)]
pub(crate) enum Syncing {
    /// It costs nothing: no one waits.
    Free,
    /// It blocks: a thread does it.
    #[cfg_attr(not(feature = "rocks"), expect(dead_code, reason = "only a real disk blocks"))]
    Blocking,
    /// It takes simulated time.
    Timed(Arc<dyn TimedSync>),
}

/// A disk whose syncs take simulated time.
pub(crate) trait TimedSync: Send + Sync + fmt::Debug {
    /// A sync that begins now: makes durable what was written until now, in a while.
    fn begin(&self) -> BoxFuture<'static, io::Result<()>>;
}

/// Small values that belong to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogValue {
    Vote,
    Committed,
}

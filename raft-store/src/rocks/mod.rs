//! The registry on disk: one RocksDB for log, tables and the member's own records, one file for the
//! newest snapshot, one marker that says what the folder is.
//!
//! ```text
//!   raft/
//!     STEEPLE        magic, format, member id; locked while the store is open
//!     SYNCED         how far the database was synced (synced.rs)
//!     db/            RocksDB: column families meta, log, state (keys.rs)
//!     snapshot       the newest snapshot
//!     snapshot.*     unfinished ones, removed at start
//! ```
//!
//! Implements the traits of `storage.rs`; knows nothing of consensus or commands. RocksDB is named here
//! and nowhere else.

mod db;
mod format;
mod framing;
mod keys;
mod local;
mod log;
mod snapshots;
mod synced;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use db::open;
pub(crate) use format::{free_sibling, lock_existing, set_aside, sibling, sync_folder};

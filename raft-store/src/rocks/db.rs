//! Opening the database, and the settings it runs with.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, ErrorKind,
    LogLevel, Options, WriteBatch, WriteOptions,
};

use crate::error::OpenError;
use crate::ids::MemberId;
use crate::local::LocalRecords;
use crate::mutants::{self, Mutant};
use crate::rocks::format::Folder;
use crate::rocks::framing;
use crate::rocks::keys;
use crate::rocks::local::RocksLocal;
use crate::rocks::log::RocksLog;
use crate::rocks::snapshots::FileSnapshots;
use crate::rocks::synced::SyncedMark;
use crate::rocks::tables::RocksTables;
use crate::storage::Engine;

/// Memory for writes that are not yet in sorted files, for each column family. Small: the whole
/// registry is megabytes, and recovery replays at most this much.
const WRITE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// Write-ahead log kept for column families that are seldom written.
const WAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// The kernel is told to write back after so many bytes, so that a sync never finds a mountain.
const BYTES_PER_SYNC: u64 = 512 * 1024;
/// Bits of filter for each key of a sorted file: one look-up in a hundred for a key that is not there
/// reads a block all the same.
const FILTER_BITS: f64 = 10.0;
/// Part of the memory for writes that their own filter takes.
const MEMORY_FILTER: f64 = 0.02;
/// RocksDB's own information logs kept.
const INFO_LOGS: usize = 4;

/// The open database. Clones share it.
#[derive(Clone)]
pub(super) struct Database {
    db: Arc<DB>,
    /// Held for its lock and its marker.
    folder: Arc<Folder>,
    synced: Arc<SyncedMark>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.folder).finish()
    }
}

/// Opens the folder and everything in it.
pub(crate) fn open(path: &Path) -> Result<Engine, OpenError> {
    let folder = Folder::open(path)?;
    let marked = folder.member;
    let failed = |source| OpenError::Io { folder: path.to_owned(), source };
    let corrupt = |reason| OpenError::Corrupt { folder: path.to_owned(), reason };
    let db = Arc::new(open_db(path, marked.is_none())?);
    let reaches = check_synced(path, &db)?;
    let synced = Arc::new(SyncedMark::open(path, reaches).map_err(failed)?);
    let database = Database { db, folder: Arc::new(folder), synced };

    let local = LocalRecords::new(Arc::new(RocksLocal { database: database.clone() }));
    let identity = local.find_identity().map_err(|error| corrupt(error.to_string()))?;
    match (marked, identity.map(|identity| identity.member_id)) {
        // The last start ended between writing the identity and completing the marker.
        (None, Some(member)) => database.claim(member).map_err(failed)?,
        (Some(marked), found) if found != Some(marked) => {
            let found = found.map_or_else(|| "no member".to_owned(), |id| format!("member {id}"));
            return Err(corrupt(format!(
                "it is marked as member {marked}, its database is of {found}"
            )));
        }
        (None | Some(_), None | Some(_)) => {}
    }
    Ok(Engine {
        snapshots: Arc::new(FileSnapshots::open(path).map_err(failed)?),
        log: Arc::new(RocksLog::new(database.clone())),
        tables: Arc::new(RocksTables { database }),
        local,
    })
}

fn open_db(path: &Path, is_new: bool) -> Result<DB, OpenError> {
    let files = path.join("db");
    if !is_new {
        let damage = framing::find_damage(&files);
        let damage = damage.map_err(|source| OpenError::Io { folder: path.to_owned(), source })?;
        if let Some(reason) = damage {
            return Err(OpenError::Corrupt { folder: path.to_owned(), reason });
        }
    }
    let mut options = db_options();
    options.create_if_missing(is_new);
    options.create_missing_column_families(is_new);
    let families = [keys::META, keys::LOG, keys::STATE]
        .map(|name| ColumnFamilyDescriptor::new(name, family_options()));
    DB::open_cf_descriptors(&options, files, families).map_err(|error| {
        let folder = path.to_owned();
        // A file that is named and not there is no failure of the disk: RocksDB tells it in words alone.
        let lacks_a_file = !is_new && error.to_string().contains("No such file or directory");
        let kinds = [ErrorKind::Corruption, ErrorKind::InvalidArgument];
        if lacks_a_file || kinds.contains(&error.kind()) {
            OpenError::Corrupt { folder, reason: error.to_string() }
        } else {
            OpenError::Io { folder, source: to_io(error) }
        }
    })
}

/// Compares what the database has with what was synced, and returns how far it reaches, which is
/// durable by then.
fn check_synced(path: &Path, db: &DB) -> Result<u64, OpenError> {
    let failed = |source| OpenError::Io { folder: path.to_owned(), source };
    let corrupt = |reason| OpenError::Corrupt { folder: path.to_owned(), reason };
    let reaches = db.latest_sequence_number();
    let unread = |error: io::Error| match error.kind() == io::ErrorKind::InvalidData {
        true => corrupt(error.to_string()),
        false => failed(error),
    };
    let synced = SyncedMark::read(path).map_err(unread)?;
    if let Some(synced) = synced.filter(|synced| reaches < *synced)
        && !mutants::on(Mutant::LogCutAtDamage)
    {
        return Err(corrupt(format!(
            "it has lost what was synced: it ends at write {reaches}, and write {synced} was acknowledged"
        )));
    }
    // What was found may be in the kernel's memory alone.
    db.flush_wal(true).map_err(|error| failed(to_io(error)))?;
    Ok(reaches)
}

fn db_options() -> Options {
    let mut options = Options::default();
    // A torn tail was never acknowledged. A hole in the middle must stop the start: the default
    // (point in time) would silently drop acknowledged entries behind it.
    options.set_wal_recovery_mode(match mutants::on(Mutant::LogCutAtDamage) {
        true => DBRecoveryMode::PointInTime,
        false => DBRecoveryMode::TolerateCorruptedTailRecords,
    });
    // What that mode needs to tell the two apart.
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_unordered_write(false);
    options.set_manual_wal_flush(false);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_log_level(LogLevel::Warn);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    // Applying asks mostly for keys that are not there: has this entry, this request, been seen before?
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(FILTER_BITS, false);
    options.set_block_based_table_factory(&table);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMORY_FILTER);
    options
}

impl Database {
    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    pub(super) fn family(&self, name: &'static str) -> io::Result<&ColumnFamily> {
        // Opening made or found every family: a missing one means a broken database.
        let missing = || io::Error::other(format!("column family {name} is missing"));
        self.db.cf_handle(name).ok_or_else(missing)
    }

    /// Writes a batch; durable with the next sync of the log.
    pub(super) fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db.write(batch).map_err(to_io)
    }

    /// Writes a batch; durable on return.
    pub(super) fn write_synced(&self, batch: WriteBatch) -> io::Result<()> {
        let reaches = self.db.latest_sequence_number();
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(to_io)?;
        // All before this write was synced with it; others may have come after it.
        self.synced.raise(reaches)
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let reaches = self.db.latest_sequence_number();
        self.db.flush_wal(true).map_err(to_io)?;
        self.synced.raise(reaches)
    }

    /// Marks the folder as a member's.
    pub(super) fn claim(&self, member: MemberId) -> io::Result<()> {
        self.folder.claim(member)
    }
}

pub(super) fn to_io(error: rocksdb::Error) -> io::Error {
    let corrupt = error.kind() == ErrorKind::Corruption;
    let kind = if corrupt { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}

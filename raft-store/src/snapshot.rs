//! The snapshot stream: every row of every table in one fixed order, so that the same state has the
//! same bytes on each member.
//!
//! ```text
//!   magic (8 bytes) · record* where record = kind (1) · length (4, big-endian) · protobuf
//!   header · rows · rows · … · trailer (number of rows, SHA-256 of all before it)
//! ```
//!
//! Owns the format and the bodies that hold it. Which rows there are is the tables' affair; a stream is
//! checked whole before any of it is used.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest;
use prost::Message;
use prost::bytes::Bytes;
use steeple_spiffe_core::random::{Random, SystemRandom};

use crate::apply::{Rows, Table, TableError, TableRow};
use crate::codec::CodecError;
use crate::limits::{SNAPSHOT_RECORD_BYTES, SNAPSHOT_RECORD_BYTES_MAX};
use crate::mutants::{self, Mutant};
use crate::pb;

const MAGIC: &[u8; 8] = b"STEEPSNP";
const VERSION: u32 = 1;
const HEADER: u8 = 1;
const ROWS: u8 = 2;
const TRAILER: u8 = 3;
/// A file is made durable in pieces of so many bytes: the sync of all of it at its end would hold up those
/// of the log, on the same disk.
const SYNC_EVERY: u64 = 4 << 20;

/// Rows that are read from the tables at a time.
const SCAN: usize = 256;

/// Where a member keeps its newest snapshot, and receives others.
pub(crate) trait Snapshots: Send + Sync + fmt::Debug {
    /// The newest snapshot that was kept.
    fn current(&self) -> io::Result<Option<SnapshotBody>>;

    /// An empty place to write one.
    fn sink(&self) -> io::Result<SnapshotSink>;

    /// Makes a finished body the newest snapshot; durable on return.
    fn keep(&self, body: &SnapshotBody) -> io::Result<()>;
}

/// A snapshot's bytes, to be read in pieces: a file that stays readable when a newer one takes its
/// place, or memory. An unkept file is removed when the last clone goes.
#[derive(Clone)]
pub(crate) enum SnapshotBody {
    /// An open file.
    File(Arc<SnapshotFile>),
    /// Memory.
    Memory(Bytes),
}

/// An open snapshot file.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: File,
    len: u64,
    path: PathBuf,
    temporary: AtomicBool,
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if self.temporary.load(Ordering::Acquire) {
            // What is left over is removed at the next start.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg_attr(not(feature = "rocks"), expect(dead_code, reason = "files are kept beside RocksDB"))]
impl SnapshotFile {
    /// Opens a kept snapshot.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, path: path.to_owned(), temporary: AtomicBool::new(false) })
    }

    /// Moves the file to its kept place.
    pub(crate) fn rename(&self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.temporary.store(false, Ordering::Release);
        Ok(())
    }
}

impl fmt::Debug for SnapshotBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot of {} bytes", self.len())
    }
}

impl SnapshotBody {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Up to `max` bytes at `offset`; empty at the end.
    pub(crate) fn read_at(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        match self {
            Self::File(file) => {
                let left = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX);
                let mut buffer = vec![0; max.min(left)];
                file.file.read_exact_at(&mut buffer, offset)?;
                Ok(Bytes::from(buffer))
            }
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(max).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
        }
    }
}

/// A snapshot that is being written: built here, or received from a peer piece by piece.
#[derive(Debug)]
pub(crate) enum SnapshotSink {
    /// A file, removed if it is dropped unfinished.
    File(Option<SnapshotFile>),
    /// Memory.
    Memory(Vec<u8>),
}

impl SnapshotSink {
    /// A sink into a new temporary file.
    #[cfg_attr(not(feature = "rocks"), expect(dead_code, reason = "files are kept beside RocksDB"))]
    pub(crate) fn file(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self::File(Some(SnapshotFile { file, len: 0, path, temporary: AtomicBool::new(true) })))
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.as_ref().map_or(0, |file| file.len),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Ends writing; the bytes are durable on return, but not yet kept.
    pub(crate) fn finish(self) -> io::Result<SnapshotBody> {
        match self {
            Self::File(Some(file)) => {
                file.file.sync_all()?;
                Ok(SnapshotBody::File(Arc::new(file)))
            }
            Self::File(None) => Err(io::Error::other("snapshot sink has no file")),
            Self::Memory(bytes) => Ok(SnapshotBody::Memory(Bytes::from(bytes))),
        }
    }
}

impl Write for SnapshotSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(Some(file)) => {
                file.file.write_all(bytes)?;
                let before = file.len / SYNC_EVERY;
                file.len += bytes.len() as u64;
                if file.len / SYNC_EVERY > before {
                    file.file.sync_data()?;
                }
            }
            Self::File(None) => return Err(io::Error::other("snapshot sink has no file")),
            Self::Memory(buffer) => buffer.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all rows as a snapshot.
pub(crate) fn write(
    rows: &dyn Rows,
    meta: pb::store::SnapshotMeta,
    sink: SnapshotSink,
) -> Result<SnapshotBody, TableError> {
    Ok(write_to(rows, meta, sink)?.finish()?)
}

/// As [`write()`], to anywhere. The caller makes it durable.
pub(crate) fn write_to<W: Write>(
    rows: &dyn Rows,
    meta: pb::store::SnapshotMeta,
    to: W,
) -> Result<W, TableError> {
    let mut writer = Writer::new(to)?;
    let header = pb::store::SnapshotHeader { version: VERSION, meta: Some(meta) };
    writer.record(HEADER, &header.encode_to_vec())?;
    let mut total = 0;
    for table in Table::IN_SNAPSHOTS {
        let dropped = (*table == Table::Tokens && mutants::on(Mutant::SnapshotDropsTokens))
            || (*table == Table::Journal && mutants::on(Mutant::SnapshotDropsJournal));
        if !dropped {
            total += write_table(rows, *table, &mut writer)?;
        }
    }
    let sha256 = writer.digest.clone().finish().as_ref().to_vec();
    let trailer = pb::store::SnapshotTrailer { rows: total, sha256 };
    writer.record(TRAILER, &trailer.encode_to_vec())?;
    Ok(writer.finish()?)
}

fn write_table<W: Write>(
    rows: &dyn Rows,
    table: Table,
    writer: &mut Writer<W>,
) -> Result<u64, TableError> {
    let mut total = 0;
    let mut from = Vec::new();
    let mut record = pb::store::SnapshotRows::default();
    let mut record_bytes = 0;
    loop {
        let mut page = rows.scan(table, &from, SCAN)?;
        let Some((last, _)) = page.last() else { break };
        from.clone_from(last);
        from.push(0);
        if mutants::on(Mutant::SnapshotRowOrder) && SystemRandom.u64().is_multiple_of(2) {
            page.reverse();
        }
        for (key, value) in page {
            total += 1;
            record_bytes += key.len() + value.len();
            record.rows.push(pb::store::SnapshotRow { table: table.number(), key, value });
            if record_bytes >= SNAPSHOT_RECORD_BYTES {
                writer.record(ROWS, &std::mem::take(&mut record).encode_to_vec())?;
                record_bytes = 0;
            }
        }
    }
    if !record.rows.is_empty() {
        writer.record(ROWS, &record.encode_to_vec())?;
    }
    Ok(total)
}

struct Writer<W: Write> {
    to: io::BufWriter<W>,
    digest: digest::Context,
}

impl<W: Write> Writer<W> {
    fn new(to: W) -> io::Result<Self> {
        let mut writer = Self {
            to: io::BufWriter::with_capacity(SNAPSHOT_RECORD_BYTES, to),
            digest: digest::Context::new(&digest::SHA256),
        };
        writer.bytes(MAGIC)?;
        Ok(writer)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.to.write_all(bytes)
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.bytes(&[kind])?;
        self.bytes(&length.to_be_bytes())?;
        self.bytes(payload)
    }

    fn finish(self) -> io::Result<W> {
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Reads the header of a snapshot.
pub(crate) fn read_meta(body: &SnapshotBody) -> Result<pb::store::SnapshotMeta, TableError> {
    Reader::new(BodyReader { body, offset: 0 })?.meta()
}

/// Reads a snapshot from end to end, checks it, and hands its rows to `each` record by record.
/// An error may come after some rows were handed out: check first with [`verify`].
pub(crate) fn read(
    body: &SnapshotBody,
    each: &mut dyn FnMut(Vec<TableRow>) -> Result<(), TableError>,
) -> Result<pb::store::SnapshotMeta, TableError> {
    read_from(BodyReader { body, offset: 0 }, each)
}

/// As [`read`], from anywhere, to its end.
pub(crate) fn read_from<R: Read>(
    from: R,
    each: &mut dyn FnMut(Vec<TableRow>) -> Result<(), TableError>,
) -> Result<pb::store::SnapshotMeta, TableError> {
    let mut reader = Reader::new(from)?;
    let meta = reader.meta()?;
    let mut total = 0_u64;
    loop {
        let digest = reader.digest.clone();
        let (kind, payload) = reader.record()?;
        match kind {
            ROWS => {
                let record = pb::store::SnapshotRows::decode(payload.as_slice())
                    .map_err(|error| CodecError::new("snapshot rows", error))?;
                let mut rows = Vec::with_capacity(record.rows.len());
                for row in record.rows {
                    let table = Table::from_number(row.table)
                        .ok_or_else(|| CodecError::new("snapshot table", row.table))?;
                    rows.push((table, row.key, row.value));
                }
                total += rows.len() as u64;
                each(rows)?;
            }
            TRAILER => {
                let trailer = pb::store::SnapshotTrailer::decode(payload.as_slice())
                    .map_err(|error| CodecError::new("snapshot trailer", error))?;
                let sha256 = digest.finish();
                if trailer.sha256 != sha256.as_ref() || trailer.rows != total {
                    return Err(CodecError::new("snapshot", "checksum differs").into());
                }
                if reader.from.read(&mut [0])? != 0 {
                    return Err(CodecError::new("snapshot", "bytes behind its end").into());
                }
                return Ok(meta);
            }
            other => return Err(CodecError::new("snapshot record kind", other).into()),
        }
    }
}

/// Checks a snapshot from end to end.
pub(crate) fn verify(body: &SnapshotBody) -> Result<pb::store::SnapshotMeta, TableError> {
    read(body, &mut |_| Ok(()))
}

/// Reads a body from its beginning.
struct BodyReader<'a> {
    body: &'a SnapshotBody,
    offset: u64,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.body.read_at(self.offset, buffer.len())?;
        self.offset += bytes.len() as u64;
        if let Some(front) = buffer.get_mut(..bytes.len()) {
            front.copy_from_slice(&bytes);
        }
        Ok(bytes.len())
    }
}

struct Reader<R> {
    from: R,
    digest: digest::Context,
}

impl<R: Read> Reader<R> {
    fn new(from: R) -> Result<Self, TableError> {
        let mut reader = Self { from, digest: digest::Context::new(&digest::SHA256) };
        if reader.bytes(MAGIC.len())? != MAGIC.as_slice() {
            return Err(CodecError::new("snapshot", "wrong magic").into());
        }
        Ok(reader)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, TableError> {
        let mut bytes = vec![0; count];
        match self.from.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(CodecError::new("snapshot", "it ends early").into());
            }
            Err(error) => return Err(error.into()),
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn record(&mut self) -> Result<(u8, Vec<u8>), TableError> {
        let head = self.bytes(5)?;
        let Ok([kind, length @ ..]) = <[u8; 5]>::try_from(head) else {
            return Err(CodecError::new("snapshot record", "it ends early").into());
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > SNAPSHOT_RECORD_BYTES_MAX {
            return Err(CodecError::new("snapshot record length", length).into());
        }
        Ok((kind, self.bytes(length)?))
    }

    fn meta(&mut self) -> Result<pb::store::SnapshotMeta, TableError> {
        let (kind, payload) = self.record()?;
        if kind != HEADER {
            return Err(CodecError::new("snapshot record kind", kind).into());
        }
        let header = pb::store::SnapshotHeader::decode(payload.as_slice())
            .map_err(|error| CodecError::new("snapshot header", error))?;
        if header.version != VERSION {
            return Err(CodecError::new("snapshot version", header.version).into());
        }
        header.meta.ok_or_else(|| CodecError::missing("snapshot meta").into())
    }
}

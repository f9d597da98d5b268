//! The layout of a snapshot file: a clear header, frames that only the cluster key opens, a checksum.
//!
//! ```text
//!   STEEPBAK · format (4) · length (4) · SnapshotHeader
//!   length (4) · frame           again and again; a length is never zero here
//!   zero (4) · SHA-256 of everything before (32)
//! ```
//!
//! Numbers are big-endian. Owns finding out, without any key, whether a file is whole; what is in the
//! frames, and that they belong to this header, is for who holds the key. Both directions hold one
//! frame at a time.

use std::fs::File;
use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use prost::Message as _;

use crate::pb::cluster::v1::SnapshotHeader;

const MAGIC: &[u8; 8] = b"STEEPBAK";

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// Largest header: seven voters and sixteen learners fill a fraction of it.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// Largest frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// A digest in hex.
pub type Sha256 = [u8; 32];

/// Why a file is not used. The texts follow the file's name.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// Something else.
    #[error("is no snapshot; give the file that \"spire-server cluster snapshot save\" wrote")]
    NotASnapshot,
    /// Written by a newer version.
    #[error(
        "has snapshot format {found}, this version reads up to {FORMAT}; use the version that wrote it"
    )]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// Its end is missing.
    #[error("ends early: it was not copied or written to its end; copy it again or take another")]
    Truncated,
    /// Its bytes have changed.
    #[error("is damaged: {reason}; copy it again or take another")]
    Damaged {
        /// What does not fit.
        reason: &'static str,
    },
    /// It could not be read or written.
    #[error("cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// A file that is made durable as it grows. Left to its end, the sync of hundreds of megabytes holds up
/// those of others on that disk, a member's log among them.
#[derive(Debug)]
pub struct SteadyFile {
    file: File,
    unsynced: usize,
}

/// So much is made durable at once, in bytes.
const SYNC_EVERY: usize = 4 << 20;

impl SteadyFile {
    /// Writes on to this file.
    pub fn new(file: File) -> Self {
        Self { file, unsynced: 0 }
    }

    /// Makes the rest durable.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Write for SteadyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a file.
pub struct SnapshotWriter<W> {
    out: W,
    digest: Context,
    binding: Sha256,
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// The writer's.
    pub fn begin(out: W, header: &SnapshotHeader) -> io::Result<Self> {
        let mut writer = Self { out, digest: Context::new(&SHA256), binding: [0; 32] };
        let header = header.encode_to_vec();
        writer.put(MAGIC)?;
        writer.put(&FORMAT.to_be_bytes())?;
        writer.put_sized(&header)?;
        writer.binding = finish(&writer.digest);
        Ok(writer)
    }

    /// A digest of all up to the header's end, to bind the frames to it.
    pub fn binding(&self) -> Sha256 {
        self.binding
    }

    /// Writes a frame.
    ///
    /// # Errors
    ///
    /// The writer's; or the frame is empty or larger than [`FRAME_BYTES_MAX`].
    pub fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        if frame.is_empty() || frame.len() > FRAME_BYTES_MAX {
            return Err(io::Error::other("frame of a snapshot file has a wrong size"));
        }
        self.put_sized(frame)
    }

    /// Writes the end. The caller makes it durable.
    ///
    /// # Errors
    ///
    /// The writer's.
    pub fn end(mut self) -> io::Result<W> {
        self.put(&0_u32.to_be_bytes())?;
        let sha256 = finish(&self.digest);
        self.out.write_all(&sha256)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put_sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.put(&length.to_be_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

impl<W> std::fmt::Debug for SnapshotWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").finish_non_exhaustive()
    }
}

/// Reads a file from its beginning to its end.
pub struct SnapshotReader<R> {
    from: R,
    digest: Context,
    header: SnapshotHeader,
    binding: Sha256,
    bytes: u64,
    sha256: Option<Sha256>,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`SnapshotFileError`].
    pub fn open(from: R) -> Result<Self, SnapshotFileError> {
        let mut reader = Self {
            from,
            digest: Context::new(&SHA256),
            header: SnapshotHeader::default(),
            binding: [0; 32],
            bytes: 0,
            sha256: None,
        };
        // What is too short to be told is nothing of ours.
        let magic = match reader.take::<8>() {
            Err(SnapshotFileError::Truncated) => return Err(SnapshotFileError::NotASnapshot),
            read => read?,
        };
        if magic != *MAGIC {
            return Err(SnapshotFileError::NotASnapshot);
        }
        let format = u32::from_be_bytes(reader.take()?);
        if format > FORMAT {
            return Err(SnapshotFileError::NewerFormat { found: format });
        }
        let header = reader.take_sized(HEADER_BYTES_MAX)?.unwrap_or_default();
        reader.header = SnapshotHeader::decode(header.as_slice())
            .or(Err(SnapshotFileError::Damaged { reason: "its header does not decode" }))?;
        reader.binding = finish(&reader.digest);
        Ok(reader)
    }

    /// The header.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// See [`SnapshotWriter::binding`].
    pub fn binding(&self) -> Sha256 {
        self.binding
    }

    /// The next frame; `None` at the end, which has then been checked.
    ///
    /// # Errors
    ///
    /// [`SnapshotFileError`].
    pub fn frame(&mut self) -> Result<Option<Vec<u8>>, SnapshotFileError> {
        if self.sha256.is_some() {
            return Ok(None);
        }
        if let Some(frame) = self.take_sized(FRAME_BYTES_MAX)? {
            return Ok(Some(frame));
        }
        let expected = finish(&self.digest);
        let found = self.take::<32>()?;
        if found != expected {
            return Err(SnapshotFileError::Damaged { reason: "its SHA-256 differs" });
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(SnapshotFileError::Damaged { reason: "something follows its end" });
        }
        self.sha256 = Some(found);
        Ok(None)
    }

    /// Reads what is left, and returns the SHA-256 and the number of bytes of the whole file.
    ///
    /// # Errors
    ///
    /// [`SnapshotFileError`].
    pub fn check(mut self) -> Result<(Sha256, u64), SnapshotFileError> {
        while self.frame()?.is_some() {}
        Ok((self.sha256.unwrap_or_default(), self.bytes))
    }

    fn take_sized(&mut self, max: usize) -> Result<Option<Vec<u8>>, SnapshotFileError> {
        let length = usize::try_from(u32::from_be_bytes(self.take()?)).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(None);
        }
        if length > max {
            return Err(SnapshotFileError::Damaged { reason: "a length in it is too large" });
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotFileError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotFileError> {
        self.from.read_exact(bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return SnapshotFileError::Truncated;
            }
            SnapshotFileError::Io(error)
        })?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl<R> std::fmt::Debug for SnapshotReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").field("header", &self.header).finish_non_exhaustive()
    }
}

fn finish(digest: &Context) -> Sha256 {
    <[u8; 32]>::try_from(digest.clone().finish().as_ref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader {
        SnapshotHeader { cluster_name: "prod".to_owned(), index: 7, ..SnapshotHeader::default() }
    }

    fn file() -> Vec<u8> {
        let mut writer = SnapshotWriter::begin(Vec::new(), &header()).expect("memory");
        for frame in [&b"one"[..], b"two", b"three"] {
            writer.frame(frame).expect("memory");
        }
        writer.end().expect("memory")
    }

    fn check(bytes: &[u8]) -> Result<(Sha256, u64), SnapshotFileError> {
        SnapshotReader::open(bytes)?.check()
    }

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let bytes = file();
        let mut reader = SnapshotReader::open(bytes.as_slice()).expect("a snapshot");
        assert_eq!(*reader.header(), header());
        let writer = SnapshotWriter::begin(Vec::new(), &header()).expect("memory");
        assert_eq!(reader.binding(), writer.binding());
        let mut frames = Vec::new();
        while let Some(frame) = reader.frame().expect("whole") {
            frames.push(frame);
        }
        assert_eq!(frames, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        let (sha256, length) = check(&bytes).expect("whole");
        assert_eq!(length, bytes.len() as u64);
        // The last 32 bytes are the checksum of all before them.
        let (content, end) = bytes.split_at(bytes.len() - 32);
        let expected = aws_lc_rs::digest::digest(&SHA256, content);
        assert_eq!((sha256.as_slice(), end), (expected.as_ref(), expected.as_ref()));
    }

    #[test]
    fn every_shortened_and_every_changed_file_is_found() {
        let bytes = file();
        for length in 0..bytes.len() {
            let error = check(bytes.get(..length).unwrap_or_default()).expect_err("shortened");
            let expected = if length < 8 { "is no snapshot" } else { "ends early" };
            assert!(error.to_string().starts_with(expected), "{length}: {error}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                if let Some(byte) = changed.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                assert!(check(&changed).is_err(), "byte {at} bit {bit}");
            }
        }
        let error = check(&[bytes.as_slice(), b"x"].concat()).expect_err("longer");
        assert_eq!(
            error.to_string(),
            "is damaged: something follows its end; copy it again or take another"
        );
    }

    #[test]
    fn a_newer_format_is_told_from_no_snapshot() {
        let mut newer = file();
        if let Some(byte) = newer.get_mut(11) {
            *byte = 2;
        }
        let error = check(&newer).expect_err("newer");
        assert_eq!(
            error.to_string(),
            "has snapshot format 2, this version reads up to 1; use the version that wrote it"
        );
        let error = check(b"{\"keys\": []}").expect_err("something else");
        assert!(error.to_string().starts_with("is no snapshot; give the file"), "{error}");
    }
}

//! The mark of what was synced: how far the database must reach at the next start.
//!
//! A write-ahead log that ends early looks like one whose tail was torn by a power cut, and RocksDB
//! takes it for that: entries that were acknowledged, or a vote, would be gone without a word. So each
//! sync leaves the sequence number that it made durable in a small file of its own, and a database that
//! ends before it is not opened.
//!
//! The file is overwritten in place after the sync and not synced itself: the mark is never ahead of
//! the database, whatever happens, and costs no second sync. A killed process leaves it exact; after a
//! power cut it may be as old as what the kernel had not written back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;

use crate::rocks::format::sync_folder;

const NAME: &str = "SYNCED";
const MAGIC: &[u8; 8] = b"steeples";
/// Magic, sequence number, the beginning of the SHA-256 of both: less than a disk sector, so it is
/// written whole or not at all.
const LENGTH: usize = 24;

/// The mark of an open database.
#[derive(Debug)]
pub(super) struct SyncedMark {
    file: File,
    /// What the file says.
    sequence: Mutex<u64>,
}

impl SyncedMark {
    /// Reads what a folder has; `None`: it was written by a version without the mark, or is new.
    ///
    /// # Errors
    ///
    /// `InvalidData` if there is a mark that does not read.
    pub(super) fn read(folder: &Path) -> io::Result<Option<u64>> {
        match fs::read(folder.join(NAME)) {
            Ok(bytes) => decode(&bytes).map(Some).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("its {NAME} file is damaged"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the mark of a database that reaches as far as `sequence`, which is durable.
    pub(super) fn open(folder: &Path, sequence: u64) -> io::Result<Self> {
        // Made anew aside: a crash leaves a whole one or none.
        let temporary = folder.join("SYNCED.new");
        let file =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all_at(&encode(sequence), 0)?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(NAME))?;
        sync_folder(folder)?;
        Ok(Self { file, sequence: Mutex::new(sequence) })
    }

    /// Notes that everything up to a sequence number is durable.
    pub(super) fn raise(&self, sequence: u64) -> io::Result<()> {
        let mut known = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        if sequence > *known {
            self.file.write_all_at(&encode(sequence), 0)?;
            *known = sequence;
        }
        Ok(())
    }
}

fn encode(sequence: u64) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &sequence.to_be_bytes()].concat();
    let sum = digest::digest(&digest::SHA256, &bytes);
    bytes.extend(sum.as_ref().iter().take(LENGTH - bytes.len()));
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(MAGIC.len()..MAGIC.len() + 8)?;
    let sequence = u64::from_be_bytes(number.try_into().ok()?);
    (encode(sequence) == bytes).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_only_rises_and_a_damaged_one_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SyncedMark::read(folder.path()).unwrap(), None);
        let mark = SyncedMark::open(folder.path(), 7).unwrap();
        for (raised, expected) in [(7, 7), (300, 300), (299, 300)] {
            mark.raise(raised).unwrap();
            assert_eq!(SyncedMark::read(folder.path()).unwrap(), Some(expected));
        }
        let path = folder.path().join(NAME);
        let sound = fs::read(&path).unwrap();
        for damage in 0..LENGTH {
            let mut bytes = sound.clone();
            bytes[damage] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = SyncedMark::read(folder.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {damage}");
        }
        fs::write(&path, &sound[..LENGTH - 1]).unwrap();
        SyncedMark::read(folder.path()).unwrap_err();
    }
}

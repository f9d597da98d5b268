//! Records that RocksDB must not be shown: those of a kind that its log files here never have.
//!
//! No file of ours is written over an older one (`set_recycle_log_file_num(0)`), so no record is of the
//! kinds that carry the number of such a file. A record whose kind was damaged into one of them looks
//! like a left-over, and RocksDB 11.8 reads it again for ever. All other damage it finds by checksums.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::Path;

/// Records do not cross the ends of blocks but are split there; each block begins with one.
const BLOCK_BYTES: u64 = 32 * 1024;

/// Checksum, length and kind.
const HEADER_BYTES: u64 = 7;

/// The kinds of files that are written over: four of data, two of notes about it.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Looks through the log files of a database that is not open. What is wrong, if anything is; that
/// there is no database is for RocksDB to say.
pub(super) fn find_damage(database: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST-") {
            continue;
        }
        if let Some(at) = first_recycled(&entry.path())? {
            return Ok(Some(format!("{name} has a damaged record at byte {at}")));
        }
    }
    Ok(None)
}

/// Where the first record of such a kind begins.
fn first_recycled(path: &Path) -> io::Result<Option<u64>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let mut at = 0;
    while at + HEADER_BYTES <= end {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        let step = if left < HEADER_BYTES {
            reader.seek_relative(signed(left)?)?;
            left
        } else {
            let mut header = [0; 7];
            reader.read_exact(&mut header)?;
            let [_, _, _, _, low, high, kind] = header;
            if RECYCLED.contains(&kind) {
                return Ok(Some(at));
            }
            let length = u64::from(u16::from_le_bytes([low, high]));
            // What is not written yet is zeros, to the end of its block.
            let step = if kind == 0 && length == 0 { left } else { HEADER_BYTES + length };
            reader.seek_relative(signed(step - HEADER_BYTES)?)?;
            step
        };
        at += step;
    }
    Ok(None)
}

fn signed(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(io::Error::other)
}

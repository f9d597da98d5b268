//! Files that commands read and write.
//!
//! Owns the path `-` for standard input, and writing so that a reader never sees half a file and
//! nobody else ever sees a key.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::{Error, errno_text};
use crate::io::Io;

/// More than a million entries fill; a larger input is a mistake.
const INPUT_BYTES_MAX: u64 = 1 << 30;

/// For keys and tokens.
pub(crate) const PRIVATE: u32 = 0o600;
/// For certificates.
pub(crate) const PUBLIC: u32 = 0o644;

/// The text of a file, or of standard input for the path `-`.
pub(crate) fn read_text(path: &str, io: &mut Io<'_>) -> Result<String, Error> {
    let mut text = String::new();
    let count = if path == "-" {
        (&mut *io.stdin).take(INPUT_BYTES_MAX).read_to_string(&mut text)?
    } else {
        let failed = |doing: &str, error: &std::io::Error| {
            Error::invalid(format!("{doing} {path}: {}", errno_text(error)))
        };
        let file = std::fs::File::open(path).map_err(|error| failed("open", &error))?;
        let read = file.take(INPUT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| failed("read", &error))?
    };
    if u64::try_from(count).is_ok_and(|count| count == INPUT_BYTES_MAX) {
        return Err(Error::invalid(format!("{path} is longer than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Writes a file whole: a new one is written beside it and takes its place.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let written = write_new(beside, bytes, mode).and_then(|()| std::fs::rename(beside, path));
    written.map_err(|error| {
        // What is left of a failed attempt; if it cannot be removed either, the first error tells
        // more.
        drop(std::fs::remove_file(beside));
        Error::invalid(format!("open {}: {}", path.display(), errno_text(&error)))
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

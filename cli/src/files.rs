//! Files that commands read and write.
//!
//! Owns the path `-` for standard input, and writing so that a reader never sees half a file and
//! nobody else ever sees a key.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use steeple_api::snapshot_file::SteadyFile;

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
        let file = File::open(path).map_err(|error| failed("open", &error))?;
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

/// A file that is written piece by piece and has its name only when it is whole.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: SteadyFile,
    beside: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Begins it, beside its later place.
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Self, Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let file = create_new(&beside, mode).map_err(|error| {
            Error::invalid(format!("open {}: {}", path.display(), errno_text(&error)))
        })?;
        Ok(Self { file: SteadyFile::new(file), beside, path: path.to_owned() })
    }

    /// Adds to it.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| self.failed(&error))
    }

    /// What was written so far, to be read from its beginning.
    pub(crate) fn reopen(&self) -> Result<File, Error> {
        File::open(&self.beside).map_err(|error| self.failed(&error))
    }

    /// Gives it its name; it is durable on return.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let finish = || {
            self.file.sync_all()?;
            std::fs::rename(&self.beside, &self.path)?;
            File::open(folder)?.sync_all()
        };
        finish().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::invalid(format!("write {}: {}", self.path.display(), errno_text(error)))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Gone already if it has its name.
        drop(std::fs::remove_file(&self.beside));
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = create_new(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn create_new(path: &Path, mode: u32) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

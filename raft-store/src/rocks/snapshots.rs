//! Snapshot files: one kept, others under way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rocks::format::sync_folder;
use crate::snapshot::{SnapshotBody, SnapshotFile, SnapshotSink, Snapshots};

const KEPT: &str = "snapshot";
const UNFINISHED: &str = "snapshot.";

/// Snapshot files of a folder.
#[derive(Debug)]
pub(super) struct FileSnapshots {
    folder: PathBuf,
    next: AtomicU64,
}

impl FileSnapshots {
    /// Removes what earlier runs left unfinished.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        for item in fs::read_dir(folder)? {
            let item = item?;
            if item.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(item.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), next: AtomicU64::new(0) })
    }
}

impl Snapshots for FileSnapshots {
    fn current(&self) -> io::Result<Option<SnapshotBody>> {
        match SnapshotFile::open(&self.folder.join(KEPT)) {
            Ok(file) => Ok(Some(SnapshotBody::File(Arc::new(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sink(&self) -> io::Result<SnapshotSink> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        SnapshotSink::file(self.folder.join(format!("{UNFINISHED}{number}")))
    }

    fn keep(&self, body: &SnapshotBody) -> io::Result<()> {
        let SnapshotBody::File(file) = body else {
            return Err(io::Error::other("snapshot is in memory, not in a file"));
        };
        file.rename(&self.folder.join(KEPT))?;
        sync_folder(&self.folder)
    }
}

//! The folder of a registry that is rebuilt, and its way into the place of the old one.
//!
//! The new registry is made in a folder beside, and takes the old one's place in one step at the end:
//! a crash leaves the old one or the new one. What it replaces is moved aside and never deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use steeple_spiffe_core::time::Timestamp;

use crate::backup::error::RebuildError;
use crate::rocks;
use crate::storage::Engine;

/// Where a new registry is made.
#[derive(Debug)]
pub(super) struct Site {
    /// Where registries are looked for.
    place: PathBuf,
    /// Where this one is made.
    site: PathBuf,
    /// Keeps every other process from the old one.
    _lock: Option<File>,
    done: bool,
}

impl Site {
    /// Prepares an empty site beside the place. Whatever an earlier attempt left there is removed:
    /// it never was anyone's registry.
    pub(super) fn prepare(place: &Path) -> Result<Self, RebuildError> {
        let lock = rocks::lock_existing(place)?;
        Self::beside(place, lock)
    }

    /// As [`Self::prepare`], for a caller that holds the old registry open.
    pub(super) fn prepare_held(place: &Path) -> Result<Self, RebuildError> {
        Self::beside(place, None)
    }

    fn beside(place: &Path, lock: Option<File>) -> Result<Self, RebuildError> {
        let site = rocks::sibling(place, "rebuilding");
        match fs::remove_dir_all(&site) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RebuildError::Folder { folder: site, source: error });
            }
            Ok(()) | Err(_) => {}
        }
        Ok(Self { place: place.to_owned(), site, _lock: lock, done: false })
    }

    /// Opens the new registry.
    pub(super) fn open(&self) -> Result<Engine, RebuildError> {
        Ok(rocks::open(&self.site)?)
    }

    /// Puts the new registry, which is closed by now, in its place. Returns where the old one is.
    pub(super) fn take_place(mut self, now: Timestamp) -> Result<Option<PathBuf>, RebuildError> {
        let place = self.place.clone();
        let failed = |source| RebuildError::Folder { folder: place.clone(), source };
        rocks::sync_folder(&self.site).map_err(failed)?;
        let parent = self.place.parent().unwrap_or(Path::new(".")).to_owned();
        let replaced = if self.place.exists() {
            // Named first, then exchanged: whatever has this name is never removed, and from the
            // exchange on it is the old registry.
            let ending = format!("replaced-{}", now.unix_s());
            let aside = rocks::free_sibling(&self.place, &ending).map_err(failed)?;
            fs::rename(&self.site, &aside).map_err(failed)?;
            self.site.clone_from(&aside);
            exchange(&self.site, &self.place).map_err(failed)?;
            Some(aside)
        } else {
            fs::rename(&self.site, &self.place).map_err(failed)?;
            None
        };
        self.done = true;
        rocks::sync_folder(&parent).map_err(failed)?;
        Ok(replaced)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Once exchanged, the site holds the old registry. What cannot be removed now is removed by
        // the next attempt, or lies aside.
        if !self.done {
            fs::remove_dir_all(&self.site).ok();
        }
    }
}

/// Exchanges two folders in one step.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::Error::other(format!(
            "this file system cannot exchange two folders; move {} aside by hand and run the command again",
            other.display()
        ))),
        Err(errno) => Err(errno.into()),
    }
}

//! A folder for the files of one system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A new folder below TMPDIR that other users may enter: PostgreSQL does not run as root. All systems
/// of a run are on the same disk so.
pub(crate) fn new() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("steeple-bench-").tempdir();
    let folder = folder.context("create a folder")?;
    open_to_others(folder.path())?;
    Ok(folder)
}

fn open_to_others(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("open the folder")
}

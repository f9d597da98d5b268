//! The limit that the disk sets: fdatasync.

use std::io::Write as _;

use anyhow::{Context, Result};
use tokio::time::Instant;

/// Microseconds of each of some appended 300-byte records with fdatasync, one after the other, on
/// the disk of TMPDIR, where every system has its files.
pub(crate) fn each_fdatasync(count: usize) -> Result<Vec<f64>> {
    let mut file = tempfile::tempfile().context("create a file")?;
    let record = [0x5A; 300];
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        file.write_all(&record).context("write")?;
        file.sync_data().context("fdatasync")?;
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

//! How the results of a batch of entries are told.
//!
//! Owns the account of successes and failures that `create` and `update` share. What the exit code is,
//! the dispatcher knows.

use steeple_api::pb;

use super::block::write_entry;
use crate::batch::{succeeded, told};
use crate::error::Error;
use crate::io::Io;

/// Prints the entries that are done, then those that failed, which fail the command; `verb` is
/// what was to be done with them.
pub(crate) fn write_results<'a>(
    verb: &str,
    results: impl Iterator<Item = (Option<&'a pb::types::Status>, Option<&'a pb::types::Entry>)>,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let (done, failed): (Vec<_>, Vec<_>) = results.partition(|(status, _)| succeeded(*status));
    for entry in done.iter().filter_map(|(_, entry)| *entry) {
        write_entry(io.stdout, entry)?;
    }
    for (status, entry) in &failed {
        writeln!(io.stderr, "Failed to {verb} the following entry {}:", told(*status))?;
        write_entry(io.stderr, entry.unwrap_or(&pb::types::Entry::default()))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Batch(format!("failed to {verb} one or more entries")))
}

//! How the results of a batch of entries are told.
//!
//! Owns the account of successes and failures that `create` and `update` share, and the status text
//! of one failed item. What the exit code is, the dispatcher knows.

use steeple_api::pb;

use super::block::write_entry;
use crate::error::Error;
use crate::io::Io;
use crate::output::go_quote;

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

/// `(code: NotFound, msg: "entry not found")`: how a failed item of a batch is told.
pub(crate) fn told(status: Option<&pb::types::Status>) -> String {
    let code = status.map_or(tonic::Code::Unknown, |status| tonic::Code::from(status.code));
    let message = status.map(|status| status.message.as_str()).unwrap_or_default();
    format!("(code: {}, msg: {})", steeple_api::status::code_name(code), go_quote(message))
}

/// Whether an item of a batch succeeded.
pub(crate) fn succeeded(status: Option<&pb::types::Status>) -> bool {
    status.is_some_and(|status| status.code == 0)
}

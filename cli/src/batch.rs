//! What a batch says of its items.

use steeple_api::pb;

use crate::error::Error;
use crate::output::go_quote;

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

/// Whether a batch of one was done, from its results: the status and whom it is about.
///
/// # Errors
///
/// The status, behind what was being done, if it was not; or that nothing was said.
pub(crate) fn the_one<'a>(
    doing: &str,
    mut results: impl Iterator<Item = (&'a Option<pb::types::Status>, &'a str)>,
) -> Result<(), Error> {
    let Some((status, whom)) = results.next() else {
        return Err(Error::invalid("the server's answer has no result"));
    };
    match status {
        Some(status) if status.code != 0 => {
            Err(Error::Batch(format!("{doing} {}: {}", go_quote(whom), status.message)))
        }
        Some(_) | None => Ok(()),
    }
}

//! The status of one item of a batch.

use steeple_api::pb;

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

//! When an observed reply or change is the expected one. Lenient only where the recorder could not
//! know: a serial that is [`ANY`], an expiry that the reply does not show.

use std::sync::Arc;

use crate::history::operation::ANY;
use crate::history::{Agent, Change, Entry, Reply};

/// Whether a reply is the expected one.
pub fn same_reply(expected: &Reply, told: &Reply) -> bool {
    match (expected, told) {
        (Reply::Agent(expected), Reply::Agent(told)) => match (expected, told) {
            (Some(expected), Some(told)) => same_agent(expected, told),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        },
        (Reply::Page(expected), Reply::Page(told)) => {
            let sorted = |entries: &[Arc<Entry>]| {
                let mut entries = entries.to_vec();
                entries.sort_by(|a, b| a.id.cmp(&b.id));
                entries
            };
            expected.entries.len() == told.entries.len()
                && sorted(&expected.entries) == sorted(&told.entries)
        }
        (expected, told) => expected == told,
    }
}

/// Whether changes are the expected ones. What the models do not know is passed over.
pub fn same_changes(expected: &[Change], told: &[Change]) -> bool {
    let known: Vec<&Change> = told.iter().filter(|change| is_known(change)).collect();
    expected.len() == known.len()
        && expected.iter().zip(known).all(|(expected, told)| match (expected, told) {
            (Change::AgentWritten(expected), Change::AgentWritten(told)) => {
                same_agent(expected, told)
            }
            (expected, told) => expected == told,
        })
}

/// Whether the models know such a change.
pub fn is_known(change: &Change) -> bool {
    !matches!(change, Change::BundleWritten { .. } | Change::Other { .. })
}

fn same_agent(expected: &Agent, told: &Agent) -> bool {
    let end = expected.not_after_ms.zip(told.not_after_ms).is_none_or(|(a, b)| a == b);
    end && same_text(expected.current.as_deref(), told.current.as_deref())
        && same_text(expected.pending.as_deref(), told.pending.as_deref())
        && expected.id == told.id
        && expected.attestation_type == told.attestation_type
        && expected.selectors == told.selectors
        && expected.can_reattest == told.can_reattest
        && expected.version == told.version
}

/// Whether two serials are the same, as far as is known.
pub(super) fn same_text(a: Option<&str>, b: Option<&str>) -> bool {
    a == b || a == Some(ANY) || b == Some(ANY)
}

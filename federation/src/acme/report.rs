//! How things stand with the certificate, for operators. Pure.

use steeple_spiffe_core::Timestamp;

use super::plan::{Lifetime, is_late};
use super::present::usable;
use super::settings::AcmeSettings;
use super::state::Records;

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When the certificate that is presented ends; `None`: there is none.
    pub not_after: Option<Timestamp>,
    /// Whether there is none, or it should have been replaced by now.
    pub is_late: bool,
    /// Why the last attempt came to nothing; empty: it did not.
    pub error: String,
    /// When the next attempt is made, after one that came to nothing.
    pub next_attempt: Option<Timestamp>,
}

/// What the records say.
pub fn standing(records: &Records, settings: &AcmeSettings, now: Timestamp) -> Standing {
    let certificate = records.certificate.value.as_ref();
    let certificate = certificate.and_then(|found| usable(found, settings));
    let lifetime = certificate
        .map(|found| Lifetime { not_before: found.not_before(), not_after: found.not_after() });
    let attempt = records.attempt.value.clone().unwrap_or_default();
    Standing {
        not_after: lifetime.map(|lifetime| lifetime.not_after),
        is_late: lifetime.is_none_or(|lifetime| is_late(lifetime, now)),
        next_attempt: attempt.not_before.filter(|_| !attempt.error.is_empty()),
        error: attempt.error,
    }
}

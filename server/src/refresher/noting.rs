//! What of the fetching of a bundle is worth an entry of the log.
//!
//! Pure. Peers are asked some thousand times a day; what everyone has to know is less: another
//! bundle, the beginning and the end of a failure, and once in a while that all is well.

use steeple_federation::NOTE_EVERY;
use steeple_raft_store::change::RefreshStatus;
use steeple_spiffe_core::Timestamp;

/// A failure is noted once it has come so often in a row: one lost packet concerns nobody. The
/// first of all is noted at once, since someone has just set the relationship up and looks.
const NOTED_FROM: u32 = 2;

/// Longest reason that is noted, in bytes: peers write part of it.
const TEXT_BYTES_MAX: usize = 1024;

/// Whether it is worth noting that a bundle was fetched and says what is stored.
pub(super) fn is_success_worth_it(noted: Option<&RefreshStatus>, now: Timestamp) -> bool {
    noted.is_none_or(|noted| noted.failure.is_some() || now.since(noted.noted_at) >= NOTE_EVERY)
}

/// Whether it is worth noting that a bundle was not fetched, for so many times in a row.
pub(super) fn is_failure_worth_it(
    noted: Option<&RefreshStatus>,
    class: &str,
    failures: u32,
) -> bool {
    let Some(noted) = noted else { return failures > 0 };
    let known = noted.failure.as_ref().is_some_and(|failure| failure.class == class);
    !known && failures >= NOTED_FROM
}

/// A reason that is short enough to be noted.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_raft_store::change::RefreshFailure;
    use steeple_spiffe_core::TrustDomain;

    use super::*;

    fn noted(class: Option<&str>) -> RefreshStatus {
        let since = Timestamp::UNIX_EPOCH;
        let (class, text) = (class.map(ToOwned::to_owned), String::new());
        RefreshStatus {
            trust_domain: TrustDomain::parse("b.test").unwrap(),
            noted_at: Timestamp::UNIX_EPOCH,
            succeeded_at: None,
            failure: class.map(|class| RefreshFailure { since, class, text }),
        }
    }

    #[test]
    fn success_is_noted_after_a_failure_and_by_the_hour() {
        let at = |minutes: u64| Timestamp::UNIX_EPOCH.plus(Duration::from_secs(60 * minutes));
        assert!(is_success_worth_it(None, at(0)));
        assert!(!is_success_worth_it(Some(&noted(None)), at(59)));
        assert!(is_success_worth_it(Some(&noted(None)), at(60)));
        assert!(is_success_worth_it(Some(&noted(Some("dial"))), at(0)));
    }

    #[test]
    fn a_failure_is_noted_once_it_lasts_and_once_for_each_reason() {
        assert!(is_failure_worth_it(None, "dial", 1), "the first of all");
        assert!(!is_failure_worth_it(None, "dial", 0), "an operator asked, and is told");
        for (class, failures, expected) in [
            (None, 1, false),
            (None, 2, true),
            (Some("dial"), 2, false),
            (Some("dial"), 99, false),
            (Some("tls"), 1, false),
            (Some("tls"), 2, true),
        ] {
            let worth = is_failure_worth_it(Some(&noted(class)), "dial", failures);
            assert_eq!(worth, expected, "{class:?} {failures}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_two_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = "\u{e4}".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(format!("x{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}

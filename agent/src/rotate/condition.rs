//! When a certificate or token is due for renewal. Pure: time and randomness are arguments.
//!
//! Owns SPIRE's rule (`spire-semantics` 8.3): half of the lifetime, with a jitter of a tenth either
//! way that spreads renewals, and for long lifetimes also the operator's availability target.

use std::time::Duration;

use steeple_spiffe_core::Timestamp;

use crate::limits::{ROTATE_CHECK_INTERVAL, ROTATE_CHECK_MIN};

const JITTER: f64 = 0.1;

/// A lifetime must exceed the availability target by this much for the target to count.
const TARGET_GRACE: Duration = Duration::from_secs(12 * 3600);

/// Renewals for the availability target are spread over this time.
const TARGET_SPREAD: Duration = Duration::from_secs(10 * 60);

/// The rule with the operator's setting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Condition {
    /// How long servers may be away without an SVID expiring; `None` = not set.
    pub availability_target: Option<Duration>,
}

impl Condition {
    /// Whether an X.509-SVID is due; `unit` is a random number in [0, 1).
    pub fn is_due(self, from: Timestamp, until: Timestamp, now: Timestamp, unit: f64) -> bool {
        let lifetime = until.since(from);
        let remaining = until.since(now);
        is_past_half(lifetime, remaining, unit) || self.is_past_target(lifetime, remaining, unit)
    }

    fn is_past_target(self, lifetime: Duration, remaining: Duration, unit: f64) -> bool {
        self.availability_target.is_some_and(|target| {
            let counts = lifetime.saturating_sub(target) > TARGET_GRACE;
            counts && remaining <= target + TARGET_SPREAD.mul_f64(unit.clamp(0.0, 1.0))
        })
    }
}

/// How long after a look at an X.509-SVID that has `left` to live the next one comes: seconds, but
/// twice before its end.
pub(super) fn check_interval(left: Duration) -> Duration {
    (left / 3).clamp(ROTATE_CHECK_MIN, ROTATE_CHECK_INTERVAL)
}

/// Whether a JWT-SVID is due: half of the lifetime alone counts.
pub fn is_token_due(from: Timestamp, until: Timestamp, now: Timestamp, unit: f64) -> bool {
    is_past_half(until.since(from), until.since(now), unit)
}

fn is_past_half(lifetime: Duration, remaining: Duration, unit: f64) -> bool {
    let jitter = 1.0 - JITTER + 2.0 * JITTER * unit.clamp(0.0, 1.0);
    remaining <= (lifetime / 2).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    #[test]
    fn what_ends_soon_is_looked_at_twice_before() {
        for (left_ms, expected_ms) in
            [(3_600_000, 5_000), (15_000, 5_000), (6_000, 2_000), (900, 500), (0, 500)]
        {
            let interval = check_interval(Duration::from_millis(left_ms));
            assert_eq!(interval, Duration::from_millis(expected_ms), "{left_ms}");
        }
    }

    fn is_due(lifetime_s: i64, remaining_s: i64, unit: f64, target_s: Option<u64>) -> bool {
        let start = Timestamp::from_unix_s(1_000_000);
        let until = Timestamp::from_unix_s(1_000_000 + lifetime_s);
        let now = Timestamp::from_unix_s(1_000_000 + lifetime_s - remaining_s);
        let condition = Condition { availability_target: target_s.map(Duration::from_secs) };
        condition.is_due(start, until, now, unit)
    }

    #[test]
    fn half_of_the_lifetime_with_a_tenth_of_jitter() {
        let cases = [
            (HOUR, 1801, 0.5, false),
            (HOUR, 1800, 0.5, true),
            (HOUR, 1621, 0.0, false),
            (HOUR, 1620, 0.0, true),
            (HOUR, 1980, 1.0, true),
            (HOUR, 1981, 1.0, false),
            (HOUR, 0, 0.0, true),
            (HOUR, -5, 0.0, true),
            (0, 0, 0.5, true),
        ];
        for (lifetime, remaining, unit, want) in cases {
            assert_eq!(
                is_due(lifetime, remaining, unit, None),
                want,
                "{lifetime} {remaining} {unit}"
            );
        }
    }

    #[test]
    fn the_availability_target_counts_only_for_long_lifetimes() {
        let day = 24 * HOUR;
        let cases = [
            // 37 h: 13 h more than the target, so it counts although half would be 18.5 h.
            (37 * HOUR, day, 0.0, true),
            (37 * HOUR, day + 1, 0.0, false),
            (37 * HOUR, day + 599, 1.0, true),
            (37 * HOUR, day + 601, 1.0, false),
            // 36 h: not more than 12 h beyond the target.
            (36 * HOUR, day, 0.0, false),
        ];
        for (lifetime, remaining, unit, want) in cases {
            let got = is_due(lifetime, remaining, unit, Some(86400));
            assert_eq!(got, want, "{lifetime} {remaining} {unit}");
        }
    }

    #[test]
    fn tokens_ignore_the_availability_target() {
        let at = Timestamp::from_unix_s;
        assert!(!is_token_due(at(0), at(300), at(100), 0.5));
        assert!(is_token_due(at(0), at(300), at(150), 0.5));
    }
}

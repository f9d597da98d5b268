//! When a certificate is ordered. Pure.

use std::time::Duration;

use steeple_spiffe_core::Timestamp;

/// Wait after the first attempt that came to nothing. Let's Encrypt takes five failures an hour.
const BACK_OFF_FIRST: Duration = Duration::from_secs(120);

/// Longest wait between two attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(3600);

/// Shortest wait, with certificates of a minute.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);

/// Attempts within the life of a certificate that the shortest wait allows for: a third of it is
/// left when it is renewed, and eight fit into that.
const BACK_OFF_PARTS: u32 = 24;

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Lifetime {
    fn length(self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// When it has this much of its life behind it, in sixths.
    fn at_sixths(self, sixths: u32) -> Timestamp {
        self.not_before.plus(self.length() / 6 * sixths)
    }
}

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The certificate for the configured name, from the configured server.
    pub(super) certificate: Option<Lifetime>,
    /// When its server wants it to be renewed (RFC 9773).
    pub(super) suggested: Option<Timestamp>,
    /// Whether an order for that name is under way.
    pub(super) is_pending: bool,
    /// Before this time there is no other attempt.
    pub(super) not_before: Option<Timestamp>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Order, or go on with the order that is under way.
    Order,
    /// Nothing until then.
    Wait(Timestamp),
}

/// Decides.
pub(super) fn plan(facts: &Facts, now: Timestamp) -> Plan {
    let due = match facts.certificate {
        None => now,
        Some(_) if facts.is_pending => now,
        Some(lifetime) => renewal(lifetime, facts.suggested),
    };
    let start = facts.not_before.map_or(due, |not_before| due.max(not_before));
    if start <= now { Plan::Order } else { Plan::Wait(start) }
}

/// At two thirds of its life, or when its server wants it, and in any case while a sixth is left.
fn renewal(lifetime: Lifetime, suggested: Option<Timestamp>) -> Timestamp {
    suggested.unwrap_or_else(|| lifetime.at_sixths(4)).min(lifetime.at_sixths(5))
}

/// How long to wait after so many attempts in a row that came to nothing.
pub(super) fn back_off(failures: u32, certificate: Option<Lifetime>) -> Duration {
    let part = certificate.map_or(BACK_OFF_MAX, |lifetime| lifetime.length() / BACK_OFF_PARTS);
    let longest = part.clamp(BACK_OFF_MIN, BACK_OFF_MAX);
    let doublings = failures.saturating_sub(1).min(16);
    BACK_OFF_FIRST.min(longest).saturating_mul(1 << doublings).min(longest)
}

/// Whether a certificate should have been replaced by now: a quarter of its life is left, and it is
/// renewed when a third is.
pub(super) fn is_late(lifetime: Lifetime, now: Timestamp) -> bool {
    lifetime.not_after.since(now) < lifetime.length() / 4
}

/// A time in a window, `part` of the way.
pub(super) fn within(start: Timestamp, end: Timestamp, part: f64) -> Timestamp {
    start.plus(end.since(start).mul_f64(part.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(day: u64) -> Timestamp {
        Timestamp::from_unix_s(0).plus(Duration::from_secs(day * DAY))
    }

    fn ninety_days() -> Option<Lifetime> {
        Some(Lifetime { not_before: at(0), not_after: at(90) })
    }

    #[test]
    fn it_orders_when_there_is_none_and_renews_at_two_thirds_or_when_it_is_told() {
        let none = Facts::default();
        let good = Facts { certificate: ninety_days(), ..none };
        let told = |day| Facts { suggested: Some(at(day)), ..good };
        let failed = |facts: Facts, day| Facts { not_before: Some(at(day)), ..facts };
        type Case = (&'static str, Facts, u64, Plan);
        let cases: [Case; 11] = [
            ("there is none", none, 1, Plan::Order),
            ("none, and it failed", failed(none, 2), 1, Plan::Wait(at(2))),
            ("none, long after it failed", failed(none, 2), 3, Plan::Order),
            ("it is young", good, 59, Plan::Wait(at(60))),
            ("two thirds", good, 60, Plan::Order),
            ("its server wants it early", told(30), 30, Plan::Order),
            ("its server wants it late", told(70), 69, Plan::Wait(at(70))),
            ("its server wants it too late", told(89), 75, Plan::Order),
            ("an order is under way", Facts { is_pending: true, ..good }, 1, Plan::Order),
            (
                "an order is under way, and was in trouble",
                failed(Facts { is_pending: true, ..good }, 2),
                1,
                Plan::Wait(at(2)),
            ),
            ("due, and it failed", failed(good, 61), 60, Plan::Wait(at(61))),
        ];
        for (name, facts, day, expected) in cases {
            assert_eq!(plan(&facts, at(day)), expected, "{name}");
        }
    }

    #[test]
    fn waits_double_up_to_an_hour_and_fit_the_certificate() {
        let waits = |certificate| {
            let secs = (1..=8).map(|failures| back_off(failures, certificate).as_secs());
            secs.collect::<Vec<_>>()
        };
        assert_eq!(waits(None), [120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(waits(ninety_days()), waits(None));
        let minute = Lifetime { not_before: at(0), not_after: at(0).plus(Duration::from_secs(60)) };
        assert_eq!(waits(Some(minute)), [2; 8]);
        assert_eq!(back_off(u32::MAX, None), BACK_OFF_MAX);
    }

    #[test]
    fn a_certificate_is_late_when_a_quarter_is_left() {
        let lifetime = ninety_days().unwrap();
        assert!(!is_late(lifetime, at(67)));
        assert!(is_late(lifetime, at(68)));
        assert!(is_late(lifetime, at(100)));
        assert_eq!(within(at(10), at(20), 0.5), at(15));
        assert_eq!(within(at(10), at(10), 0.5), at(10));
    }
}

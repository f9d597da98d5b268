//! Time as the registry keeps it: whole Unix seconds where SPIRE stores seconds, and a clock that is
//! an argument.
//!
//! This is the only file of the product that may read the system's clocks; everything else takes a
//! [`Clock`] or a `now`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time with the resolution of one millisecond, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    unix_ms: i64,
}

impl Timestamp {
    /// The Unix epoch.
    pub const UNIX_EPOCH: Self = Self { unix_ms: 0 };

    /// From whole Unix seconds; saturates at the bounds of the type.
    pub const fn from_unix_s(unix_s: i64) -> Self {
        Self { unix_ms: unix_s.saturating_mul(1000) }
    }

    /// From Unix milliseconds.
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Self { unix_ms }
    }

    /// From the system's representation; times before 1970 become the epoch.
    pub fn from_system_time(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
    }

    /// Whole Unix seconds, rounded down.
    pub const fn unix_s(self) -> i64 {
        self.unix_ms.div_euclid(1000)
    }

    /// Unix milliseconds.
    pub const fn unix_ms(self) -> i64 {
        self.unix_ms
    }

    /// This time rounded down to a whole second, as certificates and tokens carry it.
    #[must_use]
    pub const fn floor_to_second(self) -> Self {
        Self::from_unix_s(self.unix_s())
    }

    /// This time and a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self { unix_ms: self.unix_ms.saturating_add(ms) }
    }

    /// This time less a duration; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self { unix_ms: self.unix_ms.saturating_sub(ms) }
    }

    /// The time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.unix_ms.saturating_sub(earlier.unix_ms);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// As the standard library has it.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.unix_ms).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.unix_s(), self.unix_ms.rem_euclid(1000))
    }
}

/// A source of time. The product is handed [`SystemClock`], tests and simulation their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start that never goes back and also counts while the machine is
    /// suspended (`CLOCK_BOOTTIME`): ages of confirmed state are measured with it, so that a
    /// suspended replica does not think its state fresh.
    fn boot_time(&self) -> Duration;
}

/// A clock for tests: stands still until moved.
#[derive(Debug, Default)]
pub struct FixedClock {
    unix_ms: std::sync::atomic::AtomicI64,
}

impl FixedClock {
    /// A clock that shows the given time.
    pub fn new(now: Timestamp) -> Self {
        Self { unix_ms: now.unix_ms().into() }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.unix_ms.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.unix_ms.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn boot_time(&self) -> Duration {
        self.now().since(Timestamp::UNIX_EPOCH)
    }
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }

    fn boot_time(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let secs = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(secs, nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_down_on_both_sides_of_the_epoch() {
        let cases =
            [(1_999, 1), (1_000, 1), (999, 0), (0, 0), (-1, -1), (-1_000, -1), (-1_001, -2)];
        for (unix_ms, unix_s) in cases {
            let time = Timestamp::from_unix_ms(unix_ms);
            assert_eq!(time.unix_s(), unix_s, "{unix_ms}");
            assert_eq!(time.floor_to_second().unix_ms(), unix_s * 1000, "{unix_ms}");
        }
        assert_eq!(Timestamp::from_unix_ms(-1).to_string(), "-1.999");
        assert_eq!(Timestamp::from_unix_ms(1_050).to_string(), "1.050");
    }

    #[test]
    fn arithmetic_saturates() {
        let (first, last) = (Timestamp::from_unix_ms(i64::MIN), Timestamp::from_unix_ms(i64::MAX));
        assert_eq!(last.plus(Duration::MAX), last);
        assert_eq!(first.minus(Duration::from_secs(1)), first);
        assert_eq!(Timestamp::from_unix_s(i64::MAX), last);
        assert_eq!(first.since(last), Duration::ZERO);
        assert_eq!(first.to_system_time(), UNIX_EPOCH);
        let hour = Duration::from_secs(3600);
        assert_eq!(Timestamp::UNIX_EPOCH.plus(hour).since(Timestamp::UNIX_EPOCH), hour);
    }

    #[test]
    fn system_time_converts_both_ways() {
        let time = Timestamp::from_unix_ms(1_763_769_599_123);
        assert_eq!(Timestamp::from_system_time(time.to_system_time()), time);
        let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp::from_system_time(before_1970), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn fixed_clock_moves_when_told_and_the_machines_runs() {
        let clock = FixedClock::new(Timestamp::from_unix_s(10));
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.now(), Timestamp::from_unix_ms(11_500));
        assert_eq!(clock.boot_time(), Duration::from_millis(11_500));
        assert!(SystemClock.now() > Timestamp::from_unix_s(1_700_000_000));
        assert!(SystemClock.boot_time() > Duration::ZERO);
    }
}

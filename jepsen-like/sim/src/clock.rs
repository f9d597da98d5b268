//! Simulated time, and clocks of members that are wrong in their own ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use steeple_spiffe_core::time::{Clock, Timestamp};

/// When simulations begin, in Unix milliseconds.
pub(crate) const START_MS: i64 = 1_800_000_000_000;

/// How much simulated time has passed, in milliseconds. The driver moves it with each tick.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimTime(Arc<AtomicU64>);

impl SimTime {
    /// Moves it, and with it what libraries on this thread take for the time.
    pub(crate) fn set(&self, ms: u64) {
        crate::instants::set(ms);
        self.0.store(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the start.
    pub(crate) fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The clock of one member.
#[derive(Debug)]
pub(crate) struct SimClock {
    time: SimTime,
    /// How far the wall clock is off, in milliseconds.
    offset_ms: AtomicI64,
    /// By how many parts in a million it runs fast.
    drift_ppm: i64,
}

impl SimClock {
    /// A clock that is right but for its drift.
    pub(crate) fn new(time: SimTime, drift_ppm: i64) -> Self {
        Self { time, offset_ms: AtomicI64::new(0), drift_ppm }
    }

    /// Puts the wall clock wrong by so much.
    pub(crate) fn set_offset_ms(&self, ms: i64) {
        self.offset_ms.store(ms, Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> i64 {
        let ms = i64::try_from(self.time.ms()).unwrap_or(i64::MAX);
        ms + ms / 1000 * self.drift_ppm / 1000
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let offset = self.offset_ms.load(Ordering::Relaxed);
        Timestamp::from_unix_ms(START_MS + self.elapsed_ms() + offset)
    }

    fn boot_time(&self) -> Duration {
        // A machine has been up for a while when its first process starts.
        Duration::from_millis(10_000 + u64::try_from(self.elapsed_ms()).unwrap_or(0))
    }
}

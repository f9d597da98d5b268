//! How long the disk of a member takes, and whether it works.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use steeple_raft_store::SyncTimes;
use steeple_spiffe_core::random::{Random, SeededRandom};

/// The times of one disk.
#[derive(Debug)]
pub(crate) struct DiskTimes {
    random: SeededRandom,
    slowest_us: u64,
    /// While set, each sync takes so much longer.
    stall_ms: AtomicU64,
    /// The next sync fails.
    broken: AtomicBool,
    /// A sync has failed.
    failed: AtomicBool,
}

impl DiskTimes {
    /// Syncs that take up to `slowest_us`.
    pub(crate) fn new(random: SeededRandom, slowest_us: u64) -> Self {
        let (stall_ms, broken, failed) = Default::default();
        Self { random, slowest_us, stall_ms, broken, failed }
    }

    /// Makes each sync take so much longer from now on.
    pub(crate) fn stall(&self, ms: u64) {
        self.stall_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether a sync has failed since this was asked last.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.swap(false, Ordering::Relaxed)
    }

    /// Makes the next sync fail.
    pub(crate) fn break_once(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Takes back a stall, and a failure that no sync has met yet.
    pub(crate) fn mend(&self) {
        self.stall(0);
        self.broken.store(false, Ordering::Relaxed);
    }
}

impl SyncTimes for DiskTimes {
    fn next(&self) -> io::Result<Duration> {
        if self.broken.swap(false, Ordering::Relaxed) {
            self.failed.store(true, Ordering::Relaxed);
            return Err(io::Error::other("simulated disk error"));
        }
        let usual = Duration::from_micros(self.random.u64() % (self.slowest_us + 1));
        Ok(usual + Duration::from_millis(self.stall_ms.load(Ordering::Relaxed)))
    }
}

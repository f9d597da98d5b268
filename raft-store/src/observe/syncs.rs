//! How long syncs of the log take, told by whoever makes them, and how much room it has.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::DiskHealth;

/// The slowest sync is remembered so long.
const SLOWEST_KEPT: Duration = Duration::from_secs(60);

/// Shared by the one who syncs and those who ask.
#[derive(Debug, Default)]
pub(crate) struct SyncWatch {
    syncs: Mutex<Syncs>,
}

#[derive(Debug, Default)]
struct Syncs {
    began: Option<Instant>,
    last: Option<Duration>,
    slowest: Option<(Instant, Duration)>,
    free_bytes: Option<u64>,
}

impl SyncWatch {
    /// A sync begins.
    pub(crate) fn begin(&self) {
        self.lock().began = Some(Instant::now());
    }

    /// It has ended, well or not. Returns how long it took.
    pub(crate) fn end(&self) -> Duration {
        let now = Instant::now();
        let mut syncs = self.lock();
        let took = syncs.began.take().map(|began| now - began).unwrap_or_default();
        syncs.last = Some(took);
        let is_news =
            |(at, slowest): (Instant, Duration)| took >= slowest || now - at > SLOWEST_KEPT;
        if syncs.slowest.is_none_or(is_news) {
            syncs.slowest = Some((now, took));
        }
        took
    }

    /// So many bytes may still be written; `None`: not known.
    pub(crate) fn note_free(&self, bytes: Option<u64>) {
        self.lock().free_bytes = bytes;
    }

    /// How the disk does.
    pub(crate) fn health(&self) -> DiskHealth {
        let now = Instant::now();
        let syncs = self.lock();
        let slowest = syncs.slowest.filter(|(at, _)| now - *at <= SLOWEST_KEPT);
        DiskHealth {
            last_sync: syncs.last,
            slowest_sync: slowest.map(|(_, took)| took).unwrap_or_default(),
            waiting: syncs.began.map(|began| now - began).unwrap_or_default(),
            free_bytes: syncs.free_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Syncs> {
        // Every field is set on its own: a panic leaves none half done.
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_sync_is_seen_while_it_runs_and_for_a_minute_after() {
        let ms = Duration::from_millis;
        let watch = SyncWatch::default();
        assert_eq!(watch.health(), DiskHealth::default());
        watch.begin();
        tokio::time::advance(ms(2_500)).await;
        assert_eq!(watch.health().waiting, ms(2_500));
        assert_eq!(watch.end(), ms(2_500));
        watch.begin();
        tokio::time::advance(ms(3)).await;
        watch.end();
        let expected =
            DiskHealth { last_sync: Some(ms(3)), slowest_sync: ms(2_500), ..DiskHealth::default() };
        assert_eq!(watch.health(), expected);
        watch.note_free(Some(7));
        assert_eq!(watch.health(), DiskHealth { free_bytes: Some(7), ..expected });
        tokio::time::advance(ms(61_000)).await;
        assert_eq!(watch.health().slowest_sync, ms(0), "long ago");
        watch.begin();
        tokio::time::advance(ms(1)).await;
        watch.end();
        assert_eq!(watch.health().slowest_sync, ms(1));
    }
}

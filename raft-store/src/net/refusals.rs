//! Calls and connections that were refused: counted all, logged sparingly.
//!
//! Owns the list of reasons. A peer that is refused tries again several times a second: without a
//! limit one misconfigured member would fill the logs of the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::Clock;

/// Why a peer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// The handshake failed: another cluster key, or no TLS at all.
    Handshake,
    /// The handshake took too long.
    HandshakeTimeout,
    /// Its certificate names another cluster, or none, where a member is needed.
    Cluster,
    /// Its epoch differs.
    Epoch,
    /// It is no member.
    Member,
    /// It speaks for another member.
    Impersonation,
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Cluster => "cluster",
            Self::Epoch => "epoch",
            Self::Member => "member",
            Self::Impersonation => "impersonation",
        }
    }
}

/// At most one line for each reason in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts refusals.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    total: AtomicU64,
    logged: Mutex<BTreeMap<Refusal, Duration>>,
}

impl Refusals {
    /// Counts one, and logs it if none of its kind was logged lately.
    pub(crate) fn note(&self, refusal: Refusal, who: &str, detail: &str, clock: &dyn Clock) {
        metrics::counter!("spire_server_cluster_peer_refused", "reason" => refusal.label())
            .increment(1);
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = clock.boot_time();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.get(&refusal).is_none_or(|last| now.saturating_sub(*last) >= LOG_INTERVAL);
        if due {
            logged.insert(refusal, now);
            tracing::warn!(reason = refusal.label(), peer = who, "Peer refused: {detail}");
        }
    }

    /// How many there were.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

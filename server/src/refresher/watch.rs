//! What the leader knows of its tries beyond what is noted: for the screen of `cluster status`.
//!
//! Nothing hangs on it. It is empty wherever this replica does not lead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steeple_spiffe_core::{Timestamp, TrustDomain};

/// The tries of the leader, as they go on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Live {
    peers: Arc<Mutex<BTreeMap<TrustDomain, LiveState>>>,
}

/// The tries of one trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveState {
    /// When the last one ended.
    pub tried_at: Timestamp,
    /// When the next one begins.
    pub next_at: Timestamp,
}

/// Empties what is known when the leadership ends.
#[derive(Debug)]
pub(crate) struct Leading(Live);

impl Live {
    /// What is known of a trust domain.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<LiveState> {
        self.peers().get(trust_domain).copied()
    }

    /// Keeps what is known until what is returned is dropped.
    pub(crate) fn lead(&self) -> Leading {
        Leading(self.clone())
    }

    // Each change is one insertion or removal: a panic leaves nothing half done.
    fn peers(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, LiveState>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leading {
    pub(super) fn tried(&self, trust_domain: &TrustDomain, state: LiveState) {
        self.0.peers().insert(trust_domain.clone(), state);
    }

    pub(super) fn ended(&self, trust_domain: &TrustDomain) {
        self.0.peers().remove(trust_domain);
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.peers().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_leader_knows_goes_with_its_leadership() {
        let (live, name) = (Live::default(), TrustDomain::parse("b.test").unwrap());
        let at = Timestamp::UNIX_EPOCH;
        let state = LiveState { tried_at: at, next_at: at };
        let leading = live.lead();
        leading.tried(&name, state);
        assert_eq!(live.of(&name), Some(state));
        leading.ended(&name);
        assert_eq!(live.of(&name), None);
        leading.tried(&name, state);
        drop(leading);
        assert_eq!(live.of(&name), None);
    }
}

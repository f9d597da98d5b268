//! What the leader knows of its tries beyond what is noted, and how the two go together.
//!
//! Nothing that is decided hangs on it: it is for the screen, metrics and warnings, which are exact
//! where this replica leads, and as far as was noted elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steeple_federation::Progress;
use steeple_raft_store::change::RefreshStatus;
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
    /// When the last good one ended; `None`: this leader has seen none.
    pub succeeded_at: Option<Timestamp>,
    /// When the first of those ended that failed in a row; `None`: the last one was good.
    pub failing_since: Option<Timestamp>,
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

impl LiveState {
    /// How the fetching of a bundle goes, by what was noted and by what the leader knows. Whichever
    /// is newer says whether it fails.
    pub(crate) fn progress(live: Option<Self>, noted: Option<&RefreshStatus>) -> Progress {
        let noted_success = noted.and_then(|noted| noted.succeeded_at);
        let noted_failure = noted.and_then(|noted| noted.failure.as_ref());
        let noted_failure = noted_failure.map(|failure| failure.since);
        let Some(live) = live else {
            let (succeeded_at, failing_since) = (noted_success, noted_failure);
            return Progress { succeeded_at, is_exact: false, failing_since };
        };
        let is_newer = noted.is_none_or(|noted| noted.noted_at <= live.tried_at);
        let fails = if is_newer { live.failing_since } else { noted_failure }.is_some();
        // A failure that began under another leader goes on.
        let since = [live.failing_since, noted_failure].into_iter().flatten().min();
        Progress {
            succeeded_at: live.succeeded_at.max(noted_success),
            is_exact: live.succeeded_at.is_some(),
            failing_since: since.filter(|_| fails),
        }
    }
}

impl Leading {
    /// Takes in a try that has just ended.
    pub(super) fn tried(
        &self,
        trust_domain: &TrustDomain,
        is_good: bool,
        tried_at: Timestamp,
        next_at: Timestamp,
    ) {
        let mut peers = self.0.peers();
        let before = peers.get(trust_domain).copied();
        let (succeeded_at, failing_since) = match is_good {
            true => (Some(tried_at), None),
            false => (
                before.and_then(|before| before.succeeded_at),
                before.and_then(|before| before.failing_since).or(Some(tried_at)),
            ),
        };
        let state = LiveState { tried_at, next_at, succeeded_at, failing_since };
        peers.insert(trust_domain.clone(), state);
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
    use steeple_raft_store::change::RefreshFailure;

    use super::*;

    fn name() -> TrustDomain {
        TrustDomain::parse("b.test").unwrap()
    }

    const fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_s(second)
    }

    #[test]
    fn what_the_leader_knows_goes_with_its_leadership() {
        let live = Live::default();
        let leading = live.lead();
        let tried = |is_good, second| {
            leading.tried(&name(), is_good, at(second), at(second + 60));
            let state = live.of(&name()).unwrap();
            assert_eq!((state.tried_at, state.next_at), (at(second), at(second + 60)));
            (state.succeeded_at, state.failing_since)
        };
        assert_eq!(tried(false, 1), (None, Some(at(1))));
        assert_eq!(tried(false, 2), (None, Some(at(1))), "it fails since the first");
        assert_eq!(tried(true, 3), (Some(at(3)), None));
        assert_eq!(tried(false, 4), (Some(at(3)), Some(at(4))));
        leading.ended(&name());
        assert_eq!(live.of(&name()), None);
        leading.tried(&name(), true, at(5), at(6));
        drop(leading);
        assert_eq!(live.of(&name()), None);
    }

    fn noted(noted_at: i64, succeeded: Option<i64>, failing: Option<i64>) -> RefreshStatus {
        let failure = failing.map(|since| RefreshFailure {
            since: at(since),
            class: String::new(),
            text: String::new(),
        });
        let succeeded_at = succeeded.map(at);
        RefreshStatus { trust_domain: name(), noted_at: at(noted_at), succeeded_at, failure }
    }

    fn live(tried_at: i64, succeeded: Option<i64>, failing: Option<i64>) -> LiveState {
        let (succeeded_at, failing_since) = (succeeded.map(at), failing.map(at));
        LiveState { tried_at: at(tried_at), next_at: at(tried_at), succeeded_at, failing_since }
    }

    /// What is known, and what follows from it: the last success, whether that is exact, and since
    /// when it fails.
    type Case = (Option<LiveState>, Option<RefreshStatus>, (Option<i64>, bool, Option<i64>));

    #[test]
    fn the_leader_is_exact_and_others_go_by_what_was_noted() {
        let well = || Some(noted(100, Some(100), None));
        let ill = || Some(noted(200, Some(100), Some(200)));
        let cases: [Case; 9] = [
            (None, None, (None, false, None)),
            (None, well(), (Some(100), false, None)),
            (None, ill(), (Some(100), false, Some(200))),
            (Some(live(150, Some(150), None)), well(), (Some(150), true, None)),
            // A new leader has seen no success yet; what failed before it goes on failing.
            (Some(live(150, None, Some(150))), well(), (Some(100), false, Some(150))),
            (Some(live(300, None, Some(300))), ill(), (Some(100), false, Some(200))),
            (Some(live(300, Some(300), None)), ill(), (Some(300), true, None)),
            // Somebody else has fetched it since.
            (Some(live(90, Some(50), Some(90))), well(), (Some(100), true, None)),
            (Some(live(90, Some(50), Some(90))), None, (Some(50), true, Some(90))),
        ];
        for (live, noted, (succeeded, is_exact, failing)) in cases {
            let expected = Progress {
                succeeded_at: succeeded.map(at),
                is_exact,
                failing_since: failing.map(at),
            };
            let found = LiveState::progress(live, noted.as_ref());
            assert_eq!(found, expected, "{live:?} {noted:?}");
        }
    }
}

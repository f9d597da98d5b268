//! Since when this replica has known each authority: from then on it gives out no bundle without it.
//!
//! Owns the memory of it, of what the journal holds. After a restart everything has just arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_spiffe_core::Clock;
use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityKind};

use crate::view::Views;

type Name = (AuthorityKind, AuthorityId);

/// Boot times of arrivals. Cheap to clone, shared.
#[derive(Clone, Debug, Default)]
pub(in crate::authority) struct Arrivals {
    known: Arc<Mutex<HashMap<Name, Duration>>>,
}

impl Arrivals {
    /// Follows the journal until it is dropped.
    pub(super) async fn follow(self, views: Views, clock: Arc<dyn Clock>) {
        let mut moves = views.subscribe_revision();
        let mut noted = None;
        loop {
            let journal = views.journal();
            if noted != Some(journal.revision) {
                noted = Some(journal.revision);
                self.note(&journal, clock.boot_time());
            }
            if moves.changed().await.is_err() {
                return;
            }
        }
    }

    /// The views show this journal; `now` is boot time.
    pub(in crate::authority) fn note(&self, journal: &Journal, now: Duration) {
        let name = |one: &Authority| (one.kind, one.id.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known, _| journal.authorities.iter().any(|one| name(one) == *known));
        for one in &journal.authorities {
            known.entry(name(one)).or_insert(now);
        }
    }

    /// For how long an authority has been known; `now` is boot time.
    pub(super) fn held_for(&self, authority: &Authority, now: Duration) -> Duration {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = known.get(&(authority.kind, authority.id.clone()));
        arrived.map_or(Duration::ZERO, |arrived| now.saturating_sub(*arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::authority;
    use super::*;

    #[test]
    fn what_the_journal_holds_is_known_since_it_came_and_what_has_left_is_forgotten() {
        let arrivals = Arrivals::default();
        let second = Duration::from_secs;
        let [a, b] = ["a", "b"].map(|name| authority(AuthorityKind::X509, name));
        let journal = |of: &[&Authority]| Journal {
            revision: 1,
            authorities: of.iter().copied().cloned().collect(),
        };
        assert_eq!(arrivals.held_for(&a, second(9)), second(0), "it has not come");
        arrivals.note(&journal(&[&a]), second(10));
        arrivals.note(&journal(&[&a, &b]), second(12));
        let held = |at| [&a, &b].map(|one| arrivals.held_for(one, second(at)));
        assert_eq!(held(15), [second(5), second(3)]);
        arrivals.note(&journal(&[&b]), second(16));
        arrivals.note(&journal(&[&a, &b]), second(17));
        assert_eq!(held(20), [second(3), second(8)], "it has come again");
    }
}

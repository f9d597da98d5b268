//! When the next authority of a kind can be prepared: by the schedule, and by an operator who leaves the
//! schedule the place in the bundle that it will need.
//!
//! Pure. An authority that was prepared early ends early: the one after it is then due while those before
//! it are still in the bundle. So an operator's authority has to wait until, when its own successor is
//! due, no more than one older than it is left. The schedule may still wait for a place as long as ended
//! authorities stay in the bundle, and no longer: two that were prepared at nearly one time leave at one.

use steeple_raft_store::change::Journal;
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::{AuthorityStatus, Timestamp};

use super::planner::{PUBLISHED_MAX, lifetime};
use super::policy::{AuthorityPolicy, Times, prepare_before, prepare_in_haste_before};
use super::slots::Slots;

/// When the next authority of a kind can be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// By an operator who does not wait for the schedule.
    pub by_hand: Timestamp,
    /// By the schedule.
    pub by_itself: Timestamp,
    /// No place in the bundle is free now.
    pub is_full: bool,
}

impl Forecast {
    /// For the kind as it stands now; `None`: nothing signs yet.
    pub fn of(
        journal: &Journal,
        kind: AuthorityKind,
        policy: &AuthorityPolicy,
        now: Timestamp,
    ) -> Option<Self> {
        let active = Slots::of(journal, kind).current?;
        let of_kind = journal.authorities.iter().filter(|one| one.kind == kind);
        let published = of_kind.filter(|one| one.status.is_published());
        let leave_at = |one| Times::of(one, policy).leave_at;
        let mut leaves: Vec<Timestamp> = published.clone().map(leave_at).collect();
        leaves.sort_unstable();
        let served = published.filter(|one| one.status != AuthorityStatus::Active);
        let mut served: Vec<Timestamp> = served.map(leave_at).collect();
        served.sort_unstable();

        let life = lifetime(active);
        let haste_at = active.not_after.minus(prepare_in_haste_before(life));
        // Who signs does not leave: a place is free when enough of the others have gone.
        let too_many = leaves.len().checked_sub(PUBLISHED_MAX);
        let free_at = too_many.map(|index| served.get(index).copied().unwrap_or(haste_at));
        let due_at = active.not_after.minus(prepare_before(life));
        let by_itself = free_at.map_or(due_at, |free_at| due_at.max(free_at.min(haste_at)));

        // Beside the new one and its successor, so many may be there when that is due.
        let beside = PUBLISHED_MAX - 2;
        let new_life = policy.ca_ttl.min(life);
        let due_after = new_life.saturating_sub(prepare_before(new_life));
        let gone = leaves.iter().rev().nth(beside);
        let leaves_a_place_at = gone.map_or(now, |leaves_at| leaves_at.minus(due_after));
        let by_hand = match free_at {
            None => leaves_a_place_at.min(by_itself).max(now),
            Some(free_at) => leaves_a_place_at.max(free_at).min(by_itself),
        };
        Some(Self { by_hand, by_itself, is_full: free_at.is_some() })
    }

    /// Whether an operator may prepare one now.
    pub fn allows(&self, now: Timestamp) -> bool {
        !self.is_full && self.by_hand <= now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::authority::Authority;
    use steeple_spiffe_core::random::{Random, SeededRandom};

    use super::super::planner::tests::{apply, hours, journal, x509};
    use super::super::planner::{Evidence, Step, plan};
    use super::super::slots::successor;
    use super::*;

    const X509: AuthorityKind = AuthorityKind::X509;

    /// What it is; X.509 authorities; now, by hand and by itself, in hours.
    type Case<'a> = (&'a str, Vec<Authority>, u64, u64, u64);

    #[test]
    fn an_operator_may_prepare_what_leaves_the_schedule_its_place() {
        use AuthorityStatus::{Active, Old, Prepared};
        let cases: [Case<'_>; 8] = [
            ("alone", vec![x509("a", Active, 0, 24)], 3, 3, 12),
            (
                "one rotation ago, by hand",
                vec![x509("a", Old, 0, 24), x509("b", Active, 1, 25)],
                2,
                13,
                13,
            ),
            (
                "one rotation ago, by schedule",
                vec![x509("a", Old, 0, 24), x509("b", Active, 12, 36)],
                21,
                21,
                24,
            ),
            (
                "one rotation ago, by schedule and soon",
                vec![x509("a", Old, 0, 24), x509("b", Active, 12, 36)],
                12,
                13,
                24,
            ),
            (
                "full, and free in time",
                vec![x509("a", Old, 0, 24), x509("b", Old, 12, 36), x509("c", Active, 14, 38)],
                15,
                25,
                26,
            ),
            (
                "full beyond what can be waited for",
                vec![x509("a", Old, 0, 24), x509("b", Old, 1, 25), x509("c", Active, 2, 26)],
                3,
                18,
                18,
            ),
            (
                "one that was passed over takes a place",
                vec![x509("a", Old, 0, 24), x509("b", Prepared, 1, 25), x509("c", Active, 2, 26)],
                3,
                18,
                18,
            ),
            ("late already", vec![x509("a", Active, 0, 24)], 23, 23, 12),
        ];
        for (what, authorities, now, by_hand, by_itself) in cases {
            let policy = AuthorityPolicy::default();
            let is_full = authorities.len() == PUBLISHED_MAX;
            let forecast = Forecast::of(&journal(authorities), X509, &policy, hours(now));
            let (by_hand, by_itself) = (hours(by_hand), hours(by_itself));
            assert_eq!(forecast, Some(Forecast { by_hand, by_itself, is_full }), "{what}");
            assert_eq!(forecast.unwrap().allows(hours(now)), by_hand == hours(now), "{what}");
        }
        let policy = AuthorityPolicy::default();
        assert_eq!(Forecast::of(&journal(vec![]), X509, &policy, hours(0)), None);
    }

    /// Years in which an operator rotates whenever that is allowed, or now and then.
    #[test]
    fn rotations_by_hand_never_fill_the_bundle_nor_make_the_schedule_late() {
        let tick = Duration::from_secs(60);
        for (eager_one_in, ca_ttl_h) in [(1, 24), (40, 24), (300, 24), (1, 30), (900, 90)] {
            let ca_ttl = Duration::from_secs(ca_ttl_h * 3600);
            let policy = AuthorityPolicy { ca_ttl, ..AuthorityPolicy::default() };
            let random = SeededRandom::new(ca_ttl_h + eager_one_in);
            let (mut journal, mut made, mut by_hand) = (journal(vec![]), 0, 0);
            let mut now = hours(0);
            while now < hours(60 * ca_ttl_h) {
                while let Some(step) = plan(&journal, &policy, now, &|_| Evidence::Complete) {
                    apply(&mut journal, step, now, ca_ttl, &mut made);
                }
                let forecast = Forecast::of(&journal, X509, &policy, now).unwrap();
                let wants = random.u64().is_multiple_of(eager_one_in);
                let next = successor(&journal, X509).map(|next| next.id.clone());
                let step = match next {
                    Some(id) => Some(Step::Activate(X509, id)),
                    None if forecast.allows(now) => Some(Step::Prepare(X509)),
                    None => None,
                };
                if let Some(step) = step.filter(|_| wants) {
                    by_hand += u32::from(matches!(step, Step::Prepare(_)));
                    apply(&mut journal, step, now, ca_ttl, &mut made);
                }
                let of_kind = journal.authorities.iter().filter(|one| one.kind == X509);
                let published = of_kind.clone().count();
                assert!(published <= PUBLISHED_MAX, "{published} at {now:?}");
                let active = of_kind.clone().find(|one| one.status == AuthorityStatus::Active);
                let due_at = Times::of(active.unwrap(), &policy).prepare_at;
                let latest = due_at.plus(policy.prune_margin() + tick);
                let is_late = now > latest && successor(&journal, X509).is_none();
                assert!(!is_late, "nothing was prepared at {now:?}, due at {due_at:?}");
                now = now.plus(tick);
            }
            assert!(by_hand > 20 || eager_one_in > 300, "{by_hand} by hand");
        }
    }
}

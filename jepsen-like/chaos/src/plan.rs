//! Which fault comes next, on whom, and for how long: by a seed and nothing else.
//!
//! Who leads is not known before, so the plan says *the leader*; [`super::nemesis`] finds out who that
//! is. The first rounds see to it that each kind of fault hits a leader and spares one.

use crate::options::Nemesis;
use steeple_spiffe_core::dice::Dice;

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    /// The leader.
    Leader,
    /// Someone who does not lead.
    Follower,
    /// Anyone.
    Anyone,
    /// All of them at once.
    All,
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What.
    pub(crate) nemesis: Nemesis,
    /// How long all is quiet before it.
    pub(crate) rest_ms: u64,
    /// Whom it hits.
    pub(crate) victims: Victims,
    /// How long it lasts.
    pub(crate) lasts_ms: u64,
    /// For whatever else must be chosen.
    pub(crate) roll: u64,
}

/// Plans the faults of one track, one after the other.
#[derive(Debug)]
pub(crate) struct Plan {
    dice: Dice,
    nemeses: Vec<Nemesis>,
    number: usize,
}

impl Plan {
    /// The plan of a seed for these faults.
    pub(crate) fn new(seed: u64, purpose: u64, nemeses: Vec<Nemesis>) -> Self {
        Self { dice: Dice::new(seed, purpose), nemeses, number: 0 }
    }

    /// The next fault; none if there is nothing to choose from.
    pub(crate) fn next(&mut self) -> Option<Planned> {
        let kinds = self.nemeses.len();
        let round = self.number.checked_div(kinds)?;
        let nemesis = match round {
            0 | 1 => *self.nemeses.get(self.number % kinds)?,
            _ => *self.dice.pick(&self.nemeses)?,
        };
        self.number += 1;
        let roll = self.dice.within(0..=99);
        let victims = match (round, roll) {
            (0, _) => Victims::Leader,
            (1, _) => Victims::Follower,
            (_, 0..=34) => Victims::Leader,
            (_, 35..=79) => Victims::Anyone,
            (_, _) => Victims::All,
        };
        let (shortest, longest) = self.lengths_ms(nemesis, victims);
        Some(Planned {
            nemesis,
            rest_ms: self.dice.within(300..=2_500),
            victims,
            lasts_ms: self.dice.within(shortest..=longest),
            roll: self.dice.any(),
        })
    }

    /// One in four is long: most are so short that an election may or may not be over.
    fn lengths_ms(&self, nemesis: Nemesis, victims: Victims) -> (u64, u64) {
        let is_long = self.dice.chance(0.25);
        match (nemesis, victims) {
            (Nemesis::Kill | Nemesis::PowerCut, Victims::All) => (0, 1_000),
            (Nemesis::Kill | Nemesis::PowerCut, _) if is_long => (1_000, 5_000),
            (Nemesis::Kill | Nemesis::PowerCut, _) => (0, 1_000),
            (Nemesis::Pause, _) if is_long => (2_000, 10_000),
            (Nemesis::Pause, _) => (100, 2_000),
            (Nemesis::Partition | Nemesis::Network, _) if is_long => (3_000, 8_000),
            (Nemesis::Partition | Nemesis::Network, _) => (300, 3_000),
            (Nemesis::DiskFull | Nemesis::Clock, _) => (1_000, 5_000),
            (
                Nemesis::Rolling
                | Nemesis::Wipe
                | Nemesis::Move
                | Nemesis::Upgrade
                | Nemesis::Corrupt
                | Nemesis::Restore
                | Nemesis::Suspend,
                _,
            ) => (0, 1_000),
            (Nemesis::Membership, _) => (300, 3_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, count: usize) -> Vec<Planned> {
        let mut plan = Plan::new(seed, 1, vec![Nemesis::Kill, Nemesis::Pause]);
        (0..count).map(|_| plan.next().unwrap()).collect()
    }

    #[test]
    fn a_seed_plans_the_same_faults_again_and_another_seed_others() {
        assert_eq!(first(7, 50), first(7, 50));
        assert_ne!(first(7, 50), first(8, 50));
    }

    #[test]
    fn each_kind_hits_the_leader_first_and_spares_it_next() {
        let plan = first(3, 4);
        let shown: Vec<_> = plan.iter().map(|one| (one.nemesis, one.victims)).collect();
        assert_eq!(
            shown,
            [
                (Nemesis::Kill, Victims::Leader),
                (Nemesis::Pause, Victims::Leader),
                (Nemesis::Kill, Victims::Follower),
                (Nemesis::Pause, Victims::Follower),
            ]
        );
        assert!(Plan::new(3, 1, Vec::new()).next().is_none());
    }

    #[test]
    fn what_takes_as_long_as_it_takes_is_planned_beside_the_rest() {
        let kinds = vec![Nemesis::Restore, Nemesis::Suspend];
        let mut plan = Plan::new(5, 1, kinds.clone());
        let planned: Vec<_> = (0..20).map(|_| plan.next().unwrap()).collect();
        assert_eq!(planned[0].nemesis, Nemesis::Restore);
        assert_eq!(planned[1].nemesis, Nemesis::Suspend);
        assert!(planned.iter().all(|one| kinds.contains(&one.nemesis) && one.lasts_ms <= 1_000));
        let rolls: std::collections::BTreeSet<_> = planned.iter().map(|one| one.roll).collect();
        assert_eq!(rolls.len(), planned.len(), "each draws for itself");
    }
}

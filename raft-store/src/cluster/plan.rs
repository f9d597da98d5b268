//! What autopilot does next, pure: from what the leader sees of its members to at most one change.
//!
//! Owns the rules of `cluster.md` 3 "Joining" and "Replacing". One change at a time: the next is
//! planned from what the last one left. Never plans a change that makes a quorum harder to reach: only
//! healthy learners become voters, and only silent members go.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::Tuning;
use crate::ids::MemberId;

/// The numbers that autopilot goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Most voters.
    pub(crate) voters_max: usize,
    /// A learner must have been healthy for so long to become a voter.
    pub(crate) stable_for: Duration,
    /// A voter must have been silent for so long to lose its seat to a newcomer at its address.
    pub(crate) seat_free_after: Duration,
    /// A voter that is silent for so long loses its seat to any stable learner; zero: never.
    pub(crate) replace_dead_after: Duration,
    /// A learner that is silent for so long is forgotten.
    pub(crate) forget_learner_after: Duration,
}

impl Policy {
    /// As documented, with the two settings.
    pub(crate) fn new(voters_max: u8, replace_dead_after: Duration) -> Self {
        Self {
            voters_max: usize::from(voters_max),
            stable_for: Tuning::default().stable_for,
            seat_free_after: Tuning::default().seat_free_after,
            replace_dead_after,
            forget_learner_after: Duration::from_secs(600),
        }
    }

    /// With other bounds.
    pub(crate) fn tuned(self, tuning: &Tuning) -> Self {
        let Tuning { stable_for, seat_free_after, .. } = *tuning;
        Self { stable_for, seat_free_after, ..self }
    }
}

/// A healthy member trails by at most this many entries.
pub(crate) const HEALTHY_LAG_MAX: u64 = 1_000;

/// A healthy member was heard of within this time.
pub(crate) const HEALTHY_SILENCE_MAX: Duration = Duration::from_secs(1);

/// One member, seen from the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: MemberId,
    pub(crate) address: String,
    pub(crate) voter: bool,
    /// An operator took its vote: only an operator gives it back.
    pub(crate) demoted: bool,
    /// How long nothing was heard of it.
    pub(crate) silent_for: Duration,
    /// How long it has been healthy without a break.
    pub(crate) healthy_for: Option<Duration>,
    /// Whether it lives, however far it trails.
    pub(crate) answers: bool,
}

/// The one change to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A joint configuration was found: go on to the voters it leads to.
    FinishJoint(BTreeSet<MemberId>),
    /// The newcomer takes the seat of a voter that is gone, in one joint change.
    Replace {
        /// The voter that loses its seat.
        gone: MemberId,
        /// The learner that takes it.
        newcomer: MemberId,
    },
    /// Learners become voters.
    Promote(BTreeSet<MemberId>),
    /// A learner that is gone is forgotten.
    Forget(MemberId),
}

/// Plans from the voter sets (two while a change is joint) and all members.
pub(crate) fn plan(
    policy: &Policy,
    voters: &[BTreeSet<MemberId>],
    members: &[Seen],
) -> Option<Step> {
    if let [_, .., target] = voters {
        return Some(Step::FinishJoint(target.clone()));
    }
    replace_by_address(policy, members)
        .or_else(|| promote(policy, members))
        .or_else(|| replace_dead(policy, members))
        .or_else(|| forget(policy, members))
}

fn is_stable(policy: &Policy, member: &Seen) -> bool {
    member.healthy_for.is_some_and(|since| since >= policy.stable_for)
}

fn replace_by_address(policy: &Policy, members: &[Seen]) -> Option<Step> {
    // One that was promoted by hand meanwhile, too: nobody else may be at an address that it has.
    let newcomer_at = |gone: &Seen| {
        members.iter().find(|member| {
            member.id != gone.id && member.address == gone.address && member.healthy_for.is_some()
        })
    };
    let gone = |member: &&Seen| member.voter && member.silent_for >= policy.seat_free_after;
    members.iter().filter(gone).find_map(|gone| {
        let newcomer = newcomer_at(gone)?;
        Some(Step::Replace { gone: gone.id, newcomer: newcomer.id })
    })
}

/// Goes to an odd number of voters: an even one tolerates no more failures and has more to fail.
fn promote(policy: &Policy, members: &[Seen]) -> Option<Step> {
    let voters = members.iter().filter(|member| member.voter).count();
    // One that waits for the seat of a voter at its address gets no other.
    let waits = |learner: &Seen| {
        members.iter().any(|member| member.voter && member.address == learner.address)
    };
    let ready =
        members.iter().filter(|m| !m.voter && !m.demoted && is_stable(policy, m) && !waits(m));
    let seats = if voters % 2 == 0 { 1 } else { 2 };
    let promoted: BTreeSet<MemberId> = ready.take(seats).map(|member| member.id).collect();
    let fits = promoted.len() == seats && voters + seats <= policy.voters_max;
    fits.then_some(Step::Promote(promoted))
}

fn replace_dead(policy: &Policy, members: &[Seen]) -> Option<Step> {
    let after = policy.replace_dead_after;
    let dead = |member: &&Seen| member.voter && !after.is_zero() && member.silent_for >= after;
    let gone = members.iter().find(dead)?;
    let newcomer = members
        .iter()
        .find(|member| !member.voter && !member.demoted && is_stable(policy, member))?;
    Some(Step::Replace { gone: gone.id, newcomer: newcomer.id })
}

fn forget(policy: &Policy, members: &[Seen]) -> Option<Step> {
    let gone = |member: &&Seen| !member.voter && member.silent_for >= policy.forget_learner_after;
    members.iter().find(gone).map(|member| Step::Forget(member.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<MemberId> {
        ids.iter().copied().map(MemberId).collect()
    }

    fn voter(id: u64, silent_s: u64) -> Seen {
        let silent_for = Duration::from_secs(silent_s);
        let healthy_for = (silent_s == 0).then_some(Duration::from_secs(100));
        Seen {
            id: MemberId(id),
            address: format!("m{id}:1"),
            voter: true,
            demoted: false,
            silent_for,
            healthy_for,
            answers: silent_s == 0,
        }
    }

    fn learner(id: u64, healthy_s: u64) -> Seen {
        let healthy_for = Some(Duration::from_secs(healthy_s));
        Seen { voter: false, healthy_for, ..voter(id, 0) }
    }

    fn at(address: &str, member: Seen) -> Seen {
        Seen { address: address.to_owned(), ..member }
    }

    fn check(name: &str, policy: &Policy, members: &[Seen], expected: Option<Step>) {
        let voters = members.iter().filter(|m| m.voter).map(|m| m.id).collect();
        assert_eq!(plan(policy, &[voters], members), expected, "{name}");
    }

    #[test]
    fn autopilot_makes_the_one_change_that_is_due() {
        let policy = Policy::new(5, Duration::ZERO);
        let promote = |of: &[u64]| Some(Step::Promote(ids(of)));
        let three = [voter(1, 0), voter(2, 0), voter(3, 0)];
        let cases: Vec<(&str, Vec<Seen>, Option<Step>)> = vec![
            ("nothing to do", three.to_vec(), None),
            ("one learner would make two voters", vec![voter(1, 0), learner(2, 60)], None),
            (
                "two learners go in one change",
                vec![voter(1, 0), learner(2, 10), learner(3, 10)],
                promote(&[2, 3]),
            ),
            (
                "one that was demoted by hand follows on",
                vec![voter(1, 0), voter(2, 0), Seen { demoted: true, ..learner(3, 60) }],
                None,
            ),
            ("a learner must be stable", vec![voter(1, 0), learner(2, 10), learner(3, 9)], None),
            (
                "an even number is made odd by one",
                vec![voter(1, 0), voter(2, 0), learner(3, 10)],
                promote(&[3]),
            ),
            (
                "seats are limited",
                [three.to_vec(), vec![voter(4, 0), voter(5, 0), learner(6, 60), learner(7, 60)]]
                    .concat(),
                None,
            ),
            ("a silent voter keeps its seat", vec![voter(1, 0), voter(2, 0), voter(3, 9999)], None),
            (
                "a newcomer at its address takes it",
                vec![voter(1, 0), voter(2, 0), voter(3, 30), at("m3:1", learner(4, 0))],
                Some(Step::Replace { gone: MemberId(3), newcomer: MemberId(4) }),
            ),
            (
                "also if it votes already",
                vec![voter(1, 0), voter(2, 0), voter(3, 30), at("m3:1", voter(4, 0))],
                Some(Step::Replace { gone: MemberId(3), newcomer: MemberId(4) }),
            ),
            (
                "not before it is free",
                vec![voter(1, 0), voter(2, 0), voter(3, 29), at("m3:1", learner(4, 60))],
                None,
            ),
            (
                "nor another seat meanwhile",
                vec![voter(1, 0), at("m1:1", learner(4, 60)), learner(5, 60)],
                None,
            ),
            (
                "a dead learner is forgotten",
                [
                    three.to_vec(),
                    vec![Seen {
                        healthy_for: None,
                        silent_for: Duration::from_secs(600),
                        ..learner(4, 0)
                    }],
                ]
                .concat(),
                Some(Step::Forget(MemberId(4))),
            ),
        ];
        for (name, members, expected) in cases {
            check(name, &policy, &members, expected);
        }
    }

    #[test]
    fn a_dead_voter_is_replaced_only_if_asked_for_and_by_a_stable_learner() {
        let members = [voter(1, 0), voter(2, 0), voter(3, 60), learner(4, 60)];
        check("off", &Policy::new(3, Duration::ZERO), &members, None);
        let on = Policy::new(3, Duration::from_secs(60));
        let replace = Step::Replace { gone: MemberId(3), newcomer: MemberId(4) };
        check("on", &on, &members, Some(replace));
        check("too early", &Policy::new(3, Duration::from_secs(61)), &members, None);
    }

    #[test]
    fn a_joint_configuration_is_finished_before_anything_else() {
        let policy = Policy::new(5, Duration::ZERO);
        let voters = [ids(&[1, 2, 3]), ids(&[1, 2, 4])];
        let members = [voter(1, 0), voter(2, 0), voter(3, 30), at("m3:1", voter(4, 0))];
        let step = plan(&policy, &voters, &members);
        assert_eq!(step, Some(Step::FinishJoint(ids(&[1, 2, 4]))));
    }
}

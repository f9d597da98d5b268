//! Who leads, who still thinks that it does, and what becomes of what they propose.

use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::{Command, MemberId, Outcome, Rejection};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityId, Timestamp};

use super::super::evidence::{
    Reply, Report, Round, What, absent_until, agents_without, assumed_at, peers_at,
};
use super::super::planner::{Evidence, Step, plan};
use super::super::policy::PEER_MINUTE;
use super::super::slots::Slots;
use super::member::Condition;
use super::world::{MAX_STALENESS, World};

/// A proposal is decided within this time, or never.
const IN_FLIGHT_MAX_S: u64 = 30;

/// Steps of one round, as the rotator takes them.
const STEPS_MAX: usize = 8;

/// A leader whose clock is further from the median decides nothing about time, in milliseconds.
const LEADER_OFFSET_MAX_MS: i64 = 10_000;

/// One who was the leader goes on thinking so for this long.
const PRETENDS_S: u64 = 60;

/// When a leader dies, seen from one of its proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Death {
    BeforeProposing,
    InFlight,
    AfterCommit,
}

/// A proposal on its way.
pub(super) struct Flight {
    from: usize,
    due: Timestamp,
    command: Command,
}

impl World {
    fn may_lead(&self, index: usize) -> bool {
        let member = &self.members[index];
        let offset = self.median_ms().map(|median| (member.skew_ms - median).abs());
        let right = offset.is_some_and(|offset| offset <= LEADER_OFFSET_MAX_MS);
        right && member.condition == Condition::Well
    }

    /// Somebody else leads from some time on; who led may not have noticed.
    pub(super) fn depose(&mut self) {
        if let Some(old) = self.leader.take() {
            self.pretenders.push((old, self.now.plus(Duration::from_secs(PRETENDS_S))));
        }
        let quick = !self.chance(10);
        self.elects_at = if quick { self.in_s(1, 20) } else { self.in_s(60, 240) };
    }

    /// What the leader does in one round, what others do who take themselves for it, and what
    /// arrives.
    pub(super) fn lead(&mut self) {
        if self.leader.is_some_and(|leader| !self.may_lead(leader)) {
            self.depose();
        }
        if self.leader.is_none() && self.now >= self.elects_at {
            let able: Vec<usize> = (0..3).filter(|index| self.may_lead(*index)).collect();
            if !able.is_empty() {
                let drawn = self.below(able.len() as u64);
                self.leader = Some(able[usize::try_from(drawn).unwrap()]);
                self.terms += 1;
            }
        }
        self.land();
        if let Some(leader) = self.leader {
            self.catch_up(leader);
            self.round(leader);
        }
        self.pretenders.retain(|(_, until)| *until > self.now);
        for (index, _) in self.pretenders.clone() {
            let down = matches!(self.members[index].condition, Condition::Down { .. });
            // By what it sees, without asking anyone whether it still leads.
            if Some(index) != self.leader
                && !down
                && self.chance(2)
                && let Some((_, command)) = self.next(index)
            {
                self.send(index, command);
            }
        }
    }

    /// A command is on its way: it may be decided late, or never.
    pub(super) fn send(&mut self, from: usize, command: Command) {
        let due = self.in_s(0, IN_FLIGHT_MAX_S);
        self.flights.push(Flight { from, due, command });
    }

    /// What was in flight arrives, unless its sender is not heard.
    fn land(&mut self) {
        let now = self.now;
        let (due, rest): (Vec<Flight>, Vec<Flight>) =
            self.flights.drain(..).partition(|flight| flight.due <= now);
        self.flights = rest;
        for flight in due {
            let sender = &self.members[flight.from];
            let heard =
                sender.is_in_contact() || matches!(sender.condition, Condition::Down { .. });
            if heard && self.leader.is_some() && self.commit(&flight.command, self.now).is_err() {
                self.late += 1;
            }
        }
    }

    /// Carries out what is due, as the rotator does; the leader may die at each step.
    fn round(&mut self, leader: usize) {
        for _ in 0..STEPS_MAX {
            let Some((step, command)) = self.next(leader) else { return };
            let what = match step {
                Step::Prepare(_) => "prepare",
                Step::Activate(..) => "activate",
                Step::Prune(_) => "prune",
            };
            let Some(outcome) = self.propose(leader, what, command) else { return };
            outcome.unwrap();
            self.catch_up(leader);
        }
    }

    /// What the leader is told of a command; it may die instead, before or after it is decided.
    pub(super) fn propose(
        &mut self,
        leader: usize,
        what: &'static str,
        command: Command,
    ) -> Option<Result<Outcome, Rejection>> {
        let dies = match self.below(8) {
            0 => Some(Death::BeforeProposing),
            1 => Some(Death::InFlight),
            2 => Some(Death::AfterCommit),
            _ => None,
        };
        let stamp = self.members[leader].now();
        let outcome = match dies {
            Some(Death::BeforeProposing) => None,
            Some(Death::InFlight) => {
                // It may arrive after all.
                let due = self.in_s(0, IN_FLIGHT_MAX_S);
                if self.chance(2) {
                    self.flights.push(Flight { from: leader, due, command });
                }
                None
            }
            Some(Death::AfterCommit) | None => Some(self.commit(&command, stamp)),
        };
        let Some(death) = dies else { return outcome };
        *self.deaths.entry((what, death)).or_default() += 1;
        self.leader = None;
        self.elects_at = self.in_s(1, 20);
        let until = self.in_s(5, 300);
        self.members[leader].condition = Condition::Down { until };
        None
    }

    /// What one who takes itself for the leader would propose now.
    fn next(&mut self, index: usize) -> Option<(Step, Command)> {
        let member = &self.members[index];
        let (journal, now) = (member.journal(), member.now());
        let known = |prepared: &Authority| self.report(index, prepared).judge(now);
        let step = plan(&journal, &self.common.policy, now, &known)?;
        if let Step::Activate(kind, id) = &step {
            let prepared = find(&journal, *kind, id)?;
            let first = Slots::of(&journal, *kind).current.is_none();
            if !first && self.report(index, prepared).judge(now) == Evidence::Incomplete {
                self.judge.forced(id);
            }
        }
        let expected_journal = journal.revision;
        let command = match step.clone() {
            Step::Prepare(kind) => self.prepare(kind, expected_journal, now),
            Step::Activate(kind, id) => Command::ActivateAuthority { expected_journal, kind, id },
            Step::Prune(ids) => Command::PruneAuthorities { expected_journal, ids },
        };
        Some((step, command))
    }

    pub(super) fn prepare(
        &self,
        kind: AuthorityKind,
        expected_journal: u64,
        now: Timestamp,
    ) -> Command {
        let authority = self.minter.mint(kind, self.common.cluster_id, now).unwrap();
        Command::PrepareAuthority { expected_journal, authority: Box::new(authority) }
    }

    /// What one member finds out about a prepared authority by asking all of them.
    pub(super) fn report(&self, by: usize, prepared: &Authority) -> Report {
        let me = &self.members[by];
        let replies = self.members.iter().enumerate().map(|(index, member)| {
            let hears = index == by || (me.is_in_contact() && member.is_in_contact());
            let what = if hears { member.reply(prepared) } else { What::Absent };
            Reply { member: member_id(index), votes: true, what }
        });
        let replies: Vec<Reply> = replies.collect();
        let (now, until) = (me.now(), absent_until(prepared, MAX_STALENESS));
        let round = Round { asked_by: member_id(by), spread: Duration::ZERO, until, now };
        let (members, seen) = round.join(&replies);
        let agents = agents_without(&me.views, now, &seen);
        let assumed_at = assumed_at(prepared, MAX_STALENESS);
        let known_within = self.common.policy.peers_known_within(PEER_MINUTE);
        let peers_at = known_within.map(|within| peers_at(prepared, within));
        Report { members, agents, assumed_at, peers_at }
    }
}

fn member_id(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}

fn find<'a>(journal: &'a Journal, kind: AuthorityKind, id: &AuthorityId) -> Option<&'a Authority> {
    journal.authorities.iter().find(|one| one.kind == kind && one.id == *id)
}

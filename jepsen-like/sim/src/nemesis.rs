//! Faults: which, when, whom, and for how long.
//!
//! Owns the agenda. Never breaks more than the cluster promises to survive: a disk is wiped only while
//! everyone else has everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steeple_raft_store::{MemberChange, MemberId, MemberState, MemberStatus, Role};

use crate::member::{Answer, Ask, Ended, Job, Member, Process};
use crate::options::{FaultKind, Options};
use crate::world::World;
use steeple_spiffe_core::dice::Dice;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// A process that ended by itself comes back after so long, in milliseconds.
const RESTART_MS: u64 = 300;

/// A member that may lose its disk again: so long after the last one did.
const WIPE_GAP_MS: u64 = 4_000;

/// A change of the membership has ended after so long, whatever became of it.
const CHANGE_MS_MAX: u64 = 15_000;

/// Something that happens at its time.
#[derive(Clone, Debug)]
enum Action {
    Block(Vec<(usize, usize)>),
    Unblock(Vec<(usize, usize)>),
    NoLoss(usize, usize),
    NoDelay(usize, usize),
    Release(usize),
    Leap(usize, u64),
    Start(usize),
    ClockRight(usize),
    Unstall(usize),
}

/// How a process that ended by itself comes back.
#[derive(Debug)]
enum Restart {
    /// With its disk.
    AsItWas,
    /// As a new member.
    Empty,
    /// With what a failure left on its disk; the reason, if none was expected.
    AfterFailure(Option<String>),
}

/// Installs and removes faults.
#[derive(Debug)]
pub(crate) struct Nemesis {
    dice: Dice,
    faults: Vec<FaultKind>,
    gap_ms: u64,
    next_ms: u64,
    agenda: BTreeMap<(u64, u64), Action>,
    numbered: u64,
    wiped_ms: Option<u64>,
    /// Changes of the membership that may be under way: when they were asked for, and the answer.
    changes: Vec<(u64, oneshot::Receiver<Answer>)>,
    /// Why a process stopped by itself, if no fault explains it.
    pub(crate) unexplained: Option<String>,
    /// How often each fault was installed.
    pub(crate) installed: BTreeMap<FaultKind, u64>,
    /// Of those, how often it hit the leader.
    pub(crate) hit_leader: u64,
}

impl Nemesis {
    /// The faults of a seed.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            dice: Dice::new(options.seed, 4),
            faults: options.faults.clone(),
            gap_ms: options.fault_gap_ms,
            next_ms: 1_500,
            agenda: BTreeMap::new(),
            numbered: 0,
            wiped_ms: None,
            changes: Vec::new(),
            unexplained: None,
            installed: BTreeMap::new(),
            hit_leader: 0,
        }
    }

    /// Does what is due. Returns the fault that began, if one did.
    pub(crate) fn tick(&mut self, world: &mut World) -> Option<FaultKind> {
        let now = world.time.ms();
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let action = entry.remove();
            self.act(world, action);
        }
        self.restart_ended(world, now);
        if now < self.next_ms {
            return None;
        }
        self.next_ms = now + self.dice.within(50..=self.gap_ms);
        let fault = *self.dice.pick(&self.faults)?;
        self.begin(world, fault, now).then(|| {
            *self.installed.entry(fault).or_default() += 1;
            fault
        })
    }

    /// Removes every fault and starts everyone.
    pub(crate) fn heal(&mut self, world: &mut World) {
        self.agenda.clear();
        world.mend_network();
        for at in world.existing() {
            if let Some(member) = world.member(at) {
                member.clock.set_offset_ms(0);
                member.times.mend();
            }
            let down = world.member(at).is_some_and(|member| member.process.is_none());
            if down {
                world.start(at);
            }
        }
    }

    /// Starts what has ended by itself; also after the faults are over.
    fn restart_ended(&mut self, world: &mut World, now: u64) {
        for at in world.existing() {
            let Some(ended) = world.member(at).and_then(|member| {
                let ended = member.ended.as_ref()?;
                let excused = member.times.has_failed();
                Some(match ended {
                    Ended::Removed => Restart::Empty,
                    Ended::InOrder => Restart::AsItWas,
                    Ended::Stopped(_) if excused => Restart::AfterFailure(None),
                    Ended::Stopped(text) => Restart::AfterFailure(Some(text.clone())),
                    Ended::Killed | Ended::Refused(_) => return None,
                })
            }) else {
                continue;
            };
            match ended {
                Restart::Empty => world.wipe(at),
                Restart::AsItWas => world.kill(at, |member| member.disk.clone()),
                Restart::AfterFailure(why) => {
                    // What a failed sync was to write may be there or not.
                    world.power_cut(at);
                    let why = why.map(|why| format!("m{}: {why}", at + 1));
                    self.unexplained = self.unexplained.take().or(why);
                }
            }
            self.at(now + RESTART_MS, Action::Start(at));
        }
    }

    /// Goes on with the agenda of restarts alone, after healing.
    pub(crate) fn tick_healed(&mut self, world: &mut World) {
        let now = world.time.ms();
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let action = entry.remove();
            self.act(world, action);
        }
        self.restart_ended(world, now);
    }

    fn at(&mut self, ms: u64, action: Action) {
        self.numbered += 1;
        self.agenda.insert((ms, self.numbered), action);
    }

    fn act(&mut self, world: &mut World, action: Action) {
        match action {
            Action::Block(links) => world.block(&links),
            Action::Unblock(links) => world.unblock(&links),
            Action::NoLoss(one, other) => world.lose(one, other, 0.0),
            Action::NoDelay(one, other) => world.delay(one, other, None),
            Action::Release(at) => world.release(at),
            Action::Leap(at, ms) => leap(world, at, ms),
            Action::Start(at) => world.start(at),
            Action::ClockRight(at) => {
                if let Some(member) = world.member(at) {
                    member.clock.set_offset_ms(0);
                }
            }
            Action::Unstall(at) => {
                if let Some(member) = world.member(at) {
                    member.times.stall(0);
                }
            }
        }
    }

    /// Someone; the leader more often than others.
    fn victim(&mut self, world: &World) -> Option<usize> {
        let leader = world.leader().filter(|_| self.dice.chance(0.4));
        let victim = leader.or_else(|| self.dice.pick(&world.running()).copied())?;
        if Some(victim) == world.leader() {
            self.hit_leader += 1;
        }
        Some(victim)
    }

    fn begin(&mut self, world: &mut World, fault: FaultKind, now: u64) -> bool {
        let end = now + self.dice.within(100..=4_000);
        let mut all = world.existing();
        self.dice.shuffle(&mut all);
        match fault {
            FaultKind::Halves => {
                let (some, rest) = all.split_at(all.len() / 2);
                self.cut(world, between(some, rest), end)
            }
            FaultKind::Ring => self.cut(world, ring(&all), end),
            FaultKind::OneWay => {
                let Some(victim) = self.victim(world) else { return false };
                let mut links = between(&[victim], &without(&all, victim));
                links.retain(|_| self.dice.chance(0.5));
                self.cut(world, links, end)
            }
            FaultKind::Isolate => {
                let Some(victim) = self.victim(world) else { return false };
                self.cut(world, between(&[victim], &without(&all, victim)), end)
            }
            FaultKind::Swizzle => {
                for (number, at) in all.iter().enumerate() {
                    let links = between(&[*at], &without(&all, *at));
                    let back = end + self.dice.within(0..=500);
                    self.at(now + number as u64 * 60, Action::Block(links.clone()));
                    self.at(back, Action::Unblock(links));
                }
                true
            }
            FaultKind::Loss | FaultKind::Delay => {
                let lossy = fault == FaultKind::Loss;
                self.disturb_links(world, &all, lossy, end)
            }
            FaultKind::Wipe => self.wipe(world, now),
            FaultKind::Kill => {
                self.end_one(world, now, |world, at| world.kill(at, |member| member.disk.clone()))
            }
            FaultKind::PowerCut => self.end_one(world, now, World::power_cut),
            FaultKind::Stop => self.end_one(world, now, stop),
            FaultKind::Blackout => {
                for at in world.running() {
                    world.power_cut(at);
                    let back = now + self.dice.within(10..=1_500);
                    self.at(back, Action::Start(at));
                }
                true
            }
            FaultKind::Hold
            | FaultKind::ClockJump
            | FaultKind::Stall
            | FaultKind::DiskError
            | FaultKind::Leap
            | FaultKind::Resubscribe => {
                let Some(victim) = self.victim(world) else { return false };
                self.disturb_one(world, fault, victim, end);
                true
            }
            FaultKind::Freeze => self.freeze(world, now),
            FaultKind::ChangeMembers => self.change_members(world),
            FaultKind::Transfer => transfer(world),
            FaultKind::Join => {
                let spare = (0..world.members.len()).find(|at| !all.contains(at));
                if let Some(spare) = spare {
                    world.start(spare);
                }
                spare.is_some()
            }
        }
    }

    /// Disturbs a member that goes on running.
    fn disturb_one(&mut self, world: &mut World, fault: FaultKind, victim: usize, end: u64) {
        let jump_ms = i64::try_from(self.dice.within(0..=7_200_000)).unwrap_or(0) - 3_600_000;
        let stall_ms = self.dice.within(20..=2_500);
        let leap_ms = self.dice.within(100..=5_000);
        if fault == FaultKind::Hold {
            world.hold(victim);
            self.at(end, Action::Release(victim));
        } else if fault == FaultKind::ClockJump {
            with(world, victim, |member, _| member.clock.set_offset_ms(jump_ms));
            self.at(end, Action::ClockRight(victim));
        } else if fault == FaultKind::Stall {
            with(world, victim, |member, _| member.times.stall(stall_ms));
            self.at(end, Action::Unstall(victim));
        } else if fault == FaultKind::DiskError {
            with(world, victim, |member, _| member.times.break_once());
        } else if fault == FaultKind::Leap {
            leap(world, victim, leap_ms);
        } else {
            with(world, victim, |_, process| {
                process.resubscribe.try_send(()).ok();
            });
        }
    }

    fn cut(&mut self, world: &mut World, links: Vec<(usize, usize)>, end: u64) -> bool {
        world.block(&links);
        self.at(end, Action::Unblock(links));
        true
    }

    fn disturb_links(&mut self, world: &mut World, all: &[usize], lossy: bool, end: u64) -> bool {
        for (one, other) in pairs(all) {
            if !self.dice.chance(0.5) {
                continue;
            }
            if lossy {
                world.lose(one, other, 0.002);
                self.at(end, Action::NoLoss(one, other));
            } else {
                world.delay(one, other, Some(self.dice.within(50..=400)));
                self.at(end, Action::NoDelay(one, other));
            }
        }
        true
    }

    fn end_one(
        &mut self,
        world: &mut World,
        now: u64,
        end: impl FnOnce(&mut World, usize),
    ) -> bool {
        let Some(victim) = self.victim(world) else { return false };
        end(world, victim);
        let back = now + self.dice.within(10..=3_000);
        self.at(back, Action::Start(victim));
        true
    }

    /// One member stands still: all others' timers, and every clock, go on without it. It comes to
    /// itself a little later, and finds that its timers are overdue.
    ///
    /// The simulator gives each member its share of every tick, so nobody can really be held: instead
    /// the time of all others passes in one leap.
    fn freeze(&mut self, world: &mut World, now: u64) -> bool {
        let Some(victim) = self.victim(world) else { return false };
        let (ms, awake_in) = (self.dice.within(100..=3_000), self.dice.within(0..=300));
        world.time.set(now + ms);
        for other in without(&world.running(), victim) {
            leap(world, other, ms);
        }
        self.at(now + ms + awake_in, Action::Leap(victim, ms));
        true
    }

    /// What an operator does who is careful, but not patient: nothing is forced, nobody is removed
    /// while another is missing. The registry refuses what is not safe.
    fn change_members(&mut self, world: &World) -> bool {
        let Some(seen) = world.leader().and_then(|at| world.status(at)) else { return false };
        let of = |role: Role| -> Vec<MemberId> {
            let members = seen.members.iter().filter(|member| member.role == role);
            members.map(|member| member.id).collect()
        };
        let (voters, learners) = (of(Role::Voter), of(Role::Learner));
        let change = match self.dice.within(0..=9) {
            0..=4 if !learners.is_empty() => {
                self.dice.pick(&learners).copied().map(MemberChange::Promote)
            }
            5..=7 if is_whole(world) => self
                .dice
                .pick(&voters)
                .map(|member| MemberChange::Remove { member: *member, force: false }),
            _ if voters.len() > 2 && is_whole(world) => {
                self.dice.pick(&voters).copied().map(MemberChange::Demote)
            }
            _ => None,
        };
        let Some((change, at)) = change.zip(self.dice.pick(&world.running()).copied()) else {
            return false;
        };
        let answer = tell(world, at, Ask::ChangeMembers(change));
        self.changes.extend(answer.map(|answer| (world.time.ms(), answer)));
        true
    }

    fn wipe(&mut self, world: &mut World, now: u64) -> bool {
        let recent = self.wiped_ms.is_some_and(|at| now < at + WIPE_GAP_MS);
        // A change that is under way may need a majority of fewer. One whose answer is lost goes on.
        self.changes.retain_mut(|(asked, answer)| match answer.try_recv() {
            Ok(_) => false,
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Closed) => now < *asked + CHANGE_MS_MAX,
        });
        if recent || !is_whole(world) || !self.changes.is_empty() {
            return false;
        }
        self.wiped_ms = Some(now);
        self.end_one(world, now, World::wipe)
    }
}

/// Has the leader hand over.
fn transfer(world: &World) -> bool {
    let Some(leader) = world.leader() else { return false };
    tell(world, leader, Ask::Transfer).is_some()
}

/// Asks a member for something, whatever it answers; `None` if it does not listen.
fn tell(world: &World, at: usize, ask: Ask) -> Option<oneshot::Receiver<Answer>> {
    let member = world.member(at)?;
    let process = member.process.as_ref()?;
    let (reply, answer) = oneshot::channel();
    let timeout = Duration::from_secs(1);
    process.inbox.try_send(Job { ask, timeout, reply }).ok().map(|()| answer)
}

/// A member's timers leap.
fn leap(world: &World, at: usize, ms: u64) {
    with(world, at, |_, process| {
        process.leap.try_send(ms).ok();
    });
}

fn stop(world: &mut World, at: usize) {
    with(world, at, |_, process| process.shutdown.cancel());
}

/// Does something with a member's process, if it runs.
fn with(world: &World, at: usize, what: impl FnOnce(&Member, &Process)) {
    if let Some(member) = world.member(at)
        && let Some(process) = &member.process
    {
        what(&member, process);
    }
}

/// Whether everyone is there and has everything: all voters run, reach each other and are up to date, and
/// agree about who they are.
pub(crate) fn is_whole(world: &World) -> bool {
    let Some(leader) = world.leader().and_then(|at| world.status(at)) else { return false };
    let statuses: Vec<_> = world.running().into_iter().filter_map(|at| world.status(at)).collect();
    let here: BTreeSet<_> = statuses.iter().map(|status| status.member_id).collect();
    let expected: BTreeSet<_> = leader.members.iter().map(|member| member.id).collect();
    let voters = |status: &MemberStatus| {
        let voters = status.members.iter().filter(|member| member.role == Role::Voter);
        voters.map(|member| member.id).collect::<BTreeSet<_>>()
    };
    let votes = voters(&leader);
    votes.len() >= 3
        && here == expected
        && statuses.len() == world.existing().len()
        && statuses.iter().all(|status| {
            status.state == MemberState::Member
                && status.applied_index + 5 >= leader.commit_index
                && status.leader == leader.leader
                && status.voters_next.is_none()
                && voters(status) == votes
        })
}

fn pairs(all: &[usize]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for one in all {
        pairs.extend(all.iter().filter(|other| *other > one).map(|other| (*one, *other)));
    }
    pairs
}

/// All links between two groups, both ways.
fn between(some: &[usize], rest: &[usize]) -> Vec<(usize, usize)> {
    let both = |one: usize, other: usize| [(one, other), (other, one)];
    some.iter().flat_map(|one| rest.iter().flat_map(move |other| both(*one, *other))).collect()
}

fn without(all: &[usize], one: usize) -> Vec<usize> {
    all.iter().copied().filter(|at| *at != one).collect()
}

/// Each sees its neighbours on a ring, a majority with itself, and no two see the same.
fn ring(all: &[usize]) -> Vec<(usize, usize)> {
    let count = all.len();
    let reach = (count / 2).div_ceil(2);
    let mut cut = Vec::new();
    for (at, one) in all.iter().enumerate() {
        for (to, other) in all.iter().enumerate() {
            let apart = at.abs_diff(to).min(count - at.abs_diff(to));
            if apart > reach {
                cut.push((*one, *other));
            }
        }
    }
    cut
}

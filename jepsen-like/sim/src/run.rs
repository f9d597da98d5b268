//! One run: faults and calls for a number of ticks, then healing, convergence, final calls, verdict.

use std::cell::Ref;
use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use anyhow::Result;
use steeple_raft_store::testing::{seed_consensus, state_digest};
use steeple_raft_store::{Change, MemberId, MemberState, Role};
use steeple_spiffe_core::random::SeededRandom;
use steeple_spiffe_core::time::{Clock, Timestamp};

use crate::client::{Call, Client, End};
use crate::echoes::Echoes;
use crate::history::Recorder;
use crate::member::{Answer, Ended, FeedItem, Member};
use crate::nemesis::Nemesis;
use crate::options::Options;
use crate::promises::Promises;
use crate::reference::{Reference, Violation};
use crate::report::{Report, Tally, Verdict};
use crate::rows::Key;
use crate::trace::Trace;
use crate::view::Read;
use crate::workload::{Operation, Workload};
use crate::world::World;
use steeple_spiffe_core::dice::Dice;

/// A member knows the others' clocks to half a round trip, some time after.
const MEDIAN_ERROR: Duration = Duration::from_secs(1);

/// A leader this far from the median stamps the median instead of its own time.
const CLOCKS_FAR: Duration = Duration::from_secs(10);

/// A comparison of clocks counts so long, and takes a while.
const MEDIAN_FRESH_MS: u64 = 15_000;

/// After all faults have stopped everything must be well within this time.
const HEAL_MS: u64 = 10_000;

/// A final call must be answered within this time.
const FINAL_MS: u64 = 5_000;

/// Ticks between looks at what members say of themselves.
const STATUS_TICKS: u64 = 20;

/// Ticks between readings of all rows of all members. Sums over them are compared all the time.
const DIGEST_TICKS: u64 = 5_000;

/// Runs a seed.
pub(crate) fn run(seed: u64, ticks: u64, [trace, history]: [Option<File>; 2]) -> Report {
    seed_consensus(seed);
    let options = Options::of_seed(seed);
    let mut report = Report::new(&options, ticks);
    let mut run = match Run::new(options, trace) {
        Ok(run) => Run { history, ..run },
        Err(error) => {
            report.verdict = Verdict::Harness(format!("{error:#}"));
            return report;
        }
    };
    report.verdict = match run.whole(ticks) {
        Ok(()) => Verdict::Pass,
        Err(Stop::Violation(violation)) => Verdict::Violation(violation),
        Err(Stop::Harness(error)) => Verdict::Harness(format!("{error:#}")),
    };
    run.tell(&mut report);
    report
}

/// Why a run ended early.
enum Stop {
    Violation(Violation),
    Harness(anyhow::Error),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Harness(error)
    }
}

/// What a member said last, to see that it does not go back.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    incarnation: u64,
    applied: u64,
    committed: u64,
}

/// A read whose revision nobody has shown yet.
struct PendingRead {
    member: String,
    revision: u64,
    what: Read,
    rows: Vec<Change>,
}

struct Run {
    options: Options,
    world: World,
    nemesis: Nemesis,
    workload: Workload,
    clients: Vec<Client>,
    random: SeededRandom,
    dice: Dice,
    reference: Reference,
    promises: Promises,
    pending_reads: Vec<PendingRead>,
    cursors: Vec<Option<u64>>,
    said: Vec<Said>,
    leaders: BTreeSet<(u64, MemberId)>,
    /// When the clocks of running members were last far from each other.
    clocks_far_at_ms: Option<u64>,
    memberships: BTreeSet<Vec<(MemberId, bool)>>,
    echoes: Echoes,
    ticks: u64,
    trace: Trace,
    recorder: Recorder,
    history: Option<File>,
    tally: Tally,
    calls: u64,
}

impl Run {
    fn new(options: Options, trace: Option<File>) -> Result<Self> {
        let dice = Dice::new(options.seed, 5);
        let members = usize::from(options.members());
        Ok(Self {
            world: World::new(&options)?,
            nemesis: Nemesis::new(&options),
            workload: Workload::new(options.seed)?,
            clients: (1..=options.clients)
                .map(|id| Client { id, next_ms: 500 + id * 3, seen: 0, call: None })
                .collect(),
            random: dice.fork(),
            dice,
            reference: Reference::default(),
            promises: Promises::default(),
            pending_reads: Vec::new(),
            cursors: vec![None; members],
            said: vec![Said::default(); members],
            leaders: BTreeSet::new(),
            clocks_far_at_ms: None,
            memberships: BTreeSet::new(),
            echoes: Echoes::new(options.seed, options.duplicates),
            ticks: 0,
            trace: Trace::new(trace),
            recorder: Recorder::new(&options),
            history: None,
            tally: Tally::default(),
            calls: 0,
            options,
        })
    }

    fn whole(&mut self, ticks: u64) -> Result<(), Stop> {
        for _ in 0..ticks {
            self.tick()?;
            if let Some(fault) = self.nemesis.tick(&mut self.world) {
                self.trace.add(self.world.time.ms(), "fault", &fault);
                self.recorder.fault(self.world.time.ms(), format!("{fault:?}"));
            }
            // The checker's models begin with a cluster.
            self.call_all(self.reference.row(&Key::Cluster).is_some())?;
        }
        self.trace.add(self.world.time.ms(), "heal", &());
        self.nemesis.heal(&mut self.world);
        self.converge()?;
        loop {
            self.recorder.mark(self.world.time.ms(), "final_phase");
            let whole = self.final_calls()?;
            self.converge()?;
            if whole {
                break;
            }
        }
        self.look_at_states()?;
        self.settle_reads()?;
        self.promises.end(&self.reference)?;
        if let Some(file) = self.history.take() {
            self.recorder.write(file)?;
        }
        let checked = self.recorder.check();
        self.tally.examined = checked.examined;
        self.tally.undecided = checked.undecided.len() as u64;
        self.tally.unchecked = u64::from(checked.examined == 0);
        match checked.broken {
            Some(violation) => Err(violation.into()),
            None => Ok(()),
        }
    }

    fn tick(&mut self) -> Result<(), Stop> {
        if let Some(why) = self.nemesis.unexplained.take() {
            return Err(Violation::new("stopped", why).into());
        }
        self.world.step()?;
        self.ticks += 1;
        // Leaders first: they say what time it is.
        self.look_at_leaders();
        self.look_at_feeds()?;
        if self.ticks.is_multiple_of(STATUS_TICKS) {
            self.look_at_statuses()?;
        }
        if self.ticks.is_multiple_of(DIGEST_TICKS) {
            self.look_at_states()?;
        }
        self.promises.settle(&self.reference)?;
        self.settle_reads()
    }

    fn look_at_feeds(&mut self) -> Result<(), Stop> {
        for (at, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(member) = self.world.members.get(at) else { continue };
            let (name, subscriber, items, disk) = {
                let mut member = member.borrow_mut();
                if member.feed.is_empty() {
                    continue;
                }
                let subscriber = format!("{}/{}", member.name, member.incarnation);
                let items = std::mem::take(&mut member.feed);
                (member.name.clone(), subscriber, items, member.disk.clone())
            };
            for item in items {
                if matches!(&item, FeedItem::Batch(batch) if batch.revision.as_u64() == 0) {
                    // The founding membership is entry 0 of the log: it changes nothing, and a
                    // subscription to the empty registry is at 0 too.
                    continue;
                }
                let before = self.reference.last();
                self.reference.take(&name, cursor, &item)?;
                self.recorder.feed(self.world.time.ms(), &subscriber, &item);
                match &item {
                    FeedItem::Start { revision, installed, .. } => {
                        self.tally.subscriptions += 1;
                        self.tally.installed += u64::from(*installed);
                        self.trace.add(self.world.time.ms(), &name, revision);
                    }
                    FeedItem::Batch(batch) => {
                        let revision = batch.revision.as_u64();
                        if revision > before {
                            let summary = (revision, batch.time, batch.changes.len());
                            self.trace.add(self.world.time.ms(), &name, &summary);
                        }
                    }
                }
            }
            if let Some(sum) = disk.state().map_err(anyhow::Error::from)? {
                self.tally.sums += 1;
                self.reference.sum(&name, sum)?;
            }
        }
        Ok(())
    }

    /// Consensus orders leaders by term and member id: there may be two in a term, and one whose votes
    /// were under way may learn of its election after a greater one's. So what is seen here breaks no
    /// promise by itself; in which order leaders have written the log is `Reference::sum`'s.
    fn look_at_leaders(&mut self) {
        let running = self.world.running().into_iter();
        let mut clocks: Vec<Timestamp> =
            running.filter_map(|at| Some(self.world.member(at)?.clock.now())).collect();
        clocks.sort_unstable();
        // A leader whose own clock is far from the median of those it has heard stamps that median, for
        // as long as it takes it for fresh. Of which members that is, only it knows.
        if let (Some(first), Some(last)) = (clocks.first(), clocks.last()) {
            if last.since(*first) > CLOCKS_FAR {
                self.clocks_far_at_ms = Some(self.world.time.ms());
            }
            let far_at = self.clocks_far_at_ms;
            if far_at.is_some_and(|at| self.world.time.ms() - at < MEDIAN_FRESH_MS) {
                self.reference.leader_says(last.plus(MEDIAN_ERROR));
            }
        }
        for at in self.world.running() {
            let Some(known) = self.world.leadership(at).filter(|known| known.is_self) else {
                continue;
            };
            if let Some(member) = self.world.member(at) {
                self.reference.leader_says(member.clock.now());
            }
            let (Some(leader), term) = (known.leader, known.term) else { continue };
            if self.leaders.insert((term, leader)) {
                self.trace.add(self.world.time.ms(), "leader", &(term, at + 1));
                self.recorder.mark(self.world.time.ms(), "election");
            }
        }
    }

    fn look_at_statuses(&mut self) -> Result<(), Stop> {
        for at in 0..self.world.members.len() {
            let Some(said) = self.said.get_mut(at) else { continue };
            if let Some(Ended::Refused(text)) =
                self.world.member(at).as_ref().and_then(|member| member.ended.as_ref())
            {
                let text = format!("m{} refuses its own disk: {text}", at + 1);
                return Err(Violation::new("restart", text).into());
            }
            let Some(status) = self.world.status(at) else {
                continue;
            };
            let incarnation = self.world.member(at).map_or(0, |member| member.incarnation);
            if said.incarnation != incarnation {
                *said = Said::default();
            }
            if status.applied_index < said.applied || status.commit_index < said.committed {
                let text = format!("m{} went back from {said:?}: {status:?}", at + 1);
                return Err(Violation::new("monotonic", text).into());
            }
            let (applied, committed) = (status.applied_index, status.commit_index);
            *said = Said { incarnation, applied, committed };
            if status.leader == Some(status.member_id) {
                let roles = status.members.iter().map(|one| (one.id, one.role == Role::Voter));
                self.memberships.insert(roles.collect());
            }
        }
        Ok(())
    }

    fn look_at_states(&mut self) -> Result<(), Stop> {
        for at in self.world.running() {
            let Some(handle) = self.world.member(at).and_then(|member| {
                member.process.as_ref().map(|process| (member.name.clone(), process.handle.clone()))
            }) else {
                continue;
            };
            let (name, handle) = handle;
            let (index, digest) = state_digest(&handle).map_err(anyhow::Error::from)?;
            self.recorder.state(self.world.time.ms(), &name, index, digest);
            self.reference.digest(&name, index, digest)?;
        }
        Ok(())
    }

    fn settle_reads(&mut self) -> Result<(), Stop> {
        let known = self.reference.last();
        for read in self.pending_reads.extract_if(.., |read| read.revision <= known) {
            self.reference.compare_read(&read.member, read.revision, &read.what, &read.rows)?;
        }
        Ok(())
    }

    fn call_all(&mut self, begin: bool) -> Result<(), Stop> {
        let now = self.world.time.ms();
        for at in 0..self.clients.len() {
            let Some(client) = self.clients.get_mut(at) else { continue };
            if client.call.is_none() {
                if !begin || now < client.next_ms {
                    continue;
                }
                self.calls += 1;
                let operation = self.workload.next(&self.reference)?;
                let known = (self.promises.floor(), client.seen);
                let mut call = Call::new(self.calls, operation, known, &self.random);
                self.recorder.invoke(now, client.id, &call);
                self.echoes.beside(&mut call, now);
                client.call = Some(call);
            }
            let Some(call) = client.call.as_mut() else { continue };
            if call.attempt.is_none() {
                if now >= call.retry_ms {
                    ask(&self.world, call, &self.dice, self.options.reply_loss);
                }
                continue;
            }
            let Some(end) = call.poll(now, &self.dice) else { continue };
            if let Some(mut call) = client.call.take() {
                client.next_ms = now + self.dice.within(0..=self.options.think_ms);
                if matches!(end, End::Answered(..)) {
                    self.echoes.after(&mut call, now);
                }
                self.finish(at, &call, end)?;
            }
        }
        self.call_again(now)
    }

    /// Requests that arrive twice are told what the first was told.
    fn call_again(&mut self, now: u64) -> Result<(), Stop> {
        for call in &mut self.echoes.under_way {
            if call.attempt.is_none() && now >= call.retry_ms {
                ask(&self.world, call, &self.dice, 0.0);
            }
        }
        for (call, end) in self.echoes.ended(now) {
            if let End::Answered(_, Answer::Applied(applied)) = end {
                self.tally.duplicates += 1;
                self.trace.add(now, "again", &(call.number, &applied));
                self.promises.decision(call.request, &call.operation, call.floor, &applied)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, client: usize, call: &Call, end: End) -> Result<(), Stop> {
        let name = call.operation.name();
        self.tally.count(name, &end);
        self.recorder.complete(self.world.time.ms(), call, &end);
        let now = self.world.time.ms();
        let seen = match end {
            End::Answered(_, Answer::Applied(applied)) => {
                self.trace.add(now, name, &(call.number, &applied));
                let (request, floor) = (call.request, call.floor);
                self.promises.decision(request, &call.operation, floor, &applied)?;
                applied.revision.as_u64()
            }
            End::Answered(member, Answer::Rows { confirmed, revision, rows }) => {
                self.trace.add(now, name, &(call.number, confirmed, revision, rows.len()));
                let member = format!("m{}", member + 1);
                self.promises.read(&member, call.floor, (confirmed, revision))?;
                if let Operation::Read(what) = &call.operation {
                    let what = what.clone();
                    self.pending_reads.push(PendingRead { member, revision, what, rows });
                }
                revision
            }
            other @ (End::Answered(..) | End::Failed(_) | End::Unknown(_)) => {
                self.trace.add(now, name, &(call.number, other));
                0
            }
        };
        if let Some(client) = self.clients.get_mut(client) {
            client.seen = client.seen.max(seen);
        }
        Ok(())
    }

    fn converge(&mut self) -> Result<(), Stop> {
        let begun = self.world.time.ms();
        loop {
            self.tick()?;
            self.nemesis.tick_healed(&mut self.world);
            self.call_all(false)?;
            let now = self.world.time.ms();
            let quiet = self.clients.iter().all(|client| client.call.is_none())
                && self.echoes.under_way.is_empty();
            if self.ticks.is_multiple_of(STATUS_TICKS) && quiet && self.disagreement().is_none() {
                self.tally.healed_ms = self.tally.healed_ms.max(now - begun);
                return Ok(());
            }
            if now > begun + HEAL_MS {
                let why = self.disagreement().unwrap_or_else(|| "calls do not end".to_owned());
                return Err(Violation::new("heal", why).into());
            }
        }
    }

    /// Why the cluster is not one yet.
    fn disagreement(&self) -> Option<String> {
        let mut statuses = Vec::new();
        for at in self.world.existing() {
            match self.world.status(at) {
                Some(status) => statuses.push((at + 1, status)),
                None => {
                    let ended = self.world.member(at).map(|m| format!("{:?}", m.ended));
                    return Some(format!("m{} does not run: {ended:?}", at + 1));
                }
            }
        }
        let mut ids: Vec<_> = statuses.iter().map(|(_, status)| status.member_id).collect();
        ids.sort();
        let (_, first) = statuses.first()?;
        let roles = |status: &steeple_raft_store::MemberStatus| -> Vec<_> {
            status.members.iter().map(|member| (member.id, member.role)).collect()
        };
        for (number, status) in &statuses {
            let counted: Vec<_> = status.members.iter().map(|member| member.id).collect();
            let well = status.state == MemberState::Member
                && status.leader.is_some()
                && status.leader == first.leader
                && counted == ids
                && roles(status) == roles(first)
                && status.applied_index == first.applied_index;
            if !well {
                return Some(format!("m{number} says {status:?}; here are {ids:?}"));
            }
        }
        None
    }

    /// A write and a read through every member. False if one of them was removed meanwhile, by a change
    /// that an operator asked for before the faults ended.
    fn final_calls(&mut self) -> Result<bool, Stop> {
        for at in self.world.existing() {
            for read in [false, true] {
                self.calls += 1;
                let operation = if read {
                    Operation::Read(Read::Everything)
                } else {
                    self.workload.fresh(&self.reference)
                };
                let known = (self.promises.floor(), self.promises.floor());
                let mut call = Call::new(self.calls, operation, known, &self.random);
                // Clients of their own: those of the main phase may be in a call.
                self.recorder.invoke(self.world.time.ms(), 1_000 + at as u64, &call);
                let began = self.world.time.ms();
                let end = loop {
                    if call.attempt.is_none() && self.world.time.ms() >= call.retry_ms {
                        ask_at(&self.world, &mut call, at, &self.dice, 0.0);
                    }
                    self.tick()?;
                    if let Some(end) = call.poll(self.world.time.ms(), &self.dice) {
                        break end;
                    }
                    if self.world.time.ms() > began + FINAL_MS {
                        break End::Failed("no answer".to_owned());
                    }
                };
                let removed = |m: Ref<'_, Member>| matches!(m.ended, Some(Ended::Removed));
                if self.world.member(at).is_some_and(removed) {
                    self.finish(usize::MAX, &call, end)?;
                    return Ok(false);
                }
                if !matches!(end, End::Answered(..)) {
                    let text = format!("final call through m{}: {end:?}", at + 1);
                    return Err(Violation::new("final", text).into());
                }
                self.finish(usize::MAX, &call, end)?;
            }
        }
        Ok(true)
    }

    fn tell(&self, report: &mut Report) {
        report.trace = self.trace.hash();
        report.trace_lines = self.trace.lines();
        report.simulated_ms = self.world.time.ms();
        report.tally = self.tally.clone();
        report.tally.elections = self.leaders.len() as u64;
        report.tally.memberships = self.memberships.len().saturating_sub(1) as u64;
        report.tally.batches = self.reference.batches();
        report.tally.decided = self.promises.decided();
        report.tally.hit_leader = self.nemesis.hit_leader;
        for (fault, count) in &self.nemesis.installed {
            report.tally.faults.insert(format!("{fault:?}"), *count);
        }
    }
}

/// Asks someone who runs; the leader for duties, usually.
fn ask(world: &World, call: &mut Call, dice: &Dice, loss: f64) {
    let is_duty = matches!(call.operation, Operation::Duty(_));
    let leader = world.leader().filter(|_| is_duty && dice.chance(0.8));
    if let Some(at) = leader.or_else(|| dice.pick(&world.running()).copied()) {
        // A duty is the leader's own: no network lies between it and its answer.
        ask_at(world, call, at, dice, if is_duty { 0.0 } else { loss });
    }
}

fn ask_at(world: &World, call: &mut Call, at: usize, dice: &Dice, loss: f64) {
    let job = call.ask(at, world.time.ms(), dice, loss);
    if let Some(process) = world.member(at).as_ref().and_then(|member| member.process.as_ref()) {
        // A full inbox drops the job, and with it the reply: the client takes it for lost.
        process.inbox.try_send(job).ok();
    }
}

//! The cluster: its log, its replicas, who leads it, and who still thinks that it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::{AdmitAgent, InitCluster};
use steeple_raft_store::testing::{Committed, Replica};
use steeple_raft_store::{
    ChangeBatch, ClusterId, ClusterKeys, Command, FEATURE_LEVEL_MAX, MemberId, Outcome, Rejection,
};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::random::{Random, SeededRandom};
use steeple_spiffe_core::{
    AuthorityId, AuthorityStatus, KeyType, LocalSigner, SelectorSet, Serial, SpiffeId, Timestamp,
    TrustDomain,
};

use super::super::evidence::{
    Reply, Report, Round, What, absent_until, agents_without, assumed_at,
};
use super::super::mint::Minter;
use super::super::planner::{Evidence, PUBLISHED_MAX, Step, plan};
use super::super::policy::AuthorityPolicy;
use super::super::slots::Slots;
use super::judge::Judge;
use super::member::{Common, Condition, Member};
use super::observers::Observer;
use super::operator::Operator;

pub(super) const MAX_STALENESS: Duration = Duration::from_secs(600);

/// A proposal is decided within this time, or never.
const IN_FLIGHT_MAX_S: u64 = 30;

/// Steps of one round, as the rotator takes them.
const STEPS_MAX: usize = 8;

/// A leader whose clock is further from the median decides nothing about time, in milliseconds.
const LEADER_OFFSET_MAX_MS: i64 = 10_000;

/// A clock that is right is off by less, in milliseconds.
const RIGHT_MS: u64 = 9_000;

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
struct Flight {
    from: usize,
    due: Timestamp,
    command: Command,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) random: SeededRandom,
    pub(super) common: Common,
    pub(super) members: Vec<Member>,
    pub(super) leader: Option<usize>,
    pub(super) elects_at: Timestamp,
    pub(super) observers: Vec<Observer>,
    pub(super) judge: Judge,
    pub(super) deaths: BTreeMap<(&'static str, Death), u32>,
    pub(super) late: u32,
    pub(super) restores: u32,
    /// The key of every workload.
    pub(super) workload: LocalSigner,
    minter: Minter,
    /// What the whole log leads to.
    truth: Replica,
    epoch: u32,
    cluster_time: Timestamp,
    /// Commands behind `base`, each with what it changed.
    log: Vec<(Committed, ChangeBatch)>,
    base: u64,
    pretenders: Vec<(usize, Timestamp)>,
    flights: Vec<Flight>,
}

impl World {
    pub(super) fn new(seed: u64, ca_ttl: Duration) -> Self {
        let random = SeededRandom::new(seed);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let policy = Arc::new(AuthorityPolicy { ca_ttl, ..AuthorityPolicy::default() });
        let drawn: Arc<dyn Random> = Arc::new(SeededRandom::new(seed + 1));
        let common = Common {
            keys: Arc::new(ClusterKeys::generate(drawn.as_ref()).unwrap().0),
            trust_domain: trust_domain.clone(),
            policy: Arc::clone(&policy),
            random: Arc::clone(&drawn),
            cluster_id: ClusterId(7),
        };
        let minter = Minter {
            trust_domain,
            policy,
            keys: Arc::clone(&common.keys),
            random: drawn,
            upstream: None,
        };
        let now = Timestamp::from_unix_s(1_800_000_000);
        let mut world = Self {
            now,
            random,
            common,
            members: Vec::new(),
            leader: None,
            elects_at: now,
            observers: Vec::new(),
            judge: Judge::default(),
            deaths: BTreeMap::new(),
            late: 0,
            restores: 0,
            workload: LocalSigner::generate(KeyType::EcP256).unwrap().0,
            minter,
            truth: Replica::default(),
            epoch: 0,
            cluster_time: now,
            log: Vec::new(),
            base: 0,
            pretenders: Vec::new(),
            flights: Vec::new(),
        };
        world.form();
        world
    }

    fn form(&mut self) {
        let trust_domain = self.common.trust_domain.clone();
        let init = Command::InitCluster(InitCluster {
            cluster_id: self.common.cluster_id,
            name: "month".to_owned(),
            trust_domain: trust_domain.clone(),
            feature_level: FEATURE_LEVEL_MAX,
        });
        self.commit(&init, self.now).unwrap();
        self.epoch = 1;
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            let agent_id = SpiffeId::agent(trust_domain.clone(), name).unwrap();
            let admit = Command::AdmitAgent(AdmitAgent {
                token: None,
                agent_id: agent_id.clone(),
                attestation_type: "x509pop".to_owned(),
                serial: Serial::from_decimal(&(number + 1).to_string()).unwrap(),
                not_after: self.now.plus(Duration::from_secs(400 * 24 * 3600)),
                selectors: SelectorSet::new(),
                can_reattest: true,
                seen: None,
            });
            self.commit(&admit, self.now).unwrap();
            self.observers.push(Observer::new(name, Some(agent_id), self.now));
        }
        for peer in ["peer 1", "peer 2"] {
            self.observers.push(Observer::new(peer, None, self.now));
        }
        for _ in 0..3 {
            let skew_ms = self.skew();
            let replica = self.truth.installed();
            let state = (self.epoch, self.cluster_time);
            self.members.push(Member::start(&self.common, replica, state, self.now, skew_ms));
        }
    }

    /// A uniform number below a limit.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.random.u64() % limit
    }

    pub(super) fn has_wrong_clock(&self) -> bool {
        self.members.iter().any(|member| member.skew_ms.unsigned_abs() > RIGHT_MS)
    }

    pub(super) fn chance(&self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub(super) fn in_s(&self, least: u64, most: u64) -> Timestamp {
        self.now.plus(Duration::from_secs(least + self.below(most - least + 1)))
    }

    /// How wrong the clock of a member that starts is. Of two clocks that are far apart neither is
    /// right, and nobody decides about time: one is wrong at most, and only while the others are
    /// there.
    fn skew(&self) -> i64 {
        let well = self.members.iter().filter(|member| member.condition == Condition::Well);
        let alone = well.count() < 2 || self.has_wrong_clock();
        let most = if !alone && self.chance(8) { 29_000 } else { RIGHT_MS };
        let drawn = self.below(2 * most + 1);
        i64::try_from(drawn).unwrap() - i64::try_from(most).unwrap()
    }

    /// Takes a command into the log: everyone applies it when they come to it.
    pub(super) fn commit(
        &mut self,
        command: &Command,
        stamped: Timestamp,
    ) -> Result<Outcome, Rejection> {
        let committed = Committed::new(command, stamped);
        let (applied, batch) = self.truth.apply(&committed);
        self.cluster_time = applied.time;
        self.judge.committed(self.now, command, &applied.outcome, &batch.changes);
        self.log.push((committed, batch));
        applied.outcome
    }

    pub(super) fn truth(&self) -> Arc<Journal> {
        self.judge.journal()
    }

    /// Lets a member apply everything that is committed.
    pub(super) fn catch_up(&mut self, index: usize) {
        let (now, member) = (self.now, &mut self.members[index]);
        let behind = usize::try_from(member.replica.applied() - self.base).unwrap();
        for (committed, batch) in &self.log[behind..] {
            let applied = member.apply(committed);
            self.judge.same(index, &applied, batch);
        }
        member.current_at = now;
    }

    /// The middle of the clocks of those in contact, if they are a quorum.
    pub(super) fn median_ms(&self) -> Option<i64> {
        let heard = self.members.iter().filter(|member| member.is_in_contact());
        let mut skews: Vec<i64> = heard.map(|member| member.skew_ms).collect();
        skews.sort_unstable();
        match skews.as_slice() {
            [low, high] => Some(low.midpoint(*high)),
            [_, middle, _] => Some(*middle),
            _ => None,
        }
    }

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
                let due = self.in_s(0, IN_FLIGHT_MAX_S);
                self.flights.push(Flight { from: index, due, command });
            }
        }
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
            let dies = match self.below(8) {
                0 => Some(Death::BeforeProposing),
                1 => Some(Death::InFlight),
                2 => Some(Death::AfterCommit),
                _ => None,
            };
            let stamp = self.members[leader].now();
            match dies {
                Some(Death::BeforeProposing) => {}
                Some(Death::InFlight) => {
                    // It may arrive after all.
                    let due = self.in_s(0, IN_FLIGHT_MAX_S);
                    if self.chance(2) {
                        self.flights.push(Flight { from: leader, due, command });
                    }
                }
                Some(Death::AfterCommit) | None => {
                    self.commit(&command, stamp).unwrap();
                }
            }
            if let Some(death) = dies {
                *self.deaths.entry((what, death)).or_default() += 1;
                self.leader = None;
                self.elects_at = self.in_s(1, 20);
                let until = self.in_s(5, 300);
                self.members[leader].condition = Condition::Down { until };
                return;
            }
            self.catch_up(leader);
        }
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
        let (agents, without) = agents_without(&me.views, now, &seen);
        Report {
            members,
            agents,
            without,
            assumed_at: assumed_at(prepared, MAX_STALENESS),
            peers_at: None,
        }
    }

    /// A member starts again: on its own tables, or with a snapshot if it lost them.
    pub(super) fn boot(&mut self, index: usize, lost_its_volume: bool) {
        let old = std::mem::take(&mut self.members[index].replica);
        let replica = if lost_its_volume { self.truth.installed() } else { old };
        let state = (self.epoch, self.members[index].views.cluster_time());
        let skew_ms = self.skew();
        let mut member = Member::start(&self.common, replica, state, self.now, skew_ms);
        member.current_at = self.members[index].current_at;
        self.members[index] = member;
        self.catch_up(index);
    }

    /// Everything is lost but a snapshot, which is as new as can be; every member gets it in another
    /// epoch.
    pub(super) fn restore(&mut self) {
        self.truth = self.truth.restored(self.now);
        self.epoch += 1;
        self.restores += 1;
        self.base = self.truth.applied();
        self.log.clear();
        self.flights.clear();
        self.pretenders.clear();
        self.leader = None;
        self.elects_at = self.in_s(1, 20);
        self.judge.restored(&self.truth.changes());
        for index in 0..3 {
            let replica = self.truth.installed();
            let state = (self.epoch, self.cluster_time);
            let skew_ms = self.skew();
            self.members[index] = Member::start(&self.common, replica, state, self.now, skew_ms);
        }
    }

    /// What must hold at each moment.
    pub(super) fn look(&mut self) {
        let journal = self.truth();
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let of_kind = || journal.authorities.iter().filter(|one| one.kind == kind);
            let active: Vec<&Authority> =
                of_kind().filter(|one| one.status == AuthorityStatus::Active).collect();
            let published = of_kind().filter(|one| one.status.is_published()).count();
            match active.as_slice() {
                [one] if one.not_after > self.now => {}
                [one] => self.judge.wrong(format!("{kind:?} {} signs and has ended", one.id)),
                other => self.judge.wrong(format!("{} active {kind:?}", other.len())),
            }
            if published > PUBLISHED_MAX {
                self.judge.wrong(format!("{published} of {kind:?} are published"));
            }
        }
    }

    /// A month, or as long as nothing is wrong.
    pub(super) fn run(&mut self, length: Duration) {
        let end = self.now.plus(length);
        let mut operator = Operator::new(self);
        // Nobody signs before a first round has formed the cluster.
        while self.truth().authorities.len() < 2
            || self.truth().authorities.iter().any(|one| one.status == AuthorityStatus::Prepared)
        {
            self.advance();
            self.mend();
            self.lead();
        }
        while self.now < end && self.judge.is_content() {
            self.advance();
            self.weather();
            self.lead();
            operator.act(self);
            self.observe();
            self.look();
        }
    }

    fn advance(&mut self) {
        let by = Duration::from_millis(5_000 + self.below(55_000));
        self.now = self.now.plus(by);
        let median_ms = self.median_ms();
        for member in &self.members {
            member.advance(by, median_ms.filter(|_| member.is_in_contact()));
        }
    }
}

fn member_id(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}

fn find<'a>(journal: &'a Journal, kind: AuthorityKind, id: &AuthorityId) -> Option<&'a Authority> {
    journal.authorities.iter().find(|one| one.kind == kind && one.id == *id)
}

//! The cluster: its log and its replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::{AdmitAgent, InitCluster};
use steeple_raft_store::testing::{Committed, Replica};
use steeple_raft_store::{
    ChangeBatch, ClusterId, ClusterKeys, Command, FEATURE_LEVEL_MAX, Outcome, Rejection,
};
use steeple_spiffe_core::authority::Authority;
use steeple_spiffe_core::random::{Random, SeededRandom};
use steeple_spiffe_core::{
    AuthorityStatus, KeyType, LocalSigner, SelectorSet, Serial, SpiffeId, Timestamp, TrustDomain,
};

use super::super::issuer::IssuedX509;
use super::super::mint::Minter;
use super::super::planner::PUBLISHED_MAX;
use super::super::policy::AuthorityPolicy;
use super::judge::Judge;
use super::leaders::{Death, Flight};
use super::member::{Common, Condition, Member};
use super::observers::Observer;
use super::operator::Operator;

pub(super) const MAX_STALENESS: Duration = Duration::from_secs(600);

/// Between two looks.
const STEP_MIN: Duration = Duration::from_secs(5);
pub(super) const STEP_MAX: Duration = Duration::from_secs(60);

/// A clock that is right is off by less, in milliseconds.
const RIGHT_MS: u64 = 9_000;

/// What a cluster is to be.
pub(super) struct Setup {
    pub(super) trust_domain: TrustDomain,
    pub(super) policy: AuthorityPolicy,
    /// Everything is lost but a snapshot once in so many steps.
    pub(super) restored_one_in: u64,
    /// Agents hear of everything at once, and nothing keeps an operator's rotation waiting.
    pub(super) quick_agents: bool,
}

impl Setup {
    /// A cluster that federates with nobody.
    pub(super) fn alone(ca_ttl: Duration) -> Self {
        Self {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            policy: AuthorityPolicy { ca_ttl, ..AuthorityPolicy::default() },
            restored_one_in: 20_000,
            quick_agents: false,
        }
    }
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) random: SeededRandom,
    pub(super) common: Common,
    pub(super) members: Vec<Member>,
    pub(super) leader: Option<usize>,
    /// How many have led so far.
    pub(super) terms: u64,
    pub(super) elects_at: Timestamp,
    pub(super) observers: Vec<Observer>,
    pub(super) judge: Judge,
    pub(super) deaths: BTreeMap<(&'static str, Death), u32>,
    pub(super) late: u32,
    pub(super) restores: u32,
    /// The key of every workload.
    pub(super) workload: LocalSigner,
    /// The newest X509-SVID that a workload got.
    pub(super) newest: Option<IssuedX509>,
    pub(super) restored_one_in: u64,
    pub(super) quick_agents: bool,
    pub(super) minter: Minter,
    pub(super) pretenders: Vec<(usize, Timestamp)>,
    pub(super) flights: Vec<Flight>,
    /// What the whole log leads to.
    truth: Replica,
    epoch: u32,
    cluster_time: Timestamp,
    /// Commands behind `base`, each with what it changed.
    log: Vec<(Committed, ChangeBatch)>,
    base: u64,
}

impl World {
    pub(super) fn new(seed: u64, setup: Setup) -> Self {
        let random = SeededRandom::new(seed);
        let Setup { trust_domain, policy, restored_one_in, quick_agents } = setup;
        let policy = Arc::new(policy);
        let drawn: Arc<dyn Random> = Arc::new(SeededRandom::new(seed + 1));
        let common = Common {
            keys: Arc::new(ClusterKeys::generate(drawn.as_ref()).unwrap().0),
            trust_domain: trust_domain.clone(),
            policy: Arc::clone(&policy),
            random: Arc::clone(&drawn),
            cluster_id: ClusterId(7),
        };
        let judge = Judge::new(trust_domain.clone());
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
            terms: 0,
            elects_at: now,
            observers: Vec::new(),
            judge,
            deaths: BTreeMap::new(),
            late: 0,
            restores: 0,
            workload: LocalSigner::generate(KeyType::EcP256).unwrap().0,
            newest: None,
            restored_one_in,
            quick_agents,
            minter,
            pretenders: Vec::new(),
            flights: Vec::new(),
            truth: Replica::default(),
            epoch: 0,
            cluster_time: now,
            log: Vec::new(),
            base: 0,
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
        for kind in self.common.policy.kinds().iter().copied() {
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
        self.begin();
        while self.now < end && self.judge.is_content() {
            let by = self.step();
            self.live(by, &mut operator);
        }
    }

    /// Nobody signs before a first round has formed the cluster.
    pub(super) fn begin(&mut self) {
        while self.truth().authorities.len() < self.common.policy.kinds().len()
            || self.truth().authorities.iter().any(|one| one.status == AuthorityStatus::Prepared)
        {
            self.advance(self.step());
            self.mend();
            self.lead();
        }
    }

    /// Everything that happens in a while.
    pub(super) fn live(&mut self, by: Duration, operator: &mut Operator) {
        self.advance(by);
        self.weather();
        self.lead();
        operator.act(self);
        self.observe();
        self.look();
    }

    /// How long until the next look.
    pub(super) fn step(&self) -> Duration {
        STEP_MIN + Duration::from_millis(self.below(ms(STEP_MAX - STEP_MIN)))
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        let median_ms = self.median_ms();
        for member in &self.members {
            member.advance(by, median_ms.filter(|_| member.is_in_contact()));
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

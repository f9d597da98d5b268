//! Every interleaving of two rotations, checked exhaustively: three replicas of which one at a time may
//! be cut off, two agents that go to any of them, a leader, and an operator who does not wait for the
//! schedule.
//!
//! The plan, the judgement of evidence and the bounds are the real ones. What is modelled is who has
//! seen what, and when: time goes in steps of ten minutes, which is the default `max_staleness`, and an
//! authority lives for twelve of them. What must hold is C1, C2, C3 and C9 of the invariants: whatever
//! is signed verifies at every agent that heard of a replica that may serve.

use std::collections::BTreeSet;
use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use steeple_raft_store::MemberId;
use steeple_raft_store::change::Journal;
use steeple_spiffe_core::authority::{Authority, AuthorityKind, SealedKey};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus, SpiffeId, Timestamp};

use super::evidence::{Agents, MemberReport, Report, absent_until, assumed_at};
use super::forecast::Forecast;
use super::planner::{Evidence, PUBLISHED_MAX, Step, plan};
use super::policy::{AuthorityPolicy, Times};
use super::slots::Slots;

/// One step of time, and `max_staleness`.
const TICK: Duration = Duration::from_secs(600);

/// Ticks that an authority lives: its successor is prepared from tick 7 of them, and signs from 11.
const LIFE: u8 = 12;

/// Two rotations take so long by schedule; the first old authority has left by then.
const HORIZON: u8 = 20;

/// Authorities that are made, the first included.
const MADE_MAX: usize = 3;

/// A cut replica serves what it knows for so many ticks: `max_staleness`.
const SERVES_TICKS: u8 = 1;

/// An agent that heard nothing newer for more ticks is too late, by the bound that evidence goes by: 13
/// minutes of its own and `max_staleness`.
const HEARD_TICKS: u8 = 2;

/// Ticks in which nobody leads: with more of them an authority may end before its successor signs.
const LEADERLESS_MAX: u8 = 1;

/// C2 and C3.
const VERIFIES: &str = "what is signed verifies at every agent in time";

/// The schedule is never made late by rotations by hand.
const PLACE_FREE: &str = "a place is free when the next is due";

const REPLICAS: usize = 3;
const AGENTS: usize = 2;

/// One step of the journal, as committed. Authorities are numbered as they are prepared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Committed {
    Prepare { at: u8 },
    Activate(u8),
    Prune(Vec<u8>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Replica {
    /// Which bundle it has applied.
    applied: u8,
    cut: bool,
    /// Ticks since it was last in contact; beyond what lets it serve, all are one.
    silent: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Agent {
    /// Which bundle it has.
    has: u8,
    /// Ticks since that was current; beyond what counts, all are one.
    age: u8,
    /// Whether a replica in contact gave it the newest prepared authority, when none gave out less.
    seen: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    log: Vec<Committed>,
    replicas: [Replica; REPLICAS],
    agents: [Agent; AGENTS],
    leaderless: u8,
    /// An authority began to sign though some were known to lack it.
    forced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Time goes on; without a leader some of it.
    Tick,
    /// The leader does what is due.
    Lead,
    /// An operator prepares an authority before its time (`cluster rotate`).
    Prepare,
    /// An operator's rotation goes on once all know the authority.
    Activate,
    Apply(usize),
    Cut(usize),
    Heal(usize),
    /// An agent asks a replica.
    Ask(usize, usize),
}

/// The protocol. With `absent_count` off, replicas that do not answer are not waited for; with
/// `last_counts` off, an agent counts that any replica gave the authority; with `leaves_place` off, an
/// operator prepares wherever a place is free now.
struct Rotations {
    absent_count: bool,
    last_counts: bool,
    leaves_place: bool,
    policy: AuthorityPolicy,
}

fn at(tick: u8) -> Timestamp {
    Timestamp::from_unix_s(1_000_000).plus(TICK * u32::from(tick))
}

fn authority(number: u8, prepared_at: u8, kind: AuthorityKind, life: u32) -> Authority {
    Authority {
        id: AuthorityId::new(number.to_string()),
        kind,
        status: AuthorityStatus::Prepared,
        public_der: Vec::new(),
        upstream_chain: Vec::new(),
        sealed_key: SealedKey::destroyed(),
        issued_at: at(prepared_at),
        not_after: at(prepared_at).plus(TICK * life),
        tainted: false,
    }
}

/// The journal after some committed steps: at first one authority signs.
fn journal(log: &[Committed]) -> Journal {
    let x509 =
        |number, prepared_at| authority(number, prepared_at, AuthorityKind::X509, u32::from(LIFE));
    let mut jwt = authority(0, 0, AuthorityKind::Jwt, 1_000_000);
    jwt.status = AuthorityStatus::Active;
    let mut first = x509(0, 0);
    first.status = AuthorityStatus::Active;
    let mut journal = Journal { revision: 1, authorities: vec![jwt, first] };
    let mut made = 1;
    for step in log {
        journal.revision += 1;
        let x509s = |one: &&mut Authority| one.kind == AuthorityKind::X509;
        match step {
            Committed::Prepare { at } => {
                journal.authorities.push(x509(made, *at));
                made += 1;
            }
            Committed::Activate(number) => {
                for one in journal.authorities.iter_mut().filter(x509s) {
                    match one.status {
                        AuthorityStatus::Active => one.status = AuthorityStatus::Old,
                        AuthorityStatus::Prepared if number_of(one) == *number => {
                            one.status = AuthorityStatus::Active;
                        }
                        AuthorityStatus::Prepared
                        | AuthorityStatus::Old
                        | AuthorityStatus::Revoked => {}
                    }
                }
            }
            Committed::Prune(numbers) => journal.authorities.retain(|one| {
                one.kind != AuthorityKind::X509 || !numbers.contains(&number_of(one))
            }),
        }
    }
    journal
}

fn number_of(one: &Authority) -> u8 {
    one.id.as_str().parse().unwrap()
}

impl State {
    /// Bundles are numbered: a step that publishes or withdraws makes another one.
    fn newest_bundle(&self) -> u8 {
        self.log.iter().map(|step| u8::from(!matches!(step, Committed::Activate(_)))).sum()
    }

    /// The first bundle with the newest authority.
    fn newest_prepared(&self) -> u8 {
        let mut newest = 0;
        let mut bundle = 0;
        for step in &self.log {
            match step {
                Committed::Prepare { .. } => {
                    bundle += 1;
                    newest = bundle;
                }
                Committed::Prune(_) => bundle += 1,
                Committed::Activate(_) => {}
            }
        }
        newest
    }

    /// The authorities in a bundle, as bits.
    fn published(&self, bundle: u8) -> u8 {
        let mut held = 1;
        let mut made = 1;
        let changes = self.log.iter().filter(|step| !matches!(step, Committed::Activate(_)));
        for step in changes.take(usize::from(bundle)) {
            match step {
                Committed::Prepare { .. } => {
                    held |= 1 << made;
                    made += 1;
                }
                Committed::Prune(numbers) => {
                    numbers.iter().for_each(|number| held &= !(1 << number));
                }
                Committed::Activate(_) => {}
            }
        }
        held
    }

    /// Leaves out what makes no difference any more: what someone knew that is too late, who is who, and
    /// who has seen an authority that signs.
    fn normalised(mut self) -> Self {
        for replica in self.replicas.iter_mut().filter(|one| one.silent > SERVES_TICKS) {
            replica.applied = 0;
        }
        for agent in self.agents.iter_mut().filter(|one| one.age > HEARD_TICKS) {
            agent.has = 0;
        }
        if let Some(Committed::Activate(_) | Committed::Prune(_)) = self.log.last() {
            let waits = self.log.iter().fold(false, |waits, step| match step {
                Committed::Prepare { .. } => true,
                Committed::Activate(_) => false,
                Committed::Prune(_) => waits,
            });
            self.agents.iter_mut().for_each(|agent| agent.seen &= waits);
        }
        self.replicas.sort_unstable();
        self.agents.sort_unstable();
        self
    }

    fn made(&self) -> usize {
        1 + self.log.iter().filter(|step| matches!(step, Committed::Prepare { .. })).count()
    }

    fn serves(&self, replica: usize) -> bool {
        self.replicas[replica].silent <= SERVES_TICKS
    }

    /// When each authority that ever signed was to end.
    fn signers(&self) -> Vec<(u8, u8)> {
        let mut prepared = vec![0];
        let mut signers = vec![(0, LIFE)];
        for step in &self.log {
            match step {
                Committed::Prepare { at } => prepared.push(*at),
                Committed::Activate(number) => {
                    signers.push((*number, prepared[usize::from(*number)] + LIFE));
                }
                Committed::Prune(_) => {}
            }
        }
        signers
    }
}

impl Rotations {
    fn new() -> Self {
        let ca_ttl = TICK * u32::from(LIFE);
        Self {
            absent_count: true,
            last_counts: true,
            leaves_place: true,
            policy: AuthorityPolicy { ca_ttl, ..AuthorityPolicy::default() },
        }
    }

    /// Whether a replica that is cut off may give out less than the newest prepared authority.
    fn waits_for_absent(&self, state: &State) -> bool {
        let journal = journal(&state.log);
        let prepared = journal.authorities.last();
        let waits = prepared.is_some_and(|one| at(state.now) < absent_until(one, TICK));
        self.absent_count && waits && state.replicas.iter().any(|replica| replica.cut)
    }

    fn report(&self, state: &State, prepared: &Authority) -> Report {
        let needed = state.newest_prepared();
        let members = state.replicas.iter().enumerate().filter_map(|(index, replica)| {
            let is_waited_for = self.absent_count && at(state.now) < absent_until(prepared, TICK);
            let not_ready = match replica.cut {
                true if !is_waited_for => return None,
                true => Some("it does not answer".to_owned()),
                false => (replica.applied < needed).then(|| "it has not applied it".to_owned()),
            };
            Some(MemberReport { member: MemberId(index as u64 + 1), not_ready })
        });
        let members = members.collect();
        let id = SpiffeId::parse("spiffe://example.org/spire/agent/a").unwrap();
        let without = state.agents.iter().filter(|agent| !agent.seen).map(|_| id.clone()).collect();
        let assumed_at = assumed_at(prepared, TICK);
        let agents = Agents { count: AGENTS, without, unsure: Vec::new() };
        Report { members, agents, assumed_at, peers_at: None }
    }

    fn due(&self, state: &State, journal: &Journal) -> Option<Step> {
        let evidence = |prepared: &Authority| self.report(state, prepared).judge(at(state.now));
        plan(journal, &self.policy, at(state.now), &evidence)
    }

    fn commit(&self, state: &mut State, step: Step) {
        let committed = match step {
            Step::Prepare(_) => {
                state.agents.iter_mut().for_each(|agent| agent.seen = false);
                Committed::Prepare { at: state.now }
            }
            Step::Activate(_, id) => {
                let before = journal(&state.log);
                let prepared = before
                    .authorities
                    .iter()
                    .find(|one| one.kind == AuthorityKind::X509 && one.id == id);
                let judged = self.report(state, prepared.unwrap()).judge(at(state.now));
                state.forced |= judged == Evidence::Incomplete;
                Committed::Activate(id.as_str().parse().unwrap())
            }
            Step::Prune(ids) => {
                Committed::Prune(ids.iter().map(|(_, id)| id.as_str().parse().unwrap()).collect())
            }
        };
        state.log.push(committed);
    }

    /// What `cluster rotate` may activate now.
    fn by_hand(&self, state: &State, journal: &Journal) -> Option<Step> {
        let next = Slots::of(journal, AuthorityKind::X509).next;
        let next = next.filter(|next| next.status == AuthorityStatus::Prepared)?;
        let judged = self.report(state, next).judge(at(state.now));
        (judged == Evidence::Complete).then(|| Step::Activate(next.kind, next.id.clone()))
    }

    fn may_prepare(&self, state: &State, journal: &Journal) -> bool {
        let next = Slots::of(journal, AuthorityKind::X509).next;
        let waits = next.is_some_and(|next| next.status == AuthorityStatus::Prepared);
        let published = state.published(u8::MAX).count_ones() as usize;
        let forecast = Forecast::of(journal, AuthorityKind::X509, &self.policy, at(state.now));
        let allowed = forecast.is_some_and(|forecast| forecast.allows(at(state.now)));
        let allowed = allowed || !self.leaves_place;
        !waits && published < PUBLISHED_MAX && state.made() < MADE_MAX && allowed
    }

    /// Whether the schedule wants to prepare an authority and finds the bundle full.
    fn is_full_when_due(&self, state: &State) -> bool {
        let journal = journal(&state.log);
        let Slots { current, next } = Slots::of(&journal, AuthorityKind::X509);
        let waits = next.is_some_and(|next| next.status == AuthorityStatus::Prepared);
        let due_at = current.map(|one| Times::of(one, &self.policy).prepare_at);
        let is_due = due_at.is_some_and(|due_at| at(state.now) > due_at) && !waits;
        let pruned = self.due(state, &journal).is_none();
        is_due && pruned && state.published(u8::MAX).count_ones() as usize >= PUBLISHED_MAX
    }

    fn tick(state: &mut State) {
        state.now += 1;
        for replica in &mut state.replicas {
            replica.silent = match replica.cut {
                true => (replica.silent + 1).min(SERVES_TICKS + 1),
                false => 0,
            };
        }
        for agent in &mut state.agents {
            agent.age = (agent.age + 1).min(HEARD_TICKS + 1);
        }
    }
}

impl Model for Rotations {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // The first steps of a life are dull: nothing is due before the second half.
        vec![State {
            now: LIFE / 2 - 1,
            log: Vec::new(),
            replicas: Default::default(),
            agents: Default::default(),
            leaderless: 0,
            forced: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let journal = journal(&state.log);
        let due = self.due(state, &journal).is_some();
        let newest = state.newest_bundle();
        let trails = |replica: &Replica| !replica.cut && replica.applied < newest;
        // Replication takes less than a tick.
        if !state.replicas.iter().any(trails) && (!due || state.leaderless < LEADERLESS_MAX) {
            actions.push(Action::Tick);
        }
        if due {
            actions.push(Action::Lead);
        }
        if self.may_prepare(state, &journal) {
            actions.push(Action::Prepare);
        }
        if self.by_hand(state, &journal).is_some() {
            actions.push(Action::Activate);
        }
        let all_there = !state.replicas.iter().any(|replica| replica.cut);
        for (index, replica) in state.replicas.iter().enumerate() {
            match replica.cut {
                true => actions.push(Action::Heal(index)),
                false if all_there => actions.push(Action::Cut(index)),
                false => {}
            }
            if trails(replica) {
                actions.push(Action::Apply(index));
            }
            if state.serves(index) {
                actions.extend((0..AGENTS).map(|agent| Action::Ask(agent, index)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => {
                let led = self.due(last, &journal(&last.log)).is_none();
                state.leaderless += u8::from(!led);
                Self::tick(&mut state);
            }
            Action::Lead => {
                let step = self.due(last, &journal(&last.log))?;
                self.commit(&mut state, step);
            }
            Action::Prepare => self.commit(&mut state, Step::Prepare(AuthorityKind::X509)),
            Action::Activate => {
                let step = self.by_hand(last, &journal(&last.log))?;
                self.commit(&mut state, step);
            }
            Action::Apply(index) => {
                let newest = state.newest_bundle();
                let replica = &mut state.replicas[index];
                (replica.applied, replica.silent) = (newest, 0);
            }
            Action::Cut(index) => state.replicas[index].cut = true,
            Action::Heal(index) => state.replicas[index].cut = false,
            Action::Ask(agent, index) => {
                let replica = state.replicas[index];
                let newest = state.newest_prepared();
                let agent = &mut state.agents[agent];
                let trails = |one: &Replica| !one.cut && one.applied < newest;
                let is_last = !last.replicas.iter().any(trails) && !self.waits_for_absent(last);
                let knows = !replica.cut && (is_last || !self.last_counts);
                (agent.has, agent.age) = (replica.applied, replica.silent);
                agent.seen |= knows;
            }
        }
        Some(state.normalised())
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now <= HORIZON && state.made() <= MADE_MAX
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what is signed verifies at every agent in time",
                |_, state: &State| {
                    let heard = state.agents.iter().filter(|agent| agent.age <= HEARD_TICKS);
                    let live = state.signers().into_iter().filter(|(_, ends)| state.now <= *ends);
                    let live = live.fold(0, |live, (number, _)| live | 1 << number);
                    let mut held = heard.map(|agent| state.published(agent.has));
                    state.forced || held.all(|held| live & !held == 0)
                },
            ),
            Property::always("one signs, and it has not ended", |_, state: &State| {
                let journal = journal(&state.log);
                let is_active = |one: &&Authority| {
                    one.kind == AuthorityKind::X509 && one.status == AuthorityStatus::Active
                };
                let active: Vec<_> = journal.authorities.iter().filter(is_active).collect();
                matches!(active.as_slice(), [one] if one.not_after >= at(state.now))
            }),
            Property::always("three of a kind are the most", |_, state: &State| {
                state.published(u8::MAX).count_ones() as usize <= PUBLISHED_MAX
            }),
            Property::always(PLACE_FREE, |model: &Self, state: &State| {
                !model.is_full_when_due(state)
            }),
            Property::always(
                "what is known is never lacking where time was left",
                |_, state: &State| !state.forced || state.leaderless > 0,
            ),
            Property::sometimes("the second successor signs", |_, state: &State| {
                state.log.contains(&Committed::Activate(2))
            }),
            Property::sometimes("the first authority has left", |_, state: &State| {
                state.log.iter().any(|step| matches!(step, Committed::Prune(_)))
            }),
            Property::sometimes(
                "an agent has an old bundle of a replica that is cut off",
                |_, state: &State| {
                    let behind = |agent: &Agent| agent.has < state.newest_prepared() && agent.seen;
                    state.agents.iter().any(behind)
                },
            ),
        ]
    }
}

fn violated(model: Rotations) -> Vec<&'static str> {
    let checked = model.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checked.unique_state_count(), checked.max_depth());
    println!("{states} states, {depth} deep");
    let properties = checked.model().properties().into_iter();
    let wrong = properties.filter(|property| {
        let found = checked.discovery(property.name).is_some();
        match property.expectation {
            Expectation::Always => found,
            Expectation::Sometimes | Expectation::Eventually => !found,
        }
    });
    wrong.map(|property| property.name).collect()
}

#[test]
fn two_rotations_surprise_nobody_in_any_order_of_events() {
    assert_eq!(violated(Rotations::new()), [""; 0]);
}

/// The model can fail: two rotations by hand in a row fill the bundle for longer than the schedule can
/// wait.
#[test]
fn an_operator_must_leave_the_schedule_a_place() {
    let model = Rotations { leaves_place: false, ..Rotations::new() };
    let until = HasDiscoveries::AnyOf(BTreeSet::from([PLACE_FREE]));
    let checked = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    assert!(checked.discovery(PLACE_FREE).is_some());
}

/// The model can fail: a replica that trails, or is cut off, gives old bundles to agents that had the
/// new one.
#[test]
fn agents_and_replicas_must_be_waited_for_as_they_are() {
    let rules = Rotations::new();
    let absent_left_out = Rotations { absent_count: false, ..Rotations::new() };
    for model in [absent_left_out, Rotations { last_counts: false, ..rules }] {
        let until = HasDiscoveries::AnyOf(BTreeSet::from([VERIFIES]));
        let checked = model.checker().threads(2).finish_when(until).spawn_bfs().join();
        assert!(checked.discovery(VERIFIES).is_some());
    }
}

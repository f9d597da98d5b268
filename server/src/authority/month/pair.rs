//! Two clusters that federate: each rotates, stumbles and is restored by itself, and fetches the
//! other's bundle over a way that is cut.
//!
//! Fetching is the real one but for the network: the leader's turns, what a document must be, the
//! commands and what they do. Chains are verified, documents written and read; the handshake itself
//! and the check of the id in it are the fetcher's own tests' business.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use steeple_federation::{FetchError, HttpsError, Source, Timing};
use steeple_raft_store::Command;
use steeple_raft_store::command::{RelationshipMode, RelationshipWrite, WriteRelationships};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::{Random as _, SeededRandom};
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::{
    EndpointProfile, EndpointUrl, FederationRelationship, SpiffeId, Timestamp, TrustDomain,
};

use super::super::policy::AuthorityPolicy;
use super::endpoints::read;
use super::guests::Guests;
use super::link::Link;
use super::member::Condition;
use super::operator::Operator;
use super::world::{Setup, World};
use crate::refresher::{Ended, Round, Tried};

/// Rotations are due every two and a half hours.
const CA_TTL: Duration = Duration::from_secs(3 * 3600);

/// Peers are told to come back after this time: they come four times as often.
pub(super) const HINT: Duration = Duration::from_secs(600);

/// Hours between two cuts.
const HOURS_BETWEEN_CUTS: (u64, u64) = (1, 8);

/// Minutes that a cut lasts which authorities outlive, usually, and one that none does.
const SHORT_CUT_MINUTES: (u64, u64) = (5, 100);
const LONG_CUT_MINUTES: (u64, u64) = (4 * 60, 9 * 60);

/// Peers that are asked at a time.
const AT_A_TIME: usize = 32;

pub(super) struct Pair {
    pub(super) sides: [Side; 2],
    random: SeededRandom,
    next_cut: Timestamp,
    /// So often all replicas of one side died at once.
    pub(super) all_died: u32,
}

/// One trust domain, and what it makes of the other.
pub(super) struct Side {
    pub(super) world: World,
    operator: Operator,
    turns: Vec<Turn>,
    pub(super) link: Link,
    pub(super) guests: Guests,
}

/// A member that fetches: the leader, or one who takes itself for it.
struct Turn {
    member: usize,
    term: u64,
    is_new: bool,
    round: Round,
}

impl Pair {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_agents(seed, false)
    }

    /// Two whose agents hear of everything at once: what an operator's rotation waits for are peers.
    pub(super) fn with_quick_agents(seed: u64) -> Self {
        Self::with_agents(seed, true)
    }

    fn with_agents(seed: u64, quick_agents: bool) -> Self {
        let random = SeededRandom::new(seed);
        let mut sides = ["foo.test", "bar.test"].map(|name| {
            let setup = Setup {
                trust_domain: TrustDomain::parse(name).unwrap(),
                policy: AuthorityPolicy {
                    ca_ttl: CA_TTL,
                    refresh_hint: Some(HINT),
                    ..AuthorityPolicy::default()
                },
                restored_one_in: 5_000,
                quick_agents,
            };
            let mut world = World::new(random.u64(), setup);
            world.begin();
            world
        });
        // Both live at one time.
        let now = sides.iter().map(|world| world.now).max().unwrap();
        for world in &mut sides {
            let behind = now.since(world.now);
            world.advance(behind);
        }
        let names = sides.each_ref().map(|world| world.common.trust_domain.clone());
        let bundles = sides.each_ref().map(World::published);
        let [foo, bar] = sides;
        let [of_foo, of_bar] = bundles;
        let [foo_name, bar_name] = names;
        let sides = [Side::new(foo, bar_name, of_bar), Side::new(bar, foo_name, of_foo)];
        Self { sides, random, next_cut: now, all_died: 0 }
    }

    fn now(&self) -> Timestamp {
        self.sides[0].world.now
    }

    pub(super) fn run(&mut self, length: Duration) {
        let end = self.now().plus(length);
        while self.now() < end && self.sides.iter().all(|side| side.world.judge.is_content()) {
            let by = self.sides[0].world.step();
            for side in &mut self.sides {
                side.world.live(by, &mut side.operator);
            }
            self.weather();
            for at in 0..2 {
                let (here, there) = self.both(at);
                here.fetch(there);
                here.guests.sync(&mut here.world, &mut there.world, &here.link);
                here.link.look(&mut here.world, &mut there.world);
            }
            for side in &mut self.sides {
                side.world.renew_servers();
            }
        }
    }

    fn both(&mut self, at: usize) -> (&mut Side, &mut Side) {
        let [foo, bar] = &mut self.sides;
        if at == 0 { (foo, bar) } else { (bar, foo) }
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.u64() % limit
    }

    fn within(&self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Cuts one way or both; now and then all replicas of one side die.
    fn weather(&mut self) {
        let now = self.now();
        for at in 0..2 {
            let (here, there) = self.both(at);
            here.link.mend(now, &there.world);
        }
        if self.below(1_000) == 0 {
            self.all_die();
        }
        if now < self.next_cut {
            return;
        }
        let minutes = if self.below(4) == 0 { LONG_CUT_MINUTES } else { SHORT_CUT_MINUTES };
        let until = now.plus(Duration::from_secs(60 * self.within(minutes)));
        let ways = self.below(4);
        for at in 0..2 {
            if ways == at as u64 {
                continue;
            }
            let (here, there) = self.both(at);
            here.link.cut(now, until, &there.world);
        }
        let hours = self.within(HOURS_BETWEEN_CUTS);
        self.next_cut = until.plus(Duration::from_secs(3600 * hours));
    }

    fn all_die(&mut self) {
        let at = usize::try_from(self.below(2)).unwrap();
        let world = &mut self.sides[at].world;
        world.depose();
        world.pretenders.clear();
        for index in 0..world.members.len() {
            let until = world.in_s(30, 180);
            world.members[index].condition = Condition::Down { until };
        }
        self.all_died += 1;
    }
}

impl Side {
    /// A side that has been told of the other: a relationship, a bundle by hand, two entries.
    fn new(mut world: World, other: TrustDomain, bundle: Bundle) -> Self {
        let relationship = FederationRelationship {
            trust_domain: other.clone(),
            endpoint_url: EndpointUrl::parse(&format!("https://bundles.{other}")).unwrap(),
            profile: EndpointProfile::HttpsSpiffe { endpoint_id: SpiffeId::server(other.clone()) },
        };
        let items = vec![RelationshipWrite { relationship, bundle: Some(bundle) }];
        let mode = RelationshipMode::Create;
        let relate = Command::WriteRelationships(WriteRelationships { mode, items });
        world.commit(&relate, world.now).unwrap();
        let guests = Guests::new(&mut world, &other);
        let operator = Operator::new(&world);
        let link = Link::new(world.now, other);
        Self { world, operator, turns: Vec::new(), link, guests }
    }

    /// Everyone who takes itself for the leader asks whoever is due.
    fn fetch(&mut self, there: &mut Self) {
        self.turn_over();
        for mut turn in std::mem::take(&mut self.turns) {
            if self.take_turn(&mut turn, there) {
                self.turns.push(turn);
            }
        }
        if self.world.chance(200) {
            self.refresh_by_hand(there);
        }
    }

    /// Turns end with leadership, as soon as that is noticed; the next leader's begins at once.
    fn turn_over(&mut self) {
        let world = &mut self.world;
        let (leader, terms) = (world.leader, world.terms);
        let leads = |turn: &Turn| leader == Some(turn.member) && turn.term == terms;
        let pretends = |member: usize| {
            let down = matches!(world.members[member].condition, Condition::Down { .. });
            let known = world.pretenders.iter().any(|(pretender, _)| *pretender == member);
            known && !down && leader != Some(member)
        };
        self.turns.retain(|turn| leads(turn) || pretends(turn.member));
        let Some(member) = leader.filter(|_| !self.turns.iter().any(leads)) else { return };
        world.catch_up(member);
        let round = Round::new(world.members[member].known());
        self.turns.push(Turn { member, term: terms, is_new: true, round });
    }

    /// False: the member has died over it.
    fn take_turn(&mut self, turn: &mut Turn, there: &mut Self) -> bool {
        let leads = self.world.leader == Some(turn.member);
        if leads {
            self.world.catch_up(turn.member);
        }
        let known = self.world.members[turn.member].known();
        assert!(turn.round.take().is_empty(), "no relationship ends");
        let due = turn.round.start(AT_A_TIME);
        if std::mem::take(&mut turn.is_new) && due.is_empty() {
            self.world.judge.wrong("a new leader asks nobody".to_owned());
        }
        for due in due {
            let source = known.source(&due.relationship);
            let (fetched, served) = self.ask(&source, turn.member, there);
            let (command, ended) = known.ended(due, known.judged(&source, fetched));
            let Some(ended) = self.decide(turn.member, command, ended) else { return false };
            if leads {
                self.world.catch_up(turn.member);
                self.link.tried(&mut self.world, &mut there.world, &ended.tried, served);
            }
            turn.round.end(ended);
        }
        true
    }

    /// What becomes of a command: the leader's is decided unless it dies, a would-be leader's is on
    /// its way.
    fn decide(&mut self, member: usize, command: Option<Command>, ended: Ended) -> Option<Ended> {
        let Some(command) = command else { return Some(ended) };
        if self.world.leader != Some(member) {
            self.world.send(member, command);
            return Some(ended.decided(Err("it leads no more".to_owned())));
        }
        let outcome = if self.world.chance(4) {
            self.world.propose(member, "refresh", command)?
        } else {
            let stamp = self.world.members[member].time();
            self.world.commit(&command, stamp)
        };
        Some(ended.decided(Ok(outcome)))
    }

    /// `federation refresh`, through any replica that confirms its reads.
    fn refresh_by_hand(&mut self, there: &mut Self) {
        let by = usize::try_from(self.world.below(3)).unwrap();
        if self.world.leader.is_none() || self.world.members[by].condition != Condition::Well {
            return;
        }
        self.world.catch_up(by);
        let known = self.world.members[by].known();
        for (trust_domain, relationship) in known.relationships() {
            let source = known.source(&relationship);
            let (fetched, _) = self.ask(&source, by, there);
            let tried = known.judged(&source, fetched);
            if let Some(command) = known.command(&trust_domain, &tried, 0) {
                self.link.counts.by_hand += u64::from(matches!(tried, Tried::Other { .. }));
                self.world.send(by, command);
            }
        }
    }

    /// Asks whichever replica of the other answers to their common name, and says when what it gave
    /// was everything that was committed there.
    fn ask(
        &mut self,
        source: &Source,
        by: usize,
        there: &mut Self,
    ) -> (Result<Bundle, FetchError>, Option<Timestamp>) {
        self.link.counts.asked += 1;
        let url = source.relationship.endpoint_url.to_string();
        let broken = |source: HttpsError| FetchError::Exchange { url: url.clone(), source };
        let dial = || HttpsError::Dial(io::Error::from(io::ErrorKind::TimedOut));
        if self.link.is_cut() {
            return (Err(broken(dial())), None);
        }
        let first = usize::try_from(self.world.below(3)).unwrap();
        let found = (0..3).find_map(|turn| there.world.endpoint((first + turn) % 3));
        let Some(served) = found else { return (Err(broken(dial())), None) };
        let Some(trusted) = &source.endpoint_bundle else {
            return (Err(FetchError::NoEndpointBundle), None);
        };
        let now = self.world.members[by].time();
        if let Err(error) = verify_chain(&served.chain_der, trusted, now) {
            let text = error.to_string();
            let error = io::Error::other(error);
            return (Err(broken(HttpsError::Tls { text, error })), None);
        }
        let document = there.world.document(&served.bundle);
        self.link.counts.stale += u64::from(served.current_at < there.world.now);
        (Ok(read(&document, &served.bundle)), Some(served.current_at))
    }
}

/// How long after a good try the next one comes.
pub(super) fn pause(bundle: &Bundle) -> Duration {
    Timing::default().pause(bundle)
}

/// What the leader of a side has stored of the other.
pub(super) fn stored(world: &World) -> Option<Arc<Bundle>> {
    world.judge.foreign.bundle.clone()
}

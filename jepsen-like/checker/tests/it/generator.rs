//! Makes valid histories: concurrent clients on one sequential registry, with lost replies, late
//! effects, retries, subscribers and observers. The same seed makes the same lines.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use steeple_checker::history::event::VERSION;
use steeple_checker::history::*;
use steeple_checker::model::{Limits, Now, Registry};

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub(crate) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let n = items.len() as u64;
        (n > 0).then(|| &items[self.below(n) as usize])
    }
}

pub(crate) struct Shape {
    pub(crate) clients: u64,
    pub(crate) calls: u64,
    /// Replies lost, in percent.
    pub(crate) lost: u64,
    /// Entries that are in use at once; later calls use others.
    pub(crate) keys: u64,
    pub(crate) calls_per_era: u64,
    /// Whether tokens, agents, lists and prunes are used too.
    pub(crate) everything: bool,
    /// Whether rows expire and are pruned.
    pub(crate) expiring: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            clients: 5,
            calls: 300,
            lost: 4,
            keys: 6,
            calls_per_era: 150,
            everything: true,
            expiring: true,
        }
    }
}

struct Open {
    call: u64,
    op: Arc<Operation>,
    request: Option<String>,
    done: Option<Done>,
}

#[derive(Clone)]
struct Done {
    revision: u64,
    time: Option<i64>,
    reply: Reply,
}

pub(crate) struct World {
    rng: Rng,
    shape: Shape,
    registry: Registry,
    revision: u64,
    time: i64,
    lines: Vec<Line>,
    next_call: u64,
    serial: u64,
    busy: HashMap<u64, Open>,
    /// Operations whose client gave up before they had an effect.
    late: Vec<Open>,
    lost: Vec<(String, Arc<Operation>)>,
    outcomes: HashMap<String, Done>,
    batches: Vec<(u64, Vec<Change>)>,
    readers: Vec<(String, usize)>,
    listing: HashMap<u64, (u64, Vec<Arc<Entry>>, u64)>,
    /// Clients in the midst of a listing.
    paging: HashMap<u64, u64>,
    bundle: u64,
    seen_bundle: [u64; 2],
}

pub(crate) fn valid(seed: u64, shape: Shape) -> Vec<Line> {
    let mut world = World::new(seed, shape);
    while world.next_call < world.shape.calls || !world.busy.is_empty() {
        world.tick();
    }
    world.finish();
    world.lines
}

impl World {
    fn new(seed: u64, shape: Shape) -> Self {
        let header = Header {
            version: VERSION,
            name: "generated".into(),
            seed: Some(seed),
            bundles: BTreeSet::from(["other.example".into()]),
            ..Header::default()
        };
        let registry = Registry::new(&header, Limits::default());
        let mut world = Self {
            rng: Rng(seed),
            shape,
            registry,
            revision: 10,
            time: 1_000_000,
            lines: Vec::new(),
            next_call: 0,
            serial: 0,
            busy: HashMap::new(),
            late: Vec::new(),
            lost: Vec::new(),
            outcomes: HashMap::new(),
            batches: Vec::new(),
            readers: vec![("r0".into(), 0), ("r1".into(), 0)],
            listing: HashMap::new(),
            paging: HashMap::new(),
            bundle: 1,
            seen_bundle: [0; 2],
        };
        world.say(Event::Header(header));
        for reader in ["r0", "r1"] {
            let step = FeedStep::Start { revision: 10 };
            world.say(Event::Feed(Feed { subscriber: reader.into(), step }));
        }
        world
    }

    fn say(&mut self, event: Event) {
        let at_ns = self.lines.len() as u64;
        self.lines.push(Line { at_ns, wall_ms: 0, event });
    }

    fn tick(&mut self) {
        if self.rng.percent(8) {
            self.observe();
        }
        if self.rng.percent(5) && !self.late.is_empty() {
            let at = self.rng.below(self.late.len() as u64) as usize;
            let mut open = self.late.swap_remove(at);
            self.apply(&mut open);
        }
        let client = self.rng.below(self.shape.clients);
        let Some(mut open) = self.busy.remove(&client) else {
            if self.next_call < self.shape.calls {
                self.invoke(client);
            }
            return;
        };
        if open.done.is_none() && self.rng.percent(60) {
            self.apply(&mut open);
        }
        if open.done.is_none() && !self.rng.percent(3) || self.rng.percent(40) {
            self.busy.insert(client, open);
            return;
        }
        self.complete(client, open);
    }

    fn complete(&mut self, client: u64, open: Open) {
        let is_lost = self.rng.percent(self.shape.lost);
        let outcome = match &open.done {
            Some(done) if !is_lost => Outcome::Ok {
                revision: done.revision,
                time_ms: done.time,
                stale: false,
                reply: done.reply.clone(),
            },
            None if self.rng.percent(50) => Outcome::Failed { text: "no leader".into() },
            Some(_) | None => Outcome::Unknown { text: "timed out".into() },
        };
        if let (Outcome::Unknown { .. }, Some(id)) = (&outcome, &open.request)
            && open.op.is_write()
        {
            self.lost.push((id.clone(), Arc::clone(&open.op)));
        }
        if let (
            Operation::ListEntries { listing, .. },
            Outcome::Ok { reply: Reply::Page(Page { last: false, .. }), .. },
        ) = (open.op.as_ref(), &outcome)
        {
            self.paging.insert(client, *listing);
        }
        let is_late = open.done.is_none() && matches!(outcome, Outcome::Unknown { .. });
        self.say(Event::Complete(Complete { call: open.call, outcome }));
        if is_late && self.rng.percent(50) {
            self.late.push(open);
        }
    }

    fn apply(&mut self, open: &mut Open) {
        if !open.op.is_write() {
            open.done = Some(self.read(&open.op));
            return;
        }
        if let Some(done) = open.request.as_ref().and_then(|id| self.outcomes.get(id)) {
            open.done = Some(done.clone());
            return;
        }
        self.revision += 1 + self.rng.below(2);
        self.time += self.rng.below(20) as i64;
        let now = Now::exactly(self.time);
        let applied = self.registry.apply(&open.op, open.request.as_deref(), now, None);
        self.registry.keep();
        self.batches.push((self.revision, applied.changes));
        let done = Done { revision: self.revision, time: Some(self.time), reply: applied.reply };
        if let Some(id) = &open.request {
            self.outcomes.insert(id.clone(), done.clone());
        }
        open.done = Some(done);
    }

    /// A read; lists go on with the pages of the state they began with.
    fn read(&mut self, op: &Operation) -> Done {
        let mut revision = self.revision;
        let reply = match op {
            Operation::ListEntries { listing, .. } => {
                if !self.listing.contains_key(listing) {
                    let Some(Reply::Page(page)) = self.registry.read(op) else { unreachable!() };
                    self.listing.insert(*listing, (revision, page.entries, 0));
                }
                let (at, entries, shown) = self.listing.get_mut(listing).unwrap();
                revision = *at;
                let page: Vec<_> = entries.iter().skip(*shown as usize).take(4).cloned().collect();
                *shown += page.len() as u64;
                let last = *shown as usize == entries.len();
                Reply::Page(Page { entries: page, last })
            }
            _ => self.registry.read(op).unwrap(),
        };
        Done { revision, time: None, reply }
    }

    fn invoke(&mut self, client: u64) {
        let (mut request, mut op) = (None, None);
        if self.rng.percent(30)
            && let Some((id, lost)) = self.lost.pop()
        {
            (request, op) = (Some(id), Some(lost));
        }
        if let Some(listing) = self.paging.remove(&client) {
            let filter = Filter::default();
            op = Some(Arc::new(Operation::ListEntries { listing, first: false, filter }));
            request = None;
        }
        let op = op.unwrap_or_else(|| Arc::new(self.operation()));
        let call = self.next_call;
        self.next_call += 1;
        if request.is_none() && op.is_write() && self.rng.percent(80) {
            request = Some(format!("q{call}"));
        }
        self.say(Event::Invoke(Invoke {
            client,
            call,
            member: None,
            request_id: request.clone(),
            op: op.as_ref().clone(),
        }));
        self.busy.insert(client, Open { call, op, request, done: None });
    }

    fn key(&mut self) -> u64 {
        let era = self.next_call / self.shape.calls_per_era;
        era * self.shape.keys + self.rng.below(self.shape.keys)
    }

    fn entry(&mut self) -> Entry {
        let key = self.key();
        let like = if self.rng.percent(15) { self.key() } else { key };
        Entry {
            id: format!("e{key}"),
            spiffe_id: format!("spiffe://d/w{like}"),
            parent_id: format!("spiffe://d/p{}", like % 3),
            selectors: BTreeSet::from([format!("unix:uid:{like}")]),
            hint: format!("h{}", self.next_call),
            expires_at_s: if self.rng.percent(5) && self.shape.expiring { 1_002 } else { 0 },
            federates_with: if self.rng.percent(10) {
                let known = self.rng.percent(50);
                BTreeSet::from([if known { "other.example" } else { "no.example" }.into()])
            } else {
                BTreeSet::new()
            },
            ..Entry::default()
        }
    }

    fn operation(&mut self) -> Operation {
        let kinds = if self.shape.everything { 24 } else { 12 };
        match self.rng.below(kinds) {
            0..3 => {
                let count = if self.rng.percent(10) { 2 } else { 1 };
                Operation::CreateEntries((0..count).map(|_| self.entry()).collect())
            }
            3..5 => {
                let mut update =
                    EntryUpdate { id: format!("e{}", self.key()), ..EntryUpdate::default() };
                update.hint = Some(format!("u{}", self.next_call));
                if self.rng.percent(10) {
                    update.spiffe_id = Some(format!("spiffe://d/w{}", self.key()));
                }
                if self.rng.percent(10) {
                    update.store_svid = Some(true);
                    update.selectors =
                        Some(["unix:uid:1".to_owned(), "k8s:ns:x".to_owned()].into());
                }
                Operation::UpdateEntries(vec![update])
            }
            5..7 => {
                let count = if self.rng.percent(10) { 2 } else { 1 };
                Operation::DeleteEntries((0..count).map(|_| format!("e{}", self.key())).collect())
            }
            7..12 => Operation::GetEntry { id: format!("e{}", self.key()) },
            12 => Operation::CountEntries,
            13 => Operation::ListEntries {
                listing: self.next_call,
                first: true,
                filter: Filter::default(),
            },
            14 if self.shape.expiring => Operation::PruneExpired(Prune {
                agents_expired_for_s: None,
                include_non_reattestable: false,
                limit: 10,
            }),
            14 | 15 => {
                let agent = self.key() % 4;
                let alias = self.rng.percent(30).then(|| Entry {
                    id: format!("alias{}", self.next_call),
                    spiffe_id: format!("spiffe://d/alias{agent}"),
                    parent_id: format!("a{agent}"),
                    selectors: BTreeSet::from([format!("spiffe_id:a{agent}")]),
                    ..Entry::default()
                });
                Operation::CreateToken(Token {
                    token: format!("t{}", self.key()),
                    expires_at_ms: self.time + 20 + 200 * self.rng.below(20) as i64,
                    alias,
                })
            }
            16 | 17 => self.of_federation(),
            _ => self.of_agent(),
        }
    }

    fn of_federation(&mut self) -> Operation {
        self.serial += 1;
        let trust_domain = format!("d{}", self.key());
        let (endpoint_url, profile) =
            (format!("u{}", self.serial), format!("p{}", self.serial % 3));
        match self.rng.below(8) {
            0..3 => Operation::CreateRelationships(vec![Relationship {
                trust_domain,
                endpoint_url,
                profile,
            }]),
            3 | 4 => Operation::UpdateRelationships(vec![RelationshipUpdate {
                trust_domain,
                endpoint_url: Some(endpoint_url),
                profile: self.rng.percent(50).then_some(profile),
            }]),
            5 => Operation::DeleteRelationships(vec![trust_domain]),
            _ => Operation::GetRelationship { trust_domain },
        }
    }

    fn of_agent(&mut self) -> Operation {
        let agent_id = format!("a{}", self.key());
        let read = Operation::GetAgent { agent_id: agent_id.clone() };
        let Some(Reply::Agent(known)) = self.registry.read(&read) else { unreachable!() };
        let seen = match &known {
            Some(agent) => {
                Seen::Serials { current: agent.current.clone(), pending: agent.pending.clone() }
            }
            None => Seen::Absent,
        };
        self.serial += 1;
        let serial = self.serial.to_string();
        match self.rng.below(if known.is_none() { 3 } else { 9 }) {
            0..3 => {
                let token = self.rng.percent(60).then(|| format!("t{}", self.key()));
                Operation::AdmitAgent(Admission {
                    attestation_type: if token.is_some() { "join_token" } else { "x509pop" }.into(),
                    token,
                    agent_id,
                    public_key: format!("key{serial}"),
                    serial,
                    not_after_ms: Some(self.time + 5_000),
                    selectors: BTreeSet::new(),
                    can_reattest: true,
                    seen,
                })
            }
            3 | 4 => Operation::SetPendingSerial {
                agent_id,
                seen,
                pending: serial,
                not_after_ms: Some(self.time + 9_000),
            },
            5 | 6 => Operation::PromoteSerial { agent_id, seen },
            7 => match self.rng.below(4) {
                0 => Operation::BanAgent { agent_id },
                1 => Operation::DeleteAgent { agent_id },
                2 => Operation::SetAgentVersion { agent_id, version: serial },
                _ => Operation::CountAgents,
            },
            _ => read,
        }
    }

    /// A subscriber or an observer looks.
    fn observe(&mut self) {
        let reader = self.rng.below(2) as usize;
        match self.rng.below(10) {
            0..7 => self.read_feed(reader),
            7 => {
                let member = format!("m{}", self.rng.below(3));
                let revision = self.revision;
                let hash = format!("{:x}", Rng(revision).next());
                self.say(Event::StateHash(StateHash { member, revision, level: 1, hash }));
            }
            8 => {
                let (observer, who) = (format!("o{reader}"), reader);
                self.bundle += self.rng.below(2);
                self.seen_bundle[who] = self.bundle;
                let sequence = self.bundle;
                self.say(Event::Bundle(Bundle {
                    observer,
                    member: None,
                    trust_domain: "d".into(),
                    sequence,
                    digest: format!("d{sequence}"),
                }));
            }
            _ => {
                let fault = ["partition", "kill"][reader].to_owned();
                let hit_leader = self.rng.percent(50);
                let state = FaultState::Installed;
                self.say(Event::Nemesis(Fault { fault, state, members: vec![], hit_leader }));
            }
        }
    }

    fn read_feed(&mut self, reader: usize) {
        let (name, next) = self.readers[reader].clone();
        let Some((revision, changes)) = self.batches.get(next).cloned() else { return };
        if next > 0 && self.rng.percent(10) {
            let step = FeedStep::Resume { revision: self.batches[next - 1].0 };
            self.say(Event::Feed(Feed { subscriber: name.clone(), step }));
        }
        if self.rng.percent(3) {
            let step = FeedStep::Start { revision };
            self.say(Event::Feed(Feed { subscriber: name, step }));
        } else {
            let step = FeedStep::Batch { revision, changes };
            self.say(Event::Feed(Feed { subscriber: name, step }));
        }
        self.readers[reader].1 = next + 1;
    }

    /// Everything is read once more, by a fresh client.
    fn finish(&mut self) {
        let last = self.next_call / self.shape.calls_per_era;
        for key in 0..(last + 1) * self.shape.keys {
            let op = Operation::GetEntry { id: format!("e{key}") };
            self.final_read(op);
        }
        if self.shape.everything {
            self.final_read(Operation::CountEntries);
            let (listing, filter) = (self.next_call, Filter::default());
            self.final_read(Operation::ListEntries { listing, first: true, filter });
        }
    }

    fn final_read(&mut self, op: Operation) {
        let call = self.next_call;
        self.next_call += 1;
        let reply = self.registry.read(&op).unwrap();
        let request_id = None;
        self.say(Event::Invoke(Invoke { client: 1_000, call, member: None, request_id, op }));
        let outcome = Outcome::Ok { revision: self.revision, time_ms: None, stale: false, reply };
        self.say(Event::Complete(Complete { call, outcome }));
    }
}

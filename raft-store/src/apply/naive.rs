//! Apply against a model that a reader can check at a glance, and against itself: the same commands
//! give the same tables in any batching and across any snapshot.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use proptest::prelude::*;
use steeple_spiffe_core::agent::Serials;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::entry::EntryUpdate;
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::testing::{
    Registry, START_MS, entry, entry_id, envelope, init, selectors, serial, spiffe, td, update,
};
use crate::apply::{self, Tables, Transaction, snapshot_changes};
use crate::change::Change;
use crate::command::{
    AdmitAgent, BundleDigest, Command, CreateJoinToken, FetchedBundle, PromoteSerial, PruneExpired,
    Refreshed, RelationshipFields, RelationshipMode, RelationshipWrite, SetPendingSerial,
    WriteRelationships,
};
use crate::mem::MemoryTables;
use crate::outcome::{EntryOutcome, Outcome, Rejection, RelationshipOutcome};
use crate::pb;
use crate::snapshot::{self, SnapshotSink};

/// A step in a small world, so that steps meet each other often.
#[derive(Clone, Debug)]
enum Move {
    Create { id: u8, path: u8, selector: u8 },
    Update { id: u8, selector: u8 },
    Delete { id: u8 },
    Token { value: u8 },
    Admit { agent: u8, token: Option<u8>, serial: u32, knows: bool },
    Pend { agent: u8, serial: u32, knows: bool },
    Promote { agent: u8 },
    Ban { agent: u8 },
    Evict { agent: u8 },
    Federate { domain: u8, path: u8, web: bool, bundle: Option<u8> },
    Refederate { domain: u8, path: u8, web: bool, bundle: Option<u8>, fields: (bool, bool) },
    Unfederate { domain: u8 },
    Refresh { domain: u8, bundle: Option<u8>, knows: bool },
    FailRefresh { domain: u8 },
    EndRefresh { domain: u8 },
    Prune,
    Wait { seconds: u8 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0..6_u8, 0..3_u8, 0..3_u8).prop_map(|(id, path, selector)| Move::Create {
            id,
            path,
            selector
        }),
        (0..6_u8, 0..3_u8).prop_map(|(id, selector)| Move::Update { id, selector }),
        (0..6_u8).prop_map(|id| Move::Delete { id }),
        (0..3_u8).prop_map(|value| Move::Token { value }),
        (0..3_u8, proptest::option::of(0..3_u8), 1..9_u32, any::<bool>())
            .prop_map(|(agent, token, serial, knows)| Move::Admit { agent, token, serial, knows }),
        (0..3_u8, 1..9_u32, any::<bool>()).prop_map(|(agent, serial, knows)| Move::Pend {
            agent,
            serial,
            knows
        }),
        (0..3_u8).prop_map(|agent| Move::Promote { agent }),
        (0..3_u8).prop_map(|agent| Move::Ban { agent }),
        (0..3_u8).prop_map(|agent| Move::Evict { agent }),
        (0..3_u8, 0..3_u8, any::<bool>(), proptest::option::of(0..3_u8))
            .prop_map(|(domain, path, web, bundle)| Move::Federate { domain, path, web, bundle }),
        (0..3_u8, 0..3_u8, any::<bool>(), proptest::option::of(0..3_u8), any::<(bool, bool)>())
            .prop_map(|(domain, path, web, bundle, fields)| Move::Refederate {
                domain,
                path,
                web,
                bundle,
                fields
            }),
        (0..3_u8).prop_map(|domain| Move::Unfederate { domain }),
        (0..3_u8, proptest::option::of(0..3_u8), any::<bool>())
            .prop_map(|(domain, bundle, knows)| Move::Refresh { domain, bundle, knows }),
        (0..3_u8).prop_map(|domain| Move::FailRefresh { domain }),
        (0..3_u8).prop_map(|domain| Move::EndRefresh { domain }),
        Just(Move::Prune),
        (0..40_u8).prop_map(|seconds| Move::Wait { seconds }),
    ];
    proptest::collection::vec(one, 0..60)
}

/// Everything the model knows.
#[derive(Clone, Debug, Default)]
struct Model {
    now_s: i64,
    /// id → path, selector, updates
    entries: BTreeMap<u8, (u8, u8, i64)>,
    /// value → expiry
    tokens: BTreeMap<u8, i64>,
    agents: BTreeMap<u8, Serials>,
    /// domain → path, whether it is a web endpoint
    relationships: BTreeMap<u8, (u8, bool)>,
    /// domain → sequence number
    bundles: BTreeMap<u8, u8>,
    /// domain → when it was fetched last, since when it fails
    refreshes: BTreeMap<u8, (Option<i64>, Option<i64>)>,
}

const TOKEN_LIFE_S: i64 = 30;

fn agent_path(agent: u8) -> String {
    format!("/spire/agent/x509pop/{agent}")
}

/// The command of a move, and what the model says of it.
type Said = (Command, &'static str);

impl Model {
    fn start() -> Self {
        Self { now_s: START_MS / 1000, ..Self::default() }
    }

    /// Makes a move; `None` if it is no command.
    fn make(&mut self, movement: &Move) -> Option<Said> {
        Some(match movement.clone() {
            Move::Wait { seconds } => {
                self.now_s += i64::from(seconds);
                return None;
            }
            Move::Create { id, path, selector } => self.create(id, path, selector),
            Move::Update { id, selector } => self.update(id, selector),
            Move::Delete { id } => self.delete(id),
            Move::Token { value } => self.token(value),
            Move::Admit { agent, token, serial, knows } => self.admit(agent, token, serial, knows),
            Move::Pend { agent, serial, knows } => self.pend(agent, serial, knows),
            Move::Promote { agent } => self.promote(agent),
            Move::Ban { agent } => self.ban(agent),
            Move::Evict { agent } => self.evict(agent),
            Move::Federate { domain, path, web, bundle } => {
                self.federate(domain, path, web, bundle)
            }
            Move::Refederate { domain, path, web, bundle, fields } => {
                self.refederate(domain, (path, web), bundle, fields)
            }
            Move::Unfederate { domain } => self.unfederate(domain),
            Move::Refresh { domain, bundle, knows } => self.refresh(domain, bundle, knows),
            Move::FailRefresh { domain } => {
                let (_, failing) = self.refreshes.entry(domain).or_default();
                failing.get_or_insert(self.now_s);
                let (class, text) = ("dial".to_owned(), "refused".to_owned());
                (record_refresh(domain, Refreshed::Failed { class, text }), "done")
            }
            Move::EndRefresh { domain } => {
                self.refreshes.remove(&domain);
                (record_refresh(domain, Refreshed::Ended), "done")
            }
            Move::Prune => self.prune(),
        })
    }

    fn similar(&self, path: u8, selector: u8) -> Option<u8> {
        let mut found = self.entries.iter().filter(|(_, e)| (e.0, e.1) == (path, selector));
        found.next().map(|(id, _)| *id)
    }

    fn create(&mut self, id: u8, path: u8, selector: u8) -> Said {
        let says = if self.similar(path, selector).is_some() {
            "similar"
        } else if let Entry::Vacant(place) = self.entries.entry(id) {
            place.insert((path, selector, 0));
            "created"
        } else {
            "taken"
        };
        let (path, selector) = (format!("/p{path}"), format!("unix:uid:{selector}"));
        (Command::CreateEntries(vec![entry(&format!("e{id}"), &path, &selector)]), says)
    }

    fn update(&mut self, id: u8, selector: u8) -> Said {
        let says = match self.entries.get(&id).copied() {
            None => "no entry",
            Some((path, _, updates)) => match self.similar(path, selector) {
                Some(other) if other != id => "would be similar",
                Some(_) | None => {
                    self.entries.insert(id, (path, selector, updates + 1));
                    "updated"
                }
            },
        };
        let set = selectors(&[&format!("unix:uid:{selector}")]);
        let item = EntryUpdate { selectors: Some(set), ..update(&format!("e{id}")) };
        (Command::UpdateEntries(vec![item]), says)
    }

    fn delete(&mut self, id: u8) -> Said {
        let says = if self.entries.remove(&id).is_some() { "deleted" } else { "no entry" };
        (Command::DeleteEntries(vec![entry_id(&format!("e{id}"))]), says)
    }

    fn token(&mut self, value: u8) -> Said {
        let expires_at_s = self.now_s + TOKEN_LIFE_S;
        let says = if let Entry::Vacant(place) = self.tokens.entry(value) {
            place.insert(expires_at_s);
            "done"
        } else {
            "token exists"
        };
        let create = CreateJoinToken {
            token: format!("t{value}"),
            expires_at: Timestamp::from_unix_s(expires_at_s),
            alias: None,
        };
        (Command::CreateJoinToken(create), says)
    }

    fn admit(&mut self, agent: u8, token: Option<u8>, number: u32, knows: bool) -> Said {
        let stored = self.agents.get(&agent).cloned();
        let seen = if knows { stored.clone() } else { None };
        let expiry = token.map(|value| self.tokens.get(&value).copied());
        let says = if expiry == Some(None) {
            "token unknown"
        } else if expiry.flatten().is_some_and(|expiry| expiry < self.now_s) {
            self.tokens.remove(&token.unwrap());
            "token expired"
        } else if stored.as_ref().is_some_and(|serials| serials.current.is_none()) {
            "banned"
        } else if stored != seen {
            "serials"
        } else {
            token.map(|value| self.tokens.remove(&value));
            let serials = Serials { current: Some(serial(number)), pending: None };
            self.agents.insert(agent, serials);
            "done"
        };
        let admit = AdmitAgent {
            token: token.map(|value| format!("t{value}")),
            agent_id: spiffe(&agent_path(agent)),
            attestation_type: "x509pop".to_owned(),
            serial: serial(number),
            not_after: Timestamp::from_unix_s(self.now_s + 1_000_000),
            selectors: selectors(&["a:b"]),
            can_reattest: true,
            seen,
        };
        (Command::AdmitAgent(admit), says)
    }

    fn pend(&mut self, agent: u8, number: u32, knows: bool) -> Said {
        let stored = self.agents.get(&agent).cloned();
        let seen = if knows { stored } else { None }.unwrap_or_default();
        let says = match self.agents.get_mut(&agent) {
            None => "no agent",
            Some(serials) if serials.current.is_none() => "banned",
            Some(serials) if *serials != seen => "serials",
            Some(serials) => {
                serials.pending = Some(serial(number));
                "done"
            }
        };
        let set = SetPendingSerial {
            agent_id: spiffe(&agent_path(agent)),
            seen,
            pending: serial(number),
            not_after: Timestamp::from_unix_s(self.now_s + 1_000_000),
        };
        (Command::SetPendingSerial(set), says)
    }

    fn promote(&mut self, agent: u8) -> Said {
        let seen = self.agents.get(&agent).cloned().unwrap_or_default();
        let says = match self.agents.get_mut(&agent) {
            None => "no agent",
            Some(serials) if serials.current.is_none() => "banned",
            Some(serials) => match serials.pending.take() {
                None => "serials",
                Some(pending) => {
                    serials.current = Some(pending);
                    "done"
                }
            },
        };
        let agent_id = spiffe(&agent_path(agent));
        (Command::PromoteSerial(PromoteSerial { agent_id, seen }), says)
    }

    fn ban(&mut self, agent: u8) -> Said {
        let says = match self.agents.get_mut(&agent) {
            None => "no agent",
            Some(serials) => {
                *serials = Serials::default();
                "done"
            }
        };
        (Command::BanAgent(spiffe(&agent_path(agent))), says)
    }

    fn evict(&mut self, agent: u8) -> Said {
        let says = if self.agents.remove(&agent).is_some() { "done" } else { "no agent" };
        (Command::DeleteAgent(spiffe(&agent_path(agent))), says)
    }

    fn federate(&mut self, domain: u8, path: u8, web: bool, bundle: Option<u8>) -> Said {
        let says = if let Entry::Vacant(place) = self.relationships.entry(domain) {
            place.insert((path, web));
            bundle.map(|number| self.bundles.insert(domain, number));
            "written"
        } else {
            "relationship exists"
        };
        (write_relationship(RelationshipMode::Create, domain, (path, web), bundle), says)
    }

    fn refederate(
        &mut self,
        domain: u8,
        (path, web): (u8, bool),
        bundle: Option<u8>,
        (endpoint_url, profile): (bool, bool),
    ) -> Said {
        let says = match self.relationships.get_mut(&domain) {
            None => "no relationship",
            Some(old) => {
                *old = (if endpoint_url { path } else { old.0 }, if profile { web } else { old.1 });
                bundle.map(|number| self.bundles.insert(domain, number));
                "written"
            }
        };
        let fields = RelationshipFields { endpoint_url, profile };
        (write_relationship(RelationshipMode::Update(fields), domain, (path, web), bundle), says)
    }

    fn unfederate(&mut self, domain: u8) -> Said {
        let known = self.relationships.remove(&domain).is_some();
        if known {
            self.refreshes.remove(&domain);
        }
        let says = if known { "deleted" } else { "no relationship" };
        (Command::DeleteRelationships(vec![td(&domain_name(domain))]), says)
    }

    fn refresh(&mut self, domain: u8, bundle: Option<u8>, knows: bool) -> Said {
        let stored = self.bundles.get(&domain).copied();
        let seen = if knows { stored } else { None };
        let says = if bundle.is_some() && seen != stored {
            "bundle moved"
        } else {
            bundle.map(|number| self.bundles.insert(domain, number));
            self.refreshes.insert(domain, (Some(self.now_s), None));
            "done"
        };
        let fetched = bundle.map(|number| FetchedBundle {
            bundle: bundle_of(domain, number),
            seen: seen.map(|number| BundleDigest::of(&bundle_of(domain, number))),
        });
        (record_refresh(domain, Refreshed::Succeeded(fetched)), says)
    }

    fn prune(&mut self) -> Said {
        self.tokens.retain(|_, expiry| *expiry >= self.now_s);
        let prune =
            PruneExpired { agents_expired_for_s: None, include_non_reattestable: false, limit: 9 };
        (Command::PruneExpired(prune), "pruned")
    }
}

fn domain_name(domain: u8) -> String {
    format!("d{domain}.org")
}

fn relationship(domain: u8, (path, web): (u8, bool)) -> FederationRelationship {
    let name = domain_name(domain);
    FederationRelationship {
        trust_domain: td(&name),
        endpoint_url: EndpointUrl::parse(&format!("https://{name}/{path}")).unwrap(),
        profile: if web {
            EndpointProfile::HttpsWeb
        } else {
            EndpointProfile::HttpsSpiffe { endpoint_id: spiffe("/spire/server") }
        },
    }
}

fn write_relationship(
    mode: RelationshipMode,
    domain: u8,
    content: (u8, bool),
    bundle: Option<u8>,
) -> Command {
    let bundle = bundle.map(|number| bundle_of(domain, number));
    let items = vec![RelationshipWrite { relationship: relationship(domain, content), bundle }];
    Command::WriteRelationships(WriteRelationships { mode, items })
}

fn bundle_of(domain: u8, number: u8) -> Bundle {
    Bundle { sequence_number: number.into(), ..Bundle::empty(td(&domain_name(domain))) }
}

fn record_refresh(domain: u8, refreshed: Refreshed) -> Command {
    Command::RecordRefresh { trust_domain: td(&domain_name(domain)), refreshed }
}

/// An outcome in the model's words.
fn words(outcome: &Result<Outcome, Rejection>) -> String {
    match outcome {
        Ok(Outcome::Done) => "done".to_owned(),
        Ok(Outcome::Pruned(_)) => "pruned".to_owned(),
        Ok(Outcome::Relationships(items)) => match &items[0] {
            RelationshipOutcome::Written(_) => "written".to_owned(),
            RelationshipOutcome::Deleted => "deleted".to_owned(),
            RelationshipOutcome::Rejected(reason) => rejected(reason),
        },
        Ok(Outcome::Bundles(items)) => panic!("no command about bundles: {items:?}"),
        Ok(Outcome::Entries(items)) => match &items[0] {
            EntryOutcome::Created(_) => "created".to_owned(),
            EntryOutcome::Similar(_) => "similar".to_owned(),
            EntryOutcome::Updated(_) => "updated".to_owned(),
            EntryOutcome::Deleted => "deleted".to_owned(),
            EntryOutcome::Rejected(reason) => rejected(reason),
        },
        Err(reason) => rejected(reason),
    }
}

fn rejected(rejection: &Rejection) -> String {
    let known = [
        (Rejection::EntryNotFound, "no entry"),
        (Rejection::TokenExists, "token exists"),
        (Rejection::TokenUnknown, "token unknown"),
        (Rejection::TokenExpired, "token expired"),
        (Rejection::AgentNotFound, "no agent"),
        (Rejection::AgentBanned, "banned"),
        (Rejection::SerialsChanged, "serials"),
        (Rejection::RelationshipExists, "relationship exists"),
        (Rejection::RelationshipNotFound, "no relationship"),
        (Rejection::BundleMoved, "bundle moved"),
    ];
    if matches!(rejection, Rejection::EntryIdTaken(_)) {
        return "taken".to_owned();
    }
    if matches!(rejection, Rejection::EntryWouldBeSimilar(_)) {
        return "would be similar".to_owned();
    }
    let found = known.iter().find(|(known, _)| known == rejection);
    found.map_or_else(|| rejection.to_string(), |(_, word)| (*word).to_owned())
}

proptest! {
    #[test]
    fn apply_does_what_a_naive_model_does(moves in moves()) {
        let mut registry = Registry::formed();
        let mut model = Model::start();
        for movement in &moves {
            let Some((command, says)) = model.make(movement) else { continue };
            registry.now = Timestamp::from_unix_s(model.now_s);
            prop_assert_eq!(words(&registry.run(command).outcome), says, "{:?}", movement);
        }
        let mut entries = BTreeMap::new();
        let mut agents = BTreeMap::new();
        let mut relationships = Vec::new();
        let mut bundles = BTreeMap::new();
        let mut refreshes = BTreeMap::new();
        let mut rows = BTreeSet::new();
        for change in snapshot_changes(&registry.tables).unwrap() {
            match change {
                Change::EntryWritten { row, entry } => {
                    prop_assert!(rows.insert(row));
                    entries.insert(entry.id.as_str().to_owned(), entry.revision);
                }
                Change::AgentWritten { row, agent } => {
                    prop_assert!(rows.insert(row));
                    agents.insert(agent.id.path().to_owned(), agent.serials.clone());
                }
                Change::RelationshipWritten { row, relationship } => {
                    prop_assert!(rows.insert(row));
                    relationships.push((*relationship).clone());
                }
                Change::BundleWritten { row, bundle } => {
                    prop_assert!(rows.insert(row));
                    bundles.insert(bundle.trust_domain.to_string(), bundle.sequence_number);
                }
                Change::RefreshWritten(status) => {
                    let failing = status.failure.as_ref().map(|failure| failure.since.unix_s());
                    let times = (status.succeeded_at.map(Timestamp::unix_s), failing);
                    refreshes.insert(status.trust_domain.to_string(), times);
                }
                Change::EntryDeleted { .. }
                | Change::AgentDeleted { .. }
                | Change::BundleDeleted { .. }
                | Change::RelationshipDeleted { .. }
                | Change::RefreshDeleted { .. }
                | Change::JournalWritten(_)
                | Change::SealedWritten { .. }
                | Change::ClusterWritten(_) => {}
            }
        }
        let expected_entries: BTreeMap<_, _> =
            model.entries.iter().map(|(id, e)| (format!("e{id}"), e.2)).collect();
        let expected_agents: BTreeMap<_, _> =
            model.agents.iter().map(|(agent, s)| (agent_path(*agent), s.clone())).collect();
        prop_assert_eq!(entries, expected_entries);
        prop_assert_eq!(agents, expected_agents);
        let expected_relationships: Vec<_> =
            model.relationships.iter().map(|(id, found)| relationship(*id, *found)).collect();
        prop_assert_eq!(relationships, expected_relationships);
        let expected_bundles: BTreeMap<_, _> =
            model.bundles.iter().map(|(id, number)| (domain_name(*id), (*number).into())).collect();
        prop_assert_eq!(bundles, expected_bundles);
        let expected_refreshes: BTreeMap<_, _> =
            model.refreshes.iter().map(|(id, times)| (domain_name(*id), *times)).collect();
        prop_assert_eq!(refreshes, expected_refreshes);
    }

    #[test]
    fn any_batching_and_any_snapshot_point_give_the_same_tables(
        moves in moves(),
        batch in 1..7_usize,
        snapshot_at in 0..60_usize,
    ) {
        let mut model = Model::start();
        let now = || Timestamp::from_unix_ms(START_MS);
        let mut log = vec![envelope(&init(), [0; 16], now())];
        for (at, movement) in moves.iter().enumerate() {
            if let Some((command, _)) = model.make(movement) {
                // Every third id comes twice, so that remembered outcomes take part.
                let id = [u8::try_from(at / 3 + 1).unwrap(); 16];
                log.push(envelope(&command, id, Timestamp::from_unix_s(model.now_s)));
            }
        }
        let one_by_one = replay(MemoryTables::default(), &log, 0, 1);
        let batched = replay(MemoryTables::default(), &log, 0, batch);
        prop_assert_eq!(hash(&one_by_one), hash(&batched));

        let cut = snapshot_at.min(log.len());
        let first = replay(MemoryTables::default(), &log[..cut], 0, batch);
        let restored = replay(restore(&first), &log[cut..], cut, batch);
        prop_assert_eq!(hash(&one_by_one), hash(&restored));
    }
}

fn replay(tables: MemoryTables, log: &[Vec<u8>], from: usize, batch: usize) -> MemoryTables {
    let mut index = from as u64;
    for chunk in log.chunks(batch) {
        let mut txn = Transaction::new(&tables);
        for envelope in chunk {
            index += 1;
            apply::apply(&mut txn, index, envelope).unwrap();
        }
        let writes = txn.into_writes();
        tables.commit(writes).unwrap();
    }
    tables
}

fn snapshot_of(tables: &MemoryTables) -> snapshot::SnapshotBody {
    let sink = SnapshotSink::Memory(Vec::new());
    snapshot::write(tables, pb::store::SnapshotMeta::default(), sink).unwrap()
}

fn restore(tables: &MemoryTables) -> MemoryTables {
    let restored = MemoryTables::default();
    snapshot::read(&snapshot_of(tables), &mut |rows| restored.load(rows)).unwrap();
    restored
}

fn hash(tables: &MemoryTables) -> Vec<u8> {
    let body = snapshot_of(tables);
    let bytes = body.read_at(0, usize::MAX).unwrap();
    digest::digest(&digest::SHA256, &bytes).as_ref().to_vec()
}

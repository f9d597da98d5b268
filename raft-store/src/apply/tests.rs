//! Examples: every rule of apply once, on tables in memory.

use std::time::Duration;

use steeple_spiffe_core::agent::Serials;
use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, AuthorityStatus};
use steeple_spiffe_core::entry::EntryUpdate;

use crate::apply::testing::{
    Registry, admit, authority, entry, entry_id, init, item, selectors, serial, serials, spiffe,
    td, token, update,
};
use crate::apply::{Rows, Table, Tables, Transaction, WriteSet, snapshot_changes};
use crate::change::Change;
use crate::command::{AdmitAgent, Command, PromoteSerial, PruneExpired, SetPendingSerial};
use crate::ids::Revision;
use crate::mem::MemoryTables;
use crate::outcome::{EntryOutcome, Outcome, Rejection};

#[test]
fn nothing_is_applied_before_the_cluster_is_named_and_it_is_named_once() {
    let mut registry = Registry::empty();
    let create = Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]);
    assert_eq!(registry.rejected(create), Rejection::NotInitialised);
    let applied = registry.run(init());
    assert_eq!(applied.outcome, Ok(Outcome::Done));
    assert_eq!(applied.revision, Revision::new(1, 2));
    assert_eq!(registry.rejected(init()), Rejection::AlreadyInitialised);
}

#[test]
fn cluster_time_never_goes_back() {
    let mut registry = Registry::formed();
    let highest = registry.now;
    registry.now = highest.minus(Duration::from_secs(60));
    let applied = registry.run(Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]));
    assert_eq!(applied.time, highest);
}

#[test]
fn a_created_entry_gets_revision_zero_and_cluster_time() {
    let mut registry = Registry::formed();
    let outcome = registry.accepted(Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]));
    let EntryOutcome::Created(created) = item(outcome) else { panic!("not created") };
    assert_eq!((created.revision, created.created_at), (0, registry.now));
}

#[test]
fn each_item_of_a_batch_is_decided_by_itself() {
    let mut registry = Registry::formed();
    let mut foreign = entry("e4", "/f", "unix:uid:4");
    foreign.federates_with = [td("other.org")].into();
    let outcome = registry.accepted(Command::CreateEntries(vec![
        entry("e1", "/w", "unix:uid:1"),
        entry("e2", "/w", "unix:uid:1"),
        entry("e1", "/v", "unix:uid:1"),
        foreign,
        entry("e5", "/w", "unix:uid:2"),
    ]));
    let Outcome::Entries(items) = outcome else { panic!("no items") };
    assert!(matches!(&items[0], EntryOutcome::Created(e) if e.id == entry_id("e1")));
    assert!(matches!(&items[1], EntryOutcome::Similar(e) if e.id == entry_id("e1")));
    let taken = Rejection::EntryIdTaken(entry_id("e1"));
    assert_eq!(items[2], EntryOutcome::Rejected(taken));
    let missing = Rejection::FederatedBundleMissing(td("other.org"));
    assert_eq!(items[3], EntryOutcome::Rejected(missing));
    assert!(matches!(&items[4], EntryOutcome::Created(e) if e.id == entry_id("e5")));
    assert_eq!(registry.count(Table::Entries), 2);
}

#[test]
fn an_update_changes_what_is_given_and_counts_up() {
    let mut registry = Registry::formed();
    registry.accepted(Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]));
    let change = EntryUpdate { hint: Some("x".to_owned()), ..update("e") };
    let outcome = registry.accepted(Command::UpdateEntries(vec![change, update("missing")]));
    let Outcome::Entries(items) = outcome else { panic!("no items") };
    let EntryOutcome::Updated(updated) = &items[0] else { panic!("not updated") };
    assert_eq!((updated.hint.as_str(), updated.revision), ("x", 1));
    assert_eq!(updated.spiffe_id, spiffe("/w"));
    assert_eq!(items[1], EntryOutcome::Rejected(Rejection::EntryNotFound));
}

#[test]
fn an_update_may_not_make_two_entries_similar_and_frees_what_it_was_similar_to() {
    let mut registry = Registry::formed();
    registry.accepted(Command::CreateEntries(vec![
        entry("e1", "/w", "unix:uid:1"),
        entry("e2", "/w", "unix:uid:2"),
    ]));
    let to_first = EntryUpdate { selectors: Some(selectors(&["unix:uid:1"])), ..update("e2") };
    let outcome = item(registry.accepted(Command::UpdateEntries(vec![to_first])));
    let similar = Rejection::EntryWouldBeSimilar(entry_id("e1"));
    assert_eq!(outcome, EntryOutcome::Rejected(similar));

    let away = EntryUpdate { selectors: Some(selectors(&["unix:uid:3"])), ..update("e2") };
    registry.accepted(Command::UpdateEntries(vec![away]));
    let again = registry.accepted(Command::CreateEntries(vec![entry("e3", "/w", "unix:uid:2")]));
    assert!(matches!(item(again), EntryOutcome::Created(_)));
}

#[test]
fn a_stored_svid_needs_selectors_of_one_type_also_after_a_masked_update() {
    let mut registry = Registry::formed();
    let mut mixed = entry("e", "/w", "unix:uid:1");
    mixed.selectors = selectors(&["unix:uid:1", "docker:label:a:b"]);
    registry.accepted(Command::CreateEntries(vec![mixed]));
    let store = EntryUpdate { store_svid: Some(true), ..update("e") };
    let outcome = item(registry.accepted(Command::UpdateEntries(vec![store])));
    assert_eq!(outcome, EntryOutcome::Rejected(Rejection::StoreSvidSelectorTypes));
}

#[test]
fn a_deleted_entry_leaves_no_row_in_any_table() {
    let mut registry = Registry::formed();
    let mut expiring = entry("e", "/w", "unix:uid:1");
    expiring.expires_at_unix_s = 2_000_000_000;
    registry.accepted(Command::CreateEntries(vec![expiring]));
    let ids = vec![entry_id("e"), entry_id("e")];
    let Outcome::Entries(items) = registry.accepted(Command::DeleteEntries(ids)) else {
        panic!("no items")
    };
    let gone = EntryOutcome::Rejected(Rejection::EntryNotFound);
    assert_eq!(items, [EntryOutcome::Deleted, gone]);
    for table in
        [Table::Entries, Table::SimilarEntries, Table::EntriesByExpiry, Table::EntriesByParent]
    {
        assert_eq!(registry.count(table), 0, "{table:?}");
    }
}

#[test]
fn a_join_token_admits_one_agent_and_no_second() {
    let mut registry = Registry::formed();
    registry.accepted(Command::CreateJoinToken(token("t", 60)));
    let by_token = AdmitAgent { token: Some("t".to_owned()), ..admit("/spire/agent/a", 1, None) };
    let mut second = by_token.clone();
    second.agent_id = spiffe("/spire/agent/b");
    registry.accepted(Command::AdmitAgent(by_token));
    assert_eq!(registry.rejected(Command::AdmitAgent(second)), Rejection::TokenUnknown);
    assert_eq!(registry.count(Table::Agents), 1);
    assert_eq!(registry.count(Table::TokensByExpiry), 0);
}

#[test]
fn an_expired_join_token_admits_no_one_and_is_gone_afterwards() {
    let mut registry = Registry::formed();
    registry.accepted(Command::CreateJoinToken(token("t", 60)));
    registry.advance(61);
    let by_token = AdmitAgent { token: Some("t".to_owned()), ..admit("/spire/agent/a", 1, None) };
    let command = Command::AdmitAgent(by_token);
    assert_eq!(registry.rejected(command.clone()), Rejection::TokenExpired);
    assert_eq!(registry.rejected(command), Rejection::TokenUnknown);
    assert_eq!(registry.count(Table::Agents), 0);
}

#[test]
fn a_join_token_survives_an_admission_that_is_refused_for_another_reason() {
    let mut registry = Registry::formed();
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 1, None)));
    registry.accepted(Command::CreateJoinToken(token("t", 60)));
    let stale = AdmitAgent { token: Some("t".to_owned()), ..admit("/spire/agent/a", 2, None) };
    assert_eq!(registry.rejected(Command::AdmitAgent(stale)), Rejection::SerialsChanged);
    assert_eq!(registry.count(Table::Tokens), 1);
}

#[test]
fn a_join_token_exists_once_and_a_refused_one_leaves_no_alias() {
    let mut registry = Registry::formed();
    registry.accepted(Command::CreateJoinToken(token("t", 60)));
    let again = Command::CreateJoinToken(token("t", 60));
    assert_eq!(registry.rejected(again), Rejection::TokenExists);

    let mut alias = entry("alias", "/w", "spiffe_id:x");
    alias.federates_with = [td("other.org")].into();
    let mut with_alias = token("u", 60);
    with_alias.alias = Some(Box::new(alias));
    let rejected = registry.rejected(Command::CreateJoinToken(with_alias));
    assert_eq!(rejected, Rejection::FederatedBundleMissing(td("other.org")));
    assert_eq!((registry.count(Table::Tokens), registry.count(Table::Entries)), (1, 0));
}

#[test]
fn deleting_a_join_token_agent_takes_its_alias_and_nothing_else() {
    let mut registry = Registry::formed();
    let agent_id = spiffe("/spire/agent/join_token/t");
    let mut alias = entry("alias", "/node", &format!("spiffe_id:{agent_id}"));
    alias.parent_id = agent_id.clone();
    let mut other = entry("other", "/w", "unix:uid:1");
    other.parent_id = agent_id.clone();
    let mut with_alias = token("t", 60);
    with_alias.alias = Some(Box::new(alias));
    registry.accepted(Command::CreateJoinToken(with_alias));
    registry.accepted(Command::CreateEntries(vec![other]));
    let mut join = admit("/spire/agent/join_token/t", 1, None);
    join.token = Some("t".to_owned());
    join.attestation_type = "join_token".to_owned();
    registry.accepted(Command::AdmitAgent(join));

    registry.accepted(Command::DeleteAgent(agent_id.clone()));
    let left: Vec<_> = registry.tables.scan(Table::Entries, &[], 9).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, b"other");
    assert_eq!(registry.rejected(Command::DeleteAgent(agent_id)), Rejection::AgentNotFound);
}

#[test]
fn re_attestation_replaces_selectors_and_serial_and_keeps_the_first_type() {
    let mut registry = Registry::formed();
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 1, None)));
    registry.accepted(Command::SetPendingSerial(SetPendingSerial {
        agent_id: spiffe("/spire/agent/a"),
        seen: serials(Some(1), None),
        pending: serial(2),
        not_after: registry.now,
    }));
    let mut again = admit("/spire/agent/a", 3, Some(serials(Some(1), Some(2))));
    again.attestation_type = "k8s_psat".to_owned();
    again.selectors = selectors(&["k8s_psat:x:y"]);
    registry.accepted(Command::AdmitAgent(again));
    let agent = registry.agent("/spire/agent/a").unwrap();
    assert_eq!(agent.serials, serials(Some(3), None));
    assert_eq!(agent.attestation_type, "x509pop");
    assert_eq!(agent.selectors, selectors(&["k8s_psat:x:y"]));
    assert_eq!(agent.pending_not_after, None);
}

#[test]
fn two_members_that_admit_one_agent_at_once_cannot_both_win() {
    let mut registry = Registry::formed();
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 1, None)));
    let late = Command::AdmitAgent(admit("/spire/agent/a", 2, None));
    assert_eq!(registry.rejected(late), Rejection::SerialsChanged);
}

#[test]
fn a_pending_serial_is_promoted_once() {
    let mut registry = Registry::formed();
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 1, None)));
    let agent_id = spiffe("/spire/agent/a");
    let not_after = registry.now.plus(Duration::from_secs(7200));
    registry.accepted(Command::SetPendingSerial(SetPendingSerial {
        agent_id: agent_id.clone(),
        seen: serials(Some(1), None),
        pending: serial(2),
        not_after,
    }));
    let promote = PromoteSerial { agent_id, seen: serials(Some(1), Some(2)) };
    registry.accepted(Command::PromoteSerial(promote.clone()));
    let agent = registry.agent("/spire/agent/a").unwrap();
    assert_eq!((agent.serials, agent.not_after), (serials(Some(2), None), not_after));
    assert_eq!(registry.rejected(Command::PromoteSerial(promote)), Rejection::SerialsChanged);
}

#[test]
fn a_banned_agent_stays_out_until_it_is_deleted() {
    let mut registry = Registry::formed();
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 1, None)));
    let id = spiffe("/spire/agent/a");
    registry.accepted(Command::BanAgent(id.clone()));
    let banned = registry.agent("/spire/agent/a").unwrap();
    assert!(banned.is_banned());
    for seen in [None, Some(Serials::default()), Some(serials(Some(1), None))] {
        let admit = Command::AdmitAgent(admit("/spire/agent/a", 2, seen));
        assert_eq!(registry.rejected(admit), Rejection::AgentBanned);
    }
    let set = SetPendingSerial {
        agent_id: id.clone(),
        seen: Serials::default(),
        pending: serial(2),
        not_after: registry.now,
    };
    assert_eq!(registry.rejected(Command::SetPendingSerial(set)), Rejection::AgentBanned);
    registry.accepted(Command::DeleteAgent(id));
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/a", 2, None)));
}

#[test]
fn commands_about_an_unknown_agent_say_so() {
    let mut registry = Registry::formed();
    let id = spiffe("/spire/agent/a");
    let set_version = Command::SetAgentVersion { agent_id: id.clone(), version: "1.15".to_owned() };
    let promote = PromoteSerial { agent_id: id.clone(), seen: Serials::default() };
    for command in [
        Command::BanAgent(id.clone()),
        Command::DeleteAgent(id),
        set_version,
        Command::PromoteSerial(promote),
    ] {
        assert_eq!(registry.rejected(command), Rejection::AgentNotFound);
    }
}

#[test]
fn pruning_removes_what_expired_by_cluster_time_and_keeps_banned_and_single_use_agents() {
    let mut registry = Registry::formed();
    let mut expiring = entry("e", "/w", "unix:uid:1");
    expiring.expires_at_unix_s = registry.now.unix_s() + 10;
    registry.accepted(Command::CreateEntries(vec![expiring, entry("f", "/w", "unix:uid:2")]));
    registry.accepted(Command::CreateJoinToken(token("t", 10)));
    let once = AdmitAgent { can_reattest: false, ..admit("/spire/agent/once", 3, None) };
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/gone", 1, None)));
    registry.accepted(Command::AdmitAgent(admit("/spire/agent/banned", 2, None)));
    registry.accepted(Command::AdmitAgent(once));
    registry.accepted(Command::BanAgent(spiffe("/spire/agent/banned")));

    let prune = |limit, include_non_reattestable| {
        Command::PruneExpired(PruneExpired {
            agents_expired_for_s: Some(60),
            include_non_reattestable,
            limit,
        })
    };
    assert_eq!(registry.accepted(prune(100, false)), Outcome::Pruned(0));
    registry.advance(3600 + 61);
    assert_eq!(registry.accepted(prune(1, false)), Outcome::Pruned(1));
    assert_eq!(registry.accepted(prune(100, false)), Outcome::Pruned(2));
    assert_eq!(registry.count(Table::Agents), 2);
    assert_eq!(registry.accepted(prune(100, true)), Outcome::Pruned(1));
    assert!(registry.agent("/spire/agent/banned").is_some());
    assert_eq!(registry.count(Table::Entries), 1);
}

#[test]
fn an_authority_is_published_when_it_is_prepared_and_withdrawn_when_it_is_pruned() {
    let mut registry = Registry::formed();
    let (x509, jwt) = (AuthorityKind::X509, AuthorityKind::Jwt);
    let prepare = |expected_journal, kind, id: &str| Command::PrepareAuthority {
        expected_journal,
        authority: authority(kind, id),
    };
    let activate = |expected_journal, kind, id: &str| Command::ActivateAuthority {
        expected_journal,
        kind,
        id: AuthorityId::new(id),
    };
    registry.accepted(prepare(0, x509, "a"));
    assert_eq!(registry.journal().authorities[0].status, AuthorityStatus::Prepared);
    let moved = Rejection::JournalMoved { expected: 0, actual: 1 };
    assert_eq!(registry.rejected(prepare(0, x509, "b")), moved);
    registry.accepted(activate(1, x509, "a"));
    registry.accepted(prepare(2, jwt, "j"));
    registry.accepted(prepare(3, x509, "b"));
    let wrong = Rejection::AuthorityState("a".to_owned());
    assert_eq!(registry.rejected(activate(4, x509, "a")), wrong);
    registry.accepted(activate(4, x509, "b"));
    let statuses: Vec<_> = registry.journal().authorities.iter().map(|a| a.status).collect();
    let expected = [AuthorityStatus::Old, AuthorityStatus::Prepared, AuthorityStatus::Active];
    assert_eq!(statuses, expected);

    let prune = |ids: &[&str]| Command::PruneAuthorities {
        expected_journal: 5,
        ids: ids.iter().map(|id| (x509, AuthorityId::new(*id))).collect(),
    };
    let active = Rejection::AuthorityState("b".to_owned());
    assert_eq!(registry.rejected(prune(&["a", "b"])), active);
    assert_eq!(registry.journal().authorities.len(), 3);
    assert_eq!(registry.accepted(prune(&["a"])), Outcome::Pruned(1));
    let bundle = snapshot_changes(&registry.tables)
        .unwrap()
        .into_iter()
        .find_map(|change| {
            let Change::BundleWritten { bundle, .. } = change else { return None };
            Some(bundle)
        })
        .unwrap();
    assert_eq!(bundle.sequence_number, 4);
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(bundle.x509_authorities[0].certificate_der, b"b");
    assert_eq!(bundle.jwt_authorities[0].key_id, "j");
}

#[test]
fn a_repeated_request_is_answered_as_before_and_has_no_second_effect() {
    let mut registry = Registry::formed();
    let create = Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")]);
    let (first, changes) = registry.run_as(create.clone(), [1; 16]);
    assert_eq!(changes.len(), 1);
    registry.accepted(Command::DeleteEntries(vec![entry_id("e")]));
    let (second, changes) = registry.run_as(create, [1; 16]);
    assert_eq!(second, first);
    assert!(changes.is_empty());
    assert_eq!(registry.count(Table::Entries), 0);
}

#[test]
fn a_request_id_with_another_body_is_refused() {
    let mut registry = Registry::formed();
    registry.run_as(Command::BanAgent(spiffe("/spire/agent/a")), [1; 16]);
    let (other, _) = registry.run_as(Command::DeleteAgent(spiffe("/spire/agent/a")), [1; 16]);
    assert_eq!(other.outcome, Err(Rejection::RequestIdReused));
}

#[test]
fn outcomes_are_forgotten_after_their_time() {
    let mut registry = Registry::formed();
    for number in 1..=20 {
        registry.run_as(Command::BanAgent(spiffe("/spire/agent/a")), [number; 16]);
    }
    assert_eq!(registry.count(Table::Outcomes), 20);
    registry.advance(15 * 60 + 1);
    for _ in 0..2 {
        registry.run(Command::BanAgent(spiffe("/spire/agent/a")));
    }
    assert_eq!(registry.count(Table::Outcomes), 0);
    assert_eq!(registry.count(Table::OutcomesByAge), 0);
}

#[test]
fn a_request_that_may_have_been_forgotten_is_never_applied() {
    let mut registry = Registry::formed();
    let id = |seen: Revision, last: u8| {
        let mut id = [last; 16];
        id[..8].copy_from_slice(&seen.as_u64().to_be_bytes());
        id
    };
    let create =
        |name: &str| Command::CreateEntries(vec![entry(name, "/w", &format!("unix:uid:{name}"))]);
    let (before, _) = registry.run_as(Command::BanAgent(spiffe("/spire/agent/a")), [9; 16]);
    let early = id(before.revision, 1);
    let (first, _) = registry.run_as(create("1"), early);
    registry.accepted(Command::DeleteEntries(vec![entry_id("1")]));
    registry.advance(15 * 60 + 1);
    let (last, _) = registry.run_as(Command::BanAgent(spiffe("/spire/agent/b")), [8; 16]);

    let (again, changes) = registry.run_as(create("1"), early);
    assert_eq!(again.outcome, Err(Rejection::RequestForgotten));
    assert!(changes.is_empty());
    assert_eq!(registry.count(Table::Entries), 0, "the first answer was {first:?}");
    // A caller that had seen a later state cannot have been forgotten; one that says nothing is new.
    for (name, seen) in [("2", last.revision), ("3", Revision::default())] {
        let (fresh, _) = registry.run_as(create(name), id(seen, 2));
        assert!(fresh.outcome.is_ok(), "{fresh:?}");
    }
}

#[test]
fn a_scan_sees_its_own_writes_over_the_base() {
    let tables = MemoryTables::default();
    let mut base = WriteSet::new();
    for key in [b"a", b"b", b"c", b"d"] {
        base.insert((Table::Entries, key.to_vec()), Some(b"base".to_vec()));
    }
    tables.commit(base).unwrap();
    let mut txn = Transaction::new(&tables);
    txn.delete(Table::Entries, b"a");
    txn.keep();
    txn.put(Table::Entries, b"bb", b"new".to_vec());
    txn.delete(Table::Entries, b"c");
    let keys: Vec<_> = txn.scan(Table::Entries, b"", 2).unwrap().into_iter().map(|r| r.0).collect();
    assert_eq!(keys, [b"b".to_vec(), b"bb".to_vec()]);
    txn.discard();
    let keys: Vec<_> =
        txn.scan(Table::Entries, b"b", 9).unwrap().into_iter().map(|r| r.0).collect();
    assert_eq!(keys, [b"b".to_vec(), b"c".to_vec(), b"d".to_vec()]);
}

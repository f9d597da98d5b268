//! The models decide as the registry's rules say: one row a decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use steeple_checker::history::*;
use steeple_checker::model::{Limits, Now, Registry};

fn entry(id: &str, like: &str) -> Entry {
    Entry {
        id: id.into(),
        spiffe_id: format!("spiffe://d/{like}"),
        parent_id: "spiffe://d/p".into(),
        selectors: BTreeSet::from(["unix:uid:1".into()]),
        ..Entry::default()
    }
}

fn update(id: &str, change: impl FnOnce(&mut EntryUpdate)) -> Operation {
    let mut update = EntryUpdate { id: id.into(), ..EntryUpdate::default() };
    change(&mut update);
    Operation::UpdateEntries(vec![update])
}

fn token(token: &str, expires_at_ms: i64, alias: Option<Entry>) -> Operation {
    Operation::CreateToken(Token { token: token.into(), expires_at_ms, alias })
}

fn admit(agent: &str, token: Option<&str>, serial: &str, seen: Seen) -> Operation {
    Operation::AdmitAgent(Admission {
        token: token.map(Into::into),
        agent_id: agent.into(),
        attestation_type: if token.is_some() { "join_token" } else { "x509pop" }.into(),
        serial: serial.into(),
        not_after_ms: Some(1_000),
        selectors: BTreeSet::new(),
        can_reattest: true,
        seen,
        public_key: serial.into(),
    })
}

fn serials(current: &str, pending: Option<&str>) -> Seen {
    Seen::Serials { current: Some(current.into()), pending: pending.map(Into::into) }
}

fn one(item: ItemReply) -> Reply {
    Reply::Items(vec![item])
}

fn refused(rejection: Rejection) -> Reply {
    one(ItemReply::Rejected(rejection))
}

/// Plays operations at their times and compares the last reply.
fn last(limits: Limits, ops: Vec<(i64, Operation)>) -> Reply {
    let header = Header { bundles: BTreeSet::from(["known".into()]), ..Header::default() };
    let mut registry = Registry::new(&header, limits);
    let mut reply = Reply::Done;
    for (time, op) in ops {
        reply = registry
            .read(&op)
            .unwrap_or_else(|| registry.apply(&Arc::new(op), None, Now::exactly(time), None).reply);
    }
    reply
}

/// A name, operations with their times, the last one's reply.
type Row = (&'static str, Vec<(i64, Operation)>, Reply);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_decision_is_that_of_the_rules() {
    let create = |e: Entry| (0, Operation::CreateEntries(vec![e]));
    let stored = |e: Entry| Arc::new(e);
    let pending = |seen| Operation::SetPendingSerial {
        agent_id: "a".into(),
        seen,
        pending: "2".into(),
        not_after_ms: Some(2_000),
    };
    let promote = |seen| Operation::PromoteSerial { agent_id: "a".into(), seen };
    let ban = || (0, Operation::BanAgent { agent_id: "a".into() });
    let delete = || (0, Operation::DeleteAgent { agent_id: "a".into() });
    let show = || (0, Operation::GetAgent { agent_id: "a".into() });
    let rejected = Reply::Rejected;
    let federated = Entry { federates_with: BTreeSet::from(["no".into()]), ..entry("e", "w") };
    let missing = || Rejection::FederatedBundleMissing { trust_domain: "no".into() };
    let alias = Entry {
        id: "alias".into(),
        parent_id: "a".into(),
        selectors: BTreeSet::from(["spiffe_id:a".into()]),
        ..entry("alias", "alias")
    };
    let limit = |what: &str| Rejection::LimitReached { what: what.into() };
    let expiring = |at| Entry { expires_at_s: at, ..entry("e", "w") };
    let prune = |time| {
        let how =
            Prune { agents_expired_for_s: Some(1), include_non_reattestable: false, limit: 9 };
        (time, Operation::PruneExpired(how))
    };
    let federation = |url: &str, profile: &str| Relationship {
        trust_domain: "d".into(),
        endpoint_url: url.into(),
        profile: profile.into(),
    };
    let federate = |url| (0, Operation::CreateRelationships(vec![federation(url, "web")]));
    let refederate = |url: Option<&str>, profile: Option<&str>| {
        let update = RelationshipUpdate {
            trust_domain: "d".into(),
            endpoint_url: url.map(Into::into),
            profile: profile.map(Into::into),
        };
        (0, Operation::UpdateRelationships(vec![update]))
    };
    let unfederate = || (0, Operation::DeleteRelationships(vec!["d".into()]));
    let federated_with = || (0, Operation::GetRelationship { trust_domain: "d".into() });
    let with = |url: &str, profile: &str| ItemReply::Federated(Arc::new(federation(url, profile)));
    let no_relationship = || refused(Rejection::RelationshipNotFound);
    let rows: Vec<Row> = vec![
        ("federate", vec![federate("1")], one(with("1", "web"))),
        (
            "federate twice",
            vec![federate("1"), federate("2")],
            refused(Rejection::RelationshipExists),
        ),
        (
            "the second changes nothing",
            vec![federate("1"), federate("2"), federated_with()],
            Reply::Relationship(Some(Arc::new(federation("1", "web")))),
        ),
        (
            "federate differently",
            vec![federate("1"), refederate(Some("2"), None), refederate(None, Some("spiffe"))],
            one(with("2", "spiffe")),
        ),
        ("federate nobody differently", vec![refederate(Some("2"), None)], no_relationship()),
        ("federate no more", vec![federate("1"), unfederate()], one(ItemReply::Deleted)),
        ("federate no more with nobody", vec![unfederate()], no_relationship()),
        (
            "federated no more",
            vec![federate("1"), unfederate(), federated_with()],
            Reply::Relationship(None),
        ),
        (
            "too many relationships",
            vec![
                federate("1"),
                (
                    0,
                    Operation::CreateRelationships(vec![Relationship {
                        trust_domain: "other".into(),
                        ..federation("1", "web")
                    }]),
                ),
            ],
            refused(limit("federation relationships")),
        ),
        ("create", vec![create(entry("e", "w"))], one(ItemReply::Created(stored(entry("e", "w"))))),
        (
            "similar",
            vec![create(entry("e", "w")), create(entry("f", "w"))],
            one(ItemReply::Similar(stored(entry("e", "w")))),
        ),
        (
            "id taken",
            vec![create(entry("e", "w")), create(entry("e", "v"))],
            refused(Rejection::EntryIdTaken { id: "e".into() }),
        ),
        (
            "similar before id taken",
            vec![create(entry("e", "w")), create(entry("e", "w"))],
            one(ItemReply::Similar(stored(entry("e", "w")))),
        ),
        ("bundle missing", vec![create(federated.clone())], refused(missing())),
        (
            "update",
            vec![create(entry("e", "w")), (0, update("e", |u| u.hint = Some("h".into())))],
            one(ItemReply::Updated(stored(Entry {
                hint: "h".into(),
                revision: 1,
                ..entry("e", "w")
            }))),
        ),
        (
            "update of nothing counts",
            vec![create(entry("e", "w")), (0, update("e", |_| ()))],
            one(ItemReply::Updated(stored(Entry { revision: 1, ..entry("e", "w") }))),
        ),
        ("update unknown", vec![(0, update("e", |_| ()))], refused(Rejection::EntryNotFound)),
        (
            "update to similar",
            vec![
                create(entry("e", "w")),
                create(entry("f", "v")),
                (0, update("f", |u| u.spiffe_id = Some("spiffe://d/w".into()))),
            ],
            refused(Rejection::EntryWouldBeSimilar { id: "e".into() }),
        ),
        (
            "update to missing bundle",
            vec![
                create(entry("e", "w")),
                (0, update("e", |u| u.federates_with = Some(federated.federates_with.clone()))),
            ],
            refused(missing()),
        ),
        (
            "store with two types",
            vec![
                create(entry("e", "w")),
                (
                    0,
                    update("e", |u| {
                        u.store_svid = Some(true);
                        u.selectors = Some(["unix:uid:1".into(), "k8s:ns:a".into()].into());
                    }),
                ),
            ],
            refused(Rejection::StoreSvidSelectorTypes),
        ),
        (
            "delete",
            vec![create(entry("e", "w")), (0, Operation::DeleteEntries(vec!["e".into()]))],
            one(ItemReply::Deleted),
        ),
        (
            "delete unknown",
            vec![(0, Operation::DeleteEntries(vec!["e".into()]))],
            refused(Rejection::EntryNotFound),
        ),
        (
            "items one by one",
            vec![(0, Operation::DeleteEntries(vec!["e".into(), "f".into()]))],
            Reply::Items(vec![
                ItemReply::Rejected(Rejection::EntryNotFound),
                ItemReply::Rejected(Rejection::EntryNotFound),
            ]),
        ),
        (
            "too many entries",
            vec![create(entry("e", "w")), create(entry("f", "v")), create(entry("g", "u"))],
            refused(limit("entries")),
        ),
        ("token", vec![(0, token("t", 5, None))], Reply::Done),
        (
            "token exists",
            vec![(0, token("t", 5, None)), (0, token("t", 6, None))],
            rejected(Rejection::TokenExists),
        ),
        (
            "token with refused alias",
            vec![
                (0, token("t", 5, Some(federated))),
                (0, admit("a", Some("t"), "1", Seen::Absent)),
            ],
            rejected(Rejection::TokenUnknown),
        ),
        (
            "too many tokens",
            vec![(0, token("t", 5, None)), (0, token("u", 5, None)), (0, token("v", 5, None))],
            rejected(limit("join tokens")),
        ),
        (
            "redeem",
            vec![(0, token("t", 5, None)), (5, admit("a", Some("t"), "1", Seen::Absent))],
            Reply::Done,
        ),
        (
            "redeem twice",
            vec![
                (0, token("t", 5, None)),
                (0, admit("a", Some("t"), "1", Seen::Absent)),
                (0, admit("b", Some("t"), "2", Seen::Absent)),
            ],
            rejected(Rejection::TokenUnknown),
        ),
        (
            "redeem expired",
            vec![(0, token("t", 5, None)), (6, admit("a", Some("t"), "1", Seen::Absent))],
            rejected(Rejection::TokenExpired),
        ),
        (
            "expired token is gone",
            vec![
                (0, token("t", 5, None)),
                (6, admit("a", Some("t"), "1", Seen::Absent)),
                (6, admit("a", Some("t"), "1", Seen::Absent)),
            ],
            rejected(Rejection::TokenUnknown),
        ),
        (
            "refused admission spends no token",
            vec![
                (0, token("t", 5, None)),
                (0, admit("a", Some("t"), "1", serials("9", None))),
                (0, admit("a", Some("t"), "1", Seen::Absent)),
            ],
            Reply::Done,
        ),
        (
            "admit with other serials",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                (0, admit("a", None, "2", Seen::Absent)),
            ],
            rejected(Rejection::SerialsChanged),
        ),
        (
            "too many agents",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                (0, admit("b", None, "1", Seen::Absent)),
                (0, admit("c", None, "1", Seen::Absent)),
            ],
            rejected(limit("agents")),
        ),
        (
            "pending",
            vec![(0, admit("a", None, "1", Seen::Absent)), (0, pending(serials("1", None)))],
            Reply::Done,
        ),
        (
            "pending of other",
            vec![(0, admit("a", None, "1", Seen::Absent)), (0, pending(serials("7", None)))],
            rejected(Rejection::SerialsChanged),
        ),
        (
            "pending of none",
            vec![(0, pending(serials("1", None)))],
            rejected(Rejection::AgentNotFound),
        ),
        (
            "pending of banned",
            vec![(0, admit("a", None, "1", Seen::Absent)), ban(), (0, pending(serials("1", None)))],
            rejected(Rejection::AgentBanned),
        ),
        (
            "promote",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                (0, pending(serials("1", None))),
                (0, promote(serials("1", Some("2")))),
            ],
            Reply::Done,
        ),
        (
            "promote nothing",
            vec![(0, admit("a", None, "1", Seen::Absent)), (0, promote(serials("1", None)))],
            rejected(Rejection::SerialsChanged),
        ),
        ("ban of none", vec![ban()], rejected(Rejection::AgentNotFound)),
        (
            "banned cannot attest",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                ban(),
                (0, admit("a", None, "2", Seen::Serials { current: None, pending: None })),
            ],
            rejected(Rejection::AgentBanned),
        ),
        (
            "deleted may attest",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                ban(),
                delete(),
                (0, admit("a", None, "2", Seen::Absent)),
            ],
            Reply::Done,
        ),
        ("delete of none", vec![delete()], rejected(Rejection::AgentNotFound)),
        (
            "version of none",
            vec![(0, Operation::SetAgentVersion { agent_id: "a".into(), version: "1".into() })],
            rejected(Rejection::AgentNotFound),
        ),
        (
            "alias goes with its agent",
            vec![
                (0, token("t", 5, Some(alias.clone()))),
                (0, admit("a", Some("t"), "1", Seen::Absent)),
                delete(),
                (0, Operation::CountEntries),
            ],
            Reply::Count(0),
        ),
        (
            "alias stays without token attestation",
            vec![
                create(alias),
                (0, admit("a", None, "1", Seen::Absent)),
                delete(),
                (0, Operation::CountEntries),
            ],
            Reply::Count(1),
        ),
        (
            "prune entries and tokens",
            vec![create(expiring(1)), (0, token("t", 1_500, None)), prune(2_000)],
            Reply::Pruned(2),
        ),
        (
            "prune nothing early",
            vec![create(expiring(2)), (0, token("t", 2_000, None)), prune(2_000)],
            Reply::Pruned(0),
        ),
        (
            "prune agents after their grace",
            vec![(0, admit("a", None, "1", Seen::Absent)), prune(2_001)],
            Reply::Pruned(1),
        ),
        (
            "prune no banned agents",
            vec![(0, admit("a", None, "1", Seen::Absent)), ban(), prune(9_000)],
            Reply::Pruned(0),
        ),
        (
            "promotion keeps the later expiry",
            vec![
                (0, admit("a", None, "1", Seen::Absent)),
                (0, pending(serials("1", None))),
                (0, promote(serials("1", Some("2")))),
                prune(2_500),
            ],
            Reply::Pruned(0),
        ),
        (
            "second init",
            vec![(0, Operation::InitCluster { name: "x".into() })],
            rejected(Rejection::AlreadyInitialised),
        ),
        ("agent unknown", vec![show()], Reply::Agent(None)),
    ];
    for (name, ops, expected) in rows {
        let limits = Limits { entries: 2, agents: 2, tokens: 2, relationships: 1 };
        assert_eq!(last(limits, ops), expected, "{name}");
    }
}

#[test]
fn request_ids_are_remembered_and_compared() {
    let mut registry = Registry::new(&Header::default(), Limits::default());
    let mut apply =
        |op: Operation| registry.apply(&Arc::new(op), Some("q"), Now::exactly(0), None).reply;
    let op = || Operation::CreateEntries(vec![entry("e", "w")]);
    let first = apply(op());
    assert_eq!(apply(op()), first, "not Similar");
    let other = apply(Operation::DeleteEntries(vec!["e".into()]));
    assert_eq!(other, Reply::Rejected(Rejection::RequestIdReused));
}

#[test]
fn nothing_is_done_before_the_first_command() {
    let header = Header { uninitialised: true, ..Header::default() };
    let mut registry = Registry::new(&header, Limits::default());
    let op = Arc::new(Operation::CreateEntries(vec![entry("e", "w")]));
    let reply = registry.apply(&op, None, Now::exactly(0), None).reply;
    assert_eq!(reply, Reply::Rejected(Rejection::NotInitialised));
}

#[test]
fn what_is_rolled_back_leaves_no_trace() {
    let mut registry = Registry::new(&Header::default(), Limits::default());
    let op = Arc::new(Operation::CreateEntries(vec![entry("e", "w")]));
    let mark = registry.mark();
    let first = registry.apply(&op, Some("q"), Now::exactly(0), None);
    registry.roll_back(mark);
    assert_eq!(registry.read(&Operation::CountEntries), Some(Reply::Count(0)));
    assert_eq!(registry.apply(&op, Some("q"), Now::exactly(0), None).changes, first.changes);
}

//! Roots of an upstream authority in the bundle: one example a rule.

use steeple_spiffe_core::bundle::JwtAuthority;

use crate::apply::testing::{Registry, authority};
use crate::command::{AppendBundle, Command};

use super::*;

fn roots(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn prepare(registry: &mut Registry, id: &str, roots: Vec<Vec<u8>>) -> Result<Outcome, Rejection> {
    let expected_journal = registry.journal().revision;
    let authority = authority(AuthorityKind::X509, id);
    registry.run(Command::PrepareChained { expected_journal, authority, roots }).outcome
}

fn change(
    registry: &mut Registry,
    change: RootChange,
    names: &[&str],
) -> Result<Outcome, Rejection> {
    let expected_journal = registry.journal().revision;
    let roots = roots(names);
    registry.run(Command::ChangeRoots { expected_journal, change, roots }).outcome
}

fn published(registry: &Registry) -> Vec<(String, bool)> {
    let name = |one: &X509Authority| String::from_utf8(one.certificate_der.clone()).unwrap();
    registry.bundle().x509_authorities.iter().map(|one| (name(one), one.tainted)).collect()
}

fn is(registry: &Registry, expected: &[(&str, bool)]) {
    let expected: Vec<_> =
        expected.iter().map(|(name, tainted)| ((*name).to_owned(), *tainted)).collect();
    assert_eq!(published(registry), expected);
}

#[test]
fn an_authority_below_an_upstream_one_publishes_the_roots_instead_of_itself() {
    let mut registry = Registry::formed();
    prepare(&mut registry, "a", roots(&["r1", "r2"])).unwrap();
    is(&registry, &[("r1", false), ("r2", false)]);
    assert_eq!(registry.bundle().sequence_number, 1);
    prepare(&mut registry, "b", roots(&["r2"])).unwrap();
    is(&registry, &[("r1", false), ("r2", false)]);
    assert_eq!(registry.bundle().sequence_number, 1, "nothing is new in it");
    assert_eq!(registry.journal().authorities.len(), 2);

    assert!(prepare(&mut registry, "c", Vec::new()).is_err(), "it would chain to nothing");
    let (expected_journal, authority) = (2, authority(AuthorityKind::Jwt, "k"));
    let roots = roots(&["r3"]);
    let jwt = Command::PrepareChained { expected_journal, authority, roots };
    assert!(registry.run(jwt).outcome.is_err(), "keys have no certificates");
    is(&registry, &[("r1", false), ("r2", false)]);
    assert_eq!(registry.journal().revision, 2);
}

#[test]
fn a_pruned_authority_leaves_its_root() {
    let mut registry = Registry::formed();
    prepare(&mut registry, "a", roots(&["r1"])).unwrap();
    let ids = vec![(AuthorityKind::X509, AuthorityId::new("a"))];
    registry.accepted(Command::PruneAuthorities { expected_journal: 1, ids });
    is(&registry, &[("r1", false)]);
}

#[test]
fn roots_are_added_tainted_and_then_revoked_each_once() {
    let mut registry = Registry::formed();
    prepare(&mut registry, "a", roots(&["r1"])).unwrap();
    change(&mut registry, RootChange::Add, &["r1", "r2"]).unwrap();
    is(&registry, &[("r1", false), ("r2", false)]);
    assert!(change(&mut registry, RootChange::Revoke, &["r1"]).is_err(), "it is not tainted");
    assert!(change(&mut registry, RootChange::Taint, &["r3"]).is_err(), "there is none");
    change(&mut registry, RootChange::Taint, &["r1"]).unwrap();
    assert!(change(&mut registry, RootChange::Taint, &["r1"]).is_err(), "it is tainted already");
    let sequence = registry.bundle().sequence_number;
    change(&mut registry, RootChange::Add, &["r1"]).unwrap();
    is(&registry, &[("r1", true), ("r2", false)]);
    assert_eq!(registry.bundle().sequence_number, sequence);
    change(&mut registry, RootChange::Revoke, &["r1"]).unwrap();
    is(&registry, &[("r2", false)]);
    assert_eq!(registry.bundle().sequence_number, sequence + 1);
    assert_eq!(registry.journal().revision, 1, "the journal stays");
}

#[test]
fn a_refused_change_changes_nothing_and_the_last_root_stays() {
    let mut registry = Registry::formed();
    prepare(&mut registry, "a", roots(&["r1", "r2"])).unwrap();
    assert!(change(&mut registry, RootChange::Taint, &["r1", "r3"]).is_err());
    is(&registry, &[("r1", false), ("r2", false)]);
    change(&mut registry, RootChange::Taint, &["r1", "r2"]).unwrap();
    assert!(change(&mut registry, RootChange::Revoke, &["r1", "r2"]).is_err());
    is(&registry, &[("r1", true), ("r2", true)]);
    change(&mut registry, RootChange::Revoke, &["r1"]).unwrap();
    is(&registry, &[("r2", true)]);

    let stale = Command::ChangeRoots {
        expected_journal: 0,
        change: RootChange::Taint,
        roots: roots(&["r2"]),
    };
    let moved = Rejection::JournalMoved { expected: 0, actual: 1 };
    assert_eq!(registry.rejected(stale), moved);
}

#[test]
fn others_roots_and_keys_are_pruned_and_authorities_of_the_journal_are_not() {
    let mut registry = Registry::formed();
    let own = |kind, id| (authority(kind, id), id);
    for (authority, _) in [own(AuthorityKind::X509, "own"), own(AuthorityKind::Jwt, "key")] {
        let expected_journal = registry.journal().revision;
        registry.accepted(Command::PrepareAuthority { expected_journal, authority });
    }
    let key = |key_id: &str| JwtAuthority {
        key_id: key_id.to_owned(),
        public_key_der: vec![1],
        expires_at: None,
        tainted: false,
    };
    change(&mut registry, RootChange::Add, &["r1", "r2"]).unwrap();
    registry.accepted(Command::AppendBundle(AppendBundle {
        x509_authorities: Vec::new(),
        jwt_authorities: vec![key("k1"), key("k2")],
    }));
    let mut prune = |names: &[&str], ids: &[&str]| {
        let expected_journal = registry.journal().revision;
        let key_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let roots = roots(names);
        registry.run(Command::PruneBundle { expected_journal, roots, key_ids }).outcome
    };
    let state = |id: &str| Err(Rejection::AuthorityState(id.to_owned()));
    assert_eq!(prune(&["r1", "own"], &[]), state("own"));
    assert_eq!(prune(&["r1"], &["k1", "key"]), state("key"));
    assert_eq!(prune(&["r1"], &["k3"]), state("k3"));
    assert_eq!(prune(&["r1"], &["k1"]), Ok(Outcome::Pruned(2)));
    is(&registry, &[("own", false), ("r2", false)]);
    let left: Vec<_> =
        registry.bundle().jwt_authorities.iter().map(|key| key.key_id.clone()).collect();
    assert_eq!(left, ["key", "k2"]);
}

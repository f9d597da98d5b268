//! Taint and revoke of authorities: one example a rule.

use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, AuthorityStatus, SealedKey};
use steeple_spiffe_core::bundle::Bundle;

use crate::apply::testing::{Registry, authority};
use crate::command::Command;
use crate::outcome::{Outcome, Rejection};

const X509: AuthorityKind = AuthorityKind::X509;
const JWT: AuthorityKind = AuthorityKind::Jwt;
const WIT: AuthorityKind = AuthorityKind::Wit;

fn prepare(registry: &mut Registry, kind: AuthorityKind, id: &str) {
    let expected_journal = registry.journal().revision;
    let authority = authority(kind, id);
    registry.accepted(Command::PrepareAuthority { expected_journal, authority });
}

fn activate(registry: &mut Registry, kind: AuthorityKind, id: &str) {
    let (expected_journal, id) = (registry.journal().revision, AuthorityId::new(id));
    registry.accepted(Command::ActivateAuthority { expected_journal, kind, id });
}

fn taint(registry: &Registry, kind: AuthorityKind, id: &str) -> Command {
    let (expected_journal, id) = (registry.journal().revision, AuthorityId::new(id));
    Command::TaintAuthority { expected_journal, kind, id }
}

fn revoke(registry: &Registry, kind: AuthorityKind, id: &str) -> Command {
    let (expected_journal, id) = (registry.journal().revision, AuthorityId::new(id));
    Command::RevokeAuthority { expected_journal, kind, id }
}

/// Per kind an old authority, an active one and a prepared one.
fn rotated() -> Registry {
    let mut registry = Registry::formed();
    for kind in AuthorityKind::ALL {
        for id in ["old", "active"] {
            prepare(&mut registry, kind, id);
            activate(&mut registry, kind, id);
        }
        prepare(&mut registry, kind, "prepared");
    }
    registry
}

/// The names and taints of what is published of a kind.
fn published(bundle: &Bundle, kind: AuthorityKind) -> Vec<(String, bool)> {
    let name = |der: &[u8]| String::from_utf8(der.to_vec()).unwrap();
    match kind {
        AuthorityKind::X509 => {
            let all = bundle.x509_authorities.iter();
            all.map(|one| (name(&one.certificate_der), one.tainted)).collect()
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let all = bundle.keys(kind).iter();
            all.map(|one| (one.key_id.clone(), one.tainted)).collect()
        }
    }
}

fn names(list: &[(&str, bool)]) -> Vec<(String, bool)> {
    list.iter().map(|(name, tainted)| ((*name).to_owned(), *tainted)).collect()
}

#[test]
fn an_old_authority_is_tainted_and_then_revoked_and_each_step_moves_bundle_and_journal_by_one() {
    for (kind, other) in [(X509, JWT), (JWT, X509), (WIT, JWT), (JWT, WIT)] {
        let mut registry = rotated();
        let (before, revision) = (registry.bundle(), registry.journal().revision);
        assert_eq!(registry.accepted(taint(&registry, kind, "old")), Outcome::Done);
        let tainted = registry.bundle();
        assert_eq!(tainted.sequence_number, before.sequence_number + 1);
        assert_eq!(registry.journal().revision, revision + 1);
        let expected = names(&[("old", true), ("active", false), ("prepared", false)]);
        assert_eq!(published(&tainted, kind), expected);
        assert_eq!(published(&tainted, other), published(&before, other));

        assert_eq!(registry.accepted(revoke(&registry, kind, "old")), Outcome::Done);
        let revoked = registry.bundle();
        assert_eq!(revoked.sequence_number, before.sequence_number + 2);
        assert_eq!(published(&revoked, kind), names(&[("active", false), ("prepared", false)]));
        assert_eq!(published(&revoked, other), published(&before, other));
        let journal = registry.journal();
        let mut of_kind = journal.authorities.iter().filter(|one| one.kind == kind);
        let left = of_kind.find(|one| one.id.as_str() == "old").unwrap();
        assert_eq!((left.status, left.tainted), (AuthorityStatus::Revoked, true));
        assert_eq!(left.sealed_key, SealedKey::destroyed(), "nobody can sign with it again");
    }
}

#[test]
fn what_signs_is_unknown_or_was_dealt_with_is_neither_tainted_nor_revoked() {
    let mut registry = rotated();
    let refused = |id: &str| Rejection::AuthorityState(id.to_owned());
    let (journal, before) = (registry.journal(), registry.bundle());
    for kind in [X509, JWT] {
        for id in ["active", "unknown"] {
            assert_eq!(registry.rejected(taint(&registry, kind, id)), refused(id));
        }
        for id in ["old", "prepared", "active", "unknown"] {
            assert_eq!(registry.rejected(revoke(&registry, kind, id)), refused(id), "untainted");
        }
    }
    assert_eq!((registry.journal(), registry.bundle()), (journal, before));

    registry.accepted(taint(&registry, X509, "old"));
    assert_eq!(registry.rejected(taint(&registry, X509, "old")), refused("old"));
    registry.accepted(revoke(&registry, X509, "old"));
    assert_eq!(registry.rejected(taint(&registry, X509, "old")), refused("old"));
    assert_eq!(registry.rejected(revoke(&registry, X509, "old")), refused("old"));

    let expected_journal = registry.journal().revision - 1;
    let id = AuthorityId::new("old");
    let late = Command::TaintAuthority { expected_journal, kind: JWT, id };
    let actual = registry.journal().revision;
    let moved = Rejection::JournalMoved { expected: expected_journal, actual };
    assert_eq!(registry.rejected(late), moved);
}

#[test]
fn a_prepared_authority_that_is_tainted_never_signs() {
    let mut registry = rotated();
    registry.accepted(taint(&registry, X509, "prepared"));
    let (expected_journal, id) = (registry.journal().revision, AuthorityId::new("prepared"));
    let activate = Command::ActivateAuthority { expected_journal, kind: X509, id };
    let refused = Rejection::AuthorityState("prepared".to_owned());
    assert_eq!(registry.rejected(activate), refused);
    registry.accepted(revoke(&registry, X509, "prepared"));
}

#[test]
fn a_revoked_authority_is_pruned_as_any_other_and_can_be_named_again() {
    let mut registry = rotated();
    registry.accepted(taint(&registry, X509, "old"));
    registry.accepted(revoke(&registry, X509, "old"));
    let sequence = registry.bundle().sequence_number;
    let ids = vec![(X509, AuthorityId::new("old"))];
    let expected_journal = registry.journal().revision;
    let prune = Command::PruneAuthorities { expected_journal, ids };
    assert_eq!(registry.accepted(prune), Outcome::Pruned(1));
    assert_eq!(registry.bundle().sequence_number, sequence, "it was not there any more");
    assert_eq!(registry.journal().authorities.len(), 8);
}

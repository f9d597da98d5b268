//! Another cluster key: one example a rule.

use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, SealedKey};

use crate::apply::read_cluster;
use crate::apply::testing::{Registry, authority};
use crate::change::Change;
use crate::command::{Command, ResealAuthority};
use crate::keys_in_use::KeysInUse;
use crate::outcome::{Outcome, Rejection};
use crate::sealed_values::SealedValues;

const X509: AuthorityKind = AuthorityKind::X509;
const JWT: AuthorityKind = AuthorityKind::Jwt;

/// The key that all authorities of [`formed`] are sealed under.
const OLD: &str = "k";

/// An active authority of each kind, and an X.509 one that is prepared.
fn formed() -> Registry {
    let mut registry = Registry::formed();
    for (kind, id) in [(X509, "a"), (JWT, "j"), (X509, "b")] {
        let expected_journal = registry.journal().revision;
        let authority = authority(kind, id);
        registry.accepted(Command::PrepareAuthority { expected_journal, authority });
        if id != "b" {
            let (expected_journal, id) = (registry.journal().revision, AuthorityId::new(id));
            registry.accepted(Command::ActivateAuthority { expected_journal, kind, id });
        }
    }
    registry
}

fn move_key(expected: &str, to: &str) -> Command {
    Command::MoveClusterKey { expected: expected.to_owned(), to: to.to_owned() }
}

fn sealed(kek_id: &str, nonce: u8) -> SealedKey {
    SealedKey {
        kek_id: kek_id.to_owned(),
        version: 1,
        nonce: vec![nonce; 12],
        ciphertext: vec![4, 5],
    }
}

/// From the sealing that [`formed`] made to one under another key.
fn reseal(kind: AuthorityKind, id: &str, to: SealedKey) -> ResealAuthority {
    let (seen_kek_id, seen_nonce) = (OLD.to_owned(), vec![0; 12]);
    let id = AuthorityId::new(id);
    ResealAuthority { kind, id, seen_kek_id, seen_nonce, sealed_key: to }
}

fn run(reseal: ResealAuthority) -> Command {
    Command::ResealAuthority(Box::new(reseal))
}

fn in_use(registry: &Registry) -> KeysInUse {
    let cluster = read_cluster(&registry.tables).unwrap().unwrap();
    KeysInUse::of(&cluster, &registry.journal(), &SealedValues::new())
}

fn moved(expected: &str, actual: &str) -> Rejection {
    let (expected, actual) = (expected.to_owned(), actual.to_owned());
    Rejection::ClusterKeyMoved { expected, actual }
}

fn state(id: &str) -> Rejection {
    Rejection::AuthorityState(id.to_owned())
}

#[test]
fn a_cluster_that_never_named_a_key_seals_under_that_of_its_newest_authority() {
    let mut registry = Registry::formed();
    assert_eq!(in_use(&registry), KeysInUse::default());
    assert_eq!(registry.rejected(move_key("x", "new")), moved("x", ""));
    let registry = formed();
    assert_eq!(in_use(&registry).current.as_deref(), Some(OLD));
    assert_eq!(in_use(&registry).sealed[OLD].len(), 3);
}

#[test]
fn the_key_moves_only_from_the_one_that_was_seen() {
    let mut registry = formed();
    assert_eq!(registry.rejected(move_key("other", "new")), moved("other", OLD));
    assert_eq!(in_use(&registry).current.as_deref(), Some(OLD));
    let (applied, changes) = registry.run_as(move_key(OLD, "new"), [1; 16]);
    assert_eq!(applied.outcome, Ok(Outcome::Done));
    assert!(matches!(&changes[..], [Change::ClusterWritten(row)] if row.key_id == "new"));
    assert_eq!(registry.rejected(move_key(OLD, "newer")), moved(OLD, "new"));
    assert_eq!(left(&registry), [OLD]);
    // What is so already stays.
    let (applied, changes) = registry.run_as(move_key("new", "new"), [2; 16]);
    assert_eq!((applied.outcome, changes), (Ok(Outcome::Done), Vec::new()));
    // Back again: it is not left any more, the other one is.
    registry.accepted(move_key("new", OLD));
    assert_eq!(left(&registry), ["new"]);
    for number in 0..20 {
        let from = in_use(&registry).current.unwrap();
        registry.accepted(move_key(&from, &format!("key {number}")));
    }
    let left = left(&registry);
    assert_eq!((left.len(), left.last().map(String::as_str)), (16, Some("key 18")));
}

fn left(registry: &Registry) -> Vec<String> {
    read_cluster(&registry.tables).unwrap().unwrap().left_key_ids
}

#[test]
fn each_authority_changes_its_sealing_once_and_nothing_else() {
    let mut registry = formed();
    registry.accepted(move_key(OLD, "new"));
    let before = registry.journal();
    registry.accepted(run(reseal(X509, "a", sealed("new", 7))));
    let after = registry.journal();
    let mut expected = before.clone();
    expected.revision += 1;
    expected.authorities[0].sealed_key = sealed("new", 7);
    assert_eq!(after, expected);
    // Proposed again, by whoever did not hear of it: the sealing that was seen is gone.
    assert_eq!(registry.rejected(run(reseal(X509, "a", sealed("new", 8)))), state("a"));
    assert_eq!(registry.journal(), after);

    registry.accepted(run(reseal(JWT, "j", sealed("new", 1))));
    registry.accepted(run(reseal(X509, "b", sealed("new", 2))));
    let in_use = in_use(&registry);
    assert_eq!(in_use.needed().into_iter().collect::<Vec<_>>(), ["new"], "{in_use:?}");
}

#[test]
fn a_sealing_that_was_not_seen_or_is_under_the_wrong_key_changes_nothing() {
    let seen = |kek_id: &str, nonce: u8| {
        let (seen_kek_id, seen_nonce) = (kek_id.to_owned(), vec![nonce; 12]);
        ResealAuthority { seen_kek_id, seen_nonce, ..reseal(X509, "a", sealed("new", 1)) }
    };
    let table = [
        ("an unknown authority", reseal(X509, "x", sealed("new", 1)), state("x")),
        ("of the other kind", reseal(JWT, "a", sealed("new", 1)), state("a")),
        ("another key was seen", seen("other", 0), state("a")),
        ("another nonce was seen", seen(OLD, 9), state("a")),
        ("under the old key", reseal(X509, "a", sealed(OLD, 1)), moved(OLD, "new")),
        ("under a third key", reseal(X509, "a", sealed("third", 1)), moved("third", "new")),
    ];
    for (case, command, expected) in table {
        let mut registry = formed();
        registry.accepted(move_key(OLD, "new"));
        let before = registry.journal();
        assert_eq!(registry.rejected(run(command)), expected, "{case}");
        assert_eq!(registry.journal(), before, "{case}");
    }
}

#[test]
fn a_destroyed_key_stays_destroyed() {
    let mut registry = formed();
    registry.accepted(move_key(OLD, "new"));
    let (kind, id) = (X509, AuthorityId::new("b"));
    let at = |registry: &Registry| registry.journal().revision;
    let expected_journal = at(&registry);
    registry.accepted(Command::TaintAuthority { expected_journal, kind, id: id.clone() });
    let expected_journal = at(&registry);
    registry.accepted(Command::RevokeAuthority { expected_journal, kind, id });
    let destroyed = SealedKey::destroyed();
    let again = ResealAuthority {
        seen_kek_id: destroyed.kek_id.clone(),
        seen_nonce: destroyed.nonce.clone(),
        ..reseal(X509, "b", sealed("new", 1))
    };
    for command in [again, reseal(X509, "b", sealed("new", 1))] {
        assert_eq!(registry.rejected(run(command)), state("b"));
    }
    let found = in_use(&registry);
    assert_eq!(found.sealed[OLD].len(), 2, "nothing depends on a key for what is destroyed");
}

#[test]
fn after_the_move_no_authority_comes_in_under_the_key_that_was_left() {
    let mut registry = formed();
    let prepare = |registry: &Registry, under: &str| {
        let mut authority = authority(X509, "c");
        authority.sealed_key = sealed(under, 3);
        Command::PrepareAuthority { expected_journal: registry.journal().revision, authority }
    };
    registry.accepted(move_key(OLD, "new"));
    let late = prepare(&registry, OLD);
    assert_eq!(registry.rejected(late), moved(OLD, "new"));
    let right = prepare(&registry, "new");
    registry.accepted(right);
}

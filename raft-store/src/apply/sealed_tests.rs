//! Values that are kept sealed: one example a rule.

use steeple_spiffe_core::authority::{AuthorityKind, SealedKey};

use crate::apply::testing::{Registry, authority};
use crate::apply::{read_cluster, read_sealed};
use crate::change::Change;
use crate::command::{Command, WriteSealed};
use crate::keys_in_use::KeysInUse;
use crate::limits::SEALED_BYTES_MAX;
use crate::outcome::{Outcome, Rejection};
use crate::sealed_values::SealedName;

fn sealed(kek_id: &str, bytes: usize) -> SealedKey {
    let (nonce, ciphertext) = (vec![0; 12], vec![1; bytes]);
    SealedKey { kek_id: kek_id.to_owned(), version: 1, nonce, ciphertext }
}

fn write(name: SealedName, expected: u64, kek_id: &str) -> Command {
    Command::WriteSealed(Box::new(WriteSealed { name, expected, sealed: sealed(kek_id, 3) }))
}

fn versions(registry: &Registry) -> Vec<(SealedName, u64)> {
    let found = read_sealed(&registry.tables).unwrap();
    found.iter().map(|(name, value)| (*name, value.version)).collect()
}

#[test]
fn a_value_is_written_from_the_version_that_was_seen_and_no_other() {
    let mut registry = Registry::formed();
    let (account, attempt) = (SealedName::AcmeAccount, SealedName::AcmeAttempt);
    assert_eq!(versions(&registry), []);
    assert_eq!(
        registry.rejected(write(account, 1, "k")),
        Rejection::SealedMoved { expected: 1, actual: 0 }
    );
    let (applied, changes) = registry.run_as(write(account, 0, "k"), [1; 16]);
    assert_eq!(applied.outcome, Ok(Outcome::Done));
    let is_it = |change: &Change| matches!(change, Change::SealedWritten { name, value } if *name == account && value.version == 1);
    assert!(matches!(&changes[..], [one] if is_it(one)), "{changes:?}");
    registry.accepted(write(attempt, 0, "k"));
    registry.accepted(write(attempt, 1, "k"));
    assert_eq!(
        registry.rejected(write(attempt, 1, "k")),
        Rejection::SealedMoved { expected: 1, actual: 2 }
    );
    assert_eq!(versions(&registry), [(account, 1), (attempt, 2)]);
}

#[test]
fn a_value_has_a_bound() {
    let mut registry = Registry::formed();
    let of = |bytes| {
        let (name, sealed) = (SealedName::AcmeCertificate, sealed("k", bytes));
        Command::WriteSealed(Box::new(WriteSealed { name, expected: 0, sealed }))
    };
    let refused = registry.rejected(of(SEALED_BYTES_MAX + 1));
    assert!(matches!(refused, Rejection::LimitReached { .. }), "{refused:?}");
    registry.accepted(of(SEALED_BYTES_MAX));
}

#[test]
fn a_value_depends_on_its_cluster_key_and_is_sealed_under_none_that_was_left() {
    let mut registry = Registry::formed();
    let authority = authority(AuthorityKind::X509, "a");
    registry.accepted(Command::PrepareAuthority { expected_journal: 0, authority });
    registry.accepted(write(SealedName::AcmeAccount, 0, "k"));
    let in_use = |registry: &Registry| {
        let cluster = read_cluster(&registry.tables).unwrap().unwrap();
        let sealed = read_sealed(&registry.tables).unwrap();
        KeysInUse::of(&cluster, &registry.journal(), &sealed)
    };
    assert_eq!(in_use(&registry).depending_on("k"), 2);
    registry.accepted(Command::MoveClusterKey { expected: "k".into(), to: "new".into() });
    let refused = registry.rejected(write(SealedName::AcmeAccount, 1, "k"));
    assert!(matches!(refused, Rejection::ClusterKeyMoved { .. }), "{refused:?}");
    assert!(in_use(&registry).needed().contains("k"));
    registry.accepted(write(SealedName::AcmeAccount, 1, "new"));
    assert_eq!(in_use(&registry).depending_on("k"), 1, "the authority alone");
    assert_eq!(in_use(&registry).depending_on("new"), 1);
}

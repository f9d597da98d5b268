//! Examples: every rule of bundles once, on tables in memory.

use std::sync::Arc;

use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};

use crate::apply::testing::{Registry, authority, entry, entry_id, td};
use crate::apply::{Table, snapshot_changes};
use crate::change::Change;
use crate::command::{
    AppendBundle, BundleDeletion, BundleFields, BundleWrite, Command, DeleteBundles, WriteBundles,
};
use crate::limits::{BUNDLE_BYTES_MAX, ENTRIES_PER_BUNDLE_DELETED_MAX, FEDERATED_BUNDLES_MAX};
use crate::outcome::{BundleOutcome, Outcome, Rejection};

fn x509(byte: u8) -> X509Authority {
    X509Authority { certificate_der: vec![byte], tainted: false }
}

fn jwt(key_id: &str) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.to_owned(),
        public_key_der: vec![1],
        expires_at: None,
        tainted: false,
    }
}

fn bundle(name: &str, root: u8, sequence_number: u64) -> Bundle {
    Bundle { x509_authorities: vec![x509(root)], sequence_number, ..Bundle::empty(td(name)) }
}

fn write(mode: BundleWrite, bundle: Bundle) -> Command {
    Command::WriteBundles(WriteBundles { mode, bundles: vec![bundle] })
}

fn delete(mode: BundleDeletion, name: &str) -> Command {
    Command::DeleteBundles(DeleteBundles { mode, trust_domains: vec![td(name)] })
}

fn item(outcome: Outcome) -> BundleOutcome {
    let Outcome::Bundles(mut items) = outcome else { panic!("no bundles: {outcome:?}") };
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

fn stored(registry: &Registry, name: &str) -> Option<Bundle> {
    snapshot_changes(&registry.tables).unwrap().into_iter().find_map(|change| {
        let Change::BundleWritten { bundle, .. } = change else { return None };
        (bundle.trust_domain == td(name)).then(|| (*bundle).clone())
    })
}

fn federating(registry: &mut Registry, id: &str, path: &str, names: &[&str]) {
    let mut one = entry(id, path, "unix:uid:1");
    one.federates_with = names.iter().map(|name| td(name)).collect();
    registry.accepted(Command::CreateEntries(vec![one]));
}

#[test]
fn a_bundle_is_created_once_set_at_will_and_updated_when_it_is_there() {
    let mut registry = Registry::formed();
    let fields = BundleFields { sequence_number: true, ..Default::default() };
    let refused = |rejection| BundleOutcome::Rejected(rejection);
    let written = |bundle| BundleOutcome::Written(Arc::new(bundle));
    let updated = Bundle { sequence_number: 3, ..bundle("b.org", 2, 9) };
    let table = [
        (BundleWrite::Update(fields), bundle("b.org", 1, 1), refused(Rejection::BundleNotFound)),
        (BundleWrite::Create, bundle("b.org", 1, 7), written(bundle("b.org", 1, 7))),
        (BundleWrite::Create, bundle("b.org", 2, 8), refused(Rejection::BundleExists)),
        (BundleWrite::Set, bundle("b.org", 2, 9), written(bundle("b.org", 2, 9))),
        (BundleWrite::Update(fields), bundle("b.org", 3, 3), written(updated)),
        (BundleWrite::Set, bundle("example.org", 1, 1), refused(Rejection::OwnBundle)),
    ];
    for (mode, given, expected) in table {
        let outcome = registry.accepted(write(mode, given));
        assert_eq!(item(outcome), expected, "{mode:?}");
    }
}

#[test]
fn a_bundle_that_is_set_to_what_it_is_changes_nothing_that_others_hear_of() {
    let mut registry = Registry::formed();
    registry.accepted(write(BundleWrite::Set, bundle("b.org", 1, 7)));
    let (applied, changes) =
        registry.run_as(write(BundleWrite::Set, bundle("b.org", 1, 7)), [0; 16]);
    let expected = BundleOutcome::Written(Arc::new(bundle("b.org", 1, 7)));
    assert_eq!(item(applied.outcome.unwrap()), expected);
    assert_eq!(changes, []);
}

#[test]
fn a_bundle_goes_with_its_entries_as_the_mode_says() {
    use BundleDeletion::{Delete, Dissociate, Restrict};
    let mut registry = Registry::formed();
    let refused = |rejection| BundleOutcome::Rejected(rejection);
    assert_eq!(
        item(registry.accepted(delete(Delete, "b.org"))),
        refused(Rejection::BundleNotFound)
    );
    assert_eq!(
        item(registry.accepted(delete(Delete, "example.org"))),
        refused(Rejection::OwnBundle)
    );
    for name in ["b.org", "b.orga", "c.org"] {
        registry.accepted(write(BundleWrite::Create, bundle(name, 1, 1)));
    }
    federating(&mut registry, "e1", "/one", &["b.org", "c.org"]);
    federating(&mut registry, "e2", "/two", &["b.orga"]);
    federating(&mut registry, "e3", "/three", &[]);
    assert_eq!(registry.count(Table::EntriesByFederation), 3);

    let in_use = refused(Rejection::BundleInUse(1));
    assert_eq!(item(registry.accepted(delete(Restrict, "b.org"))), in_use);
    let (applied, changes) = registry.run_as(delete(Dissociate, "b.org"), [0; 16]);
    assert_eq!(item(applied.outcome.unwrap()), BundleOutcome::Deleted);
    let [Change::EntryWritten { entry: one, .. }, Change::BundleDeleted { trust_domain, .. }] =
        changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    assert_eq!((one.id.clone(), one.revision), (entry_id("e1"), 1));
    assert_eq!(one.federates_with, [td("c.org")].into());
    assert_eq!(*trust_domain, td("b.org"));
    assert!(stored(&registry, "b.org").is_none() && stored(&registry, "b.orga").is_some());

    assert_eq!(item(registry.accepted(delete(Delete, "c.org"))), BundleOutcome::Deleted);
    assert_eq!(registry.count(Table::Entries), 2, "e1 has gone with it");
    assert_eq!(registry.count(Table::EntriesByFederation), 1);
    registry.accepted(Command::DeleteEntries(vec![entry_id("e2")]));
    assert_eq!(item(registry.accepted(delete(Restrict, "b.orga"))), BundleOutcome::Deleted);
    assert_eq!(registry.count(Table::Bundles), 0);
}

#[test]
fn a_deletion_that_would_change_too_many_entries_is_refused_whole() {
    let mut registry = Registry::formed();
    registry.accepted(write(BundleWrite::Create, bundle("b.org", 1, 1)));
    for number in 0..=ENTRIES_PER_BUNDLE_DELETED_MAX {
        federating(&mut registry, &format!("e{number}"), &format!("/{number}"), &["b.org"]);
    }
    for mode in [BundleDeletion::Delete, BundleDeletion::Dissociate] {
        let outcome = item(registry.accepted(delete(mode, "b.org")));
        let BundleOutcome::Rejected(Rejection::LimitReached { limit, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(limit, ENTRIES_PER_BUNDLE_DELETED_MAX);
    }
    registry.accepted(Command::DeleteEntries(vec![entry_id("e0")]));
    let outcome = item(registry.accepted(delete(BundleDeletion::Delete, "b.org")));
    assert_eq!(outcome, BundleOutcome::Deleted);
    assert_eq!(registry.count(Table::Entries), 0);
}

#[test]
fn bundles_are_bounded_in_size_and_number() {
    let mut registry = Registry::formed();
    let mut large = bundle("b.org", 1, 1);
    large.x509_authorities =
        vec![X509Authority { certificate_der: vec![0; BUNDLE_BYTES_MAX], tainted: false }];
    let refused = item(registry.accepted(write(BundleWrite::Set, large.clone())));
    let too_large = Rejection::LimitReached {
        what: "bytes of a bundle".to_owned(),
        limit: BUNDLE_BYTES_MAX as u64,
    };
    assert_eq!(refused, BundleOutcome::Rejected(too_large.clone()));
    let append =
        AppendBundle { x509_authorities: large.x509_authorities, jwt_authorities: Vec::new() };
    assert_eq!(registry.rejected(Command::AppendBundle(append)), too_large);

    for number in 0..FEDERATED_BUNDLES_MAX {
        let name = format!("b{number}.org");
        registry.accepted(write(BundleWrite::Create, Bundle::empty(td(&name))));
    }
    let refused = item(registry.accepted(write(BundleWrite::Set, bundle("one-more.org", 1, 1))));
    let too_many = Rejection::LimitReached {
        what: "federated bundles".to_owned(),
        limit: FEDERATED_BUNDLES_MAX,
    };
    assert_eq!(refused, BundleOutcome::Rejected(too_many));
    let known = item(registry.accepted(write(BundleWrite::Set, bundle("b1.org", 1, 1))));
    assert!(matches!(known, BundleOutcome::Written(_)), "{known:?}");
}

#[test]
fn authorities_are_added_to_the_own_bundle_once_and_stay_when_others_are_pruned() {
    let mut registry = Registry::formed();
    registry.accepted(Command::PrepareAuthority {
        expected_journal: 0,
        authority: authority(AuthorityKind::X509, "a"),
    });
    let append = |x509: &[X509Authority], jwt: &[JwtAuthority]| {
        Command::AppendBundle(AppendBundle {
            x509_authorities: x509.to_vec(),
            jwt_authorities: jwt.to_vec(),
        })
    };
    let outcome = item(registry.accepted(append(&[x509(9)], &[jwt("k")])));
    let BundleOutcome::Written(bundle) = outcome else { panic!("{outcome:?}") };
    assert_eq!((bundle.sequence_number, bundle.x509_authorities.len()), (2, 2));
    assert_eq!(bundle.jwt_authorities, [jwt("k")]);

    let (applied, changes) = registry.run_as(append(&[x509(9)], &[jwt("k")]), [0; 16]);
    let BundleOutcome::Written(again) = item(applied.outcome.unwrap()) else { panic!("refused") };
    assert_eq!((again.sequence_number, changes), (2, Vec::new()), "nothing is new");

    let ids = vec![(AuthorityKind::X509, authority(AuthorityKind::X509, "a").id)];
    registry.accepted(Command::PruneAuthorities { expected_journal: 1, ids });
    let left = stored(&registry, "example.org").unwrap();
    assert_eq!((left.sequence_number, left.x509_authorities), (3, vec![x509(9)]));
}

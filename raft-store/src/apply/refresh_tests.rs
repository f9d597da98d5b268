//! Examples: every rule of what is noted of fetches, on tables in memory.

use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::testing::{Registry, START_MS, td};
use crate::apply::{Table, snapshot_changes};
use crate::change::{Change, RefreshStatus};
use crate::command::{BundleDigest, BundleWrite, Command, FetchedBundle, Refreshed, WriteBundles};
use crate::limits::{BUNDLE_BYTES_MAX, REFRESHES_MAX};
use crate::outcome::Rejection;

fn bundle(content: u8) -> Bundle {
    let x509_authorities = vec![X509Authority { certificate_der: vec![content], tainted: false }];
    Bundle { x509_authorities, ..Bundle::empty(td("b.org")) }
}

fn record(refreshed: Refreshed) -> Command {
    Command::RecordRefresh { trust_domain: td("b.org"), refreshed }
}

fn fetched(bundle: Bundle, seen: Option<&Bundle>) -> Command {
    let seen = seen.map(BundleDigest::of);
    record(Refreshed::Succeeded(Some(FetchedBundle { bundle, seen })))
}

fn failed(class: &str) -> Command {
    let (class, text) = (class.to_owned(), format!("{class} failed"));
    record(Refreshed::Failed { class, text })
}

fn stored(registry: &Registry) -> (Option<RefreshStatus>, Option<Bundle>) {
    let mut found = (None, None);
    for change in snapshot_changes(&registry.tables).unwrap() {
        if let Change::RefreshWritten(status) = &change {
            found.0 = Some(status.as_ref().clone());
        }
        if let Change::BundleWritten { bundle, .. } = &change
            && bundle.trust_domain == td("b.org")
        {
            found.1 = Some(bundle.as_ref().clone());
        }
    }
    found
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_unix_s(START_MS / 1000 + seconds)
}

#[test]
fn a_failure_keeps_its_beginning_and_the_last_success() {
    let mut registry = Registry::formed();
    registry.accepted(fetched(bundle(1), None));
    for class in ["dial", "tls"] {
        registry.advance(10);
        registry.accepted(failed(class));
        let status = stored(&registry).0.unwrap();
        assert_eq!((status.noted_at, status.succeeded_at), (registry.now, Some(after(0))));
        let failure = status.failure.unwrap();
        assert_eq!((failure.since, failure.class.as_str()), (after(10), class));
        assert_eq!(failure.text, format!("{class} failed"));
    }
    registry.advance(10);
    let (_, changes) = registry.run_as(record(Refreshed::Succeeded(None)), [0; 16]);
    assert!(matches!(changes.as_slice(), [Change::RefreshWritten(_)]), "{changes:?}");
    let (status, kept) = stored(&registry);
    let status = status.unwrap();
    assert_eq!((status.succeeded_at, status.failure), (Some(after(30)), None));
    assert_eq!(kept, Some(bundle(1)));
}

#[test]
fn a_bundle_takes_the_place_only_of_the_one_that_it_was_judged_by() {
    let mut registry = Registry::formed();
    let moved = Rejection::BundleMoved;
    assert_eq!(registry.rejected(fetched(bundle(2), Some(&bundle(1)))), moved, "there is none");
    assert_eq!(stored(&registry), (None, None), "nothing was noted either");
    let (_, changes) = registry.run_as(fetched(bundle(1), None), [0; 16]);
    assert!(
        matches!(changes.as_slice(), [Change::BundleWritten { .. }, Change::RefreshWritten(_)]),
        "{changes:?}"
    );
    assert_eq!(registry.rejected(fetched(bundle(2), None)), moved, "there is one");
    // An operator sets another one meanwhile: what was fetched on the word of the old one is void.
    registry.accepted(Command::WriteBundles(WriteBundles {
        mode: BundleWrite::Set,
        bundles: vec![bundle(9)],
    }));
    assert_eq!(registry.rejected(fetched(bundle(2), Some(&bundle(1)))), moved);
    assert_eq!(stored(&registry).1, Some(bundle(9)));
    registry.accepted(fetched(bundle(2), Some(&bundle(9))));
    assert_eq!(stored(&registry).1, Some(bundle(2)));
}

#[test]
fn what_cannot_be_stored_is_not_noted() {
    let mut registry = Registry::formed();
    let mut large = bundle(1);
    large.x509_authorities[0].certificate_der = vec![0; BUNDLE_BYTES_MAX];
    let rejection = registry.rejected(fetched(large, None));
    assert!(matches!(rejection, Rejection::LimitReached { .. }), "{rejection:?}");
    let foreign = Bundle { trust_domain: td("c.org"), ..bundle(1) };
    assert_eq!(registry.rejected(fetched(foreign, None)), Rejection::BundleMoved);
    let refreshed = Refreshed::Succeeded(None);
    let own = Command::RecordRefresh { trust_domain: td("example.org"), refreshed };
    assert_eq!(registry.rejected(own), Rejection::OwnRelationship);
    assert_eq!(registry.count(Table::Refreshes), 0);
    assert_eq!(registry.count(Table::Bundles), 0);
}

#[test]
fn what_was_noted_goes_with_its_relationship_and_by_itself() {
    let mut registry = Registry::formed();
    registry.accepted(failed("dial"));
    let (_, changes) = registry.run_as(record(Refreshed::Ended), [0; 16]);
    assert_eq!(changes, [Change::RefreshDeleted { trust_domain: td("b.org") }]);
    let (_, changes) = registry.run_as(record(Refreshed::Ended), [0; 16]);
    assert_eq!(changes, []);
}

#[test]
fn there_are_only_so_many() {
    let mut registry = Registry::formed();
    let note = |number: u64| Command::RecordRefresh {
        trust_domain: td(&format!("b{number}.org")),
        refreshed: Refreshed::Succeeded(None),
    };
    for number in 0..REFRESHES_MAX {
        registry.accepted(note(number));
    }
    let what = "trust domains whose bundles are fetched".to_owned();
    let limit = Rejection::LimitReached { what, limit: REFRESHES_MAX };
    assert_eq!(registry.rejected(note(REFRESHES_MAX)), limit);
    registry.accepted(note(0));
    let trust_domain = td("b0.org");
    registry.accepted(Command::RecordRefresh { trust_domain, refreshed: Refreshed::Ended });
    registry.accepted(note(REFRESHES_MAX));
}

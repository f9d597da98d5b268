//! Examples: every rule of federation relationships once, on tables in memory.

use std::sync::Arc;

use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::apply::testing::{Registry, td};
use crate::apply::{Table, snapshot_changes};
use crate::change::Change;
use crate::command::{
    BundleDeletion, Command, DeleteBundles, Refreshed, RelationshipFields, RelationshipMode,
    RelationshipWrite, WriteRelationships,
};
use crate::ids::RowNumber;
use crate::limits::{BUNDLE_BYTES_MAX, FEDERATION_RELATIONSHIPS_MAX};
use crate::outcome::{Outcome, Rejection, RelationshipOutcome};

const CREATE: RelationshipMode = RelationshipMode::Create;
const URL: RelationshipMode =
    RelationshipMode::Update(RelationshipFields { endpoint_url: true, profile: false });
const PROFILE: RelationshipMode =
    RelationshipMode::Update(RelationshipFields { endpoint_url: false, profile: true });
const NOTHING: RelationshipMode =
    RelationshipMode::Update(RelationshipFields { endpoint_url: false, profile: false });

fn web(name: &str, path: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: td(name),
        endpoint_url: EndpointUrl::parse(&format!("https://{name}/{path}")).unwrap(),
        profile: EndpointProfile::HttpsWeb,
    }
}

fn spiffe(name: &str, path: &str) -> FederationRelationship {
    let endpoint_id = SpiffeId::parse(&format!("spiffe://{name}/spire/server")).unwrap();
    FederationRelationship {
        profile: EndpointProfile::HttpsSpiffe { endpoint_id },
        ..web(name, path)
    }
}

fn bundle(name: &str, root: Vec<u8>) -> Bundle {
    let x509_authorities = vec![X509Authority { certificate_der: root, tainted: false }];
    Bundle { x509_authorities, ..Bundle::empty(td(name)) }
}

fn write(
    mode: RelationshipMode,
    relationship: FederationRelationship,
    bundle: Option<Bundle>,
) -> Command {
    let items = vec![RelationshipWrite { relationship, bundle }];
    Command::WriteRelationships(WriteRelationships { mode, items })
}

fn delete(names: &[&str]) -> Command {
    Command::DeleteRelationships(names.iter().map(|name| td(name)).collect())
}

fn items(outcome: Outcome) -> Vec<RelationshipOutcome> {
    let Outcome::Relationships(items) = outcome else { panic!("no relationships: {outcome:?}") };
    items
}

fn item(outcome: Outcome) -> RelationshipOutcome {
    let mut items = items(outcome);
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

fn written(relationship: FederationRelationship) -> RelationshipOutcome {
    RelationshipOutcome::Written(Arc::new(relationship))
}

fn refused(rejection: Rejection) -> RelationshipOutcome {
    RelationshipOutcome::Rejected(rejection)
}

/// What is stored of a trust domain: its relationship with its row, its bundle.
fn stored(
    registry: &Registry,
    name: &str,
) -> (Option<(RowNumber, FederationRelationship)>, Option<Bundle>) {
    let is_it = |trust_domain: &TrustDomain| *trust_domain == td(name);
    let mut found = (None, None);
    for change in snapshot_changes(&registry.tables).unwrap() {
        if let Change::RelationshipWritten { row, relationship } = &change
            && is_it(&relationship.trust_domain)
        {
            found.0 = Some((*row, relationship.as_ref().clone()));
        }
        if let Change::BundleWritten { bundle, .. } = &change
            && is_it(&bundle.trust_domain)
        {
            found.1 = Some(bundle.as_ref().clone());
        }
    }
    found
}

#[test]
fn a_relationship_is_created_once_and_updated_by_the_fields_that_are_named() {
    let mut registry = Registry::formed();
    let table = [
        (URL, web("b.org", "1"), refused(Rejection::RelationshipNotFound)),
        (CREATE, web("b.org", "1"), written(web("b.org", "1"))),
        (CREATE, web("b.org", "2"), refused(Rejection::RelationshipExists)),
        (NOTHING, spiffe("b.org", "2"), written(web("b.org", "1"))),
        (URL, spiffe("b.org", "2"), written(web("b.org", "2"))),
        (PROFILE, spiffe("b.org", "3"), written(spiffe("b.org", "2"))),
        (PROFILE, web("b.org", "3"), written(web("b.org", "2"))),
        (CREATE, web("example.org", "1"), refused(Rejection::OwnRelationship)),
        (URL, web("example.org", "1"), refused(Rejection::OwnRelationship)),
    ];
    for (mode, given, expected) in table {
        let outcome = registry.accepted(write(mode, given, None));
        assert_eq!(item(outcome), expected, "{mode:?}");
    }
    assert_eq!(registry.count(Table::Relationships), 1);
    assert_eq!(registry.count(Table::Bundles), 0);
}

#[test]
fn each_item_of_a_batch_is_decided_by_itself() {
    let mut registry = Registry::formed();
    let given = [web("b.org", "1"), web("example.org", "1"), web("b.org", "2"), web("c.org", "1")];
    let given = given.map(|relationship| RelationshipWrite { relationship, bundle: None });
    let create = WriteRelationships { mode: CREATE, items: given.to_vec() };
    let outcome = registry.accepted(Command::WriteRelationships(create));
    let expected = [
        written(web("b.org", "1")),
        refused(Rejection::OwnRelationship),
        refused(Rejection::RelationshipExists),
        written(web("c.org", "1")),
    ];
    assert_eq!(items(outcome), expected);
    let outcome = registry.accepted(delete(&["c.org", "example.org", "c.org", "b.org"]));
    let gone = || refused(Rejection::RelationshipNotFound);
    let expected = [RelationshipOutcome::Deleted, gone(), gone(), RelationshipOutcome::Deleted];
    assert_eq!(items(outcome), expected);
    assert_eq!(registry.count(Table::Relationships), 0);
}

#[test]
fn a_bundle_is_written_with_its_relationship_or_not_at_all() {
    let mut registry = Registry::formed();
    let large = bundle("b.org", vec![0; BUNDLE_BYTES_MAX]);
    let outcome = item(registry.accepted(write(CREATE, web("b.org", "1"), Some(large.clone()))));
    assert!(
        matches!(&outcome, RelationshipOutcome::Rejected(Rejection::LimitReached { .. })),
        "{outcome:?}"
    );
    assert_eq!(stored(&registry, "b.org"), (None, None), "too large a bundle");

    let one = bundle("b.org", vec![1]);
    let (applied, changes) =
        registry.run_as(write(CREATE, web("b.org", "1"), Some(one.clone())), [0; 16]);
    assert_eq!(item(applied.outcome.unwrap()), written(web("b.org", "1")));
    assert!(
        matches!(
            changes.as_slice(),
            [Change::BundleWritten { .. }, Change::RelationshipWritten { .. }]
        ),
        "{changes:?}"
    );

    let two = bundle("b.org", vec![2]);
    for (mode, relationship) in [(CREATE, web("b.org", "2")), (URL, web("missing.org", "1"))] {
        registry.accepted(write(mode, relationship, Some(two.clone())));
        assert_eq!(stored(&registry, "b.org").1, Some(one.clone()), "refused: {mode:?}");
    }
    assert_eq!(item(registry.accepted(write(URL, web("b.org", "2"), Some(large)))), outcome);
    assert_eq!(stored(&registry, "b.org").0.unwrap().1, web("b.org", "1"), "refused whole");
    registry.accepted(write(NOTHING, web("b.org", "9"), Some(two.clone())));
    let (relationship, found) = stored(&registry, "b.org");
    assert_eq!((relationship.unwrap().1, found), (web("b.org", "1"), Some(two)));
}

#[test]
fn a_relationship_ends_without_its_bundle_and_a_bundle_without_its_relationship() {
    let mut registry = Registry::formed();
    for name in ["b.org", "c.org"] {
        registry.accepted(write(CREATE, web(name, "1"), Some(bundle(name, vec![1]))));
    }
    let (row, _) = stored(&registry, "b.org").0.unwrap();
    let refreshed = Refreshed::Succeeded(None);
    registry.accepted(Command::RecordRefresh { trust_domain: td("b.org"), refreshed });
    let (_, changes) = registry.run_as(delete(&["b.org"]), [0; 16]);
    let trust_domain = td("b.org");
    let ended = Change::RelationshipDeleted { row, trust_domain: trust_domain.clone() };
    assert_eq!(changes, [ended, Change::RefreshDeleted { trust_domain }]);
    assert_eq!(stored(&registry, "b.org"), (None, Some(bundle("b.org", vec![1]))));
    registry.accepted(Command::DeleteBundles(DeleteBundles {
        mode: BundleDeletion::Restrict,
        trust_domains: vec![td("c.org")],
    }));
    let (relationship, found) = stored(&registry, "c.org");
    assert_eq!((relationship.map(|(_, found)| found), found), (Some(web("c.org", "1")), None));
}

#[test]
fn a_row_keeps_its_place_through_updates_and_a_new_one_comes_last() {
    let mut registry = Registry::formed();
    let row = |registry: &Registry, name: &str| stored(registry, name).0.unwrap().0;
    registry.accepted(write(CREATE, web("z.org", "1"), None));
    registry.accepted(write(CREATE, web("a.org", "1"), None));
    let (first, second) = (row(&registry, "z.org"), row(&registry, "a.org"));
    assert!(first < second);
    registry.accepted(write(URL, web("z.org", "2"), None));
    assert_eq!(row(&registry, "z.org"), first);
    registry.accepted(delete(&["z.org"]));
    registry.accepted(write(CREATE, web("z.org", "1"), None));
    assert!(row(&registry, "z.org") > second);
}

#[test]
fn an_update_to_what_it_is_changes_nothing_that_others_hear_of() {
    let mut registry = Registry::formed();
    let same = bundle("b.org", vec![1]);
    registry.accepted(write(CREATE, web("b.org", "1"), Some(same.clone())));
    let (applied, changes) = registry.run_as(write(URL, web("b.org", "1"), Some(same)), [0; 16]);
    assert_eq!(item(applied.outcome.unwrap()), written(web("b.org", "1")));
    assert_eq!(changes, []);
}

#[test]
fn there_are_only_so_many_relationships() {
    let mut registry = Registry::formed();
    let make = |number: u64| RelationshipWrite {
        relationship: web(&format!("b{number}.org"), "1"),
        bundle: None,
    };
    let all = (0..FEDERATION_RELATIONSHIPS_MAX).map(make).collect();
    registry.accepted(Command::WriteRelationships(WriteRelationships { mode: CREATE, items: all }));
    let more = || write(CREATE, web("one-more.org", "1"), Some(bundle("one-more.org", vec![1])));
    let what = "federation relationships".to_owned();
    let limit = Rejection::LimitReached { what, limit: FEDERATION_RELATIONSHIPS_MAX };
    assert_eq!(item(registry.accepted(more())), refused(limit));
    assert_eq!(stored(&registry, "one-more.org"), (None, None));
    let known = registry.accepted(write(URL, web("b1.org", "2"), None));
    assert_eq!(item(known), written(web("b1.org", "2")));
    registry.accepted(delete(&["b1.org"]));
    assert_eq!(item(registry.accepted(more())), written(web("one-more.org", "1")));
}

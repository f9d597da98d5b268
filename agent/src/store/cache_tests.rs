//! Tests of the store: who hears of what, what is signed, what is kept.

use std::time::Duration;

use futures::FutureExt as _;
use steeple_spiffe_core::bundle::X509Authority;
use steeple_spiffe_core::random::SeededRandom;
use steeple_spiffe_core::{Secret, SpiffeId};

use super::super::entries::tests::{entry, selectors};
use super::super::subscribe::Subscription;
use super::*;

const NOW: Timestamp = Timestamp::from_unix_s(1_000_000);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("trust domain")
}

fn bundle(name: &str, root: u8) -> Bundle {
    let mut bundle = Bundle::empty(domain(name));
    let certificate_der = vec![root];
    bundle.x509_authorities = vec![X509Authority { certificate_der, tainted: false }];
    bundle
}

fn store() -> Arc<Store> {
    let own = Arc::new(OwnBundle::new(bundle("example.org", 1)));
    Store::new(own, StoreLimits { x509_svids: 10, jwt_svids: 10 })
}

fn synced(entries: Vec<Entry>) -> Synced {
    Synced {
        entries: entries.into_iter().map(|e| (e.id.clone(), Arc::new(e))).collect(),
        bundle: bundle("example.org", 1),
        receipt: None,
        federated: Bundles::new(),
    }
}

fn svid(id: &str, revision: i64) -> (EntryId, WorkloadSvid) {
    let svid = WorkloadSvid {
        spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).expect("id"),
        chain_der: vec![vec![0]],
        key_pkcs8: Secret::new(vec![0]),
        not_before: NOW,
        not_after: NOW.plus(Duration::from_secs(3600)),
        obtained_at: NOW,
        entry_revision: revision,
        entry_created_at_unix_s: 0,
        root_key_id: vec![7],
    };
    (EntryId::parse(id).expect("id"), svid)
}

fn work(store: &Store, now: Timestamp) -> Vec<String> {
    let orders = store.next_work(Condition::default(), now, &SeededRandom::new(1), 500);
    orders.iter().map(|order| order.entry.id.to_string()).collect()
}

/// Whether the subscription has a new view right now, and which ids are in it.
fn ready(subscription: &mut Subscription) -> Option<Vec<String>> {
    let view = subscription.next_x509().now_or_never()?;
    let served = view.identities.iter().filter(|identity| identity.svid.is_some());
    Some(served.map(|identity| identity.entry.id.to_string()).collect())
}

#[test]
fn the_first_answer_waits_until_every_matching_entry_has_an_svid() {
    let store = store();
    store.apply(synced(vec![entry("a", &["t:1"]), entry("b", &["t:1"]), entry("c", &["t:2"])]));
    let mut subscription = Subscription::new(&store, selectors(&["t:1"]));
    assert_eq!(ready(&mut subscription), None);
    store.put_svids(vec![svid("a", 0)]);
    assert_eq!(ready(&mut subscription), None, "b is still missing");
    store.put_svids(vec![svid("b", 0)]);
    assert_eq!(ready(&mut subscription), Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(ready(&mut subscription), None, "nothing new");
}

#[test]
fn nobody_waits_for_an_entry_that_is_not_theirs() {
    let store = store();
    store.apply(synced(vec![entry("a", &["t:1"]), entry("c", &["t:2"])]));
    store.put_svids(vec![svid("a", 0)]);
    let mut subscription = Subscription::new(&store, selectors(&["t:1"]));
    assert!(ready(&mut subscription).is_some());
    store.put_svids(vec![svid("c", 0)]);
    assert_eq!(ready(&mut subscription), None);
}

#[test]
fn a_new_entry_is_heard_of_when_its_svid_arrives_and_a_removed_one_at_once() {
    let store = store();
    store.apply(synced(vec![entry("a", &["t:1"])]));
    store.put_svids(vec![svid("a", 0)]);
    let mut subscription = Subscription::new(&store, selectors(&["t:1"]));
    assert!(ready(&mut subscription).is_some());
    store.apply(synced(vec![entry("a", &["t:1"]), entry("b", &["t:1"])]));
    assert_eq!(ready(&mut subscription), None, "b has no SVID yet");
    store.put_svids(vec![svid("b", 0)]);
    assert_eq!(ready(&mut subscription), Some(vec!["a".to_owned(), "b".to_owned()]));
    store.apply(synced(vec![entry("b", &["t:1"])]));
    assert_eq!(ready(&mut subscription), Some(vec!["b".to_owned()]));
    store.apply(synced(vec![]));
    assert_eq!(ready(&mut subscription), Some(vec![]));
    assert_eq!(store.counts().x509_svids, 0);
}

#[test]
fn a_changed_own_bundle_concerns_everybody_and_a_federated_one_its_users() {
    let store = store();
    let mut federated = entry("a", &["t:1"]);
    federated.federates_with = [domain("partner.test")].into();
    let entries = vec![federated, entry("b", &["t:2"])];
    let with = |own: u8, partner: Option<u8>| {
        let mut synced = synced(entries.clone());
        synced.bundle = bundle("example.org", own);
        let partner =
            partner.map(|root| (domain("partner.test"), Arc::new(bundle("partner.test", root))));
        synced.federated = partner.into_iter().collect();
        synced
    };
    store.apply(with(1, None));
    store.put_svids(vec![svid("a", 0), svid("b", 0)]);
    let mut user = Subscription::new(&store, selectors(&["t:1"]));
    let mut other = Subscription::new(&store, selectors(&["t:2"]));
    let mut heard = || (ready(&mut user).is_some(), ready(&mut other).is_some());
    assert_eq!(heard(), (true, true));
    for (synced, want) in [
        (with(1, None), (false, false)),
        (with(1, Some(5)), (true, false)),
        (with(1, Some(5)), (false, false)),
        (with(1, Some(6)), (true, false)),
        (with(2, Some(6)), (true, true)),
        (with(2, None), (true, false)),
    ] {
        store.apply(synced);
        assert_eq!(heard(), want);
    }
}

#[test]
fn a_workload_sees_the_foreign_bundles_of_its_own_entries_and_hears_when_that_changes() {
    let store = store();
    let (one, two) = (domain("one.test"), domain("two.test"));
    let federated = |id: &str, selector: &str, revision: i64, with: &[&TrustDomain]| {
        let mut entry = entry(id, &[selector]);
        entry.federates_with = with.iter().map(|name| (*name).clone()).collect();
        entry.revision = revision;
        entry
    };
    let sync = |entries: Vec<Entry>| {
        let mut synced = synced(entries);
        let bundles = [("one.test", 5), ("two.test", 6)];
        let held = bundles.map(|(name, root)| (domain(name), Arc::new(bundle(name, root))));
        synced.federated = held.into_iter().collect();
        store.apply(synced);
    };
    let seen = |texts: &[&str]| {
        let view = store.view(&selectors(texts));
        view.federated.into_keys().collect::<Vec<_>>()
    };
    let (b, c) = (federated("b", "t:2", 0, &[&two]), federated("c", "t:3", 0, &[]));
    sync(vec![federated("a", "t:1", 0, &[&one]), b.clone(), c.clone()]);
    type Case<'a> = (&'a [&'a str], &'a [&'a TrustDomain]);
    let cases: [Case<'_>; 5] = [
        (&["t:1"], &[&one]),
        (&["t:2"], &[&two]),
        (&["t:1", "t:2", "t:3"], &[&one, &two]),
        (&["t:3"], &[]),
        (&["t:4"], &[]),
    ];
    for (workload, want) in cases {
        assert_eq!(seen(workload).iter().collect::<Vec<_>>(), want, "{workload:?}");
    }

    store.put_svids(["a", "b", "c"].map(|id| svid(id, 0)).to_vec());
    let mut user = Subscription::new(&store, selectors(&["t:1"]));
    let mut other = Subscription::new(&store, selectors(&["t:3"]));
    assert!(ready(&mut user).is_some() && ready(&mut other).is_some());
    // The entry's next SVID is still on the way: what it may trust does not wait for it.
    for (revision, with) in [(1, vec![]), (2, vec![&two]), (3, vec![&one, &two])] {
        sync(vec![federated("a", "t:1", revision, &with), b.clone(), c.clone()]);
        assert!(ready(&mut user).is_some(), "revision {revision}");
        assert_eq!(seen(&["t:1"]), with.into_iter().cloned().collect::<Vec<_>>());
        assert!(ready(&mut other).is_none(), "it is nobody else's affair");
    }
}

#[test]
fn work_is_what_is_missing_outdated_or_due_and_nothing_else() {
    let store = store();
    store.apply(synced(vec![entry("a", &["t:1"]), entry("b", &["t:2"])]));
    assert_eq!(work(&store, NOW), ["a", "b"]);
    store.put_svids(vec![svid("a", 0), svid("b", 0)]);
    assert!(work(&store, NOW).is_empty());
    let mut changed = entry("a", &["t:1"]);
    changed.revision = 1;
    store.apply(synced(vec![changed, entry("b", &["t:2"])]));
    assert_eq!(work(&store, NOW), ["a"]);
    store.put_svids(vec![svid("a", 1)]);
    assert!(work(&store, NOW).is_empty());
    assert_eq!(work(&store, NOW.plus(Duration::from_secs(2400))), ["a", "b"]);
}

#[test]
fn entries_of_svid_stores_are_neither_signed_nor_served() {
    let store = store();
    let mut stored = entry("a", &["t:1"]);
    stored.store_svid = true;
    store.apply(synced(vec![stored]));
    assert!(work(&store, NOW).is_empty());
    assert!(store.view(&selectors(&["t:1"])).is_empty());
}

#[test]
fn an_svid_for_an_entry_that_has_gone_is_dropped() {
    let store = store();
    store.put_svids(vec![svid("a", 0)]);
    assert_eq!(store.counts().x509_svids, 0);
}

#[test]
fn an_ended_subscription_is_forgotten() {
    let store = store();
    let subscription = Subscription::new(&store, selectors(&["t:1"]));
    assert_eq!(store.counts().subscribers, 1);
    drop(subscription);
    assert_eq!(store.counts().subscribers, 0);
}

#[test]
fn a_bundle_of_another_domain_or_without_roots_is_not_taken() {
    let own = OwnBundle::new(bundle("example.org", 1));
    assert_eq!(own.replace(bundle("other.org", 2)), Taken::Refused);
    assert_eq!(own.replace(Bundle::empty(domain("example.org"))), Taken::Refused);
    assert_eq!(own.replace(bundle("example.org", 1)), Taken::Same);
    assert_eq!(own.replace(bundle("example.org", 2)), Taken::Changed);
}

#[test]
fn what_is_acknowledged_is_what_workloads_get() {
    let store = store();
    let with = |own: Bundle, receipt| Synced { bundle: own, receipt, ..synced(Vec::new()) };
    let ours = |root| bundle("example.org", root);
    // What a sync brings; what is acknowledged at once; what the next sync says is held; what is.
    type Case = (Synced, Option<u64>, Option<u64>, u8);
    let cases: Vec<Case> = vec![
        (with(ours(1), None), None, None, 1),
        (with(ours(1), Some(10)), Some(10), Some(10), 1),
        (with(ours(1), Some(11)), None, Some(11), 1),
        (with(ours(2), Some(12)), Some(12), Some(12), 2),
        (with(bundle("other.org", 3), Some(13)), None, Some(12), 2),
        (with(Bundle::empty(domain("example.org")), Some(14)), None, Some(12), 2),
        (with(ours(2), Some(15)), None, Some(15), 2),
        (with(ours(3), None), None, None, 3),
        (with(ours(3), Some(16)), Some(16), Some(16), 3),
    ];
    for (synced, at_once, held, root) in cases {
        let what = format!("{synced:?}");
        assert_eq!(store.apply(synced), at_once, "{what}");
        assert_eq!(store.receipt(), held, "{what}");
        assert_eq!(store.view(&selectors(&["t:1"])).bundle, Arc::new(ours(root)), "{what}");
    }
}

#[test]
fn an_svid_that_is_due_when_it_arrives_is_renewed_at_intervals_and_before_its_end() {
    let ms = Duration::from_millis;
    // Milliseconds: life left at arrival, when it is renewed.
    for (left, renewed) in [
        (12_000, 5_000),
        (6_500, 5_000),
        (5_000, 4_000),
        (4_200, 3_200),
        (1_500, 1_000),
        (0, 1_000),
    ] {
        let store = store();
        store.apply(synced(vec![entry("a", &["t:1"])]));
        let (id, mut short) = svid("a", 0);
        short.not_before = NOW.minus(Duration::from_secs(20));
        short.not_after = NOW.plus(ms(left));
        store.put_svids(vec![(id, short)]);
        let next = (left < 10_000).then(|| ms(renewed));
        assert_eq!(store.next_renewal(NOW), next, "{left} ms left");
        for early in [0, 1, renewed - 1] {
            assert!(work(&store, NOW.plus(ms(early))).is_empty(), "{left} ms left, after {early}");
        }
        assert_eq!(work(&store, NOW.plus(ms(renewed))), ["a"], "{left} ms left");
        assert_eq!(store.next_renewal(NOW.plus(ms(renewed))), None);
        assert_eq!(work(&store, NOW.minus(ms(1))), ["a"], "the clock was set back");
    }
}

#[test]
fn a_new_svid_of_an_old_version_of_its_entry_is_replaced_at_once() {
    let store = store();
    let mut changed = entry("a", &["t:1"]);
    changed.revision = 1;
    store.apply(synced(vec![changed]));
    store.put_svids(vec![svid("a", 0)]);
    assert_eq!(work(&store, NOW), ["a"]);
}

/// A root of the trust domain and its subject key id.
fn root(serial: u8) -> (Vec<u8>, Vec<u8>) {
    use steeple_spiffe_core::signer::LocalSigner;
    use steeple_spiffe_core::svid::x509::{certificate_facts, self_signed_ca};

    let (signer, _) = LocalSigner::generate(Default::default()).unwrap();
    let end = NOW.plus(Duration::from_secs(86_400));
    let serial = [serial; 16];
    let der = self_signed_ca(&domain("example.org"), None, &signer, serial, NOW, end).unwrap();
    let id = certificate_facts(&der).unwrap().subject_key_id;
    (der, id)
}

/// What a sync brings with these roots and their taints.
fn synced_below(roots: &[(&[u8], bool)]) -> Synced {
    let entries = ["a", "b", "c"].map(|id| entry(id, &["t:1"]));
    let mut synced = synced(entries.to_vec());
    let authority = |(der, tainted): &(&[u8], bool)| X509Authority {
        certificate_der: der.to_vec(),
        tainted: *tainted,
    };
    synced.bundle.x509_authorities = roots.iter().map(authority).collect();
    synced
}

fn svid_below(id: &str, root: &[u8]) -> (EntryId, WorkloadSvid) {
    let (id, mut svid) = svid(id, 0);
    svid.root_key_id = root.to_vec();
    (id, svid)
}

#[test]
fn what_a_tainted_or_a_vanished_root_signed_is_replaced_within_the_spread_and_nothing_else() {
    let (old, old_id) = root(1);
    let (new, new_id) = root(2);
    let tainted: &[(&[u8], bool)] = &[(&old, true), (&new, false)];
    let vanished: &[(&[u8], bool)] = &[(&new, false)];
    for after in [tainted, vanished] {
        let store = store();
        store.apply(synced_below(&[(&old, false), (&new, false)]));
        let ids = [("a", &old_id), ("b", &new_id), ("c", &old_id)];
        store.put_svids(ids.map(|(id, root)| svid_below(id, root)).to_vec());
        // Later than the spacing of replacements, earlier than half of their life.
        let now = NOW.plus(Duration::from_secs(60));
        assert_eq!(work(&store, now), [""; 0]);
        store.apply(synced_below(after));
        work(&store, now);
        let end = now.plus(TAINT_SPREAD);
        assert_eq!(work(&store, end), ["a", "c"], "{after:?}");
        // A later sync changes nothing about it, until they are replaced.
        store.apply(synced_below(after));
        assert_eq!(work(&store, end), ["a", "c"]);
        store.put_svids(["a", "c"].map(|id| svid_below(id, &new_id)).to_vec());
        assert_eq!(work(&store, end.plus(Duration::from_secs(60))), [""; 0]);
    }
}

#[test]
fn agents_that_learn_of_a_taint_together_do_not_begin_together() {
    let (old, old_id) = root(1);
    let (new, _) = root(2);
    let now = NOW.plus(Duration::from_secs(60));
    let begins = (0..20).map(|seed| {
        let store = store();
        store.apply(synced_below(&[(&old, false), (&new, false)]));
        store.put_svids(vec![svid_below("a", &old_id)]);
        store.apply(synced_below(&[(&old, true), (&new, false)]));
        let random = SeededRandom::new(seed);
        let begun = |ms: &u64| {
            let at = now.plus(Duration::from_millis(*ms));
            let orders = store.next_work(Condition::default(), at, &random, 500);
            orders.iter().any(|order| order.is_renewal)
        };
        (0..=5_000).step_by(500).find(begun).expect("within the spread")
    });
    let begins: BTreeSet<u64> = begins.collect();
    assert!(begins.len() > 5, "{begins:?}");
}

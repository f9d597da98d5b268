//! What an upstream authority signs: what is refused, what is signed below it, when it is published.

use std::sync::Arc;

use steeple_raft_store::change::{ClusterState, Journal};
use steeple_raft_store::testing::cluster_state;
use steeple_raft_store::{
    Change, ChangeBatch, ClusterClock, ClusterId, ClusterKeys, Command, Revision, RowNumber,
};
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::random::SeededRandom;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::{AuthorityStatus, KeyType, LocalSigner};

use super::*;
use crate::authority::{AuthorityPolicy, IssueError, Issuer, Minted, Minter, X509Params};
use crate::upstream::fake::{Fake, Mood};
use crate::upstream::{Upstream, UpstreamError, UpstreamTrust};
use crate::view::Views;

const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);
const CLUSTER: ClusterId = ClusterId(5);
const HOUR: Duration = Duration::from_secs(3600);

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn minter(mood: Mood) -> (Minter, Arc<Fake>) {
    let random = Arc::new(SeededRandom::new(1));
    let fake = Arc::new(Fake::new(START, mood));
    let upstream = Some(Upstream::new(Arc::<Fake>::clone(&fake)));
    let keys = Arc::new(ClusterKeys::generate(random.as_ref()).unwrap().0);
    let policy = Arc::new(AuthorityPolicy::default());
    (Minter { trust_domain: td(), policy, keys, random, upstream }, fake)
}

async fn mint(minter: &Minter) -> Result<Minted, MintError> {
    minter.mint_in_background(AuthorityKind::X509, CLUSTER, START).await
}

#[tokio::test]
async fn whatever_is_not_a_ca_of_ours_that_chains_is_refused() {
    let cases: [(Mood, &str); 7] = [
        (Mood::OtherKey, "it is for another key"),
        (Mood::OtherTrustDomain, "URI SAN is not the trust domain"),
        (Mood::Lies(|minted| minted.chain.clear()), "there is none"),
        (Mood::Lies(|minted| minted.chain.swap(0, 1)), "it is for another key"),
        (Mood::Signs(Duration::ZERO), "it is not valid now"),
        (Mood::Lies(|minted| minted.roots.clear()), "minted by upstream authority is invalid"),
        (Mood::Lies(|minted| drop(minted.chain.pop())), "minted by upstream authority is invalid"),
    ];
    for (mood, text) in cases {
        let what = format!("{mood:?}");
        let (minter, _) = minter(mood);
        let error = mint(&minter).await.unwrap_err().to_string();
        assert!(error.contains(text), "{what}: {error:?} is not about {text:?}");
    }
}

#[tokio::test]
async fn what_was_signed_is_prepared_with_its_chain_and_its_roots() {
    let (minter, fake) = minter(Mood::Signs(HOUR));
    let minted = mint(&minter).await.unwrap();
    let authority = &minted.authority;
    assert_eq!(authority.status, AuthorityStatus::Prepared);
    assert_eq!((authority.issued_at, authority.not_after), (START, START.plus(HOUR)));
    assert_eq!(authority.upstream_chain.len(), 1, "the intermediate, not the root");
    let facts = certificate_facts(&authority.public_der).unwrap();
    assert_eq!(authority.id.as_str(), steeple_hex(&facts.subject_key_id));
    let Command::PrepareChained { expected_journal: 4, roots, .. } = minted.prepare(4) else {
        panic!("{:?}", minted.prepare(4));
    };
    assert_eq!(roots, std::slice::from_ref(&fake.root));

    let key = minter.mint_in_background(AuthorityKind::Jwt, CLUSTER, START).await.unwrap();
    let command = key.prepare(1);
    assert!(matches!(command, Command::PrepareAuthority { .. }), "{command:?}");
}

fn steeple_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(start_paused = true)]
async fn rotation_leaves_a_failed_one_alone_and_takes_nothing_that_ends_earlier() {
    let (minter, fake) = minter(Mood::Signs(HOUR));
    let successor = async |active: Option<&Minted>| {
        let active = active.map(|minted| &minted.authority);
        minter.mint_successor(AuthorityKind::X509, CLUSTER, START, active).await
    };
    let active = successor(None).await.unwrap();
    let error = successor(Some(&active)).await.unwrap_err();
    assert!(matches!(error, MintError::EndsTooSoon { .. }), "{error:?}");
    let paused = |error: &MintError| {
        matches!(error, MintError::Upstream { source: UpstreamError::Paused(_), .. })
    };
    fake.set(Mood::Signs(HOUR * 2));
    let error = successor(Some(&active)).await.unwrap_err();
    assert!(paused(&error), "{error:?}");
    let longer = minter.mint_longer(AuthorityKind::X509, CLUSTER, START, Some(&active.authority));
    longer.await.expect("an operator does not wait");
    fake.set(Mood::Signs(HOUR));
    mint(&minter).await.expect("of an operator's own steps none is refused");
    let longer = minter.mint_longer(AuthorityKind::X509, CLUSTER, START, Some(&active.authority));
    let error = longer.await.unwrap_err();
    assert!(matches!(error, MintError::EndsTooSoon { .. }), "{error:?}");
    fake.set(Mood::Signs(HOUR * 2));
    tokio::time::advance(Duration::from_secs(6)).await;
    successor(Some(&active)).await.unwrap();
    fake.set(Mood::Fails);
    assert!(!paused(&successor(Some(&active)).await.unwrap_err()));
    assert!(paused(&successor(Some(&active)).await.unwrap_err()));
    let key = async || minter.mint_successor(AuthorityKind::Jwt, CLUSTER, START, None).await;
    let error = key().await.unwrap_err();
    assert!(matches!(error, MintError::Unpublished { .. }), "{error:?}");
    fake.set(Mood::Signs(HOUR));
    key().await.expect("no pause for keys");
}

#[tokio::test]
async fn a_jwt_key_is_published_above_before_it_is_prepared() {
    let (minter, fake) = minter(Mood::Signs(HOUR));
    *fake.trust.lock().unwrap() = Some(UpstreamTrust::default());
    let minted = minter.mint_in_background(AuthorityKind::Jwt, CLUSTER, START).await.unwrap();
    let trust = fake.trust.lock().unwrap().clone().unwrap();
    let [key] = trust.jwt_authorities.as_slice() else { panic!("{trust:?}") };
    assert_eq!(key.key_id, minted.authority.id.as_str());
    assert_eq!(key.expires_at, Some(minted.authority.not_after));
    assert_eq!(key.public_key_der, minted.authority.public_der);
}

/// An issuer over an authority that an upstream one signed, and a bundle with the roots given.
async fn issuer(bundle_roots: impl Fn(&Fake) -> Vec<Vec<u8>>) -> (Issuer, Bundle, Minted) {
    let (minter, fake) = minter(Mood::Signs(HOUR));
    let minted = mint(&minter).await.unwrap();
    let mut authority = minted.authority.clone();
    authority.status = AuthorityStatus::Active;
    let root = |certificate_der| X509Authority { certificate_der, tainted: false };
    let mut bundle = Bundle::empty(td());
    bundle.x509_authorities = bundle_roots(&fake).into_iter().map(root).collect();
    let cluster = ClusterState { cluster_id: CLUSTER, ..cluster_state() };
    let journal = Journal { revision: 1, authorities: vec![authority] };
    let changes = vec![
        Change::ClusterWritten(Arc::new(cluster)),
        Change::JournalWritten(Arc::new(journal)),
        Change::BundleWritten { row: RowNumber(1), bundle: Arc::new(bundle.clone()) },
    ];
    let views = Views::of_changes(Revision::new(0, 1), START, Vec::new());
    views.apply(&ChangeBatch { revision: Revision::new(0, 2), time: START, changes });
    let (issuer, _task) = Issuer::start(
        Arc::clone(&minter.keys),
        views,
        td(),
        Arc::clone(&minter.policy),
        Arc::new(FixedClock::new(START)),
        ClusterClock::default(),
        Arc::clone(&minter.random),
    );
    (issuer, bundle, minted)
}

fn params() -> X509Params {
    let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    X509Params {
        spiffe_id: SpiffeId::new(td(), "/w").unwrap(),
        dns_names: Vec::new(),
        subject: None,
        public_key_spki: signer.public_key_spki().to_vec(),
        ttl: HOUR,
    }
}

#[tokio::test]
async fn svids_carry_the_chain_up_to_the_upstream_root_and_verify_against_it() {
    let (issuer, bundle, minted) = issuer(|fake| vec![fake.root.clone()]).await;
    let issued = issuer.sign_x509(params()).unwrap();
    assert_eq!(issued.chain_der.len(), 3, "leaf, authority, intermediate");
    assert_eq!(issued.chain_der[1], minted.authority.public_der);
    verify_chain(&issued.chain_der, &bundle, START).unwrap();
    verify_chain(&issued.chain_der[..2], &bundle, START).unwrap_err();

    let (downstream, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
    let chain = issuer.sign_downstream_ca(downstream.public_key_spki(), HOUR).unwrap();
    assert_eq!(chain[1..], issued.chain_der[1..], "two layers deep");
    let identity = IssuerIdentity::from_certificate(&chain[0]).unwrap();
    check_chain(&identity, &downstream, &chain, &bundle, START, &SeededRandom::new(3)).unwrap();
    assert!(identity.name_der.windows(12).any(|part| part == b"DOWNSTREAM-2"));
}

#[tokio::test]
async fn nothing_is_signed_while_the_bundle_lacks_the_upstream_root() {
    let other = Fake::new(START, Mood::Fails).root;
    for roots in [Vec::new(), vec![other]] {
        let (issuer, _, _) = issuer(|_| roots.clone()).await;
        let text = "active X.509 authority is not in the bundle".to_owned();
        assert_eq!(issuer.sign_x509(params()).unwrap_err(), IssueError::NoAuthority { text });
    }
}

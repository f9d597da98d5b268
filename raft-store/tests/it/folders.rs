//! Stores on disk: restarts, and folders that do not fit the configuration.

use std::path::Path;

use steeple_raft_store::testing::{DEADLINE, TestStore, config, seams};
use steeple_raft_store::{ClusterId, ClusterKeys, OpenError, RequestId, Storage, Store};
use steeple_spiffe_core::TrustDomain;
use tokio::time::Instant;

use crate::commands::{create, entries};

/// The last store's threads let go of the folder a moment after it stopped.
async fn open_when_free(path: &Path) -> TestStore {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TestStore::open(config(path.to_owned()), seams(Storage::Rocks)).await {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn refused(config: steeple_raft_store::Config) -> OpenError {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Store::open(config.clone(), seams(Storage::Rocks)).await.map(|_| ()) {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            Err(error) => return error,
            Ok(()) => panic!("opened"),
        }
    }
}

#[tokio::test]
async fn a_folder_is_refused_when_the_configuration_names_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft");
    let store = TestStore::open(config(path.clone()), seams(Storage::Rocks)).await.unwrap();
    store.stop().await.unwrap();

    let mut other = config(path.clone());
    other.cluster_name = "elsewhere".to_owned();
    let error = refused(other).await.to_string();
    assert_eq!(error, "registry belongs to cluster name test, the configuration says elsewhere");

    let mut other = config(path.clone());
    other.trust_domain = TrustDomain::parse("other.org").unwrap();
    assert!(refused(other).await.to_string().contains("trust domain example.org"));

    let mut other = config(path.clone());
    other.cluster_id = Some(ClusterId(5));
    assert!(refused(other).await.to_string().contains("registry belongs to cluster "));
}

#[tokio::test]
async fn another_cluster_key_seals_the_member_and_an_added_one_does_not() {
    const FIRST: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const SECOND: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft");
    let store = TestStore::open(config(path.clone()), seams(Storage::Rocks)).await.unwrap();
    let key_id = config(path.clone()).keys.current_id();
    store.stop().await.unwrap();

    let mut other = config(path.clone());
    other.keys = ClusterKeys::parse(SECOND).unwrap().into();
    let error = refused(other.clone()).await;
    assert_eq!(error.to_string(), format!("sealed: cluster key does not open {key_id}"));

    let mut both = config(path.clone());
    both.keys = ClusterKeys::parse(&format!("{FIRST}\n{SECOND}\n")).unwrap().into();
    let store = loop {
        match TestStore::open(both.clone(), seams(Storage::Rocks)).await {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    store.stop().await.unwrap();
    // From now on the second alone is known, too.
    let store = loop {
        match TestStore::open(other.clone(), seams(Storage::Rocks)).await {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    store.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_from_disk_finds_state_cluster_and_remembered_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft");
    let id = RequestId([3; 16]);
    let soon = || Instant::now() + DEADLINE;

    let store = TestStore::open(config(path.clone()), seams(Storage::Rocks)).await.unwrap();
    for number in 0..50 {
        store.apply(create(number)).await.unwrap();
    }
    let answer = store.handle.propose(create(50), id, soon()).await.unwrap();
    let (before, known) = (store.handle.status(), entries(&store));
    store.stop().await.unwrap();

    let store = open_when_free(&path).await;
    let after = store.handle.status();
    assert_eq!((after.member_id, after.cluster_id), (before.member_id, before.cluster_id));
    assert!(after.term > before.term, "a restarted leader stands for election");
    assert_eq!(entries(&store), known);
    let again = store.handle.propose(create(50), id, soon()).await.unwrap();
    assert_eq!(again, answer);
    assert_eq!(entries(&store).len(), 51);
}

//! Stops, starts and power cuts, in memory and on disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use steeple_raft_store::testing::{DEADLINE, TestStore, config, seams};
use steeple_raft_store::{Change, MemoryDisk, RequestId, Storage};
use tokio::time::Instant;

use crate::commands::create;

fn entries(store: &TestStore) -> BTreeSet<String> {
    let subscription = store.handle.subscribe().unwrap();
    let written = subscription.snapshot.iter().filter_map(|change| match change {
        Change::EntryWritten { entry, .. } => Some(entry.id.to_string()),
        Change::EntryDeleted { .. }
        | Change::AgentWritten { .. }
        | Change::AgentDeleted { .. }
        | Change::BundleWritten { .. }
        | Change::JournalWritten(_)
        | Change::ClusterWritten(_) => None,
    });
    written.collect()
}

#[tokio::test]
async fn an_acknowledged_entry_survives_a_power_cut_at_any_moment() {
    let disk = MemoryDisk::new();
    let store = TestStore::open(config(PathBuf::new()), seams(Storage::Memory(disk.clone())))
        .await
        .unwrap();
    let member = store.handle.status().member_id;
    let mut acknowledged = BTreeSet::new();
    for number in 0..12 {
        store.apply(create(number)).await.unwrap();
        acknowledged.insert(format!("e{number}"));
        let after = Storage::Memory(disk.crash());
        let restarted = TestStore::open(config(PathBuf::new()), seams(after)).await.unwrap();
        assert_eq!(restarted.handle.status().member_id, member);
        assert_eq!(entries(&restarted), acknowledged);
        assert!(restarted.handle.revision() > store.handle.revision());
    }
}

#[cfg(feature = "rocks")]
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

    let store = crate::folders::open_when_free(&path).await;
    let after = store.handle.status();
    assert_eq!((after.member_id, after.cluster_id), (before.member_id, before.cluster_id));
    assert!(after.term > before.term, "a restarted leader stands for election");
    assert_eq!(entries(&store), known);
    let again = store.handle.propose(create(50), id, soon()).await.unwrap();
    assert_eq!(again, answer);
    assert_eq!(entries(&store).len(), 51);
}

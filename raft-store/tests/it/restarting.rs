//! Power cuts, on a disk in memory. Restarts from a real one are in `folders`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use steeple_raft_store::testing::{TestStore, config, seams};
use steeple_raft_store::{MemoryDisk, Storage};

use crate::commands::{create, entries};

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

//! openraft's own suite for log stores and state machines, run on both storages.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::mem::MemoryDisk;
use crate::raft::TypeConfig;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::storage::Engine;

fn parts(engine: &Engine) -> (LogStore, StateMachine) {
    let log = LogStore::open(Arc::clone(&engine.log)).unwrap();
    let (machine, _) = StateMachine::open(engine).unwrap();
    (log, machine)
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (log, machine) = parts(&MemoryDisk::new().engine());
        Ok(((), log, machine))
    }
}

#[tokio::test]
async fn memory_passes_the_conformance_suite() {
    Suite::test_all(InMemory).await.unwrap();
}

#[cfg(feature = "rocks")]
struct OnDisk;

#[cfg(feature = "rocks")]
impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let engine = crate::rocks::open(&folder.path().join("raft")).unwrap();
        let (log, machine) = parts(&engine);
        Ok((folder, log, machine))
    }
}

#[cfg(feature = "rocks")]
#[tokio::test]
async fn rocksdb_passes_the_conformance_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

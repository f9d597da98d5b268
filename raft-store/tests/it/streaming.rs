//! The change stream: a snapshot and what follows it are the whole state, in order, without a gap.

use std::collections::BTreeMap;

use steeple_raft_store::testing::TestStore;
use steeple_raft_store::{Change, Command, Revision, RowNumber};

use crate::commands::{create, entry_id};

#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    entries: BTreeMap<RowNumber, String>,
}

impl View {
    fn take(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::EntryWritten { row, entry } => {
                    self.entries.insert(*row, entry.id.to_string());
                }
                Change::EntryDeleted { row, .. } => {
                    self.entries.remove(row).expect("deleted rows were written before");
                }
                Change::AgentWritten { .. }
                | Change::AgentDeleted { .. }
                | Change::BundleWritten { .. }
                | Change::BundleDeleted { .. }
                | Change::RelationshipWritten { .. }
                | Change::RelationshipDeleted { .. }
                | Change::RefreshWritten(_)
                | Change::RefreshDeleted { .. }
                | Change::JournalWritten(_)
                | Change::SealedWritten { .. }
                | Change::ClusterWritten(_) => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_the_changes_after_it_are_the_whole_state() {
    let store = TestStore::start().await;
    let handle = store.handle.clone();
    let watching = tokio::spawn(async move {
        let mut views = Vec::new();
        // Subscribe again and again while commands are applied: each pair must fit.
        for _ in 0..20 {
            let mut subscription = handle.subscribe().unwrap();
            let mut view = View::default();
            view.take(&subscription.snapshot);
            let mut revision = subscription.revision;
            let batch = subscription.next().await.unwrap();
            assert!(batch.revision > revision, "{} after {revision}", batch.revision);
            revision = batch.revision;
            view.take(&batch.changes);
            views.push((subscription, view, revision));
        }
        views
    });
    let mut number = 0;
    while !watching.is_finished() {
        number += 1;
        store.apply(create(number)).await.unwrap();
        if number % 3 == 0 {
            store.apply(Command::DeleteEntries(vec![entry_id(number - 1)])).await.unwrap();
        }
    }
    let last = store.apply(create(0)).await.unwrap().revision;
    let mut expected = View::default();
    expected.take(&store.handle.subscribe().unwrap().snapshot);
    for (mut subscription, mut view, mut revision) in watching.await.unwrap() {
        while revision < last {
            let batch = subscription.next().await.unwrap();
            assert_eq!(batch.revision, Revision::from_u64(revision.as_u64() + 1));
            revision = batch.revision;
            view.take(&batch.changes);
        }
        assert_eq!(view, expected);
    }
}

#[tokio::test]
async fn a_rejected_command_moves_the_revision_and_changes_nothing() {
    let store = TestStore::start().await;
    let mut subscription = store.handle.subscribe().unwrap();
    let applied = store.apply(Command::DeleteEntries(vec![entry_id(1)])).await.unwrap();
    let batch = subscription.next().await.unwrap();
    assert_eq!((batch.revision, batch.changes.len()), (applied.revision, 0));
}

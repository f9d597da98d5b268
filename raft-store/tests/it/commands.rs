//! Short ways to say what the tests propose.

use std::collections::BTreeSet;

use steeple_raft_store::testing::TestStore;
use steeple_raft_store::{Change, Command};
use steeple_spiffe_core::entry::{EntryId, RegistrationEntry};
use steeple_spiffe_core::selector::Selector;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

pub(crate) fn create(number: u32) -> Command {
    Command::CreateEntries(vec![entry(number)])
}

pub(crate) fn entry(number: u32) -> RegistrationEntry {
    let id = |path: &str| SpiffeId::new(TrustDomain::parse("example.org").unwrap(), path).unwrap();
    RegistrationEntry::new(
        entry_id(number),
        id(&format!("/w{number}")),
        id("/spire/agent/a"),
        [Selector::parse("unix:uid:1").unwrap()].into(),
    )
}

pub(crate) fn entry_id(number: u32) -> EntryId {
    EntryId::parse(&format!("e{number}")).unwrap()
}

/// The ids of all entries that a store shows.
pub(crate) fn entries(store: &TestStore) -> BTreeSet<String> {
    let subscription = store.handle.subscribe().unwrap();
    let written = subscription.snapshot.iter().filter_map(|change| {
        let Change::EntryWritten { entry, .. } = change else { return None };
        Some(entry.id.to_string())
    });
    written.collect()
}

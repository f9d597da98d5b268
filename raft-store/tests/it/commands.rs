//! Short ways to say what the tests propose.

use std::collections::BTreeSet;

use steeple_raft_store::testing::TestStore;
use steeple_raft_store::{Change, Command};
use steeple_spiffe_core::entry::{EntryId, RegistrationEntry};
use steeple_spiffe_core::selector::Selector;
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SortedSet, SpiffeId, TrustDomain};

pub(crate) fn create(number: u32) -> Command {
    Command::CreateEntries(vec![entry(number)])
}

pub(crate) fn entry(number: u32) -> RegistrationEntry {
    let id = |path: &str| SpiffeId::new(TrustDomain::parse("example.org").unwrap(), path).unwrap();
    RegistrationEntry {
        id: entry_id(number),
        spiffe_id: id(&format!("/w{number}")),
        parent_id: id("/spire/agent/a"),
        selectors: [Selector::parse("unix:uid:1").unwrap()].into(),
        x509_svid_ttl_s: 0,
        jwt_svid_ttl_s: 0,
        federates_with: SortedSet::new(),
        admin: false,
        downstream: false,
        expires_at_unix_s: 0,
        dns_names: Vec::new(),
        revision: 0,
        created_at: Timestamp::UNIX_EPOCH,
        store_svid: false,
        hint: String::new(),
        additional_attributes: None,
    }
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

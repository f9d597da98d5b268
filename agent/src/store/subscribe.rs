//! Workloads that wait for changes, and what they see.
//!
//! Owns the registration of a live stream and the rule that its first answer waits until every
//! matching entry has an SVID (`spire-semantics` 9.1). A subscription is woken by a counter; it then
//! looks at the current view, so a slow reader skips states instead of queueing them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{EntryId, SelectorSet};
use tokio::sync::watch;
use tracing::debug;

use super::bundles::Bundles;
use super::cache::Store;
use super::entries::Entry;
use super::svids::WorkloadSvid;

/// One identity of a workload.
#[derive(Clone, Debug)]
pub struct ServedIdentity {
    /// The entry it comes from.
    pub entry: Arc<Entry>,
    /// Its X.509-SVID, unless it has not been signed yet.
    pub svid: Option<Arc<WorkloadSvid>>,
}

/// Everything a workload is entitled to at one moment.
#[derive(Clone, Debug)]
pub struct WorkloadView {
    /// Its identities by ascending entry id.
    pub identities: Vec<ServedIdentity>,
    /// The own trust domain's bundle.
    pub bundle: Arc<Bundle>,
    /// Bundles that its entries federate with.
    pub federated: Bundles,
}

impl WorkloadView {
    /// Whether no entry matches.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Whether every identity has an SVID.
    pub fn is_complete(&self) -> bool {
        self.identities.iter().all(|identity| identity.svid.is_some())
    }

    /// Whether any identity has an SVID.
    fn has_some(&self) -> bool {
        self.identities.iter().any(|identity| identity.svid.is_some())
    }
}

/// A live stream's registration; ends with the value.
#[derive(Debug)]
pub struct Subscription {
    store: Arc<Store>,
    selectors: SelectorSet,
    id: u64,
    changes: watch::Receiver<u64>,
    was_served: bool,
}

impl Subscription {
    /// Registers a stream.
    pub fn new(store: &Arc<Store>, selectors: SelectorSet) -> Self {
        let (id, changes) = store.add_subscriber(&selectors);
        Self { store: Arc::clone(store), selectors, id, changes, was_served: false }
    }

    /// The view as it is.
    pub fn view(&self) -> WorkloadView {
        self.store.view(&self.selectors)
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        // The sender lives in the store, which this subscription holds; should it ever go, nothing
        // will change any more.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The next view for X.509-SVIDs: the first time once it is complete (or empty), later after
    /// each change, and never one that hides identities only because their SVIDs are on the way.
    pub async fn next_x509(&mut self) -> WorkloadView {
        if self.was_served {
            self.changed().await;
        }
        loop {
            self.changes.mark_unchanged();
            let view = self.view();
            let is_ready = if self.was_served { view.has_some() } else { view.is_complete() };
            if view.is_empty() || is_ready {
                self.was_served = true;
                return view;
            }
            debug!("Waiting for SVID to get cached");
            self.changed().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.store.remove_subscriber(self.id);
    }
}

/// One registered stream.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) selectors: SelectorSet,
    /// The entries it matched when that was last computed.
    pub(super) matched: BTreeSet<EntryId>,
    changes: watch::Sender<u64>,
}

/// All registered streams.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    next_id: u64,
    by_id: BTreeMap<u64, Subscriber>,
}

impl Subscribers {
    pub(super) fn add(
        &mut self,
        selectors: SelectorSet,
        matched: BTreeSet<EntryId>,
    ) -> (u64, watch::Receiver<u64>) {
        let (changes, receiver) = watch::channel(0);
        self.next_id += 1;
        self.by_id.insert(self.next_id, Subscriber { selectors, matched, changes });
        (self.next_id, receiver)
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.by_id.remove(&id);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Subscriber)> {
        self.by_id.iter().map(|(id, subscriber)| (*id, subscriber))
    }

    pub(super) fn set_matched(&mut self, id: u64, matched: BTreeSet<EntryId>) {
        if let Some(subscriber) = self.by_id.get_mut(&id) {
            subscriber.matched = matched;
        }
    }

    pub(super) fn notify(&self, id: u64) {
        if let Some(subscriber) = self.by_id.get(&id) {
            subscriber.changes.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn notify_where(&self, concerns: impl Fn(&BTreeSet<EntryId>) -> bool) {
        for subscriber in self.by_id.values().filter(|subscriber| concerns(&subscriber.matched)) {
            subscriber.changes.send_modify(|count| *count += 1);
        }
    }

    /// Every entry that a live stream matches.
    pub(super) fn matched(&self) -> BTreeSet<EntryId> {
        self.by_id.values().flat_map(|subscriber| &subscriber.matched).cloned().collect()
    }
}

//! What one agent has been told by a push stream, and the difference to what it may see now.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_api::convert::{bundle, entry};
use steeple_api::pb::agent_ext::v1 as rpc;
use steeple_raft_store::Revision;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{EntryId, RegistrationEntry, SpiffeId, TrustDomain};

use crate::view::Views;

/// What an agent has been told.
pub(crate) struct Told {
    trust_domain: TrustDomain,
    pub(crate) agent: SpiffeId,
    entries: BTreeMap<EntryId, Arc<RegistrationEntry>>,
    bundle: Option<Arc<Bundle>>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl Told {
    pub(crate) fn new(trust_domain: TrustDomain, agent: SpiffeId) -> Self {
        let (entries, federated) = (BTreeMap::new(), BTreeMap::new());
        Self { trust_domain, agent, entries, bundle: None, federated }
    }

    /// The step from what was told to what the views show, and whether it says anything. The views
    /// show `revision` or a later state; a later one is told again by the next step.
    pub(crate) fn step(&mut self, views: &Views, revision: Revision) -> (rpc::WatchResponse, bool) {
        let entries: BTreeMap<EntryId, Arc<RegistrationEntry>> = views
            .authorized_entries(&self.agent)
            .into_iter()
            .map(|entry| (entry.id.clone(), entry))
            .collect();
        let federated: BTreeMap<TrustDomain, Arc<Bundle>> = entries
            .values()
            .flat_map(|entry| entry.federates_with.iter())
            .filter_map(|name| Some((name.clone(), views.bundle(name)?)))
            .collect();
        let own = views.bundle(&self.trust_domain);
        let step = rpc::WatchResponse {
            revision: revision.as_u64(),
            resync: false,
            entries_changed: changed(&self.entries, &entries)
                .map(|one| entry::to_pb(one))
                .collect(),
            entries_removed: removed(&self.entries, &entries).map(ToString::to_string).collect(),
            bundle: own
                .as_ref()
                .filter(|own| Some(*own) != self.bundle.as_ref())
                .map(|own| bundle::to_pb(own)),
            federated_bundles_changed: changed(&self.federated, &federated)
                .map(|one| bundle::to_pb(one))
                .collect(),
            federated_bundles_removed: removed(&self.federated, &federated)
                .map(ToString::to_string)
                .collect(),
        };
        self.entries = entries;
        self.federated = federated;
        self.bundle = own;
        let news = !step.entries_changed.is_empty()
            || !step.entries_removed.is_empty()
            || step.bundle.is_some()
            || !step.federated_bundles_changed.is_empty()
            || !step.federated_bundles_removed.is_empty();
        (step, news)
    }

    /// The foreign bundles that it holds.
    #[cfg(test)]
    pub(crate) fn federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }
}

/// What is new or differs. Unchanged rows are the same allocation, so most comparisons are of
/// pointers.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, Arc<V>>,
    after: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'a Arc<V>> {
    after.iter().filter_map(|(key, value)| {
        let same = before.get(key).is_some_and(|old| Arc::ptr_eq(old, value) || old == value);
        (!same).then_some(value)
    })
}

fn removed<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.keys().filter(|key| !after.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_new_or_other_and_what_is_gone() {
        let same = Arc::new(1);
        let before =
            BTreeMap::from([("a", Arc::clone(&same)), ("b", Arc::new(2)), ("c", Arc::new(3))]);
        let after = BTreeMap::from([("a", same), ("b", Arc::new(20)), ("d", Arc::new(4))]);
        let values: Vec<i32> = changed(&before, &after).map(|value| **value).collect();
        assert_eq!(values, [20, 4]);
        assert_eq!(removed(&before, &after).collect::<Vec<_>>(), [&"c"]);
        assert_eq!(changed(&after, &after).count(), 0);
    }
}

//! One replica's copy of the registry, as the change stream tells it.
//!
//! Owns the application of changes to the indexes: pure and synchronous. When to apply, and who may
//! look meanwhile, is `handle`'s business.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use steeple_raft_store::change::{ClusterState, Journal, RefreshStatus};
use steeple_raft_store::{Change, ChangeBatch, Revision, RowNumber, SealedValues};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{SpiffeId, Timestamp, TrustDomain};

use super::agents::AgentIndex;
use super::entries::EntryIndex;
use super::relationships::RelationshipIndex;

/// Everything a replica knows at one revision.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) revision: Revision,
    pub(super) time: Timestamp,
    pub(super) entries: EntryIndex,
    pub(super) agents: AgentIndex,
    pub(super) bundles: BTreeMap<RowNumber, Arc<Bundle>>,
    bundle_rows: HashMap<TrustDomain, RowNumber>,
    pub(super) relationships: RelationshipIndex,
    pub(super) refreshes: BTreeMap<TrustDomain, Arc<RefreshStatus>>,
    pub(super) journal: Arc<Journal>,
    pub(super) cluster: Option<Arc<ClusterState>>,
    pub(super) sealed: SealedValues,
    /// The newest revision at which an entry or a bundle may have changed.
    content_revision: Revision,
    /// The newest revision at which a bundle or a federation relationship may have changed.
    pub(super) federation_revision: Revision,
}

impl Model {
    /// A model of a consistent snapshot.
    pub(super) fn from_snapshot(
        revision: Revision,
        time: Timestamp,
        snapshot: Vec<Change>,
    ) -> Self {
        let mut model = Self { revision, time, ..Self::default() };
        let is_entry = |change: &&Change| matches!(change, Change::EntryWritten { .. });
        model.entries.reserve(snapshot.iter().filter(is_entry).count());
        for change in snapshot {
            model.apply_change(change, revision);
        }
        model
    }

    /// Moves the model to the batch's revision.
    pub(super) fn apply(&mut self, batch: &ChangeBatch) {
        for change in &batch.changes {
            self.apply_change(change.clone(), batch.revision);
        }
        self.revision = self.revision.max(batch.revision);
        self.time = self.time.max(batch.time);
    }

    /// The bundle of a trust domain.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(self.bundle_rows.get(trust_domain)?)
    }

    /// Whether an agent is entitled to the same as at an earlier revision: no entry, no bundle and none
    /// of its selectors has changed since. Renewals of agents and rotations that have not reached the
    /// bundle do not count.
    pub(super) fn is_unchanged_for(&self, agent: &SpiffeId, since: Revision) -> bool {
        let selectors = self.agents.selectors_since(agent);
        since <= self.revision
            && self.content_revision <= since
            && selectors.is_some_and(|selectors| selectors <= since)
    }

    fn apply_change(&mut self, change: Change, revision: Revision) {
        match &change {
            Change::EntryWritten { .. } | Change::EntryDeleted { .. } => {
                self.content_revision = revision;
            }
            Change::BundleWritten { .. } | Change::BundleDeleted { .. } => {
                self.content_revision = revision;
                self.federation_revision = revision;
            }
            Change::RelationshipWritten { .. } | Change::RelationshipDeleted { .. } => {
                self.federation_revision = revision;
            }
            Change::AgentWritten { .. }
            | Change::AgentDeleted { .. }
            | Change::RefreshWritten(_)
            | Change::RefreshDeleted { .. }
            | Change::JournalWritten(_)
            | Change::SealedWritten { .. }
            | Change::ClusterWritten(_) => {}
        }
        match change {
            Change::EntryWritten { row, entry } => self.entries.write(row, entry),
            Change::EntryDeleted { row, id: _ } => self.entries.remove(row),
            Change::AgentWritten { row, agent } => self.agents.write(row, agent, revision),
            Change::AgentDeleted { row, id: _ } => self.agents.remove(row),
            Change::BundleWritten { row, bundle } => {
                self.bundle_rows.insert(bundle.trust_domain.clone(), row);
                self.bundles.insert(row, bundle);
            }
            Change::BundleDeleted { row, trust_domain } => {
                self.bundle_rows.remove(&trust_domain);
                self.bundles.remove(&row);
            }
            Change::RelationshipWritten { row, relationship } => {
                self.relationships.write(row, relationship);
            }
            Change::RelationshipDeleted { row, trust_domain } => {
                self.relationships.remove(row, &trust_domain);
            }
            Change::RefreshWritten(status) => {
                self.refreshes.insert(status.trust_domain.clone(), status);
            }
            Change::RefreshDeleted { trust_domain } => {
                self.refreshes.remove(&trust_domain);
            }
            Change::JournalWritten(journal) => self.journal = journal,
            Change::ClusterWritten(cluster) => self.cluster = Some(cluster),
            Change::SealedWritten { name, value } => {
                self.sealed.insert(name, value);
            }
        }
    }
}

//! Changes: what apply did, in the past tense, in log order. Views are built from nothing else.

use std::sync::Arc;

use steeple_spiffe_core::agent::AgentRecord;
use steeple_spiffe_core::authority::Authority;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::entry::{EntryId, RegistrationEntry};
use steeple_spiffe_core::federation::FederationRelationship;
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::ids::{ClusterId, Revision, RowNumber};
use crate::sealed_values::{SealedName, SealedValue};

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An entry was created or updated.
    EntryWritten {
        /// Its place in lists; stays the same through updates.
        row: RowNumber,
        /// Its new content.
        entry: Arc<RegistrationEntry>,
    },
    /// An entry was deleted or pruned.
    EntryDeleted {
        /// Its place in lists.
        row: RowNumber,
        /// Its id.
        id: EntryId,
    },
    /// An agent was admitted, renewed, promoted, banned or has reported its version.
    AgentWritten {
        /// Its place in lists.
        row: RowNumber,
        /// Its new content.
        agent: Arc<AgentRecord>,
    },
    /// An agent was deleted or pruned.
    AgentDeleted {
        /// Its place in lists.
        row: RowNumber,
        /// Its id.
        id: SpiffeId,
    },
    /// A bundle was written.
    BundleWritten {
        /// Its place in lists.
        row: RowNumber,
        /// Its new content.
        bundle: Arc<Bundle>,
    },
    /// The bundle of a foreign trust domain was deleted.
    BundleDeleted {
        /// Its place in lists.
        row: RowNumber,
        /// Whose bundle it was.
        trust_domain: TrustDomain,
    },
    /// A federation relationship was created or updated.
    RelationshipWritten {
        /// Its place in lists; stays the same through updates.
        row: RowNumber,
        /// Its new content.
        relationship: Arc<FederationRelationship>,
    },
    /// A federation relationship was ended.
    RelationshipDeleted {
        /// Its place in lists.
        row: RowNumber,
        /// With whom it was.
        trust_domain: TrustDomain,
    },
    /// It was noted how the fetching of a foreign trust domain's bundle goes.
    RefreshWritten(Arc<RefreshStatus>),
    /// Nothing is known any more of the fetching of a trust domain's bundle.
    RefreshDeleted {
        /// Whose bundle it was.
        trust_domain: TrustDomain,
    },
    /// The authority journal moved.
    JournalWritten(Arc<Journal>),
    /// The cluster's own row was written.
    ClusterWritten(Arc<ClusterState>),
    /// A value that is kept sealed was written.
    SealedWritten {
        /// Which one.
        name: SealedName,
        /// Its new content.
        value: Arc<SealedValue>,
    },
}

/// The changes of one applied log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeBatch {
    /// The state that includes them.
    pub revision: Revision,
    /// Cluster time of the entry.
    pub time: Timestamp,
    /// In the order they were made. May be empty (a rejected command still moves the revision).
    pub changes: Vec<Change>,
}

/// How the fetching of a foreign trust domain's bundle goes, as it was noted last: each change of
/// the bundle, each beginning and end of a failure, and now and then that all is well. Never each
/// fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshStatus {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// When it was noted.
    pub noted_at: Timestamp,
    /// When the bundle was fetched last, as far as it was noted; `None` = never.
    pub succeeded_at: Option<Timestamp>,
    /// What keeps it from being fetched; `None` = nothing.
    pub failure: Option<RefreshFailure>,
}

/// Why a foreign trust domain's bundle cannot be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshFailure {
    /// Since when, whatever the reasons were.
    pub since: Timestamp,
    /// A word that stays the same while the reason does.
    pub class: String,
    /// The reason.
    pub text: String,
}

/// The one journal of X.509 and JWT authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Rises with every change; the compare-and-set handle of rotation.
    pub revision: u64,
    /// Every authority that is still published, oldest first.
    pub authorities: Vec<Authority>,
}

/// What the registry knows of the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterState {
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The cluster's name.
    pub name: String,
    /// The trust domain it serves.
    pub trust_domain: TrustDomain,
    /// Rises with each restore; the upper part of revisions.
    pub epoch: u32,
    /// What command types may be proposed.
    pub feature_level: u32,
    /// When it formed.
    pub formed_at: Timestamp,
    /// How its epoch began; `None` in the first.
    pub restored: Option<Restored>,
    /// The id of the cluster key that seals, once one was named; see
    /// [`current_key_id`](crate::keys_in_use::current_key_id).
    pub key_id: String,
    /// The keys that it took over from, the last one last.
    pub left_key_ids: Vec<String>,
}

impl ClusterState {
    /// When the epoch began, in Unix milliseconds; zero: it is the first. Tells two epochs of one number
    /// apart, which are made when a cluster is restored or recovered twice.
    pub(crate) fn began_ms(&self) -> i64 {
        self.restored.map_or(0, |restored| restored.at.unix_ms())
    }
}

/// The restore or recovery that began an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The last time that the state knew: what was changed later is forgotten.
    pub lost_from: Timestamp,
    /// When the epoch began.
    pub at: Timestamp,
    /// What becomes of agents that the state does not know.
    pub unknown_agents: UnknownAgents,
}

/// What becomes of agents that a restored state does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownAgents {
    /// No one has decided: they wait.
    Undecided,
    /// They are recorded as they call.
    Adopt,
    /// They have to attest again.
    Refuse,
}

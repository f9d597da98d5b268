//! What became of a command: the replicated outcome, identical on every member.
//!
//! A [`Rejection`] is no error: it is a decision that was replicated. That no decision is known is
//! said by [`ProposeError`](crate::ProposeError) instead.

use std::sync::Arc;

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::entry::{EntryId, RegistrationEntry};
use steeple_spiffe_core::federation::FederationRelationship;
use steeple_spiffe_core::time::Timestamp;

use crate::ids::Revision;

/// A command's fate once it is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The state that reflects it.
    pub revision: Revision,
    /// The time stamped on it by the leader.
    pub time: Timestamp,
    /// What it did, or why it did nothing.
    pub outcome: Result<Outcome, Rejection>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it says.
    Done,
    /// One outcome per item of an entry command, in order.
    Entries(Vec<EntryOutcome>),
    /// One outcome per item of a bundle command, in order.
    Bundles(Vec<BundleOutcome>),
    /// One outcome per item of a command about federation relationships, in order.
    Relationships(Vec<RelationshipOutcome>),
    /// How many rows a prune removed.
    Pruned(u32),
}

/// What became of one item of a bundle command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleOutcome {
    /// Created or changed, as stored.
    Written(Arc<Bundle>),
    /// Deleted.
    Deleted,
    /// Refused.
    Rejected(Rejection),
}

/// What became of one item of a command about federation relationships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelationshipOutcome {
    /// Created or changed, as stored.
    Written(Arc<FederationRelationship>),
    /// Ended.
    Deleted,
    /// Refused; the bundle that came with it was not written either.
    Rejected(Rejection),
}

/// What became of one item of an entry command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryOutcome {
    /// Created, as stored.
    Created(Arc<RegistrationEntry>),
    /// A similar entry exists and is returned unchanged.
    Similar(Arc<RegistrationEntry>),
    /// Updated, as stored.
    Updated(Arc<RegistrationEntry>),
    /// Deleted.
    Deleted,
    /// Refused.
    Rejected(Rejection),
}

/// Why a command, or one item of it, changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The cluster already has its first command, or not yet.
    #[error("cluster is already initialised")]
    AlreadyInitialised,
    /// A command before `InitCluster`.
    #[error("cluster is not initialised")]
    NotInitialised,
    /// The chosen entry id is taken by another entry.
    #[error("entry id {0} is taken")]
    EntryIdTaken(EntryId),
    /// No such entry.
    #[error("entry not found")]
    EntryNotFound,
    /// The update would make the entry similar to another.
    #[error("entry would equal entry {0}")]
    EntryWouldBeSimilar(EntryId),
    /// The entry names a trust domain whose bundle is not stored.
    #[error("unable to find federated bundle \"spiffe://{0}\"")]
    FederatedBundleMissing(TrustDomain),
    /// An SVID store entry must have selectors of one type, also after a masked update.
    #[error("selector types must be the same when store SVID is enabled")]
    StoreSvidSelectorTypes,
    /// The registry holds as many rows of the kind as it may.
    #[error("limit of {limit} {what} reached")]
    LimitReached {
        /// Rows of what.
        what: String,
        /// How many.
        limit: u64,
    },
    /// The join token exists already.
    #[error("join token already exists")]
    TokenExists,
    /// The join token was never created or is spent.
    #[error("join token does not exist or has already been used")]
    TokenUnknown,
    /// The join token had expired; it is gone now.
    #[error("join token expired")]
    TokenExpired,
    /// No such agent.
    #[error("agent not found")]
    AgentNotFound,
    /// The agent is banned.
    #[error("agent is banned")]
    AgentBanned,
    /// The agent's serials are not those that were seen.
    #[error("agent serials have changed")]
    SerialsChanged,
    /// The journal is not at the revision that was seen.
    #[error("authority journal is at revision {actual}, not {expected}")]
    JournalMoved {
        /// What the command expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The sealed value has another version than the one that was seen.
    #[error("sealed value has version {actual}, not {expected}")]
    SealedMoved {
        /// What the command expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// No such authority, or not in the state that the command needs.
    #[error("authority {0} is not in the expected state")]
    AuthorityState(String),
    /// Another cluster key seals than the command takes for it.
    #[error("cluster key {actual} seals, not {expected}")]
    ClusterKeyMoved {
        /// What the command expected.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The request id was used by another caller or with another body.
    #[error("request id was used for another request")]
    RequestIdReused,
    /// The request was first sent so long ago that its outcome may have been forgotten. Whether it
    /// took effect then is not known; now it did not.
    #[error(
        "request is older than what is remembered: whether it took effect is not known; look, then \
         send it under a new id"
    )]
    RequestForgotten,
    /// The own bundle follows the authorities; it is neither replaced nor deleted.
    #[error("the bundle of the own trust domain cannot be replaced or deleted")]
    OwnBundle,
    /// There is a bundle of the trust domain already.
    #[error("bundle already exists")]
    BundleExists,
    /// There is no bundle of the trust domain.
    #[error("bundle not found")]
    BundleNotFound,
    /// The bundle is not the one that was seen.
    #[error("bundle has changed meanwhile")]
    BundleMoved,
    /// Entries federate with the trust domain.
    #[error("cannot delete bundle; federated with {0} registration entries")]
    BundleInUse(u64),
    /// A trust domain does not federate with itself.
    #[error("the own trust domain has no federation relationship")]
    OwnRelationship,
    /// There is a relationship with the trust domain already.
    #[error("federation relationship already exists")]
    RelationshipExists,
    /// There is no relationship with the trust domain.
    #[error("federation relationship not found")]
    RelationshipNotFound,
    /// The agent is none that a restored state has forgotten, or was adopted or deleted since.
    #[error("agent is not one that a restored state has forgotten")]
    NothingToAdopt,
}

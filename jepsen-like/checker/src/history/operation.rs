//! What clients ask the registry and what they are told.
//!
//! One operation is one command or one read. A call that the service splits into several commands is
//! recorded as several. Ids and serials are plain text: the checker compares, it does not parse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A serial or value that the recorder could not know. Equal to anything.
pub const ANY: &str = "?";

/// A registration entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// The identity.
    pub spiffe_id: String,
    /// The parent.
    pub parent_id: String,
    /// Selectors as `type:value`.
    pub selectors: BTreeSet<String>,
    /// Foreign trust domains.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub federates_with: BTreeSet<String>,
    /// When it is pruned, in Unix seconds; 0 = never.
    #[serde(default)]
    pub expires_at_s: i64,
    /// Whether SVIDs go to a store.
    #[serde(default)]
    pub store_svid: bool,
    /// The hint.
    #[serde(default)]
    pub hint: String,
    /// Everything else (lifetimes, flags, names): compared, never understood.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Updates so far. Ignored in a create.
    #[serde(default)]
    pub revision: i64,
}

/// A masked update: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntryUpdate {
    /// Which entry.
    pub id: String,
    /// New identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// New parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// New selectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selectors: Option<BTreeSet<String>>,
    /// New foreign trust domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub federates_with: Option<BTreeSet<String>>,
    /// New expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_s: Option<i64>,
    /// New store flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_svid: Option<bool>,
    /// New hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// New values of other attributes, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// An attested agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// How it attested first.
    pub attestation_type: String,
    /// The current serial; `None` = banned.
    pub current: Option<String>,
    /// The pending serial, or [`ANY`] where the reply does not show it.
    #[serde(default)]
    pub pending: Option<String>,
    /// When the current certificate ends, in Unix milliseconds; `None` where it is not shown.
    #[serde(default)]
    pub not_after_ms: Option<i64>,
    /// Node selectors.
    #[serde(default)]
    pub selectors: BTreeSet<String>,
    /// Whether it may attest again.
    #[serde(default)]
    pub can_reattest: bool,
    /// What it reported.
    #[serde(default)]
    pub version: String,
}

/// The serials that an authorising read saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Seen {
    /// The client cannot know what its member saw; any state may have passed.
    Any,
    /// There was no such agent.
    Absent,
    /// This pair.
    Serials {
        /// Current.
        current: Option<String>,
        /// Pending.
        pending: Option<String>,
    },
}

/// A join token to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// A name for its value; a digest, since histories are kept.
    pub token: String,
    /// After this time it admits no one, in Unix milliseconds.
    pub expires_at_ms: i64,
    /// The alias entry, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Entry>,
}

/// The admission of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// The join token to spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The agent.
    pub agent_id: String,
    /// The attestor.
    pub attestation_type: String,
    /// The certificate's serial, or [`ANY`].
    pub serial: String,
    /// When the certificate ends, in Unix milliseconds.
    #[serde(default)]
    pub not_after_ms: Option<i64>,
    /// Node selectors.
    #[serde(default)]
    pub selectors: BTreeSet<String>,
    /// Whether it may attest again.
    #[serde(default)]
    pub can_reattest: bool,
    /// What the attesting member saw.
    pub seen: Seen,
    /// A digest of the public key that the certificate is for.
    pub public_key: String,
}

/// A federation relationship.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relationship {
    /// With whom.
    pub trust_domain: String,
    /// Where bundles are fetched.
    pub endpoint_url: String,
    /// How the endpoint is authenticated; compared, never understood.
    pub profile: String,
}

/// A masked update: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelationshipUpdate {
    /// With whom.
    pub trust_domain: String,
    /// New URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// New profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// What a prune removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Whether agents go too, and how long after their expiry, in seconds.
    #[serde(default)]
    pub agents_expired_for_s: Option<i64>,
    /// Whether agents that cannot attest again go too.
    #[serde(default)]
    pub include_non_reattestable: bool,
    /// Most rows.
    pub limit: u32,
}

/// Which rows a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Entries of this parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Entries of this identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
}

impl Filter {
    /// Whether it shows the entry.
    pub fn shows(&self, entry: &Entry) -> bool {
        self.parent_id.as_ref().is_none_or(|parent| *parent == entry.parent_id)
            && self.spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
    }

    /// Whether it shows everything.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Names the cluster: the first command.
    InitCluster {
        /// The name.
        name: String,
    },
    /// Creates entries; one item a reply.
    CreateEntries(Vec<Entry>),
    /// Updates entries; one item a reply.
    UpdateEntries(Vec<EntryUpdate>),
    /// Deletes entries; one item a reply.
    DeleteEntries(Vec<String>),
    /// Reads an entry.
    GetEntry {
        /// Which.
        id: String,
    },
    /// Reads a page of entries. Pages of one listing share its number.
    ListEntries {
        /// The listing.
        listing: u64,
        /// Whether this is the listing's first page.
        first: bool,
        /// What is shown.
        #[serde(default)]
        filter: Filter,
    },
    /// Counts all entries.
    CountEntries,
    /// Stores a join token.
    CreateToken(Token),
    /// Admits an agent.
    AdmitAgent(Admission),
    /// Records a renewed serial.
    SetPendingSerial {
        /// Which agent.
        agent_id: String,
        /// What the authorising read saw.
        seen: Seen,
        /// The new serial.
        pending: String,
        /// When its certificate ends.
        #[serde(default)]
        not_after_ms: Option<i64>,
    },
    /// Makes the pending serial current.
    PromoteSerial {
        /// Which agent.
        agent_id: String,
        /// What the authorising read saw.
        seen: Seen,
    },
    /// Bans an agent.
    BanAgent {
        /// Which.
        agent_id: String,
    },
    /// Deletes an agent.
    DeleteAgent {
        /// Which.
        agent_id: String,
    },
    /// Records an agent's version.
    SetAgentVersion {
        /// Which.
        agent_id: String,
        /// The version.
        version: String,
    },
    /// Reads an agent.
    GetAgent {
        /// Which.
        agent_id: String,
    },
    /// Counts all agents.
    CountAgents,
    /// Creates federation relationships; one item a reply.
    CreateRelationships(Vec<Relationship>),
    /// Updates federation relationships; one item a reply.
    UpdateRelationships(Vec<RelationshipUpdate>),
    /// Ends federation relationships; one item a reply.
    DeleteRelationships(Vec<String>),
    /// Reads a federation relationship.
    GetRelationship {
        /// With whom.
        trust_domain: String,
    },
    /// Removes what has expired.
    PruneExpired(Prune),
}

/// The name of an operation, for coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the operation of that name")]
pub enum OperationKind {
    InitCluster,
    CreateEntries,
    UpdateEntries,
    DeleteEntries,
    GetEntry,
    ListEntries,
    CountEntries,
    CreateToken,
    AdmitAgent,
    SetPendingSerial,
    PromoteSerial,
    BanAgent,
    DeleteAgent,
    SetAgentVersion,
    GetAgent,
    CountAgents,
    CreateRelationships,
    UpdateRelationships,
    DeleteRelationships,
    GetRelationship,
    PruneExpired,
}

impl Operation {
    /// Its name.
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::InitCluster { .. } => OperationKind::InitCluster,
            Self::CreateEntries(_) => OperationKind::CreateEntries,
            Self::UpdateEntries(_) => OperationKind::UpdateEntries,
            Self::DeleteEntries(_) => OperationKind::DeleteEntries,
            Self::GetEntry { .. } => OperationKind::GetEntry,
            Self::ListEntries { .. } => OperationKind::ListEntries,
            Self::CountEntries => OperationKind::CountEntries,
            Self::CreateToken(_) => OperationKind::CreateToken,
            Self::AdmitAgent(_) => OperationKind::AdmitAgent,
            Self::SetPendingSerial { .. } => OperationKind::SetPendingSerial,
            Self::PromoteSerial { .. } => OperationKind::PromoteSerial,
            Self::BanAgent { .. } => OperationKind::BanAgent,
            Self::DeleteAgent { .. } => OperationKind::DeleteAgent,
            Self::SetAgentVersion { .. } => OperationKind::SetAgentVersion,
            Self::GetAgent { .. } => OperationKind::GetAgent,
            Self::CountAgents => OperationKind::CountAgents,
            Self::CreateRelationships(_) => OperationKind::CreateRelationships,
            Self::UpdateRelationships(_) => OperationKind::UpdateRelationships,
            Self::DeleteRelationships(_) => OperationKind::DeleteRelationships,
            Self::GetRelationship { .. } => OperationKind::GetRelationship,
            Self::PruneExpired(_) => OperationKind::PruneExpired,
        }
    }

    /// Whether it can change anything; a write has a revision of its own.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Self::GetEntry { .. }
                | Self::ListEntries { .. }
                | Self::CountEntries
                | Self::GetAgent { .. }
                | Self::CountAgents
                | Self::GetRelationship { .. }
        )
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It was done.
    Done,
    /// One outcome per item.
    Items(Vec<ItemReply>),
    /// How many rows a prune removed.
    Pruned(u32),
    /// The command was refused as a whole.
    Rejected(Rejection),
    /// An entry, or none.
    Entry(Option<Arc<Entry>>),
    /// A page of entries.
    Page(Page),
    /// An agent, or none.
    Agent(Option<Arc<Agent>>),
    /// A federation relationship, or none.
    Relationship(Option<Arc<Relationship>>),
    /// A count.
    Count(u64),
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
    /// Whether it is the last page.
    pub last: bool,
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ItemReply {
    /// Created, as stored.
    Created(Arc<Entry>),
    /// A similar entry exists.
    Similar(Arc<Entry>),
    /// Updated, as stored.
    Updated(Arc<Entry>),
    /// A federation relationship was created or updated, as stored.
    Federated(Arc<Relationship>),
    /// Deleted.
    Deleted,
    /// Refused.
    Rejected(Rejection),
}

/// Why something was refused by a replicated decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rejection {
    /// The cluster has its first command already.
    AlreadyInitialised,
    /// A command before the first.
    NotInitialised,
    /// The id is another entry's.
    EntryIdTaken {
        /// The id.
        id: String,
    },
    /// No such entry.
    EntryNotFound,
    /// The update would make two similar entries.
    EntryWouldBeSimilar {
        /// The other one.
        id: String,
    },
    /// A foreign bundle is not stored.
    FederatedBundleMissing {
        /// Whose.
        trust_domain: String,
    },
    /// Selectors of several types with the store flag.
    StoreSvidSelectorTypes,
    /// As many rows as there may be.
    LimitReached {
        /// Of what: `entries`, `agents`, `join tokens`, `federation relationships`.
        what: String,
    },
    /// The token exists.
    TokenExists,
    /// The token was never created or is spent.
    TokenUnknown,
    /// The token had expired and is gone now.
    TokenExpired,
    /// No such agent.
    AgentNotFound,
    /// The agent is banned.
    AgentBanned,
    /// The serials are not those that were seen.
    SerialsChanged,
    /// There is a relationship already.
    RelationshipExists,
    /// There is no such relationship.
    RelationshipNotFound,
    /// The request id was used for another body.
    RequestIdReused,
}

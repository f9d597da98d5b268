//! Rows of the registry by key, as the change feed shows them.

use steeple_raft_store::Change;

/// Which row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An entry.
    Entry(String),
    /// An agent.
    Agent(String),
    /// A bundle.
    Bundle(String),
    /// A federation relationship.
    Relationship(String),
    /// How the fetching of a foreign bundle goes.
    Refresh(String),
    /// The authority journal.
    Journal,
    /// The cluster's own row.
    Cluster,
    /// A value that is kept sealed.
    Sealed(u8),
    /// Behind all of them.
    End,
}

/// The row that a change is about.
pub(crate) fn key(change: &Change) -> Key {
    match change {
        Change::EntryWritten { entry, .. } => Key::Entry(entry.id.to_string()),
        Change::EntryDeleted { id, .. } => Key::Entry(id.to_string()),
        Change::AgentWritten { agent, .. } => Key::Agent(agent.id.to_string()),
        Change::AgentDeleted { id, .. } => Key::Agent(id.to_string()),
        Change::BundleWritten { bundle, .. } => Key::Bundle(bundle.trust_domain.to_string()),
        Change::BundleDeleted { trust_domain, .. } => Key::Bundle(trust_domain.to_string()),
        Change::RelationshipWritten { relationship, .. } => {
            Key::Relationship(relationship.trust_domain.to_string())
        }
        Change::RelationshipDeleted { trust_domain, .. } => {
            Key::Relationship(trust_domain.to_string())
        }
        Change::RefreshWritten(status) => Key::Refresh(status.trust_domain.to_string()),
        Change::RefreshDeleted { trust_domain } => Key::Refresh(trust_domain.to_string()),
        Change::JournalWritten(_) => Key::Journal,
        Change::ClusterWritten(_) => Key::Cluster,
        Change::SealedWritten { name, .. } => Key::Sealed(name.number()),
    }
}

/// What the row is after the change; `None`: gone.
pub(crate) fn value(change: &Change) -> Option<Change> {
    match change {
        Change::EntryDeleted { .. }
        | Change::AgentDeleted { .. }
        | Change::BundleDeleted { .. }
        | Change::RelationshipDeleted { .. }
        | Change::RefreshDeleted { .. } => None,
        Change::EntryWritten { .. }
        | Change::AgentWritten { .. }
        | Change::BundleWritten { .. }
        | Change::RelationshipWritten { .. }
        | Change::RefreshWritten(_)
        | Change::JournalWritten(_)
        | Change::SealedWritten { .. }
        | Change::ClusterWritten(_) => Some(change.clone()),
    }
}

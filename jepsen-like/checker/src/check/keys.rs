//! What an operation or a reply touches: used to find which unknown requests may explain a surprise.

use std::collections::BTreeSet;

use crate::history::{Change, Entry, ItemReply, Operation, Rejection, Reply};

/// Something that operations can meet at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// An entry by its id.
    Entry(String),
    /// Entries of an identity: similar ones are among them.
    Identity(String),
    /// Entries below a parent: aliases are among them.
    Parent(String),
    /// A join token.
    Token(String),
    /// An agent.
    Agent(String),
    /// A federation relationship.
    Relationship(String),
    /// A request id.
    Request(String),
    /// Whatever has expired.
    Expired,
    /// The cluster's first command.
    Cluster,
}

/// A set of keys.
pub(super) type Keys = BTreeSet<Key>;

/// What an operation touches, as far as it says itself.
pub(super) fn of_operation(op: &Operation, request: Option<&str>) -> Keys {
    let mut keys = Keys::new();
    keys.extend(request.map(|id| Key::Request(id.to_owned())));
    match op {
        Operation::InitCluster { .. } => {
            keys.insert(Key::Cluster);
        }
        Operation::CreateEntries(entries) => {
            entries.iter().for_each(|entry| add_entry(&mut keys, entry));
        }
        Operation::UpdateEntries(updates) => {
            for update in updates {
                keys.insert(Key::Entry(update.id.clone()));
                keys.extend(update.spiffe_id.clone().map(Key::Identity));
                keys.extend(update.parent_id.clone().map(Key::Parent));
                keys.extend(update.expires_at_s.map(|_| Key::Expired));
            }
        }
        Operation::DeleteEntries(ids) => keys.extend(ids.iter().cloned().map(Key::Entry)),
        Operation::GetEntry { id } => {
            keys.insert(Key::Entry(id.clone()));
        }
        Operation::CreateToken(token) => {
            keys.insert(Key::Token(token.token.clone()));
            keys.insert(Key::Expired);
            if let Some(alias) = &token.alias {
                add_entry(&mut keys, alias);
            }
        }
        Operation::AdmitAgent(admission) => {
            keys.insert(Key::Agent(admission.agent_id.clone()));
            if let Some(token) = &admission.token {
                keys.insert(Key::Token(token.clone()));
                // One that has expired is removed when it is shown.
                keys.insert(Key::Expired);
            }
        }
        Operation::DeleteAgent { agent_id } => {
            keys.insert(Key::Agent(agent_id.clone()));
            keys.insert(Key::Parent(agent_id.clone()));
        }
        Operation::SetPendingSerial { agent_id, .. }
        | Operation::PromoteSerial { agent_id, .. }
        | Operation::BanAgent { agent_id }
        | Operation::SetAgentVersion { agent_id, .. }
        | Operation::GetAgent { agent_id } => {
            keys.insert(Key::Agent(agent_id.clone()));
        }
        Operation::PruneExpired(_) => {
            keys.insert(Key::Expired);
        }
        Operation::CreateRelationships(all) => {
            keys.extend(all.iter().map(|one| Key::Relationship(one.trust_domain.clone())));
        }
        Operation::UpdateRelationships(updates) => {
            keys.extend(updates.iter().map(|one| Key::Relationship(one.trust_domain.clone())));
        }
        Operation::DeleteRelationships(names) => {
            keys.extend(names.iter().cloned().map(Key::Relationship));
        }
        Operation::GetRelationship { trust_domain } => {
            keys.insert(Key::Relationship(trust_domain.clone()));
        }
        Operation::ListEntries { .. } | Operation::CountEntries | Operation::CountAgents => {}
    }
    keys
}

/// What a reply names.
pub(super) fn of_reply(reply: &Reply, keys: &mut Keys) {
    match reply {
        Reply::Items(items) => items.iter().for_each(|item| of_item(item, keys)),
        Reply::Entry(Some(entry)) => add_entry(keys, entry),
        Reply::Page(page) => page.entries.iter().for_each(|entry| add_entry(keys, entry)),
        Reply::Agent(Some(agent)) => {
            keys.insert(Key::Agent(agent.id.clone()));
        }
        Reply::Relationship(Some(found)) => {
            keys.insert(Key::Relationship(found.trust_domain.clone()));
        }
        Reply::Rejected(rejection) => of_rejection(rejection, keys),
        Reply::Pruned(_) => {
            keys.insert(Key::Expired);
        }
        Reply::Done
        | Reply::Entry(None)
        | Reply::Agent(None)
        | Reply::Relationship(None)
        | Reply::Count(_) => {}
    }
}

/// What changes touch.
pub(super) fn of_changes(changes: &[Change]) -> Keys {
    let mut keys = Keys::new();
    for change in changes {
        match change {
            Change::EntryWritten(entry) => add_entry(&mut keys, entry),
            Change::EntryDeleted { id } => {
                keys.insert(Key::Entry(id.clone()));
            }
            Change::AgentWritten(agent) => {
                keys.insert(Key::Agent(agent.id.clone()));
            }
            Change::AgentDeleted { id } => {
                keys.insert(Key::Agent(id.clone()));
            }
            Change::RelationshipWritten(written) => {
                keys.insert(Key::Relationship(written.trust_domain.clone()));
            }
            Change::RelationshipDeleted { trust_domain } => {
                keys.insert(Key::Relationship(trust_domain.clone()));
            }
            Change::BundleWritten { .. } | Change::Other { .. } => {}
        }
    }
    keys
}

fn of_item(item: &ItemReply, keys: &mut Keys) {
    match item {
        ItemReply::Created(entry) | ItemReply::Similar(entry) | ItemReply::Updated(entry) => {
            add_entry(keys, entry);
        }
        ItemReply::Rejected(rejection) => of_rejection(rejection, keys),
        ItemReply::Federated(written) => {
            keys.insert(Key::Relationship(written.trust_domain.clone()));
        }
        ItemReply::Deleted => {}
    }
}

fn of_rejection(rejection: &Rejection, keys: &mut Keys) {
    match rejection {
        Rejection::EntryIdTaken { id } | Rejection::EntryWouldBeSimilar { id } => {
            keys.insert(Key::Entry(id.clone()));
        }
        Rejection::AlreadyInitialised | Rejection::NotInitialised => {
            keys.insert(Key::Cluster);
        }
        Rejection::EntryNotFound
        | Rejection::FederatedBundleMissing { .. }
        | Rejection::StoreSvidSelectorTypes
        | Rejection::LimitReached { .. }
        | Rejection::TokenExists
        | Rejection::TokenUnknown
        | Rejection::TokenExpired
        | Rejection::AgentNotFound
        | Rejection::AgentBanned
        | Rejection::SerialsChanged
        | Rejection::RelationshipExists
        | Rejection::RelationshipNotFound
        | Rejection::RequestIdReused => {}
    }
}

fn add_entry(keys: &mut Keys, entry: &Entry) {
    keys.insert(Key::Entry(entry.id.clone()));
    keys.insert(Key::Identity(entry.spiffe_id.clone()));
    keys.insert(Key::Parent(entry.parent_id.clone()));
    if entry.expires_at_s != 0 {
        keys.insert(Key::Expired);
    }
}

/// Whether all effects of an operation are on one row, so that its first visible trace says when it
/// happened. Those of others can be spread over rows that were looked at in another order.
pub(super) fn is_on_one_row(op: &Operation) -> bool {
    match op {
        Operation::CreateEntries(entries) => entries.len() < 2,
        Operation::UpdateEntries(updates) => updates.len() < 2,
        Operation::DeleteEntries(ids) => ids.len() < 2,
        Operation::CreateRelationships(all) => all.len() < 2,
        Operation::UpdateRelationships(updates) => updates.len() < 2,
        Operation::DeleteRelationships(names) => names.len() < 2,
        Operation::CreateToken(token) => token.alias.is_none(),
        Operation::AdmitAgent(admission) => admission.token.is_none(),
        Operation::DeleteAgent { .. } | Operation::PruneExpired(_) => false,
        Operation::InitCluster { .. }
        | Operation::SetPendingSerial { .. }
        | Operation::PromoteSerial { .. }
        | Operation::BanAgent { .. }
        | Operation::SetAgentVersion { .. }
        | Operation::GetEntry { .. }
        | Operation::ListEntries { .. }
        | Operation::CountEntries
        | Operation::GetAgent { .. }
        | Operation::CountAgents
        | Operation::GetRelationship { .. } => true,
    }
}

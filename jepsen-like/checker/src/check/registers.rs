//! Entries, tokens and agents as single objects, for the search that trusts no revision.
//!
//! Owns what one operation says about one key. Where it says nothing certain (a rejection for reasons
//! elsewhere), it is left out; where rows move without a word about them (aliases, expiry), the key is.

use std::sync::Arc;

use super::linear::Object;
use crate::history::operation::ANY;
use crate::history::{Entry, EntryUpdate, ItemReply, Operation, Rejection, Reply, Seen};
use crate::model::updated_entry;

/// What is done to an entry and what came back.
#[derive(Clone, Debug)]
pub(super) enum EntryAction {
    /// It was created as this.
    Created(Arc<Entry>),
    /// It was there, as this.
    Shown(Arc<Entry>),
    /// It was there.
    There,
    /// It was not there.
    Absent,
    /// It was updated to this.
    Updated(Arc<Entry>),
    /// It was deleted.
    Deleted,
    /// It may have been created.
    MaybeCreated(Arc<Entry>),
    /// It may have been updated.
    MaybeUpdated(EntryUpdate),
    /// It may have been deleted.
    MaybeDeleted,
}

/// An entry that is there or not.
#[derive(Debug)]
pub(super) struct EntryObject;

impl Object for EntryObject {
    type State = Option<Arc<Entry>>;
    type Action = EntryAction;

    fn step(&self, state: &Self::State, action: &EntryAction) -> Option<Self::State> {
        match (action, state) {
            (EntryAction::Created(entry) | EntryAction::MaybeCreated(entry), None) => {
                Some(Some(Arc::clone(entry)))
            }
            (EntryAction::Shown(entry), Some(old)) if entry == old => Some(state.clone()),
            (EntryAction::There, Some(_)) | (EntryAction::Absent, None) => Some(state.clone()),
            (EntryAction::Updated(new), Some(old)) if new.revision == old.revision + 1 => {
                Some(Some(Arc::clone(new)))
            }
            (EntryAction::MaybeUpdated(update), Some(old)) => {
                Some(Some(Arc::new(updated_entry(old, update))))
            }
            (EntryAction::Deleted | EntryAction::MaybeDeleted, Some(_)) => Some(None),
            (
                EntryAction::Created(_)
                | EntryAction::MaybeCreated(_)
                | EntryAction::Shown(_)
                | EntryAction::Updated(_)
                | EntryAction::Absent,
                Some(_),
            )
            | (
                EntryAction::Shown(_)
                | EntryAction::There
                | EntryAction::Updated(_)
                | EntryAction::MaybeUpdated(_)
                | EntryAction::Deleted
                | EntryAction::MaybeDeleted,
                None,
            ) => None,
        }
    }
}

/// What an operation says about single entries. No reply means that its outcome is unknown.
pub(super) fn on_entries(
    op: &Operation,
    reply: Option<&Reply>,
    mut say: impl FnMut(&str, EntryAction),
) {
    match (op, reply) {
        (Operation::GetEntry { id }, Some(Reply::Entry(entry))) => {
            say(id, entry.clone().map_or(EntryAction::Absent, EntryAction::Shown));
        }
        (Operation::CreateEntries(entries), None) => {
            for entry in entries {
                let stored = Entry { revision: 0, ..entry.clone() };
                say(&entry.id, EntryAction::MaybeCreated(Arc::new(stored)));
            }
        }
        (Operation::UpdateEntries(updates), None) => {
            updates.iter().for_each(|u| say(&u.id, EntryAction::MaybeUpdated(u.clone())));
        }
        (Operation::DeleteEntries(ids), None) => {
            ids.iter().for_each(|id| say(id, EntryAction::MaybeDeleted));
        }
        (Operation::CreateEntries(entries), Some(Reply::Items(items))) => {
            entries.iter().zip(items).for_each(|(entry, item)| on_item(&entry.id, item, &mut say));
        }
        (Operation::UpdateEntries(updates), Some(Reply::Items(items))) => {
            updates
                .iter()
                .zip(items)
                .for_each(|(update, item)| on_item(&update.id, item, &mut say));
        }
        (Operation::DeleteEntries(ids), Some(Reply::Items(items))) => {
            ids.iter().zip(items).for_each(|(id, item)| on_item(id, item, &mut say));
        }
        // Others say nothing about one entry.
        _ => {}
    }
}

fn on_item(id: &str, item: &ItemReply, say: &mut impl FnMut(&str, EntryAction)) {
    match item {
        ItemReply::Created(entry) => say(id, EntryAction::Created(Arc::clone(entry))),
        ItemReply::Updated(entry) => say(id, EntryAction::Updated(Arc::clone(entry))),
        ItemReply::Similar(entry) => say(&entry.id, EntryAction::Shown(Arc::clone(entry))),
        ItemReply::Deleted => say(id, EntryAction::Deleted),
        ItemReply::Rejected(Rejection::EntryNotFound) => say(id, EntryAction::Absent),
        ItemReply::Rejected(
            Rejection::EntryIdTaken { id: other } | Rejection::EntryWouldBeSimilar { id: other },
        ) => say(other, EntryAction::There),
        // Of a relationship, or a refusal for reasons elsewhere.
        ItemReply::Rejected(_) | ItemReply::Federated(_) => {}
    }
}

/// What is done to a token and what came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenAction {
    /// It was stored.
    Stored,
    /// It was spent, or removed since it had expired.
    Spent,
    /// It was there.
    There,
    /// It was not there.
    Absent,
}

/// A token that is there or not.
#[derive(Debug)]
pub(super) struct TokenObject;

impl Object for TokenObject {
    type State = bool;
    type Action = TokenAction;

    fn step(&self, state: &bool, action: &TokenAction) -> Option<bool> {
        match (action, state) {
            (TokenAction::Stored, false) | (TokenAction::There, true) => Some(true),
            (TokenAction::Spent, true) | (TokenAction::Absent, false) => Some(false),
            (TokenAction::Stored | TokenAction::Absent, true)
            | (TokenAction::Spent | TokenAction::There, false) => None,
        }
    }
}

/// What an operation says about a token.
pub(super) fn on_token<'o>(
    op: &'o Operation,
    reply: Option<&Reply>,
) -> Option<(&'o str, TokenAction)> {
    let rejection = match reply {
        Some(Reply::Rejected(rejection)) => Some(rejection),
        Some(_) | None => None,
    };
    match (op, rejection) {
        (Operation::CreateToken(token), None) => Some((&token.token, TokenAction::Stored)),
        (Operation::CreateToken(token), Some(Rejection::TokenExists)) => {
            Some((&token.token, TokenAction::There))
        }
        (Operation::AdmitAgent(admission), rejection) => {
            let token = admission.token.as_deref()?;
            let action = match rejection {
                None | Some(Rejection::TokenExpired) => TokenAction::Spent,
                Some(Rejection::TokenUnknown) => TokenAction::Absent,
                Some(
                    Rejection::AgentBanned
                    | Rejection::SerialsChanged
                    | Rejection::LimitReached { .. },
                ) => TokenAction::There,
                Some(_) => return None,
            };
            Some((token, action))
        }
        _ => None,
    }
}

/// What is done to an agent and what came back.
#[derive(Clone, Debug)]
pub(super) enum AgentAction {
    /// It was admitted.
    Admitted { seen: Seen, serial: String },
    /// It has a pending serial.
    Pending { seen: Seen, pending: String },
    /// Its pending serial was promoted.
    Promoted { seen: Seen },
    /// It was banned.
    Banned,
    /// It was deleted.
    Deleted,
    /// It was there with these serials.
    Shown { current: Option<String>, pending: Option<String> },
    /// It was there.
    There,
    /// It was there and banned.
    WasBanned,
    /// It was not there.
    Absent,
}

/// An agent's serials: current and pending; no current one = banned.
#[derive(Debug)]
pub(super) struct AgentObject;

type Serials = (Option<String>, Option<String>);

impl Object for AgentObject {
    type State = Option<Serials>;
    type Action = AgentAction;

    fn step(&self, state: &Option<Serials>, action: &AgentAction) -> Option<Option<Serials>> {
        let old = state.as_ref();
        let unbanned = || old.filter(|(current, _)| current.is_some());
        match action {
            AgentAction::Admitted { seen, serial } => {
                let is_banned = old.is_some_and(|(current, _)| current.is_none());
                (!is_banned && saw(seen, old)).then(|| Some((Some(serial.clone()), None)))
            }
            AgentAction::Pending { seen, pending } => {
                let (current, _) = unbanned().filter(|_| saw(seen, old))?;
                Some(Some((current.clone(), Some(pending.clone()))))
            }
            AgentAction::Promoted { seen } => {
                let (_, pending) = unbanned().filter(|_| saw(seen, old))?;
                pending.is_some().then(|| Some((pending.clone(), None)))
            }
            AgentAction::Banned => old.map(|_| Some((None, None))),
            AgentAction::Deleted => old.map(|_| None),
            AgentAction::Shown { current, pending } => {
                let (has, has_pending) = old?;
                (same(current, has) && same(pending, has_pending)).then(|| state.clone())
            }
            AgentAction::There => old.map(|_| state.clone()),
            AgentAction::WasBanned => {
                old.filter(|(current, _)| current.is_none()).map(|_| state.clone())
            }
            AgentAction::Absent => old.is_none().then_some(None),
        }
    }
}

fn saw(seen: &Seen, state: Option<&Serials>) -> bool {
    match (seen, state) {
        (Seen::Any, _) | (Seen::Absent, None) => true,
        (Seen::Serials { current, pending }, Some((has, has_pending))) => {
            same(current, has) && same(pending, has_pending)
        }
        (Seen::Absent, Some(_)) | (Seen::Serials { .. }, None) => false,
    }
}

fn same(a: &Option<String>, b: &Option<String>) -> bool {
    a == b || a.as_deref() == Some(ANY) || b.as_deref() == Some(ANY)
}

/// What an operation says about an agent.
pub(super) fn on_agent<'o>(
    op: &'o Operation,
    reply: Option<&Reply>,
) -> Option<(&'o str, AgentAction)> {
    let (id, done) = match op {
        Operation::AdmitAgent(admission) => {
            let (seen, serial) = (admission.seen.clone(), admission.serial.clone());
            (&admission.agent_id, AgentAction::Admitted { seen, serial })
        }
        Operation::SetPendingSerial { agent_id, seen, pending, .. } => {
            (agent_id, AgentAction::Pending { seen: seen.clone(), pending: pending.clone() })
        }
        Operation::PromoteSerial { agent_id, seen } => {
            (agent_id, AgentAction::Promoted { seen: seen.clone() })
        }
        Operation::BanAgent { agent_id } => (agent_id, AgentAction::Banned),
        Operation::DeleteAgent { agent_id } => (agent_id, AgentAction::Deleted),
        Operation::SetAgentVersion { agent_id, .. } => (agent_id, AgentAction::There),
        Operation::GetAgent { agent_id } => (agent_id, AgentAction::Absent),
        Operation::InitCluster { .. }
        | Operation::CreateEntries(_)
        | Operation::UpdateEntries(_)
        | Operation::DeleteEntries(_)
        | Operation::GetEntry { .. }
        | Operation::ListEntries { .. }
        | Operation::CountEntries
        | Operation::CreateToken(_)
        | Operation::CountAgents
        | Operation::CreateRelationships(_)
        | Operation::UpdateRelationships(_)
        | Operation::DeleteRelationships(_)
        | Operation::GetRelationship { .. }
        | Operation::PruneExpired(_) => return None,
    };
    let action = match reply {
        Some(Reply::Rejected(Rejection::AgentNotFound)) => AgentAction::Absent,
        Some(Reply::Rejected(Rejection::AgentBanned)) => AgentAction::WasBanned,
        Some(Reply::Agent(Some(agent))) => {
            AgentAction::Shown { current: agent.current.clone(), pending: agent.pending.clone() }
        }
        Some(Reply::Done | Reply::Agent(None)) | None => done,
        // Other refusals say nothing certain.
        Some(_) => return None,
    };
    Some((id, action))
}

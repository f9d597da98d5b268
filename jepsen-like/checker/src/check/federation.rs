//! Federation relationships as single objects, for the search that trusts no revision.

use std::sync::Arc;

use super::linear::Object;
use crate::history::{ItemReply, Operation, Rejection, Relationship, RelationshipUpdate, Reply};
use crate::model::updated_relationship;

/// What is done to a relationship and what came back.
#[derive(Clone, Debug)]
pub(super) enum RelationshipAction {
    /// It was created as this, or may have been.
    Created(Arc<Relationship>),
    /// It was updated, to this if that is known.
    Updated(RelationshipUpdate, Option<Arc<Relationship>>),
    /// It was deleted, or may have been.
    Deleted,
    /// It was there, as this.
    Shown(Arc<Relationship>),
    /// It was there.
    There,
    /// It was not there.
    Absent,
}

/// A relationship that is there or not.
#[derive(Debug)]
pub(super) struct RelationshipObject;

impl Object for RelationshipObject {
    type State = Option<Arc<Relationship>>;
    type Action = RelationshipAction;

    fn step(&self, state: &Self::State, action: &RelationshipAction) -> Option<Self::State> {
        match (action, state) {
            (RelationshipAction::Created(new), None) => Some(Some(Arc::clone(new))),
            (RelationshipAction::Updated(update, told), Some(old)) => {
                let new = updated_relationship(old, update);
                told.as_ref().is_none_or(|told| **told == new).then(|| Some(Arc::new(new)))
            }
            (RelationshipAction::Deleted, Some(_)) => Some(None),
            (RelationshipAction::Shown(told), Some(old)) if told == old => Some(state.clone()),
            (RelationshipAction::There, Some(_)) | (RelationshipAction::Absent, None) => {
                Some(state.clone())
            }
            (
                RelationshipAction::Created(_)
                | RelationshipAction::Shown(_)
                | RelationshipAction::Absent,
                Some(_),
            )
            | (
                RelationshipAction::Updated(..)
                | RelationshipAction::Deleted
                | RelationshipAction::Shown(_)
                | RelationshipAction::There,
                None,
            ) => None,
        }
    }
}

/// What an operation says about single relationships. No reply means that its outcome is unknown.
pub(super) fn on_relationships(
    op: &Operation,
    reply: Option<&Reply>,
    mut say: impl FnMut(&str, RelationshipAction),
) {
    let items = match (op, reply) {
        (Operation::GetRelationship { trust_domain }, Some(Reply::Relationship(found))) => {
            let found = found.clone();
            let action = found.map_or(RelationshipAction::Absent, RelationshipAction::Shown);
            return say(trust_domain, action);
        }
        (_, None) => None,
        (_, Some(Reply::Items(items))) => Some(items),
        // Others say nothing about one relationship.
        (_, Some(_)) => return,
    };
    let item = |place: usize| items.map(|items| items.get(place));
    if let Operation::CreateRelationships(all) = op {
        for (place, new) in all.iter().enumerate() {
            let done = |told: Option<Arc<Relationship>>| {
                RelationshipAction::Created(told.unwrap_or_else(|| Arc::new(new.clone())))
            };
            of_item(&new.trust_domain, item(place), done, &mut say);
        }
    }
    if let Operation::UpdateRelationships(updates) = op {
        for (place, update) in updates.iter().enumerate() {
            let done = |told| RelationshipAction::Updated(update.clone(), told);
            of_item(&update.trust_domain, item(place), done, &mut say);
        }
    }
    if let Operation::DeleteRelationships(names) = op {
        for (place, name) in names.iter().enumerate() {
            of_item(name, item(place), |_| RelationshipAction::Deleted, &mut say);
        }
    }
}

/// `item` is nothing where the outcome is unknown, and holds nothing where the reply lacks it.
fn of_item(
    name: &str,
    item: Option<Option<&ItemReply>>,
    done: impl FnOnce(Option<Arc<Relationship>>) -> RelationshipAction,
    say: &mut impl FnMut(&str, RelationshipAction),
) {
    match item {
        None | Some(Some(ItemReply::Deleted)) => say(name, done(None)),
        Some(Some(ItemReply::Federated(told))) => say(name, done(Some(Arc::clone(told)))),
        Some(Some(ItemReply::Rejected(Rejection::RelationshipExists))) => {
            say(name, RelationshipAction::There);
        }
        Some(Some(ItemReply::Rejected(Rejection::RelationshipNotFound))) => {
            say(name, RelationshipAction::Absent);
        }
        // Of an entry, or a refusal for reasons elsewhere.
        Some(
            Some(
                ItemReply::Rejected(_)
                | ItemReply::Created(_)
                | ItemReply::Similar(_)
                | ItemReply::Updated(_),
            )
            | None,
        ) => {}
    }
}

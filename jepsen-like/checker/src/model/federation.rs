//! Federation relationships: create, update, delete. Each item of a batch is decided by itself.

use std::sync::Arc;

use super::registry::Registry;
use crate::history::{ItemReply, Rejection, Relationship, RelationshipUpdate};

impl Registry {
    pub(super) fn create_relationship(&mut self, new: &Relationship) -> ItemReply {
        if self.relationships.contains_key(&new.trust_domain) {
            return ItemReply::Rejected(Rejection::RelationshipExists);
        }
        if self.relationships.len() >= self.limits.relationships {
            let what = "federation relationships".to_owned();
            return ItemReply::Rejected(Rejection::LimitReached { what });
        }
        let stored = Arc::new(new.clone());
        self.set_relationship(&new.trust_domain, Some(Arc::clone(&stored)));
        ItemReply::Federated(stored)
    }

    pub(super) fn update_relationship(&mut self, update: &RelationshipUpdate) -> ItemReply {
        let Some(old) = self.relationships.get(&update.trust_domain) else {
            return ItemReply::Rejected(Rejection::RelationshipNotFound);
        };
        let new = updated(old, update);
        if new == **old {
            return ItemReply::Federated(Arc::clone(old));
        }
        let stored = Arc::new(new);
        self.set_relationship(&update.trust_domain, Some(Arc::clone(&stored)));
        ItemReply::Federated(stored)
    }

    pub(super) fn delete_relationship(&mut self, trust_domain: &str) -> ItemReply {
        if !self.relationships.contains_key(trust_domain) {
            return ItemReply::Rejected(Rejection::RelationshipNotFound);
        }
        self.set_relationship(trust_domain, None);
        ItemReply::Deleted
    }
}

/// The relationship after an update.
pub(crate) fn updated(old: &Relationship, update: &RelationshipUpdate) -> Relationship {
    Relationship {
        trust_domain: old.trust_domain.clone(),
        endpoint_url: update.endpoint_url.clone().unwrap_or_else(|| old.endpoint_url.clone()),
        profile: update.profile.clone().unwrap_or_else(|| old.profile.clone()),
    }
}

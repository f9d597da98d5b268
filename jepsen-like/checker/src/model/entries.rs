//! Entries: create, update, delete. Each item of a batch is decided by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::registry::Registry;
use crate::history::{Entry, EntryUpdate, ItemReply, Rejection};

impl Registry {
    pub(super) fn create_entry(&mut self, entry: &Entry) -> ItemReply {
        if let Some(similar) = self.similar_to(entry).and_then(|id| self.entries.get(id)) {
            return ItemReply::Similar(Arc::clone(similar));
        }
        if self.entries.contains_key(&entry.id) {
            return ItemReply::Rejected(Rejection::EntryIdTaken { id: entry.id.clone() });
        }
        if let Some(rejection) = self.missing_bundle(entry) {
            return ItemReply::Rejected(rejection);
        }
        if self.entries.len() >= self.limits.entries {
            return ItemReply::Rejected(Rejection::LimitReached { what: "entries".to_owned() });
        }
        let stored = Arc::new(Entry { revision: 0, ..entry.clone() });
        self.set_entry(&entry.id, Some(Arc::clone(&stored)));
        ItemReply::Created(stored)
    }

    pub(super) fn update_entry(&mut self, update: &EntryUpdate) -> ItemReply {
        let Some(old) = self.entries.get(&update.id) else {
            return ItemReply::Rejected(Rejection::EntryNotFound);
        };
        let new = updated(old, update);
        if new.store_svid && kinds(&new.selectors) > 1 {
            return ItemReply::Rejected(Rejection::StoreSvidSelectorTypes);
        }
        if let Some(id) = self.similar_to(&new).filter(|id| **id != new.id) {
            return ItemReply::Rejected(Rejection::EntryWouldBeSimilar { id: id.clone() });
        }
        if let Some(rejection) = self.missing_bundle(&new) {
            return ItemReply::Rejected(rejection);
        }
        let stored = Arc::new(new);
        self.set_entry(&update.id, Some(Arc::clone(&stored)));
        ItemReply::Updated(stored)
    }

    pub(super) fn delete_entry(&mut self, id: &str) -> ItemReply {
        if !self.entries.contains_key(id) {
            return ItemReply::Rejected(Rejection::EntryNotFound);
        }
        self.set_entry(id, None);
        ItemReply::Deleted
    }

    fn missing_bundle(&self, entry: &Entry) -> Option<Rejection> {
        let missing = entry.federates_with.iter().find(|domain| !self.bundles.contains(*domain))?;
        Some(Rejection::FederatedBundleMissing { trust_domain: missing.clone() })
    }
}

/// The entry after an update; counted also if nothing else changed.
pub(crate) fn updated(old: &Entry, update: &EntryUpdate) -> Entry {
    let mut new = old.clone();
    let EntryUpdate {
        id: _,
        spiffe_id,
        parent_id,
        selectors,
        federates_with,
        expires_at_s,
        store_svid,
        hint,
        attributes,
    } = update.clone();
    new.spiffe_id = spiffe_id.unwrap_or(new.spiffe_id);
    new.parent_id = parent_id.unwrap_or(new.parent_id);
    new.selectors = selectors.unwrap_or(new.selectors);
    new.federates_with = federates_with.unwrap_or(new.federates_with);
    new.expires_at_s = expires_at_s.unwrap_or(new.expires_at_s);
    new.store_svid = store_svid.unwrap_or(new.store_svid);
    new.hint = hint.unwrap_or(new.hint);
    new.attributes.extend(attributes);
    new.revision += 1;
    new
}

fn kinds(selectors: &BTreeSet<String>) -> usize {
    let kinds: BTreeSet<&str> =
        selectors.iter().map(|s| s.split_once(':').map_or(s.as_str(), |(kind, _)| kind)).collect();
    kinds.len()
}

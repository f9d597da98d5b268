//! Registration entries: create, update, delete; rules of `spec/spire-api.md` 2.3.
//!
//! Each item of a batch is decided by itself. Two entries are similar if SPIFFE id, parent and selector
//! set are equal; the index of similar entries makes that one look-up.

use std::sync::Arc;

use aws_lc_rs::digest;
use steeple_spiffe_core::entry::{EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::selector::{Selector, SelectorSet};
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::apply::bundles;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{Table, ordered_key};
use crate::apply::txn::{Rows, TableError};
use crate::change::Change;
use crate::codec::{CodecError, entry_from_pb, entry_to_pb};
use crate::ids::RowNumber;
use crate::limits::ENTRIES_MAX;
use crate::outcome::{EntryOutcome, Outcome, Rejection};
use crate::pb;

pub(super) fn create(step: &mut Step<'_, '_>, entries: Vec<RegistrationEntry>) -> Verdict {
    let outcomes =
        entries.into_iter().map(|entry| create_one(step, entry)).collect::<Result<_, _>>()?;
    Ok(Ok(Outcome::Entries(outcomes)))
}

pub(super) fn update(step: &mut Step<'_, '_>, updates: Vec<EntryUpdate>) -> Verdict {
    let outcomes =
        updates.into_iter().map(|update| update_one(step, update)).collect::<Result<_, _>>()?;
    Ok(Ok(Outcome::Entries(outcomes)))
}

pub(super) fn delete(step: &mut Step<'_, '_>, ids: &[EntryId]) -> Verdict {
    let mut outcomes = Vec::with_capacity(ids.len());
    for id in ids {
        outcomes.push(if remove(step, id)? {
            EntryOutcome::Deleted
        } else {
            EntryOutcome::Rejected(Rejection::EntryNotFound)
        });
    }
    Ok(Ok(Outcome::Entries(outcomes)))
}

/// Creates one entry, unless a similar one exists.
pub(super) fn create_one(
    step: &mut Step<'_, '_>,
    mut entry: RegistrationEntry,
) -> Result<EntryOutcome, TableError> {
    if let Some(id) = find_similar(step, &entry)? {
        let (_, similar) = find(step, &id)?
            .ok_or_else(|| CodecError::missing("entry that the similar index names"))?;
        return Ok(EntryOutcome::Similar(Arc::new(similar)));
    }
    if find(step, &entry.id)?.is_some() {
        return Ok(EntryOutcome::Rejected(Rejection::EntryIdTaken(entry.id)));
    }
    if let Some(rejection) = check_federation(step, &entry)? {
        return Ok(EntryOutcome::Rejected(rejection));
    }
    if step.counters.entries >= ENTRIES_MAX {
        let rejection = Rejection::LimitReached { what: "entries".into(), limit: ENTRIES_MAX };
        return Ok(EntryOutcome::Rejected(rejection));
    }
    entry.revision = 0;
    entry.created_at = step.now;
    let row = step.mint_row();
    step.counters.entries += 1;
    let entry = write(step, row, entry);
    Ok(EntryOutcome::Created(entry))
}

fn update_one(step: &mut Step<'_, '_>, update: EntryUpdate) -> Result<EntryOutcome, TableError> {
    let Some((row, old)) = find(step, &update.id)? else {
        return Ok(EntryOutcome::Rejected(Rejection::EntryNotFound));
    };
    let mut new = updated(&old, update);
    if new.store_svid && kinds(&new.selectors) > 1 {
        return Ok(EntryOutcome::Rejected(Rejection::StoreSvidSelectorTypes));
    }
    if let Some(id) = find_similar(step, &new)?
        && id != old.id
    {
        return Ok(EntryOutcome::Rejected(Rejection::EntryWouldBeSimilar(id)));
    }
    if let Some(rejection) = check_federation(step, &new)? {
        return Ok(EntryOutcome::Rejected(rejection));
    }
    // SPIRE counts every successful update, also one that changes nothing.
    new.revision = old.revision.saturating_add(1);
    unindex(step, &old);
    let entry = write(step, row, new);
    Ok(EntryOutcome::Updated(entry))
}

/// Removes an entry; false if there is none.
pub(super) fn remove(step: &mut Step<'_, '_>, id: &EntryId) -> Result<bool, TableError> {
    let Some((row, entry)) = find(step, id)? else { return Ok(false) };
    unindex(step, &entry);
    step.txn.delete(Table::Entries, id.as_str().as_bytes());
    step.counters.entries = step.counters.entries.saturating_sub(1);
    step.changes.push(Change::EntryDeleted { row, id: id.clone() });
    Ok(true)
}

/// Removes the entry that a join token with `-spiffeID` left for an agent: parent the agent, one
/// selector `spiffe_id:<agent>`. Returns how many there were.
pub(super) fn remove_alias(
    step: &mut Step<'_, '_>,
    agent_id: &SpiffeId,
) -> Result<u32, TableError> {
    let selector = Selector::new("spiffe_id", &agent_id.to_string())
        .map_err(|error| CodecError::new("selector of an alias entry", error))?;
    let prefix = parent_prefix(agent_id, &SelectorSet::from([selector]));
    let mut removed = 0;
    loop {
        let next = step.txn.scan(Table::EntriesByParent, &prefix, 1)?;
        let Some(id) = next.first().and_then(|(key, _)| key.strip_prefix(prefix.as_slice())) else {
            return Ok(removed);
        };
        let id = entry_id(id)?;
        if !remove(step, &id)? {
            return Err(CodecError::missing("entry that the parent index names").into());
        }
        removed += 1;
    }
}

pub(super) fn entry_id(bytes: &[u8]) -> Result<EntryId, CodecError> {
    let text = std::str::from_utf8(bytes).map_err(|error| CodecError::new("entry id", error))?;
    EntryId::parse(text).map_err(|error| CodecError::new("entry id", error))
}

fn updated(old: &RegistrationEntry, update: EntryUpdate) -> RegistrationEntry {
    RegistrationEntry {
        id: old.id.clone(),
        spiffe_id: update.spiffe_id.unwrap_or_else(|| old.spiffe_id.clone()),
        parent_id: update.parent_id.unwrap_or_else(|| old.parent_id.clone()),
        selectors: update.selectors.unwrap_or_else(|| old.selectors.clone()),
        x509_svid_ttl_s: update.x509_svid_ttl_s.unwrap_or(old.x509_svid_ttl_s),
        jwt_svid_ttl_s: update.jwt_svid_ttl_s.unwrap_or(old.jwt_svid_ttl_s),
        federates_with: update.federates_with.unwrap_or_else(|| old.federates_with.clone()),
        admin: update.admin.unwrap_or(old.admin),
        downstream: update.downstream.unwrap_or(old.downstream),
        expires_at_unix_s: update.expires_at_unix_s.unwrap_or(old.expires_at_unix_s),
        dns_names: update.dns_names.unwrap_or_else(|| old.dns_names.clone()),
        revision: old.revision,
        created_at: old.created_at,
        store_svid: update.store_svid.unwrap_or(old.store_svid),
        hint: update.hint.unwrap_or_else(|| old.hint.clone()),
        additional_attributes: update.additional_attributes.or(old.additional_attributes),
    }
}

fn kinds(selectors: &SelectorSet) -> usize {
    // A sorted set has equal types next to each other.
    let mut kinds: Vec<&str> = selectors.iter().map(Selector::kind).collect();
    kinds.dedup();
    kinds.len()
}

fn check_federation(
    step: &Step<'_, '_>,
    entry: &RegistrationEntry,
) -> Result<Option<Rejection>, TableError> {
    for trust_domain in &entry.federates_with {
        if bundles::find(step, trust_domain)?.is_none() {
            return Ok(Some(Rejection::FederatedBundleMissing(trust_domain.clone())));
        }
    }
    Ok(None)
}

fn find(
    step: &Step<'_, '_>,
    id: &EntryId,
) -> Result<Option<(RowNumber, RegistrationEntry)>, TableError> {
    let key = id.as_str().as_bytes();
    let Some(row) = step.read::<pb::store::EntryRow>(Table::Entries, key)? else {
        return Ok(None);
    };
    let entry = row.entry.ok_or_else(|| CodecError::missing("entry of a row"))?;
    Ok(Some((RowNumber(row.row), entry_from_pb(entry)?)))
}

fn find_similar(
    step: &Step<'_, '_>,
    entry: &RegistrationEntry,
) -> Result<Option<EntryId>, TableError> {
    let found = step.txn.get(Table::SimilarEntries, &similar_key(entry))?;
    Ok(found.as_deref().map(entry_id).transpose()?)
}

/// Writes an entry and its index rows.
fn write(
    step: &mut Step<'_, '_>,
    row: RowNumber,
    entry: RegistrationEntry,
) -> Arc<RegistrationEntry> {
    let id = entry.id.as_str().as_bytes();
    let value = pb::store::EntryRow { row: row.0, entry: Some(entry_to_pb(&entry)) };
    step.put(Table::Entries, id, &value);
    step.txn.put(Table::SimilarEntries, &similar_key(&entry), id.to_vec());
    step.txn.put(Table::EntriesByParent, &parent_key(&entry), Vec::new());
    if entry.expires_at_unix_s != 0 {
        step.txn.put(Table::EntriesByExpiry, &expiry_key(&entry), Vec::new());
    }
    for trust_domain in &entry.federates_with {
        step.txn.put(
            Table::EntriesByFederation,
            &federation_key(trust_domain, &entry.id),
            Vec::new(),
        );
    }
    let entry = Arc::new(entry);
    step.changes.push(Change::EntryWritten { row, entry: Arc::clone(&entry) });
    entry
}

fn unindex(step: &mut Step<'_, '_>, entry: &RegistrationEntry) {
    step.txn.delete(Table::SimilarEntries, &similar_key(entry));
    step.txn.delete(Table::EntriesByParent, &parent_key(entry));
    if entry.expires_at_unix_s != 0 {
        step.txn.delete(Table::EntriesByExpiry, &expiry_key(entry));
    }
    for trust_domain in &entry.federates_with {
        step.txn.delete(Table::EntriesByFederation, &federation_key(trust_domain, &entry.id));
    }
}

fn similar_key(entry: &RegistrationEntry) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    hash_text(&mut context, &entry.spiffe_id.to_string());
    hash_text(&mut context, &entry.parent_id.to_string());
    hash_selectors(&mut context, &entry.selectors);
    context.finish().as_ref().to_vec()
}

fn parent_key(entry: &RegistrationEntry) -> Vec<u8> {
    let mut key = parent_prefix(&entry.parent_id, &entry.selectors);
    key.extend_from_slice(entry.id.as_str().as_bytes());
    key
}

fn parent_prefix(parent_id: &SpiffeId, selectors: &SelectorSet) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    hash_selectors(&mut context, selectors);
    let mut key = parent_id.to_string().into_bytes();
    key.push(0);
    key.extend_from_slice(context.finish().as_ref());
    key
}

/// Which entries federate with a trust domain, at most `limit`.
pub(super) fn federating(
    step: &Step<'_, '_>,
    trust_domain: &TrustDomain,
    limit: usize,
) -> Result<Vec<EntryId>, TableError> {
    let prefix = federation_prefix(trust_domain);
    let rows = step.txn.scan(Table::EntriesByFederation, &prefix, limit)?;
    let ids = rows.iter().map_while(|(key, _)| key.strip_prefix(prefix.as_slice()));
    Ok(ids.map(entry_id).collect::<Result<_, _>>()?)
}

/// Ends an entry's federation with a trust domain. The entry counts as updated: agents compare
/// revisions to learn that it is another.
pub(super) fn dissociate(
    step: &mut Step<'_, '_>,
    id: &EntryId,
    trust_domain: &TrustDomain,
) -> Result<(), TableError> {
    let (row, old) = find(step, id)?
        .ok_or_else(|| CodecError::missing("entry that the federation index names"))?;
    unindex(step, &old);
    let mut new = old;
    new.federates_with = new.federates_with.into_iter().filter(|one| one != trust_domain).collect();
    new.revision = new.revision.saturating_add(1);
    write(step, row, new);
    Ok(())
}

fn federation_key(trust_domain: &TrustDomain, id: &EntryId) -> Vec<u8> {
    let mut key = federation_prefix(trust_domain);
    key.extend_from_slice(id.as_str().as_bytes());
    key
}

fn federation_prefix(trust_domain: &TrustDomain) -> Vec<u8> {
    let mut key = trust_domain.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

fn expiry_key(entry: &RegistrationEntry) -> Vec<u8> {
    ordered_key(entry.expires_at_unix_s, entry.id.as_str())
}

fn hash_selectors(context: &mut digest::Context, selectors: &SelectorSet) {
    for selector in selectors {
        hash_text(context, selector.kind());
        hash_text(context, selector.value());
    }
}

/// Hashes a text with its length, so that neighbours cannot run into each other.
fn hash_text(context: &mut digest::Context, text: &str) {
    context.update(&(text.len() as u64).to_be_bytes());
    context.update(text.as_bytes());
}

//! Registration entries: from requests with every rule of SPIRE's, and to answers with a mask.
//!
//! Owns the rules that need nothing but the message. That a federated bundle exists, that no
//! similar entry does, and the two rules about `store_svid` when an update sends only half of what
//! they compare are checked in raft-store's apply.

use steeple_spiffe_core::dns_name::check_dns_name;
use steeple_spiffe_core::entry::{AdditionalAttributes, EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::limits::{DNS_NAMES_MAX, HINT_BYTES_MAX};
use steeple_spiffe_core::{SelectorSet, SpiffeId, Timestamp, TrustDomain};

use super::{ConvertError, id, selector};
use crate::pb;

pub use super::entry_mask::{ALL, apply_mask};

/// A new entry. An empty id is replaced by what `mint_id` gives (a UUID); the revision is 0 and the
/// creation time the epoch, whatever the message says: apply sets them.
pub fn from_pb(
    message: &pb::types::Entry,
    trust_domain: &TrustDomain,
    mint_id: impl FnOnce() -> String,
) -> Result<RegistrationEntry, ConvertError> {
    let parent_id = parent_id(message, trust_domain)?;
    let spiffe_id = spiffe_id(message, trust_domain)?;
    let dns_names = dns_names(message)?;
    let federates_with = selector::trust_domains_from_pb(&message.federates_with)?;
    let selectors = selectors(message)?;
    let hint = hint(message)?;
    // From here on the rules of SPIRE's store.
    check_stored_types(message.store_svid, &selectors)?;
    let id = match message.id.as_str() {
        "" => mint_id(),
        given => given.to_owned(),
    };
    let additional_attributes = message.additional_attributes.as_ref().map(attributes_from_pb);
    check_prefetch(message.store_svid, additional_attributes)?;
    Ok(RegistrationEntry {
        id: EntryId::parse(&id).map_err(ConvertError::EntryId)?,
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl_s: x509_ttl(message)?,
        jwt_svid_ttl_s: jwt_ttl(message)?,
        federates_with,
        admin: message.admin,
        downstream: message.downstream,
        expires_at_unix_s: message.expires_at,
        dns_names,
        revision: 0,
        created_at: Timestamp::UNIX_EPOCH,
        store_svid: message.store_svid,
        hint,
        additional_attributes,
    })
}

/// A change of an entry: the fields of the mask, or all of them without one. Revision and creation
/// time are never written. What the mask leaves out is not even checked.
pub fn update_from_pb(
    message: &pb::types::Entry,
    mask: Option<&pb::types::EntryMask>,
    trust_domain: &TrustDomain,
) -> Result<EntryUpdate, ConvertError> {
    let mask = mask.unwrap_or(&ALL);
    let parent_id = masked(mask.parent_id, || parent_id(message, trust_domain))?;
    let spiffe_id = masked(mask.spiffe_id, || spiffe_id(message, trust_domain))?;
    let dns_names = masked(mask.dns_names, || dns_names(message))?;
    let federates_with =
        masked(mask.federates_with, || selector::trust_domains_from_pb(&message.federates_with))?;
    let selectors = masked(mask.selectors, || selectors(message))?;
    let hint = masked(mask.hint, || hint(message))?;
    if let (true, Some(selectors)) = (mask.store_svid, &selectors) {
        check_stored_types(message.store_svid, selectors)?;
    }
    Ok(EntryUpdate {
        // No entry has an id that does not parse: the answer is that of any unknown id.
        id: EntryId::parse(&message.id).map_err(|_malformed| ConvertError::UnknownEntryId)?,
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl_s: masked(mask.x509_svid_ttl, || x509_ttl(message))?,
        jwt_svid_ttl_s: masked(mask.jwt_svid_ttl, || jwt_ttl(message))?,
        federates_with,
        admin: mask.admin.then_some(message.admin),
        downstream: mask.downstream.then_some(message.downstream),
        expires_at_unix_s: mask.expires_at.then_some(message.expires_at),
        dns_names,
        store_svid: mask.store_svid.then_some(message.store_svid),
        hint,
        additional_attributes: mask.additional_attributes.then(|| {
            message.additional_attributes.as_ref().map(attributes_from_pb).unwrap_or_default()
        }),
    })
}

/// An entry as a server's answer has it, for the agent `agent_id` that asked. The mask of an agent
/// leaves out the parent, which then is the agent itself; nothing is refused for SPIRE's rules of
/// writing, since another server may have other ones.
pub fn authorized_from_pb(
    message: &pb::types::Entry,
    agent_id: &SpiffeId,
) -> Result<RegistrationEntry, ConvertError> {
    let parent_id = match &message.parent_id {
        Some(parent) => id::any_id(Some(parent)).map_err(ConvertError::ParentId)?,
        None => agent_id.clone(),
    };
    Ok(RegistrationEntry {
        id: EntryId::parse(&message.id).map_err(ConvertError::EntryId)?,
        spiffe_id: id::any_id(message.spiffe_id.as_ref()).map_err(ConvertError::SpiffeId)?,
        parent_id,
        selectors: selector::set_from_pb(&message.selectors)?,
        x509_svid_ttl_s: message.x509_svid_ttl,
        jwt_svid_ttl_s: message.jwt_svid_ttl,
        federates_with: selector::trust_domains_from_pb(&message.federates_with)?,
        admin: message.admin,
        downstream: message.downstream,
        expires_at_unix_s: message.expires_at,
        dns_names: message.dns_names.clone(),
        revision: message.revision_number,
        created_at: Timestamp::from_unix_s(message.created_at),
        store_svid: message.store_svid,
        hint: message.hint.clone(),
        additional_attributes: message.additional_attributes.as_ref().map(attributes_from_pb),
    })
}

/// The message of an entry, every field filled. Selectors and foreign trust domains are sorted, DNS
/// names keep their order, since the first one names the certificate.
pub fn to_pb(entry: &RegistrationEntry) -> pb::types::Entry {
    pb::types::Entry {
        id: entry.id.as_str().to_owned(),
        spiffe_id: Some(id::to_pb(&entry.spiffe_id)),
        parent_id: Some(id::to_pb(&entry.parent_id)),
        selectors: selector::set_to_pb(&entry.selectors),
        x509_svid_ttl: entry.x509_svid_ttl_s,
        federates_with: entry.federates_with.iter().map(|td| td.as_str().to_owned()).collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at_unix_s,
        dns_names: entry.dns_names.clone(),
        revision_number: entry.revision,
        store_svid: entry.store_svid,
        jwt_svid_ttl: entry.jwt_svid_ttl_s,
        hint: entry.hint.clone(),
        created_at: entry.created_at.unix_s(),
        additional_attributes: attributes_to_pb(entry.additional_attributes),
    }
}

/// What an agent compares with its copy.
pub fn revision_to_pb(entry: &RegistrationEntry) -> pb::server::entry::v1::EntryRevision {
    pb::server::entry::v1::EntryRevision {
        id: entry.id.as_str().to_owned(),
        revision_number: entry.revision,
        created_at: entry.created_at.unix_s(),
    }
}

fn masked<T>(
    wanted: bool,
    read: impl FnOnce() -> Result<T, ConvertError>,
) -> Result<Option<T>, ConvertError> {
    if wanted { read().map(Some) } else { Ok(None) }
}

fn parent_id(message: &pb::types::Entry, td: &TrustDomain) -> Result<SpiffeId, ConvertError> {
    id::member_id(message.parent_id.as_ref(), td).map_err(ConvertError::ParentId)
}

fn spiffe_id(message: &pb::types::Entry, td: &TrustDomain) -> Result<SpiffeId, ConvertError> {
    id::workload_id(message.spiffe_id.as_ref(), td).map_err(ConvertError::SpiffeId)
}

fn selectors(message: &pb::types::Entry) -> Result<SelectorSet, ConvertError> {
    if message.selectors.is_empty() {
        return Err(ConvertError::NoSelectors);
    }
    selector::set_from_pb(&message.selectors)
}

fn dns_names(message: &pb::types::Entry) -> Result<Vec<String>, ConvertError> {
    if message.dns_names.len() > DNS_NAMES_MAX {
        return Err(ConvertError::TooManyDnsNames);
    }
    for name in &message.dns_names {
        check_dns_name(name).map_err(ConvertError::DnsName)?;
    }
    Ok(message.dns_names.clone())
}

fn hint(message: &pb::types::Entry) -> Result<String, ConvertError> {
    if message.hint.len() > HINT_BYTES_MAX {
        return Err(ConvertError::HintTooLong);
    }
    Ok(message.hint.clone())
}

fn x509_ttl(message: &pb::types::Entry) -> Result<i32, ConvertError> {
    check_ttl(message.x509_svid_ttl, "X509SvidTtl")
}

fn jwt_ttl(message: &pb::types::Entry) -> Result<i32, ConvertError> {
    check_ttl(message.jwt_svid_ttl, "JwtSvidTtl")
}

fn check_ttl(seconds: i32, field: &'static str) -> Result<i32, ConvertError> {
    if seconds < 0 { Err(ConvertError::NegativeTtl { field }) } else { Ok(seconds) }
}

/// An SVID store knows one platform: all selectors must be of its type.
fn check_stored_types(store_svid: bool, selectors: &SelectorSet) -> Result<(), ConvertError> {
    let first = selectors.first().map(|selector| selector.kind());
    let mixed = selectors.iter().any(|selector| Some(selector.kind()) != first);
    if store_svid && mixed { Err(ConvertError::MixedSelectorTypes) } else { Ok(()) }
}

fn check_prefetch(
    store_svid: bool,
    attributes: Option<AdditionalAttributes>,
) -> Result<(), ConvertError> {
    let disabled = attributes.is_some_and(|attributes| attributes.disable_x509_svid_prefetch);
    if store_svid && disabled { Err(ConvertError::StoredWithoutPrefetch) } else { Ok(()) }
}

fn attributes_from_pb(message: &pb::types::entry::AdditionalAttributes) -> AdditionalAttributes {
    AdditionalAttributes {
        disable_x509_svid_prefetch: message.disable_x509_svid_prefetch,
        jwt_svid_include_jti: message.jwt_svid_include_jti,
    }
}

/// Attributes that say nothing are left out: an update that clears them stores defaults.
fn attributes_to_pb(
    attributes: Option<AdditionalAttributes>,
) -> Option<pb::types::entry::AdditionalAttributes> {
    let attributes = attributes.filter(|given| *given != AdditionalAttributes::default())?;
    Some(pb::types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;

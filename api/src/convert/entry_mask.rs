//! The mask of entries: one flag a field, the id always stays.
//!
//! Owns the list of fields on the way out; the way in is `entry::update_from_pb`.

use crate::pb;

/// The mask that stands for an absent one: every field.
pub const ALL: pb::types::EntryMask = pb::types::EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Empties the fields that the mask leaves out; without a mask all stay.
pub fn apply_mask(entry: &mut pb::types::Entry, mask: Option<&pb::types::EntryMask>) {
    let Some(mask) = mask else { return };
    // Without `..`: a new field of the mask does not compile until it is treated here.
    let pb::types::EntryMask {
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl,
        federates_with,
        admin,
        downstream,
        expires_at,
        dns_names,
        revision_number,
        store_svid,
        jwt_svid_ttl,
        hint,
        created_at,
        additional_attributes,
    } = *mask;
    keep(spiffe_id, &mut entry.spiffe_id);
    keep(parent_id, &mut entry.parent_id);
    keep(selectors, &mut entry.selectors);
    keep(x509_svid_ttl, &mut entry.x509_svid_ttl);
    keep(federates_with, &mut entry.federates_with);
    keep(admin, &mut entry.admin);
    keep(downstream, &mut entry.downstream);
    keep(expires_at, &mut entry.expires_at);
    keep(dns_names, &mut entry.dns_names);
    keep(revision_number, &mut entry.revision_number);
    keep(store_svid, &mut entry.store_svid);
    keep(jwt_svid_ttl, &mut entry.jwt_svid_ttl);
    keep(hint, &mut entry.hint);
    keep(created_at, &mut entry.created_at);
    keep(additional_attributes, &mut entry.additional_attributes);
}

/// Empties a field that is not wanted.
pub(super) fn keep<T: Default>(wanted: bool, field: &mut T) {
    if !wanted {
        *field = T::default();
    }
}

//! Bundles. The own one is written by the authorities' journal; foreign ones by federation (later).

use std::sync::Arc;

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;

use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::apply::txn::TableError;
use crate::change::Change;
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb};
use crate::ids::RowNumber;
use crate::pb;

pub(super) fn find(
    step: &Step<'_, '_>,
    trust_domain: &TrustDomain,
) -> Result<Option<(RowNumber, Bundle)>, TableError> {
    let key = trust_domain.as_str().as_bytes();
    let Some(row) = step.read::<pb::store::BundleRow>(Table::Bundles, key)? else {
        return Ok(None);
    };
    let bundle = row.bundle.ok_or_else(|| CodecError::missing("bundle of a row"))?;
    Ok(Some((RowNumber(row.row), bundle_from_pb(bundle)?)))
}

/// Changes a bundle, which is made if it is missing. If `change` returns true, the sequence number
/// rises by one and the bundle is written.
pub(super) fn change(
    step: &mut Step<'_, '_>,
    trust_domain: &TrustDomain,
    change: impl FnOnce(&mut Bundle) -> bool,
) -> Result<(), TableError> {
    let found = find(step, trust_domain)?;
    let is_new = found.is_none();
    let (row, mut bundle) =
        found.unwrap_or_else(|| (RowNumber::default(), Bundle::empty(trust_domain.clone())));
    if !change(&mut bundle) {
        return Ok(());
    }
    let row = if is_new { step.mint_row() } else { row };
    bundle.sequence_number = bundle.sequence_number.saturating_add(1);
    let value = pb::store::BundleRow { row: row.0, bundle: Some(bundle_to_pb(&bundle)) };
    step.put(Table::Bundles, trust_domain.as_str().as_bytes(), &value);
    step.changes.push(Change::BundleWritten { row, bundle: Arc::new(bundle) });
    Ok(())
}

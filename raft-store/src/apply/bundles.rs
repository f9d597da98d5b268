//! Bundles: the own one, which the authorities' journal writes and operators may add to, and those of
//! foreign trust domains; rules of `spec/spire-semantics.md` 3.
//!
//! The own bundle's sequence number rises by one with each change. A foreign bundle's is what was
//! written: it is the other trust domain's.

use std::sync::Arc;

use prost::Message;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::{Random as _, SystemRandom};

use crate::apply::dispatch::Verdict;
use crate::apply::entries;
use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::apply::txn::TableError;
use crate::change::Change;
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb};
use crate::command::{
    AppendBundle, BundleDeletion, BundleFields, BundleWrite, DeleteBundles, WriteBundles,
};
use crate::ids::RowNumber;
use crate::limits::{BUNDLE_BYTES_MAX, ENTRIES_PER_BUNDLE_DELETED_MAX, FEDERATED_BUNDLES_MAX};
use crate::mutants::{self, Mutant};
use crate::outcome::{BundleOutcome, Outcome, Rejection};
use crate::pb;

/// Writes foreign bundles. Each item is decided by itself.
pub(super) fn write_foreign(step: &mut Step<'_, '_>, write: WriteBundles) -> Verdict {
    let mut outcomes = Vec::with_capacity(write.bundles.len());
    for bundle in write.bundles {
        outcomes.push(match write_one(step, write.mode, bundle)? {
            Ok(bundle) => BundleOutcome::Written(bundle),
            Err(rejection) => BundleOutcome::Rejected(rejection),
        });
    }
    Ok(Ok(Outcome::Bundles(outcomes)))
}

/// Forgets foreign bundles. Each item is decided by itself.
pub(super) fn delete_foreign(step: &mut Step<'_, '_>, delete: &DeleteBundles) -> Verdict {
    let mut outcomes = Vec::with_capacity(delete.trust_domains.len());
    for trust_domain in &delete.trust_domains {
        outcomes.push(match delete_one(step, trust_domain, delete.mode)? {
            Ok(()) => BundleOutcome::Deleted,
            Err(rejection) => BundleOutcome::Rejected(rejection),
        });
    }
    Ok(Ok(Outcome::Bundles(outcomes)))
}

/// Adds authorities to the own bundle; what is there already is not added again.
pub(super) fn append_own(step: &mut Step<'_, '_>, append: AppendBundle) -> Verdict {
    let trust_domain = own_trust_domain(step)?;
    let found = find(step, &trust_domain)?;
    let row = found.as_ref().map(|(row, _)| *row);
    let mut bundle = found.map_or_else(|| Bundle::empty(trust_domain), |(_, bundle)| bundle);
    let before = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
    for authority in append.x509_authorities {
        if !bundle.x509_authorities.contains(&authority) {
            bundle.x509_authorities.push(authority);
        }
    }
    for authority in append.jwt_authorities {
        if !bundle.jwt_authorities.contains(&authority) {
            bundle.jwt_authorities.push(authority);
        }
    }
    if before == (bundle.x509_authorities.len(), bundle.jwt_authorities.len()) {
        return Ok(Ok(Outcome::Bundles(vec![BundleOutcome::Written(Arc::new(bundle))])));
    }
    bundle.sequence_number = next(bundle.sequence_number);
    if let Some(rejection) = too_large(&bundle) {
        return Ok(Err(rejection));
    }
    let row = row.unwrap_or_else(|| step.mint_row());
    let bundle = store(step, row, bundle);
    Ok(Ok(Outcome::Bundles(vec![BundleOutcome::Written(bundle)])))
}

/// Changes the own bundle, which is made if it is missing. If `change` returns true, the sequence
/// number rises by one and the bundle is written.
pub(super) fn change_own(
    step: &mut Step<'_, '_>,
    change: impl FnOnce(&mut Bundle) -> bool,
) -> Result<(), TableError> {
    let trust_domain = own_trust_domain(step)?;
    let found = find(step, &trust_domain)?;
    let row = found.as_ref().map(|(row, _)| *row);
    let mut bundle = found.map_or_else(|| Bundle::empty(trust_domain), |(_, bundle)| bundle);
    if !change(&mut bundle) {
        return Ok(());
    }
    let row = row.unwrap_or_else(|| step.mint_row());
    bundle.sequence_number = next(bundle.sequence_number);
    store(step, row, bundle);
    Ok(())
}

/// The bundle of a trust domain and its row.
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

/// The trust domain that the registry serves.
pub(super) fn own_trust_domain(step: &Step<'_, '_>) -> Result<TrustDomain, TableError> {
    let cluster = step.cluster.as_ref().ok_or_else(|| CodecError::missing("cluster row"))?;
    Ok(cluster.trust_domain.clone())
}

/// Writes a foreign bundle, or nothing at all.
pub(super) fn write_one(
    step: &mut Step<'_, '_>,
    mode: BundleWrite,
    mut bundle: Bundle,
) -> Result<Result<Arc<Bundle>, Rejection>, TableError> {
    // Foreign ones have no place here; builds before level 7 do not even read them.
    bundle.wit_authorities.clear();
    if bundle.trust_domain == own_trust_domain(step)? {
        return Ok(Err(Rejection::OwnBundle));
    }
    let found = find(step, &bundle.trust_domain)?;
    let (row, new) = match (found, mode) {
        (Some(_), BundleWrite::Create) => return Ok(Err(Rejection::BundleExists)),
        (None, BundleWrite::Update(_)) => return Ok(Err(Rejection::BundleNotFound)),
        (None, BundleWrite::Create | BundleWrite::Set) => (None, bundle),
        // Refreshers write what they fetched: nothing new is no change that everyone must hear of.
        (Some((_, old)), BundleWrite::Set) if old == bundle => return Ok(Ok(Arc::new(old))),
        (Some((row, _)), BundleWrite::Set) => (Some(row), bundle),
        (Some((row, old)), BundleWrite::Update(fields)) => {
            (Some(row), updated(old, bundle, fields))
        }
    };
    if let Some(rejection) = too_large(&new) {
        return Ok(Err(rejection));
    }
    let row = match row {
        Some(row) => row,
        None if step.counters.bundles >= FEDERATED_BUNDLES_MAX => {
            let what = "federated bundles".into();
            return Ok(Err(Rejection::LimitReached { what, limit: FEDERATED_BUNDLES_MAX }));
        }
        None => {
            step.counters.bundles += 1;
            step.mint_row()
        }
    };
    Ok(Ok(store(step, row, new)))
}

fn updated(old: Bundle, new: Bundle, fields: BundleFields) -> Bundle {
    let BundleFields { x509_authorities, jwt_authorities, refresh_hint, sequence_number } = fields;
    Bundle {
        x509_authorities: if x509_authorities {
            new.x509_authorities
        } else {
            old.x509_authorities
        },
        jwt_authorities: if jwt_authorities { new.jwt_authorities } else { old.jwt_authorities },
        wit_authorities: old.wit_authorities,
        refresh_hint_s: if refresh_hint { new.refresh_hint_s } else { old.refresh_hint_s },
        sequence_number: if sequence_number { new.sequence_number } else { old.sequence_number },
        trust_domain: old.trust_domain,
    }
}

fn delete_one(
    step: &mut Step<'_, '_>,
    trust_domain: &TrustDomain,
    mode: BundleDeletion,
) -> Result<Result<(), Rejection>, TableError> {
    if *trust_domain == own_trust_domain(step)? {
        return Ok(Err(Rejection::OwnBundle));
    }
    let Some((row, _)) = find(step, trust_domain)? else {
        return Ok(Err(Rejection::BundleNotFound));
    };
    let limit = usize::try_from(ENTRIES_PER_BUNDLE_DELETED_MAX).unwrap_or(usize::MAX);
    let entries = entries::federating(step, trust_domain, limit.saturating_add(1))?;
    match mode {
        BundleDeletion::Restrict if entries.is_empty() => {}
        BundleDeletion::Restrict => {
            return Ok(Err(Rejection::BundleInUse(entries.len() as u64)));
        }
        BundleDeletion::Delete | BundleDeletion::Dissociate if entries.len() > limit => {
            let what = "registration entries changed by one deletion".into();
            let limit = ENTRIES_PER_BUNDLE_DELETED_MAX;
            return Ok(Err(Rejection::LimitReached { what, limit }));
        }
        BundleDeletion::Delete => {
            for id in &entries {
                if !entries::remove(step, id)? {
                    return Err(CodecError::missing("entry that the federation index names").into());
                }
            }
        }
        BundleDeletion::Dissociate => {
            for id in &entries {
                entries::dissociate(step, id, trust_domain)?;
            }
        }
    }
    step.txn.delete(Table::Bundles, trust_domain.as_str().as_bytes());
    step.counters.bundles = step.counters.bundles.saturating_sub(1);
    step.changes.push(Change::BundleDeleted { row, trust_domain: trust_domain.clone() });
    Ok(Ok(()))
}

/// The own bundle's sequence number after a change.
fn next(sequence_number: u64) -> u64 {
    let own_count = mutants::on(Mutant::SequenceOfMember) && SystemRandom.u64().is_multiple_of(2);
    sequence_number.saturating_add(1 + u64::from(own_count))
}

fn too_large(bundle: &Bundle) -> Option<Rejection> {
    (bundle_to_pb(bundle).encoded_len() > BUNDLE_BYTES_MAX).then(|| Rejection::LimitReached {
        what: "bytes of a bundle".into(),
        limit: BUNDLE_BYTES_MAX as u64,
    })
}

fn store(step: &mut Step<'_, '_>, row: RowNumber, bundle: Bundle) -> Arc<Bundle> {
    let value = pb::store::BundleRow { row: row.0, bundle: Some(bundle_to_pb(&bundle)) };
    step.put(Table::Bundles, bundle.trust_domain.as_str().as_bytes(), &value);
    let bundle = Arc::new(bundle);
    step.changes.push(Change::BundleWritten { row, bundle: Arc::clone(&bundle) });
    bundle
}

//! How the fetching of foreign bundles goes: one row a trust domain, whether its relationship is
//! the registry's or a file's.
//!
//! Times are cluster time: whoever fetched has a clock of its own. A fetched bundle is stored in
//! the same step, and only over the one that it was judged by.

use std::sync::Arc;

use steeple_spiffe_core::TrustDomain;

use crate::apply::bundles;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::apply::txn::TableError;
use crate::change::{Change, RefreshFailure, RefreshStatus};
use crate::codec::{refresh_row_from_pb, refresh_row_to_pb};
use crate::command::{BundleDigest, BundleWrite, FetchedBundle, Refreshed};
use crate::limits::REFRESHES_MAX;
use crate::outcome::{Outcome, Rejection};
use crate::pb;

pub(super) fn record(
    step: &mut Step<'_, '_>,
    trust_domain: TrustDomain,
    refreshed: Refreshed,
) -> Verdict {
    if trust_domain == bundles::own_trust_domain(step)? {
        return Ok(Err(Rejection::OwnRelationship));
    }
    let old = find(step, &trust_domain)?;
    let (succeeded_at, failure) = match refreshed {
        Refreshed::Ended => {
            forget(step, &trust_domain)?;
            return Ok(Ok(Outcome::Done));
        }
        Refreshed::Succeeded(fetched) => {
            if let Some(fetched) = fetched
                && let Err(rejection) = replace(step, &trust_domain, fetched)?
            {
                return Ok(Err(rejection));
            }
            (Some(step.now), None)
        }
        Refreshed::Failed { class, text } => {
            let failing = old.as_ref().and_then(|old| old.failure.as_ref());
            let since = failing.map_or(step.now, |failure| failure.since);
            let succeeded_at = old.as_ref().and_then(|old| old.succeeded_at);
            (succeeded_at, Some(RefreshFailure { since, class, text }))
        }
    };
    if old.is_none() {
        if step.counters.refreshes >= REFRESHES_MAX {
            let what = "trust domains whose bundles are fetched".into();
            return Ok(Err(Rejection::LimitReached { what, limit: REFRESHES_MAX }));
        }
        step.counters.refreshes += 1;
    }
    let noted_at = step.now;
    store(step, RefreshStatus { trust_domain, noted_at, succeeded_at, failure });
    Ok(Ok(Outcome::Done))
}

/// Forgets what was noted of a trust domain, if anything was.
pub(super) fn forget(
    step: &mut Step<'_, '_>,
    trust_domain: &TrustDomain,
) -> Result<(), TableError> {
    if find(step, trust_domain)?.is_some() {
        step.txn.delete(Table::Refreshes, trust_domain.as_str().as_bytes());
        step.counters.refreshes = step.counters.refreshes.saturating_sub(1);
        step.changes.push(Change::RefreshDeleted { trust_domain: trust_domain.clone() });
    }
    Ok(())
}

fn replace(
    step: &mut Step<'_, '_>,
    trust_domain: &TrustDomain,
    fetched: FetchedBundle,
) -> Result<Result<(), Rejection>, TableError> {
    let FetchedBundle { bundle, seen } = fetched;
    let stored = bundles::find(step, trust_domain)?;
    let stored = stored.map(|(_, bundle)| BundleDigest::of(&bundle));
    if stored != seen || bundle.trust_domain != *trust_domain {
        return Ok(Err(Rejection::BundleMoved));
    }
    Ok(bundles::write_one(step, BundleWrite::Set, bundle)?.map(drop))
}

fn find(
    step: &Step<'_, '_>,
    trust_domain: &TrustDomain,
) -> Result<Option<RefreshStatus>, TableError> {
    let row = step.read(Table::Refreshes, trust_domain.as_str().as_bytes())?;
    Ok(row.map(refresh_row_from_pb).transpose()?)
}

fn store(step: &mut Step<'_, '_>, status: RefreshStatus) {
    let value: pb::store::RefreshRow = refresh_row_to_pb(&status);
    step.put(Table::Refreshes, status.trust_domain.as_str().as_bytes(), &value);
    step.changes.push(Change::RefreshWritten(Arc::new(status)));
}

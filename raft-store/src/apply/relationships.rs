//! Federation relationships: where the bundles of foreign trust domains are fetched; rules of
//! `spec/spire-api.md` 2.5.
//!
//! Each item of a batch is decided by itself. A bundle that comes with a relationship is set in the
//! same step; ending a relationship leaves the bundle, and forgets how its fetching went.

use std::sync::Arc;

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::federation::FederationRelationship;

use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::Table;
use crate::apply::txn::TableError;
use crate::apply::{bundles, refreshes};
use crate::change::Change;
use crate::codec::{relationship_row_from_pb, relationship_to_pb};
use crate::command::{
    BundleWrite, RelationshipFields, RelationshipMode, RelationshipWrite, WriteRelationships,
};
use crate::ids::RowNumber;
use crate::limits::FEDERATION_RELATIONSHIPS_MAX;
use crate::outcome::{Outcome, Rejection, RelationshipOutcome};
use crate::pb;

pub(super) fn write(step: &mut Step<'_, '_>, write: WriteRelationships) -> Verdict {
    let mut outcomes = Vec::with_capacity(write.items.len());
    for item in write.items {
        outcomes.push(match write_one(step, write.mode, item)? {
            Ok(relationship) => RelationshipOutcome::Written(relationship),
            Err(rejection) => RelationshipOutcome::Rejected(rejection),
        });
    }
    Ok(Ok(Outcome::Relationships(outcomes)))
}

pub(super) fn delete(step: &mut Step<'_, '_>, trust_domains: &[TrustDomain]) -> Verdict {
    let mut outcomes = Vec::with_capacity(trust_domains.len());
    for trust_domain in trust_domains {
        let Some((row, _)) = find(step, trust_domain)? else {
            outcomes.push(RelationshipOutcome::Rejected(Rejection::RelationshipNotFound));
            continue;
        };
        step.txn.delete(Table::Relationships, trust_domain.as_str().as_bytes());
        step.counters.relationships = step.counters.relationships.saturating_sub(1);
        step.changes.push(Change::RelationshipDeleted { row, trust_domain: trust_domain.clone() });
        refreshes::forget(step, trust_domain)?;
        outcomes.push(RelationshipOutcome::Deleted);
    }
    Ok(Ok(Outcome::Relationships(outcomes)))
}

fn write_one(
    step: &mut Step<'_, '_>,
    mode: RelationshipMode,
    item: RelationshipWrite,
) -> Result<Result<Arc<FederationRelationship>, Rejection>, TableError> {
    let RelationshipWrite { relationship, bundle } = item;
    if relationship.trust_domain == bundles::own_trust_domain(step)? {
        return Ok(Err(Rejection::OwnRelationship));
    }
    let (row, new) = match (find(step, &relationship.trust_domain)?, mode) {
        (Some(_), RelationshipMode::Create) => return Ok(Err(Rejection::RelationshipExists)),
        (None, RelationshipMode::Update(_)) => return Ok(Err(Rejection::RelationshipNotFound)),
        (None, RelationshipMode::Create)
            if step.counters.relationships >= FEDERATION_RELATIONSHIPS_MAX =>
        {
            let what = "federation relationships".into();
            let limit = FEDERATION_RELATIONSHIPS_MAX;
            return Ok(Err(Rejection::LimitReached { what, limit }));
        }
        (None, RelationshipMode::Create) => (None, relationship),
        (Some((row, old)), RelationshipMode::Update(fields)) => {
            (Some((row, old.clone())), updated(old, relationship, fields))
        }
    };
    // The last thing that can be refused: after it nothing of the item is taken back.
    if let Some(bundle) = bundle
        && let Err(rejection) = bundles::write_one(step, BundleWrite::Set, bundle)?
    {
        return Ok(Err(rejection));
    }
    let row = match row {
        // What stays as it is, is no change that everyone must hear of.
        Some((_, old)) if old == new => return Ok(Ok(Arc::new(old))),
        Some((row, _)) => row,
        None => {
            step.counters.relationships += 1;
            step.mint_row()
        }
    };
    Ok(Ok(store(step, row, new)))
}

fn updated(
    old: FederationRelationship,
    new: FederationRelationship,
    fields: RelationshipFields,
) -> FederationRelationship {
    let RelationshipFields { endpoint_url, profile } = fields;
    FederationRelationship {
        trust_domain: old.trust_domain,
        endpoint_url: if endpoint_url { new.endpoint_url } else { old.endpoint_url },
        profile: if profile { new.profile } else { old.profile },
    }
}

fn find(
    step: &Step<'_, '_>,
    trust_domain: &TrustDomain,
) -> Result<Option<(RowNumber, FederationRelationship)>, TableError> {
    let key = trust_domain.as_str().as_bytes();
    let row = step.read(Table::Relationships, key)?;
    Ok(row.map(relationship_row_from_pb).transpose()?)
}

fn store(
    step: &mut Step<'_, '_>,
    row: RowNumber,
    relationship: FederationRelationship,
) -> Arc<FederationRelationship> {
    let value = pb::store::RelationshipRow {
        row: row.0,
        relationship: Some(relationship_to_pb(&relationship)),
    };
    step.put(Table::Relationships, relationship.trust_domain.as_str().as_bytes(), &value);
    let relationship = Arc::new(relationship);
    let written = Change::RelationshipWritten { row, relationship: Arc::clone(&relationship) };
    step.changes.push(written);
    relationship
}

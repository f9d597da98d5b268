//! What became of commands: sent to the member that forwarded one, and remembered by request id.

use std::sync::Arc;

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::time::Timestamp;

use crate::codec::model::entry_id_from_pb;
use crate::codec::{
    CodecError, bundle_from_pb, bundle_to_pb, entry_from_pb, entry_to_pb, relationship_from_pb,
    relationship_to_pb,
};
use crate::ids::Revision;
use crate::outcome::{
    Applied, BundleOutcome, EntryOutcome, Outcome, Rejection, RelationshipOutcome,
};
use crate::pb;
use crate::pb::store::Done;
use crate::pb::store::bundle_outcome::Kind as BundleKind;
use crate::pb::store::decision::Kind as DecisionKind;
use crate::pb::store::entry_outcome::Kind as ItemKind;
use crate::pb::store::rejection::Kind as RejectionKind;
use crate::pb::store::relationship_outcome::Kind as RelationshipKind;

pub(crate) fn applied_to_pb(applied: &Applied) -> pb::store::Applied {
    pb::store::Applied {
        revision: applied.revision.as_u64(),
        time_unix_ms: applied.time.unix_ms(),
        decision: Some(decision_to_pb(&applied.outcome)),
    }
}

pub(crate) fn applied_from_pb(applied: pb::store::Applied) -> Result<Applied, CodecError> {
    let decision = applied.decision.ok_or_else(|| CodecError::missing("decision"))?;
    Ok(Applied {
        revision: Revision::from_u64(applied.revision),
        time: Timestamp::from_unix_ms(applied.time_unix_ms),
        outcome: decision_from_pb(decision)?,
    })
}

pub(crate) fn decision_to_pb(outcome: &Result<Outcome, Rejection>) -> pb::store::Decision {
    let kind = match outcome {
        Ok(Outcome::Done) => DecisionKind::Done(Done {}),
        Ok(Outcome::Entries(items)) => DecisionKind::Entries(pb::store::EntryOutcomes {
            items: items.iter().map(item_to_pb).collect(),
        }),
        Ok(Outcome::Bundles(items)) => DecisionKind::Bundles(pb::store::BundleOutcomes {
            items: items.iter().map(bundle_item_to_pb).collect(),
        }),
        Ok(Outcome::Relationships(items)) => {
            DecisionKind::Relationships(pb::store::RelationshipOutcomes {
                items: items.iter().map(relationship_item_to_pb).collect(),
            })
        }
        Ok(Outcome::Pruned(rows)) => DecisionKind::Pruned(*rows),
        Err(rejection) => DecisionKind::Rejected(rejection_to_pb(rejection)),
    };
    pb::store::Decision { kind: Some(kind) }
}

pub(crate) fn decision_from_pb(
    decision: pb::store::Decision,
) -> Result<Result<Outcome, Rejection>, CodecError> {
    let kind = decision.kind.ok_or_else(|| CodecError::missing("decision"))?;
    Ok(match kind {
        DecisionKind::Done(Done {}) => Ok(Outcome::Done),
        DecisionKind::Entries(items) => Ok(Outcome::Entries(
            items.items.into_iter().map(item_from_pb).collect::<Result<_, _>>()?,
        )),
        DecisionKind::Bundles(items) => Ok(Outcome::Bundles(
            items.items.into_iter().map(bundle_item_from_pb).collect::<Result<_, _>>()?,
        )),
        DecisionKind::Relationships(items) => Ok(Outcome::Relationships(
            items.items.into_iter().map(relationship_item_from_pb).collect::<Result<_, _>>()?,
        )),
        DecisionKind::Pruned(rows) => Ok(Outcome::Pruned(rows)),
        DecisionKind::Rejected(rejection) => Err(rejection_from_pb(rejection)?),
    })
}

fn item_to_pb(item: &EntryOutcome) -> pb::store::EntryOutcome {
    let kind = match item {
        EntryOutcome::Created(entry) => ItemKind::Created(entry_to_pb(entry)),
        EntryOutcome::Similar(entry) => ItemKind::Similar(entry_to_pb(entry)),
        EntryOutcome::Updated(entry) => ItemKind::Updated(entry_to_pb(entry)),
        EntryOutcome::Deleted => ItemKind::Deleted(Done {}),
        EntryOutcome::Rejected(rejection) => ItemKind::Rejected(rejection_to_pb(rejection)),
    };
    pb::store::EntryOutcome { kind: Some(kind) }
}

fn item_from_pb(item: pb::store::EntryOutcome) -> Result<EntryOutcome, CodecError> {
    let kind = item.kind.ok_or_else(|| CodecError::missing("entry outcome"))?;
    Ok(match kind {
        ItemKind::Created(entry) => EntryOutcome::Created(Arc::new(entry_from_pb(entry)?)),
        ItemKind::Similar(entry) => EntryOutcome::Similar(Arc::new(entry_from_pb(entry)?)),
        ItemKind::Updated(entry) => EntryOutcome::Updated(Arc::new(entry_from_pb(entry)?)),
        ItemKind::Deleted(Done {}) => EntryOutcome::Deleted,
        ItemKind::Rejected(rejection) => EntryOutcome::Rejected(rejection_from_pb(rejection)?),
    })
}

fn bundle_item_to_pb(item: &BundleOutcome) -> pb::store::BundleOutcome {
    let kind = match item {
        BundleOutcome::Written(bundle) => BundleKind::Written(bundle_to_pb(bundle)),
        BundleOutcome::Deleted => BundleKind::Deleted(Done {}),
        BundleOutcome::Rejected(rejection) => BundleKind::Rejected(rejection_to_pb(rejection)),
    };
    pb::store::BundleOutcome { kind: Some(kind) }
}

fn bundle_item_from_pb(item: pb::store::BundleOutcome) -> Result<BundleOutcome, CodecError> {
    let kind = item.kind.ok_or_else(|| CodecError::missing("bundle outcome"))?;
    Ok(match kind {
        BundleKind::Written(bundle) => BundleOutcome::Written(Arc::new(bundle_from_pb(bundle)?)),
        BundleKind::Deleted(Done {}) => BundleOutcome::Deleted,
        BundleKind::Rejected(rejection) => BundleOutcome::Rejected(rejection_from_pb(rejection)?),
    })
}

fn relationship_item_to_pb(item: &RelationshipOutcome) -> pb::store::RelationshipOutcome {
    let kind = match item {
        RelationshipOutcome::Written(relationship) => {
            RelationshipKind::Written(relationship_to_pb(relationship))
        }
        RelationshipOutcome::Deleted => RelationshipKind::Deleted(Done {}),
        RelationshipOutcome::Rejected(rejection) => {
            RelationshipKind::Rejected(rejection_to_pb(rejection))
        }
    };
    pb::store::RelationshipOutcome { kind: Some(kind) }
}

fn relationship_item_from_pb(
    item: pb::store::RelationshipOutcome,
) -> Result<RelationshipOutcome, CodecError> {
    let kind = item.kind.ok_or_else(|| CodecError::missing("relationship outcome"))?;
    Ok(match kind {
        RelationshipKind::Written(relationship) => {
            RelationshipOutcome::Written(Arc::new(relationship_from_pb(relationship)?))
        }
        RelationshipKind::Deleted(Done {}) => RelationshipOutcome::Deleted,
        RelationshipKind::Rejected(rejection) => {
            RelationshipOutcome::Rejected(rejection_from_pb(rejection)?)
        }
    })
}

fn rejection_to_pb(rejection: &Rejection) -> pb::store::Rejection {
    let kind = match rejection {
        Rejection::AlreadyInitialised => RejectionKind::AlreadyInitialised(Done {}),
        Rejection::NotInitialised => RejectionKind::NotInitialised(Done {}),
        Rejection::EntryIdTaken(id) => RejectionKind::EntryIdTaken(id.to_string()),
        Rejection::EntryNotFound => RejectionKind::EntryNotFound(Done {}),
        Rejection::EntryWouldBeSimilar(id) => RejectionKind::EntryWouldBeSimilar(id.to_string()),
        Rejection::FederatedBundleMissing(trust_domain) => {
            RejectionKind::FederatedBundleMissing(trust_domain.to_string())
        }
        Rejection::StoreSvidSelectorTypes => RejectionKind::StoreSvidSelectorTypes(Done {}),
        Rejection::LimitReached { what, limit } => {
            RejectionKind::LimitReached(pb::store::LimitReached {
                what: what.clone(),
                limit: *limit,
            })
        }
        Rejection::TokenExists => RejectionKind::TokenExists(Done {}),
        Rejection::TokenUnknown => RejectionKind::TokenUnknown(Done {}),
        Rejection::TokenExpired => RejectionKind::TokenExpired(Done {}),
        Rejection::AgentNotFound => RejectionKind::AgentNotFound(Done {}),
        Rejection::AgentBanned => RejectionKind::AgentBanned(Done {}),
        Rejection::SerialsChanged => RejectionKind::SerialsChanged(Done {}),
        Rejection::JournalMoved { expected, actual } => {
            RejectionKind::JournalMoved(pb::store::JournalMoved {
                expected: *expected,
                actual: *actual,
            })
        }
        Rejection::ClusterKeyMoved { expected, actual } => {
            RejectionKind::ClusterKeyMoved(pb::store::ClusterKeyMoved {
                expected: expected.clone(),
                actual: actual.clone(),
            })
        }
        Rejection::SealedMoved { expected, actual } => {
            RejectionKind::SealedMoved(pb::store::SealedMoved {
                expected: *expected,
                actual: *actual,
            })
        }
        Rejection::AuthorityState(name) => RejectionKind::AuthorityState(name.clone()),
        Rejection::RequestIdReused => RejectionKind::RequestIdReused(Done {}),
        Rejection::RequestForgotten => RejectionKind::RequestForgotten(Done {}),
        Rejection::OwnBundle => RejectionKind::OwnBundle(Done {}),
        Rejection::BundleExists => RejectionKind::BundleExists(Done {}),
        Rejection::BundleNotFound => RejectionKind::BundleNotFound(Done {}),
        Rejection::BundleMoved => RejectionKind::BundleMoved(Done {}),
        Rejection::BundleInUse(entries) => RejectionKind::BundleInUse(*entries),
        Rejection::NothingToAdopt => RejectionKind::NothingToAdopt(Done {}),
        Rejection::OwnRelationship => RejectionKind::OwnRelationship(Done {}),
        Rejection::RelationshipExists => RejectionKind::RelationshipExists(Done {}),
        Rejection::RelationshipNotFound => RejectionKind::RelationshipNotFound(Done {}),
    };
    pb::store::Rejection { kind: Some(kind) }
}

fn rejection_from_pb(rejection: pb::store::Rejection) -> Result<Rejection, CodecError> {
    let kind = rejection.kind.ok_or_else(|| CodecError::missing("rejection"))?;
    Ok(match kind {
        RejectionKind::AlreadyInitialised(Done {}) => Rejection::AlreadyInitialised,
        RejectionKind::NotInitialised(Done {}) => Rejection::NotInitialised,
        RejectionKind::EntryIdTaken(id) => Rejection::EntryIdTaken(entry_id_from_pb(&id)?),
        RejectionKind::EntryNotFound(Done {}) => Rejection::EntryNotFound,
        RejectionKind::EntryWouldBeSimilar(id) => {
            Rejection::EntryWouldBeSimilar(entry_id_from_pb(&id)?)
        }
        RejectionKind::FederatedBundleMissing(name) => Rejection::FederatedBundleMissing(
            TrustDomain::parse(&name).map_err(|error| CodecError::new("trust domain", error))?,
        ),
        RejectionKind::StoreSvidSelectorTypes(Done {}) => Rejection::StoreSvidSelectorTypes,
        RejectionKind::LimitReached(reached) => {
            Rejection::LimitReached { what: reached.what, limit: reached.limit }
        }
        RejectionKind::TokenExists(Done {}) => Rejection::TokenExists,
        RejectionKind::TokenUnknown(Done {}) => Rejection::TokenUnknown,
        RejectionKind::TokenExpired(Done {}) => Rejection::TokenExpired,
        RejectionKind::AgentNotFound(Done {}) => Rejection::AgentNotFound,
        RejectionKind::AgentBanned(Done {}) => Rejection::AgentBanned,
        RejectionKind::SerialsChanged(Done {}) => Rejection::SerialsChanged,
        RejectionKind::JournalMoved(moved) => {
            Rejection::JournalMoved { expected: moved.expected, actual: moved.actual }
        }
        RejectionKind::ClusterKeyMoved(moved) => {
            Rejection::ClusterKeyMoved { expected: moved.expected, actual: moved.actual }
        }
        RejectionKind::SealedMoved(moved) => {
            Rejection::SealedMoved { expected: moved.expected, actual: moved.actual }
        }
        RejectionKind::AuthorityState(name) => Rejection::AuthorityState(name),
        RejectionKind::RequestIdReused(Done {}) => Rejection::RequestIdReused,
        RejectionKind::RequestForgotten(Done {}) => Rejection::RequestForgotten,
        RejectionKind::OwnBundle(Done {}) => Rejection::OwnBundle,
        RejectionKind::BundleExists(Done {}) => Rejection::BundleExists,
        RejectionKind::BundleNotFound(Done {}) => Rejection::BundleNotFound,
        RejectionKind::BundleMoved(Done {}) => Rejection::BundleMoved,
        RejectionKind::BundleInUse(entries) => Rejection::BundleInUse(entries),
        RejectionKind::NothingToAdopt(Done {}) => Rejection::NothingToAdopt,
        RejectionKind::OwnRelationship(Done {}) => Rejection::OwnRelationship,
        RejectionKind::RelationshipExists(Done {}) => Rejection::RelationshipExists,
        RejectionKind::RelationshipNotFound(Done {}) => Rejection::RelationshipNotFound,
    })
}

//! Federation relationships and the commands about them, both ways.

use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};

use crate::codec::model::trust_domain_from_pb;
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb, spiffe_id_from_pb};
use crate::command::{RelationshipFields, RelationshipMode, RelationshipWrite, WriteRelationships};
use crate::ids::RowNumber;
use crate::pb;
use crate::pb::store::endpoint_profile::Kind as ProfileKind;
use crate::pb::store::write_relationships::Mode;

pub(crate) fn relationship_to_pb(
    relationship: &FederationRelationship,
) -> pb::store::FederationRelationship {
    let kind = match &relationship.profile {
        EndpointProfile::HttpsWeb => ProfileKind::HttpsWeb(pb::store::HttpsWeb {}),
        EndpointProfile::HttpsSpiffe { endpoint_id } => {
            ProfileKind::HttpsSpiffe(pb::store::HttpsSpiffe {
                endpoint_id: endpoint_id.to_string(),
            })
        }
    };
    pb::store::FederationRelationship {
        trust_domain: relationship.trust_domain.to_string(),
        endpoint_url: relationship.endpoint_url.to_string(),
        profile: Some(pb::store::EndpointProfile { kind: Some(kind) }),
    }
}

pub(crate) fn relationship_from_pb(
    relationship: pb::store::FederationRelationship,
) -> Result<FederationRelationship, CodecError> {
    let profile = relationship.profile.and_then(|profile| profile.kind);
    let profile = match profile.ok_or_else(|| CodecError::missing("endpoint profile"))? {
        ProfileKind::HttpsWeb(pb::store::HttpsWeb {}) => EndpointProfile::HttpsWeb,
        ProfileKind::HttpsSpiffe(pb::store::HttpsSpiffe { endpoint_id }) => {
            EndpointProfile::HttpsSpiffe { endpoint_id: spiffe_id_from_pb(&endpoint_id)? }
        }
    };
    Ok(FederationRelationship {
        trust_domain: trust_domain_from_pb(&relationship.trust_domain)?,
        endpoint_url: EndpointUrl::parse(&relationship.endpoint_url)
            .map_err(|error| CodecError::new("endpoint URL", error))?,
        profile,
    })
}

pub(crate) fn relationship_row_from_pb(
    row: pb::store::RelationshipRow,
) -> Result<(RowNumber, FederationRelationship), CodecError> {
    let relationship =
        row.relationship.ok_or_else(|| CodecError::missing("relationship of a row"))?;
    Ok((RowNumber(row.row), relationship_from_pb(relationship)?))
}

pub(super) fn write_relationships_to_pb(
    write: &WriteRelationships,
) -> pb::store::WriteRelationships {
    let (mode, update) = match write.mode {
        RelationshipMode::Create => (Mode::Create, None),
        RelationshipMode::Update(RelationshipFields { endpoint_url, profile }) => {
            (Mode::Update, Some(pb::store::RelationshipFields { endpoint_url, profile }))
        }
    };
    let item = |item: &RelationshipWrite| pb::store::RelationshipWrite {
        relationship: Some(relationship_to_pb(&item.relationship)),
        bundle: item.bundle.as_ref().map(bundle_to_pb),
    };
    pb::store::WriteRelationships {
        mode: mode.into(),
        update,
        items: write.items.iter().map(item).collect(),
    }
}

pub(super) fn write_relationships_from_pb(
    write: pb::store::WriteRelationships,
) -> Result<WriteRelationships, CodecError> {
    let mode = match write.mode() {
        Mode::Create => RelationshipMode::Create,
        Mode::Update => {
            let pb::store::RelationshipFields { endpoint_url, profile } = write
                .update
                .ok_or_else(|| CodecError::missing("fields of an update of relationships"))?;
            RelationshipMode::Update(RelationshipFields { endpoint_url, profile })
        }
        Mode::Unspecified => return Err(CodecError::new("relationship write", write.mode)),
    };
    let item = |item: pb::store::RelationshipWrite| {
        let relationship = item.relationship.ok_or_else(|| CodecError::missing("relationship"))?;
        Ok(RelationshipWrite {
            relationship: relationship_from_pb(relationship)?,
            bundle: item.bundle.map(bundle_from_pb).transpose()?,
        })
    };
    let items = write.items.into_iter().map(item).collect::<Result<_, CodecError>>()?;
    Ok(WriteRelationships { mode, items })
}

pub(super) fn delete_relationships_from_pb(
    delete: &pb::store::DeleteRelationships,
) -> Result<Vec<TrustDomain>, CodecError> {
    delete.trust_domains.iter().map(|name| trust_domain_from_pb(name)).collect()
}

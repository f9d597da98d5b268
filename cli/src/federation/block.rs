//! The lines of a federation relationship.

use std::io::Write;

use steeple_api::pb;
use steeple_api::pb::types::federation_relationship::BundleEndpointProfile;

use crate::error::Error;

/// Writes what people are told of a relationship.
pub(super) fn write_relationship(
    out: &mut (dyn Write + Send),
    relationship: &pb::types::FederationRelationship,
) -> Result<(), Error> {
    writeln!(out, "Trust domain              : {}", relationship.trust_domain)?;
    writeln!(out, "Bundle endpoint URL       : {}", relationship.bundle_endpoint_url)?;
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            writeln!(out, "Bundle endpoint profile   : https_web")?;
        }
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            writeln!(out, "Bundle endpoint profile   : https_spiffe")?;
            writeln!(out, "Endpoint SPIFFE ID        : {}", profile.endpoint_spiffe_id)?;
        }
        None => {}
    }
    Ok(())
}

//! The lines of a federation relationship.

use std::io::Write;

use steeple_api::pb;
use steeple_api::pb::cluster::v1::FederatedBundle;
use steeple_api::pb::types::federation_relationship::BundleEndpointProfile;

use crate::error::Error;
use crate::output::go_time_utc;

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

/// Writes how the fetching of a bundle goes.
pub(super) fn write_federated_bundle(
    out: &mut (dyn Write + Send),
    bundle: &FederatedBundle,
) -> Result<(), Error> {
    let time = |seconds: i64| if seconds == 0 { "-".to_owned() } else { go_time_utc(seconds) };
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let sequence = match bundle.sequence_number {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    let source = if bundle.from_file { "file" } else { "api" };
    let coarse = match (bundle.succeeded_at, bundle.succeeded_at_is_exact) {
        (0, _) | (_, true) => "",
        (_, false) => " or up to an hour later (the leader knows)",
    };
    for (label, value) in [
        ("Trust domain", bundle.trust_domain.clone()),
        ("Bundle endpoint URL", bundle.bundle_endpoint_url.clone()),
        ("Bundle endpoint profile", bundle.bundle_endpoint_profile.clone()),
        ("Endpoint SPIFFE ID", text(&bundle.endpoint_spiffe_id)),
        ("Source", source.to_owned()),
        ("Bundle stored", if bundle.stored { "yes" } else { "no" }.to_owned()),
        ("Sequence number", sequence),
        ("Authorities end", time(bundle.authorities_end_at)),
        ("Last fetched", format!("{}{coarse}", time(bundle.succeeded_at))),
        ("Last try", time(bundle.tried_at)),
        ("Next try", time(bundle.next_try_at)),
        ("Failing since", time(bundle.failing_since)),
        ("Failure", text(&bundle.failure)),
    ] {
        writeln!(out, "{label:<25} : {value}")?;
    }
    Ok(())
}

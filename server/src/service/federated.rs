//! The trust domains whose bundles are fetched, for the screen of `cluster status`, and the
//! warnings about them.
//!
//! Owns the way from what is noted to the screen. What is a danger is decided in
//! steeple-federation.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_federation::Danger;
use steeple_spiffe_core::{EndpointProfile, FederationRelationship, Timestamp};

use super::context::Context;

/// Every trust domain whose bundle is fetched, by name.
pub(super) fn bundles(context: &Context) -> Vec<rpc::FederatedBundle> {
    let relationships = context.refresher.relationships();
    relationships.values().map(|relationship| bundle(context, relationship)).collect()
}

fn bundle(context: &Context, relationship: &FederationRelationship) -> rpc::FederatedBundle {
    let FederationRelationship { trust_domain, endpoint_url, profile } = relationship;
    let (refresher, views) = (&context.refresher, context.views());
    let (profile, endpoint_id) = match profile {
        EndpointProfile::HttpsWeb => ("https_web", String::new()),
        EndpointProfile::HttpsSpiffe { endpoint_id } => ("https_spiffe", endpoint_id.to_string()),
    };
    let (stored, status) = (views.bundle(trust_domain), views.refresh(trust_domain));
    let status = status.as_deref();
    let failure = status.and_then(|status| status.failure.as_ref());
    let live = refresher.live.of(trust_domain);
    let progress = refresher.progress(trust_domain);
    let ends = stored.as_deref().and_then(Danger::last_authority_ends);
    let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::unix_s);
    rpc::FederatedBundle {
        trust_domain: trust_domain.to_string(),
        bundle_endpoint_url: endpoint_url.to_string(),
        bundle_endpoint_profile: profile.to_owned(),
        endpoint_spiffe_id: endpoint_id,
        from_file: refresher.of_file.contains_key(trust_domain),
        stored: stored.is_some(),
        sequence_number: stored.as_ref().map_or(0, |bundle| bundle.sequence_number),
        authorities_end_at: seconds(ends),
        succeeded_at: seconds(progress.succeeded_at),
        succeeded_at_is_exact: progress.is_exact,
        failing_since: seconds(failure.and(progress.failing_since)),
        failure: failure.map(|failure| failure.text.clone()).unwrap_or_default(),
        tried_at: seconds(live.map(|live| live.tried_at)),
        next_try_at: seconds(live.map(|live| live.next_at)),
    }
}

/// What an operator should see to.
pub(super) fn warnings(context: &Context) -> Vec<rpc::Warning> {
    let dangers = context.refresher.dangers(context.common_time());
    dangers.iter().map(warning).collect()
}

fn warning(danger: &Danger) -> rpc::Warning {
    rpc::Warning { code: danger.code().to_owned(), message: danger.to_string(), fix: danger.fix() }
}

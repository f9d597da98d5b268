//! Bundles from the servers: the own trust domain's and those that entries federate with.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use steeple_api::convert;
use steeple_api::metadata;
use steeple_api::pb;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::warn;

use crate::limits::{FEDERATED_FETCHES, SERVER_MESSAGE_BYTES_MAX};
use crate::store::Bundles;

type Client = pb::server::bundle::v1::bundle_client::BundleClient<Channel>;

/// The own trust domain's bundle. Needs no authentication.
pub async fn fetch_bundle(channel: Channel, trust_domain: &TrustDomain) -> Result<Bundle, Status> {
    Ok(get(channel, trust_domain, None).await?.0)
}

/// The own trust domain's bundle, for an agent that acknowledges: with the receipt to give back when it
/// is served, if the server wants to know. `held` is the receipt of what is served now, if there is one.
pub async fn fetch_bundle_with_receipt(
    channel: Channel,
    trust_domain: &TrustDomain,
    held: Option<u64>,
) -> Result<(Bundle, Option<u64>), Status> {
    get(channel, trust_domain, Some(held.unwrap_or(0))).await
}

async fn get(
    channel: Channel,
    trust_domain: &TrustDomain,
    held: Option<u64>,
) -> Result<(Bundle, Option<u64>), Status> {
    let message = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    let mut request = Request::new(message);
    if let Some(held) = held {
        request.metadata_mut().insert(metadata::BUNDLE_HELD, held.into());
    }
    let reply = client(channel).get_bundle(request).await?;
    let receipt = metadata::number(reply.metadata(), metadata::BUNDLE_RECEIPT);
    let bundle = parse(&reply.into_inner())?;
    if bundle.trust_domain != *trust_domain {
        let text = format!("server sent the bundle of trust domain \"{}\"", bundle.trust_domain);
        return Err(Status::internal(text));
    }
    Ok((bundle, receipt))
}

/// The bundles of foreign trust domains. One the server doesn't have is skipped with a warning; any
/// other failure fails the sync, so that a workload never loses a bundle to a hiccup.
pub async fn fetch_federated(
    channel: Channel,
    trust_domains: BTreeSet<TrustDomain>,
) -> Result<Bundles, Status> {
    let client = client(channel);
    let fetches = trust_domains.into_iter().map(|td| fetch_one(client.clone(), td));
    let found = stream::iter(fetches).buffer_unordered(FEDERATED_FETCHES);
    let found: Vec<Option<Bundle>> = found.try_collect().await?;
    let by_name = |bundle: Bundle| (bundle.trust_domain.clone(), Arc::new(bundle));
    Ok(found.into_iter().flatten().map(by_name).collect())
}

async fn fetch_one(
    mut client: Client,
    trust_domain: TrustDomain,
) -> Result<Option<Bundle>, Status> {
    let request = pb::server::bundle::v1::GetFederatedBundleRequest {
        trust_domain: trust_domain.as_str().to_owned(),
        output_mask: None,
    };
    let message = match client.get_federated_bundle(request).await {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::NotFound => {
            warn!(federated_bundle = %trust_domain, "Federated bundle not found");
            return Ok(None);
        }
        Err(status) => return Err(status),
    };
    match parse(&message) {
        Ok(bundle) if bundle.trust_domain == trust_domain => Ok(Some(bundle)),
        Ok(_) | Err(_) => {
            warn!(
                federated_bundle = %trust_domain,
                "Received malformed bundle from SPIRE server; are the server and agent versions compatible?",
            );
            Ok(None)
        }
    }
}

fn client(channel: Channel) -> Client {
    Client::new(channel).max_decoding_message_size(SERVER_MESSAGE_BYTES_MAX)
}

fn parse(message: &pb::types::Bundle) -> Result<Bundle, Status> {
    let malformed = |error| Status::internal(format!("malformed bundle from server: {error}"));
    convert::bundle::with_taints_from_pb(message).map_err(malformed)
}

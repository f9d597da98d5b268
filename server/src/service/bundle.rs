//! `spire.api.server.bundle.v1.Bundle`: what verifiers trust.
//!
//! A bundle is served by a confirmed read where one is to be had, so that an authority is in no
//! answer after its revocation was acknowledged anywhere, nor a foreign bundle after its deletion;
//! a replica that is cut off serves what it has. What is written is checked and proposed in
//! [`super::bundle_write`].

use std::time::Duration;

use steeple_api::convert::{ConvertError, bundle as convert, id};
use steeple_api::metadata;
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1 as rpc;
use steeple_raft_store::command::BundleWrite;
use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use tonic::{Request, Response, Status};

use super::bundle_write;
use super::context::Context;
use super::paging::Page;
use crate::gate::{Basis, Call};
use crate::status::Failure;

/// The service.
#[derive(Clone, Debug)]
pub struct BundleService {
    context: Context,
}

impl BundleService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Confirms a read where one is to be had, and notes what the answer is based on.
    async fn confirm_if_possible(&self, call: &Call) {
        match self.context.gate.reads.for_issuance(call.deadline()).await {
            Ok(Basis::Confirmed(revision)) => call.notes.reflects(revision),
            Ok(Basis::Stale { age }) => call.notes.stale(age),
            // An old bundle is better than none; one that was never confirmed is of any age.
            Err(_unavailable) => {
                let age = self.context.gate.reads.confirmed_age();
                call.notes.stale(age.unwrap_or(Duration::MAX));
            }
        }
    }

    /// Publishes keys above too, if there is an upstream authority that takes keys. Returns what is to be
    /// added here: without the keys that are known, whatever their taint.
    async fn publish_above(
        &self,
        call: &Call,
        keys: Vec<JwtAuthority>,
        failed: &str,
    ) -> Result<Vec<JwtAuthority>, Failure> {
        let Some(upstream) = &self.context.minter.upstream else { return Ok(keys) };
        let mut all = Vec::new();
        for key in keys {
            let published = upstream.publish_jwt_key(&key).await.map_err(|error| {
                Failure::internal(format!("{failed}: {:#}", anyhow::Error::from(error)))
            })?;
            all.extend(published.unwrap_or_else(|| vec![key]));
        }
        self.context.confirm(call).await?;
        if let Some(bundle) = self.context.views().bundle(self.context.trust_domain()) {
            let known = &bundle.jwt_authorities;
            all.retain(|key| known.iter().all(|known| known.key_id != key.key_id));
        }
        all.iter_mut().for_each(|key| key.tainted = false);
        Ok(all)
    }
}

#[tonic::async_trait]
impl rpc::bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        request: Request<rpc::CountBundlesRequest>,
    ) -> Result<Response<rpc::CountBundlesResponse>, Status> {
        let call = Call::of(&request)?;
        self.context.confirm(&call).await?;
        let count = i32::try_from(self.context.views().bundles_count()).unwrap_or(i32::MAX);
        Ok(Response::new(rpc::CountBundlesResponse { count }))
    }

    async fn get_bundle(
        &self,
        request: Request<rpc::GetBundleRequest>,
    ) -> Result<Response<pb::types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let held = metadata::number(request.metadata(), metadata::BUNDLE_HELD);
        let mask = request.into_inner().output_mask;
        let trust_domain = self.context.trust_domain();
        self.confirm_if_possible(&call).await;
        let looked_at = self.context.gate.clock.boot_time();
        let mut found = self.context.views().bundle(trust_domain);
        if found.is_none() {
            // "No bundle" is said only after a confirmed read.
            self.context.confirm(&call).await?;
            found = self.context.views().bundle(trust_domain);
        }
        let bundle = found.ok_or_else(|| Failure::not_found("bundle not found"))?;
        let whole = mask.as_ref().is_none_or(|mask| mask.x509_authorities && mask.jwt_authorities);
        // The method is open to everyone, so the gate has not looked whose certificate it is.
        let agent = call.peer.certificate().map(|certificate| &certificate.id);
        let is_ours = |id: &&SpiffeId| id.is_agent() && id.is_member_of(trust_domain);
        let mut reply = Response::new(masked(&bundle, mask.as_ref()));
        if let Some(agent) = agent.filter(is_ours).filter(|_| whole) {
            let survey = &self.context.survey;
            // What it held when it asked is an answer of before, if it is one of this replica's.
            let receipt = held.map(|held| {
                survey.applied(agent, held);
                self.context.gate.random.u64().max(1)
            });
            survey.given(agent, &bundle, looked_at, receipt);
            if let Some(receipt) = receipt {
                reply.metadata_mut().insert(metadata::BUNDLE_RECEIPT, receipt.into());
            }
        }
        Ok(reply)
    }

    async fn list_federated_bundles(
        &self,
        request: Request<rpc::ListFederatedBundlesRequest>,
    ) -> Result<Response<rpc::ListFederatedBundlesResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let page = Page::of(request.page_size, &request.page_token, "failed to list bundles")?;
        self.context.confirm(&call).await?;
        let rows = self.context.views().bundles_page(page.after, page.limit);
        let next_page_token = page.next_token(rows.last().map(|(row, _)| *row));
        let mask = request.output_mask.as_ref();
        // The own bundle is left out after paging, as in SPIRE: a page may be short.
        let foreign =
            rows.iter().filter(|(_, bundle)| bundle.trust_domain != *self.context.trust_domain());
        let bundles = foreign.map(|(_, bundle)| masked(bundle, mask)).collect();
        Ok(Response::new(rpc::ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<rpc::GetFederatedBundleRequest>,
    ) -> Result<Response<pb::types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let trust_domain = id::trust_domain(&request.trust_domain).map_err(|error| {
            Failure::invalid_because("trust domain argument is not valid", error)
        })?;
        if trust_domain == *self.context.trust_domain() {
            return Err(Failure::invalid(
                "getting a federated bundle for the server's own trust domain is not allowed",
            )
            .into());
        }
        self.confirm_if_possible(&call).await;
        let mut found = self.context.views().bundle(&trust_domain);
        if found.is_none() {
            self.context.confirm(&call).await?;
            found = self.context.views().bundle(&trust_domain);
        }
        let bundle = found.ok_or_else(|| Failure::not_found("bundle not found"))?;
        Ok(Response::new(masked(&bundle, request.output_mask.as_ref())))
    }

    async fn append_bundle(
        &self,
        request: Request<rpc::AppendBundleRequest>,
    ) -> Result<Response<pb::types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        if request.jwt_authorities.is_empty() && request.x509_authorities.is_empty() {
            return Err(Failure::invalid("no authorities to append").into());
        }
        let jwt_authorities = untainted_jwt(&request.jwt_authorities)
            .map_err(|error| Failure::invalid_because("failed to convert JWT authority", error))?;
        let x509_authorities = untainted_x509(&request.x509_authorities).map_err(|error| {
            Failure::invalid_because("failed to convert X.509 authority", error)
        })?;
        let failed = "failed to append bundle";
        let bundle =
            bundle_write::append(&self.context, &call, x509_authorities, jwt_authorities, failed)
                .await?;
        Ok(Response::new(masked(&bundle, request.output_mask.as_ref())))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<rpc::PublishJwtAuthorityRequest>,
    ) -> Result<Response<rpc::PublishJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        call.within(&self.context.limits.publishing, 1, "key publishing").await?;
        let authority = request.into_inner().jwt_authority;
        let authority = authority.ok_or_else(|| Failure::invalid("missing JWT authority"))?;
        let authorities = untainted_jwt(&[authority])
            .map_err(|error| Failure::invalid_because("invalid JWT authority", error))?;
        let failed = "failed to publish JWT key";
        let authorities = self.publish_above(&call, authorities, failed).await?;
        let bundle =
            bundle_write::append(&self.context, &call, Vec::new(), authorities, failed).await?;
        let jwt_authorities =
            bundle.jwt_authorities.iter().map(convert::jwt_authority_to_pb).collect();
        Ok(Response::new(rpc::PublishJwtAuthorityResponse { jwt_authorities }))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<rpc::PublishWitAuthorityRequest>,
    ) -> Result<Response<rpc::PublishWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented("WIT-SVID functionality is not yet implemented").into())
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<rpc::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchCreateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let rpc::BatchCreateFederatedBundleRequest { bundle, output_mask } = request.into_inner();
        let items = bundle_write::write(&self.context, &call, &bundle, BundleWrite::Create).await?;
        let results =
            items.into_iter().map(|item| rpc::batch_create_federated_bundle_response::Result {
                status: Some(item.status),
                bundle: item.bundle.map(|bundle| masked(&bundle, output_mask.as_ref())),
            });
        let results = results.collect();
        Ok(Response::new(rpc::BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<rpc::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchUpdateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let rpc::BatchUpdateFederatedBundleRequest { bundle, input_mask, output_mask } =
            request.into_inner();
        let mode = BundleWrite::Update(bundle_write::fields(input_mask.as_ref()));
        let items = bundle_write::write(&self.context, &call, &bundle, mode).await?;
        let results =
            items.into_iter().map(|item| rpc::batch_update_federated_bundle_response::Result {
                status: Some(item.status),
                bundle: item.bundle.map(|bundle| masked(&bundle, output_mask.as_ref())),
            });
        let results = results.collect();
        Ok(Response::new(rpc::BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<rpc::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchSetFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let rpc::BatchSetFederatedBundleRequest { bundle, output_mask } = request.into_inner();
        let items = bundle_write::write(&self.context, &call, &bundle, BundleWrite::Set).await?;
        let results =
            items.into_iter().map(|item| rpc::batch_set_federated_bundle_response::Result {
                status: Some(item.status),
                bundle: item.bundle.map(|bundle| masked(&bundle, output_mask.as_ref())),
            });
        Ok(Response::new(rpc::BatchSetFederatedBundleResponse { results: results.collect() }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<rpc::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchDeleteFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mode = bundle_write::deletion(&request)?;
        let names = request.trust_domains;
        let items = bundle_write::delete(&self.context, &call, &names, mode).await?;
        let results = names.into_iter().zip(items).map(|(trust_domain, item)| {
            rpc::batch_delete_federated_bundle_response::Result {
                status: Some(item.status),
                trust_domain,
            }
        });
        let results = results.collect();
        Ok(Response::new(rpc::BatchDeleteFederatedBundleResponse { results }))
    }
}

/// X.509 authorities of a request. Only the server itself taints.
fn untainted_x509(
    messages: &[pb::types::X509Certificate],
) -> Result<Vec<X509Authority>, ConvertError> {
    let mut authorities = convert::x509_authorities_from_pb(messages)?;
    authorities.iter_mut().for_each(|authority| authority.tainted = false);
    Ok(authorities)
}

/// JWT authorities of a request. Only the server itself taints.
fn untainted_jwt(messages: &[pb::types::JwtKey]) -> Result<Vec<JwtAuthority>, ConvertError> {
    let mut authorities = convert::jwt_authorities_from_pb(messages)?;
    authorities.iter_mut().for_each(|authority| authority.tainted = false);
    Ok(authorities)
}

fn masked(bundle: &Bundle, mask: Option<&pb::types::BundleMask>) -> pb::types::Bundle {
    let mut message = convert::to_pb(bundle);
    convert::apply_mask(&mut message, mask);
    message
}

//! `spire.api.server.bundle.v1.Bundle`: what verifiers trust.
//!
//! Owns the reading calls. The own bundle is served from the local view without a barrier, cut off
//! or not: an old bundle only ever verifies less. Calls that write bundles answer `Unimplemented`
//! with a text until federation is there.

use steeple_api::convert::{bundle as convert, id};
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1 as rpc;
use steeple_spiffe_core::bundle::Bundle;
use tonic::{Request, Response, Status};

use super::context::Context;
use super::paging::Page;
use crate::gate::Call;
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
        let mask = request.into_inner().output_mask;
        let trust_domain = self.context.trust_domain();
        let mut found = self.context.views().bundle(trust_domain);
        if found.is_none() {
            // "No bundle" is said only after a confirmed read.
            self.context.confirm(&call).await?;
            found = self.context.views().bundle(trust_domain);
        }
        let bundle = found.ok_or_else(|| Failure::not_found("bundle not found"))?;
        Ok(Response::new(masked(&bundle, mask.as_ref())))
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
        _request: Request<rpc::AppendBundleRequest>,
    ) -> Result<Response<pb::types::Bundle>, Status> {
        Err(unsupported("AppendBundle").into())
    }

    async fn publish_jwt_authority(
        &self,
        _request: Request<rpc::PublishJwtAuthorityRequest>,
    ) -> Result<Response<rpc::PublishJwtAuthorityResponse>, Status> {
        Err(unsupported("PublishJWTAuthority").into())
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<rpc::PublishWitAuthorityRequest>,
    ) -> Result<Response<rpc::PublishWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented("WIT-SVID functionality is not yet implemented").into())
    }

    async fn batch_create_federated_bundle(
        &self,
        _request: Request<rpc::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchCreateFederatedBundleResponse>, Status> {
        Err(unsupported("BatchCreateFederatedBundle").into())
    }

    async fn batch_update_federated_bundle(
        &self,
        _request: Request<rpc::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchUpdateFederatedBundleResponse>, Status> {
        Err(unsupported("BatchUpdateFederatedBundle").into())
    }

    async fn batch_set_federated_bundle(
        &self,
        _request: Request<rpc::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchSetFederatedBundleResponse>, Status> {
        Err(unsupported("BatchSetFederatedBundle").into())
    }

    async fn batch_delete_federated_bundle(
        &self,
        _request: Request<rpc::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<rpc::BatchDeleteFederatedBundleResponse>, Status> {
        Err(unsupported("BatchDeleteFederatedBundle").into())
    }
}

fn unsupported(method: &str) -> Failure {
    Failure::unimplemented(format!("{method} is not supported by this version: no federation yet"))
}

fn masked(bundle: &Bundle, mask: Option<&pb::types::BundleMask>) -> pb::types::Bundle {
    let mut message = convert::to_pb(bundle);
    convert::apply_mask(&mut message, mask);
    message
}

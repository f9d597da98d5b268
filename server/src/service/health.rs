//! `grpc.health.v1.Health` on the admin socket, as SPIRE serves it: one answer for the whole
//! process, no services, no watching. The HTTP probes are in [`crate::health`].

use steeple_api::pb::health as rpc;
use steeple_api::pb::health::health_check_response::ServingStatus;
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::status::Failure;

/// The service.
#[derive(Clone, Debug)]
pub struct HealthService {
    context: Context,
}

impl HealthService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::health_server::Health for HealthService {
    type WatchStream = tokio_stream::Empty<Result<rpc::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<rpc::HealthCheckRequest>,
    ) -> Result<Response<rpc::HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(Failure::invalid("per-service health is not supported").into());
        }
        let serving = self.context.views().bundle(self.context.trust_domain()).is_some();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(rpc::HealthCheckResponse { status: status.into() }))
    }

    async fn list(
        &self,
        _request: Request<rpc::HealthListRequest>,
    ) -> Result<Response<rpc::HealthListResponse>, Status> {
        Err(Failure::unimplemented("method List not implemented").into())
    }

    async fn watch(
        &self,
        _request: Request<rpc::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Failure::unimplemented("method Watch not implemented").into())
    }
}

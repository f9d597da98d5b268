//! Whether the agent works: gRPC health on the workload socket and an optional HTTP listener.
//!
//! Owns SPIRE's notion (`spire-semantics` 18): healthy means that a call on the own socket is
//! answered, with an identity or without. The HTTP answers come from the last periodic check, the
//! gRPC one is made when asked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use steeple_api::pb;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};
use tracing::warn;

use crate::limits::{HEALTH_INTERVAL, HEALTH_INTERVAL_START, HEALTH_PROBE_TIMEOUT};

/// The result of the last check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    /// The process should not be restarted.
    pub is_live: bool,
    /// It serves.
    pub is_ready: bool,
    /// What the last check found wrong.
    pub error: Option<String>,
}

/// Set once the socket is open.
#[derive(Clone, Debug, Default)]
pub struct ReadyFlag(Arc<AtomicBool>);

impl ReadyFlag {
    /// The APIs are being served.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Calls the own socket. Being told that there is no identity is a good answer.
pub async fn probe(socket: &Path) -> Result<(), Status> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let check = async {
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel =
            channel.map_err(|error| Status::unavailable(crate::upstream::chain(&error)))?;
        let mut client =
            pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
        let mut request = Request::new(pb::workload::X509BundlesRequest {});
        let header = tonic::metadata::MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", header);
        match client.fetch_x509_bundles(request).await {
            Ok(mut stream) => stream.get_mut().message().await.map(drop),
            Err(status) => Err(status),
        }
    };
    let answer = tokio::time::timeout(HEALTH_PROBE_TIMEOUT, check).await;
    match answer.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer"))) {
        Err(status) if status.code() != Code::PermissionDenied => Err(status),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `grpc.health.v1` as SPIRE's agent serves it.
#[derive(Clone, Debug)]
pub struct GrpcHealth {
    /// The own socket.
    pub socket: PathBuf,
}

#[tonic::async_trait]
impl pb::health::health_server::Health for GrpcHealth {
    type WatchStream = futures::stream::Empty<Result<pb::health::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<pb::health::HealthCheckRequest>,
    ) -> Result<Response<pb::health::HealthCheckResponse>, Status> {
        use pb::health::health_check_response::ServingStatus;
        if !request.get_ref().service.is_empty() {
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let status = match probe(&self.socket).await {
            Ok(()) => ServingStatus::Serving,
            Err(error) => {
                warn!(%error, "Unable to complete health check");
                ServingStatus::NotServing
            }
        };
        Ok(Response::new(pb::health::HealthCheckResponse { status: status.into() }))
    }

    async fn list(
        &self,
        _request: Request<pb::health::HealthListRequest>,
    ) -> Result<Response<pb::health::HealthListResponse>, Status> {
        Err(Status::unimplemented("method List not implemented"))
    }

    async fn watch(
        &self,
        _request: Request<pb::health::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}

/// Checks periodically: often until it was good once, then rarely. Live during the start.
pub async fn watch_health(
    socket: PathBuf,
    started: ReadyFlag,
    results: watch::Sender<HealthState>,
    shutdown: CancellationToken,
) {
    let mut interval = HEALTH_INTERVAL_START;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        if !started.get() {
            continue;
        }
        let error = probe(&socket).await.err().map(|status| status.to_string());
        let is_good = error.is_none();
        if is_good {
            interval = HEALTH_INTERVAL;
        }
        results.send_replace(HealthState { is_live: is_good, is_ready: is_good, error });
    }
}

/// The HTTP listener.
#[derive(Debug)]
pub struct HealthListener {
    listener: TcpListener,
    live_path: String,
    ready_path: String,
    results: watch::Receiver<HealthState>,
}

impl HealthListener {
    /// Binds `host:port`.
    pub async fn bind(
        address: &str,
        live_path: &str,
        ready_path: &str,
    ) -> io::Result<(Self, watch::Sender<HealthState>)> {
        let listener = TcpListener::bind(address).await?;
        let start = HealthState { is_live: true, is_ready: false, error: None };
        let (sender, results) = watch::channel(start);
        let (live_path, ready_path) = (live_path.to_owned(), ready_path.to_owned());
        Ok((Self { listener, live_path, ready_path, results }, sender))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = this.listener.accept() => {
                    // A failed accept concerns one prober; the next one is served.
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve_one(Arc::clone(&this), TokioIo::new(stream)));
                    }
                }
                Some(_) = connections.join_next() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn answer(&self, path: &str) -> http::Response<Full<Bytes>> {
        let state = self.results.borrow();
        let is_good = match path {
            path if path == self.live_path => state.is_live,
            path if path == self.ready_path => state.is_ready,
            _ => return reply(StatusCode::NOT_FOUND, String::new()),
        };
        let details =
            state.error.as_ref().map(|error| serde_json::json!({"make_new_x509_err": error}));
        let body = serde_json::json!({ "agent": details }).to_string();
        let status = if is_good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        reply(status, body)
    }
}

async fn serve_one(listener: Arc<HealthListener>, io: TokioIo<tokio::net::TcpStream>) {
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
        let response = listener.answer(request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEALTH_PROBE_TIMEOUT);
    // A prober that breaks off has no one to tell.
    drop(http.serve_connection(io, service).await);
}

fn reply(status: StatusCode, body: String) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

//! The bundle endpoint: `GET /` over TLS, for whoever asks.
//!
//! Owns the listener and its bounds. What is answered is decided in `answer`, what is presented in the
//! handshake by the [`rustls::ServerConfig`] that it is given. Facts: SPIFFE Federation 5, and SPIRE's
//! endpoint (`spec/spire-semantics.md` 12.1).

mod answer;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use steeple_spiffe_core::tls::ACME_TLS_ALPN;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use answer::Document;

/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that has not sent the head of its first request so long after its handshake is dropped,
/// by HTTP/1.1 that of any other too (SPIRE: the same).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is for a fetch or a few: peers come once a minute at most.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// What is under way when its time is over, or the process stops, has this long to end.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Connections at a time. One more ends the oldest: anybody may call, and whoever keeps connections
/// open is not to keep others out.
const CONNECTIONS_MAX: usize = 1024;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: u32 = 16 << 10;

/// Requests at a time on one connection of HTTP/2.
const STREAMS_MAX: u32 = 16;

/// Pause after a failed accept (file descriptors used up), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served.
pub trait Documents: fmt::Debug + Send + Sync {
    /// The bundle as it is known here now; `None` before there is one. Asked for each request, so it
    /// must be cheap, and must not wait.
    fn current(&self) -> Option<Arc<Document>>;
}

/// The port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not listen on {address} for the bundle endpoint; stop the process that holds the port, or \
     change federation.bundle_endpoint.address or port"
)]
pub struct EndpointError {
    address: SocketAddr,
    source: io::Error,
}

/// The bound port.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    request_timeout: Duration,
}

impl Endpoint {
    /// Binds the port.
    ///
    /// # Errors
    ///
    /// [`EndpointError`], with the fix in its text.
    pub async fn bind(address: SocketAddr) -> Result<Self, EndpointError> {
        let failed = |source| EndpointError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, request_timeout: REQUEST_TIMEOUT })
    }

    /// Where it listens; tests ask for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown, then lets what is under way end.
    pub async fn run(
        self,
        tls: Arc<rustls::ServerConfig>,
        documents: Arc<dyn Documents>,
        shutdown: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let mut connections = JoinSet::new();
        let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    make_room(&mut by_age);
                    let request_timeout = self.request_timeout;
                    let connection = Connection { stream, address, request_timeout };
                    let (acceptor, documents) = (acceptor.clone(), Arc::clone(&documents));
                    let serving = connection.serve(acceptor, documents, shutdown.clone());
                    by_age.push_back(connections.spawn(serving));
                }
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a connection to the bundle endpoint");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Lets the oldest connections go until one more has a place.
fn make_room(by_age: &mut VecDeque<AbortHandle>) {
    by_age.retain(|connection| !connection.is_finished());
    while by_age.len() >= CONNECTIONS_MAX
        && let Some(oldest) = by_age.pop_front()
    {
        oldest.abort();
    }
}

struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    request_timeout: Duration,
}

impl Connection {
    async fn serve(
        self,
        acceptor: TlsAcceptor,
        documents: Arc<dyn Documents>,
        shutdown: CancellationToken,
    ) {
        let (address, request_timeout) = (self.address, self.request_timeout);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(self.stream));
        let stream = match shutdown.run_until_cancelled(handshake).await {
            None => return,
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, caller_addr = %address, "TLS handshake failed");
                return;
            }
            Some(Err(_elapsed)) => {
                tracing::debug!(caller_addr = %address, "TLS handshake timed out");
                return;
            }
        };
        if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN) {
            // The handshake is the whole answer (RFC 8737, 3).
            tracing::info!(caller_addr = %address, "Answered an ACME challenge");
            return;
        }
        let first = Arc::new(Notify::new());
        let came = Arc::clone(&first);
        let service = service_fn(move |request: Request<Incoming>| {
            came.notify_one();
            let document = documents.current();
            let response = answer::answer(
                request.method(),
                request.uri().path(),
                request.headers(),
                document.as_deref(),
            );
            let status = response.status().as_str().to_owned();
            metrics::counter!("spire_server_bundle_endpoint_requests", "status" => status)
                .increment(1);
            async move { Ok::<_, Infallible>(response) }
        });
        let builder = http(request_timeout);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = silence(&first, request_timeout) => {
                tracing::debug!(caller_addr = %address, "No request came in time");
                return;
            }
            () = over(&shutdown) => {
                connection.as_mut().graceful_shutdown();
                // What does not end is cut off.
                tokio::time::timeout(DRAIN_TIME, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, caller_addr = %address, "Connection to the bundle endpoint ended");
        }
    }
}

/// HTTP within its bounds.
fn http(request_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(request_timeout)
        .max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(Some(request_timeout));
    builder
}

/// Ends when the first request has not come in time. Neither version of HTTP has a bound of its own
/// on the time until its first bytes.
async fn silence(first: &Notify, request_timeout: Duration) {
    if tokio::time::timeout(request_timeout, first.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// The end of a connection's time, or of the process.
async fn over(shutdown: &CancellationToken) {
    tokio::time::timeout(CONNECTION_TIME, shutdown.cancelled()).await.ok();
}

#[cfg(test)]
mod tests;

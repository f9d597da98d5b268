//! One HTTP/2 connection from its first byte to its last: served, told to go away, drained.
//!
//! hyper is driven directly rather than through tonic's server, because three things are ours to
//! decide per connection: its age (with jitter, so that agents spread over the replicas), GOAWAY
//! when this replica loses contact with the cluster or the client's certificate has lapsed, and the
//! end of a drain.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::peer::Peer;

/// A connection is asked to reconnect after this long, as SPIRE does: agents then resolve the
/// server's name again and spread over the replicas.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(180);

/// The age of a connection varies by up to this fraction either way, so that agents that all
/// connected after one restart do not all come back in the same second.
const CONNECTION_AGE_JITTER: f64 = 0.1;

/// How long streams may go on after GOAWAY on an aged connection. Unary calls take milliseconds;
/// push streams resume on the next connection.
const GOAWAY_GRACE: Duration = Duration::from_secs(30);

/// After the stop was asked for, a connection without an open call has this long to say goodbye. A
/// client that hangs never does, and must not hold up the end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Streams of one client at a time. A stock agent has a handful; 250 is gRPC's usual number.
const STREAMS_MAX: u32 = 250;

/// Largest header list; gRPC metadata of our clients stays below 2 KiB.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// A silent connection is pinged after this long, so that dead peers free their slot.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// A ping that is not answered in this time ends the connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What answers requests. Never fails: an error is a response.
pub trait Application: Clone + Send + Sync + 'static {
    /// Answers one request of a peer.
    fn answer(
        &self,
        peer: Arc<Peer>,
        request: http::Request<Incoming>,
    ) -> impl Future<Output = http::Response<Body>> + Send;
}

/// What tells connections to end.
#[derive(Clone, Debug)]
pub struct ConnectionSignals {
    /// Cancelled when the process stops: GOAWAY, then the drain.
    pub shutdown: CancellationToken,
    /// Cancelled when the drain is over: what is still open is dropped.
    pub abort: CancellationToken,
    /// Changes when clients should look for another replica.
    pub go_away: watch::Receiver<u64>,
}

/// Serves a connection until the client leaves, it is too old, what the client presented has
/// lapsed, or a signal ends it. The age limit is scaled by `jitter` in `0.0..1.0`; `None` = no
/// limit.
pub async fn serve<I, A>(
    io: I,
    peer: Arc<Peer>,
    application: A,
    signals: ConnectionSignals,
    jitter: Option<f64>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Application,
{
    let open = OpenCalls::default();
    let (calls, lapsed) = (open.clone(), peer.lapsed());
    let service = service_fn(move |request| {
        let (application, peer, held) = (application.clone(), Arc::clone(&peer), calls.enter());
        async move {
            let response = application.answer(peer, request).await;
            // The call is over when the last frame of its answer has left.
            Ok::<_, Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _open = &held;
                    frame
                }))
            }))
        }
    });
    let connection = builder().serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended_by_client = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = leave(signals.clone(), jitter) => None,
        () = lapsed.cancelled() => None,
    };
    let result = if let Some(result) = ended_by_client {
        result
    } else {
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            result = connection.as_mut() => result,
            () = signals.abort.cancelled() => Ok(()),
            () = grace(signals.shutdown.clone()) => Ok(()),
            () = said_goodbye(signals.shutdown.clone(), open) => Ok(()),
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "Connection ended");
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Resolves when the connection should send GOAWAY.
async fn leave(mut signals: ConnectionSignals, jitter: Option<f64>) {
    signals.go_away.mark_unchanged();
    let age = async {
        match jitter {
            Some(unit) => tokio::time::sleep(aged(unit)).await,
            None => std::future::pending().await,
        }
    };
    let told = async {
        if signals.go_away.changed().await.is_err() {
            // The sender is gone, which happens only as the process ends: shutdown says so too.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = signals.shutdown.cancelled() => {}
        () = age => {}
        () = told => {}
    }
}

/// Resolves when an aged connection has had its grace; during a shutdown the drain decides alone.
async fn grace(shutdown: CancellationToken) {
    tokio::time::sleep(GOAWAY_GRACE).await;
    if shutdown.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

/// Resolves when the process stops and no call has been open for [`GOODBYE_MAX`].
async fn said_goodbye(shutdown: CancellationToken, open: OpenCalls) {
    shutdown.cancelled().await;
    loop {
        open.none().await;
        let pause = tokio::time::sleep(GOODBYE_MAX);
        tokio::select! {
            () = open.some() => {}
            () = pause => return,
        }
    }
}

/// How many calls of a connection are open.
#[derive(Clone, Debug)]
struct OpenCalls(Arc<watch::Sender<usize>>);

impl Default for OpenCalls {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl OpenCalls {
    fn enter(&self) -> OpenCall {
        self.0.send_modify(|open| *open += 1);
        OpenCall(Arc::clone(&self.0))
    }

    async fn none(&self) {
        // The sender is held by this very value.
        self.0.subscribe().wait_for(|open| *open == 0).await.ok();
    }

    async fn some(&self) {
        self.0.subscribe().wait_for(|open| *open > 0).await.ok();
    }
}

/// One open call.
#[derive(Debug)]
struct OpenCall(Arc<watch::Sender<usize>>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

fn aged(unit: f64) -> Duration {
    let factor = 1.0 + CONNECTION_AGE_JITTER * (2.0 * unit.clamp(0.0, 1.0) - 1.0);
    CONNECTION_AGE_MAX.mul_f64(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_waits_for_open_calls_and_not_for_silent_clients() {
        let (shutdown, open) = (CancellationToken::new(), OpenCalls::default());
        let call = open.enter();
        let mut waiting = pin!(said_goodbye(shutdown.clone(), open.clone()));
        shutdown.cancel();
        let early = tokio::time::timeout(GOODBYE_MAX * 2, waiting.as_mut()).await;
        assert!(early.is_err(), "a call is open");
        drop(call);
        tokio::time::timeout(GOODBYE_MAX * 10, waiting).await.expect("nothing is open");
    }

    #[test]
    fn connection_age_varies_by_a_tenth_around_three_minutes() {
        for (unit, seconds) in [(0.0, 162), (0.5, 180), (1.0, 198)] {
            assert_eq!(aged(unit).as_secs_f64().round(), f64::from(seconds), "unit {unit}");
        }
    }
}

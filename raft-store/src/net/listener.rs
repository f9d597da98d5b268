//! The peer listener: accepts, shakes hands, and hands verified connections to the gRPC server.
//!
//! Owns the limits that keep one bad peer from starving the others: a time for each handshake, a number
//! of handshakes at once, and who goes when there are more. Calls are `server`'s.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use steeple_spiffe_core::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::net::name::PeerName;
use crate::net::refusals::{Refusal, Refusals};
use crate::net::tls::{PeerTls, peer_name};
use crate::net::transport::{Connection, Incoming};

/// A peer on the same continent needs a tenth of a second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes at once: more than 23 members with four lanes each, all reconnecting, need; an attacker's
/// connections cost no more memory than this many. One more pushes out the oldest: a handshake takes
/// milliseconds, so that strangers who send nothing keep no member out.
const HANDSHAKES_MAX: usize = 256;

/// Verified connections that wait for the gRPC server to take them.
const READY_MAX: usize = 16;

/// How long to wait after an error of `accept` (out of file descriptors): the next would be the same.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A verified connection.
#[derive(Debug)]
pub(crate) struct PeerStream {
    stream: TlsStream<Connection>,
    name: PeerName,
}

impl Connected for PeerStream {
    /// Who is at the other end; found in the extensions of each request.
    type ConnectInfo = PeerName;

    fn connect_info(&self) -> PeerName {
        self.name.clone()
    }
}

/// Accepts until the returned receiver is dropped.
pub(crate) async fn accept(
    mut incoming: Incoming,
    tls: Arc<PeerTls>,
    refusals: Arc<Refusals>,
    clock: Arc<dyn Clock>,
    ready: mpsc::Sender<io::Result<PeerStream>>,
) {
    let mut handshakes = JoinSet::new();
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = incoming.next() => accepted,
            () = ready.closed() => return,
        };
        let connection = match accepted {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                tracing::warn!("failed to accept a peer connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            None => return,
        };
        while handshakes.try_join_next().is_some() {}
        open.retain(|handshake| !handshake.task.is_finished());
        if open.len() >= HANDSHAKES_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.task.abort();
            let detail = "it was slow while many others began one";
            refusals.note(Refusal::HandshakeTimeout, &oldest.origin, detail, clock.as_ref());
        }
        let origin = origin(&connection);
        let (tls, refusals, clock) = (tls.clone(), refusals.clone(), clock.clone());
        let ready = ready.clone();
        let task = handshakes.spawn(async move {
            if let Some(peer) = shake_hands(connection, &tls, &refusals, clock.as_ref()).await {
                // A server that is gone takes no more connections: nothing to do.
                drop(ready.send(Ok(peer)).await);
            }
        });
        open.push_back(Open { task, origin });
    }
}

/// A handshake that has begun.
struct Open {
    task: AbortHandle,
    origin: String,
}

/// Until how far a listener has room to queue connections for its server.
pub(crate) fn ready_queue()
-> (mpsc::Sender<io::Result<PeerStream>>, mpsc::Receiver<io::Result<PeerStream>>) {
    mpsc::channel(READY_MAX)
}

async fn shake_hands(
    connection: Connection,
    tls: &PeerTls,
    refusals: &Refusals,
    clock: &dyn Clock,
) -> Option<PeerStream> {
    let config = match tls.server() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("failed to set up peer TLS: {error}");
            return None;
        }
    };
    let origin = origin(&connection);
    let refusal =
        match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(connection)).await {
            Ok(Ok(stream)) => match peer_name(stream.get_ref().1.peer_certificates()) {
                Ok(name) => return Some(PeerStream { stream, name }),
                Err(error) => (Refusal::Handshake, error.to_string()),
            },
            Ok(Err(error)) if crate::net::dial::is_key_refusal(&error) => {
                (Refusal::Handshake, "cluster key differs".to_owned())
            }
            Ok(Err(error)) => (Refusal::Handshake, error.to_string()),
            Err(_) => (Refusal::HandshakeTimeout, "handshake took too long".to_owned()),
        };
    refusals.note(refusal.0, &origin, &refusal.1, clock);
    None
}

/// Where a peer that has no name yet is to be looked for.
pub(crate) fn origin(connection: &Connection) -> String {
    // The box is a connection too, but none of TCP.
    let address = (**connection).tcp_peer();
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

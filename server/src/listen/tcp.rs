//! The API port: TLS with SPIFFE identities over TCP.
//!
//! Owns accept, the handshake with its time limit and cap, and TCP_NODELAY (without it a handshake
//! waits for delayed acknowledgements). Which certificates pass is decided by the verifier inside
//! the [`rustls::ServerConfig`] that it is given.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::random::Random;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Application, ConnectionSignals};
use super::peer::{Peer, PeerCertificate};

/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at a time. One costs 0.3 ms of CPU: more in flight only means slow or hostile peers.
const HANDSHAKES_MAX: usize = 1024;

/// Connections at a time: two thirds of 100,000 agents on one replica, should the others be down.
/// Beyond it clients wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 65_536;

/// Pause after a failed accept (file descriptors used up), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The configured host name has no address.
    #[error("could not resolve bind address {text:?}")]
    Resolve {
        /// Host and port as configured.
        text: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error(
        "could not listen on {address}; stop the process that holds the port, or change bind_address or bind_port"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bound API port.
#[derive(Debug)]
pub struct ApiListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl ApiListener {
    /// Resolves the configured address and binds it.
    ///
    /// # Errors
    ///
    /// [`TcpError`], with the fix in its text.
    pub async fn bind(host: &str, port: u16) -> Result<Self, TcpError> {
        let text =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let resolve = |source| TcpError::Resolve { text: text.clone(), source };
        let address = tokio::net::lookup_host(text.as_str())
            .await
            .map_err(resolve)?
            .next()
            .ok_or_else(|| resolve(io::ErrorKind::NotFound.into()))?;
        let bind = |source| TcpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address })
    }

    /// The bound address; tests ask for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the shutdown signal, then waits for the open connections to drain.
    pub async fn run<A: Application>(
        self,
        tls: Arc<rustls::ServerConfig>,
        application: A,
        signals: ConnectionSignals,
        random: Arc<dyn Random>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = signals.shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &slots, &handshakes) => accepted,
            };
            match accepted {
                Ok(admitted) => {
                    let server = Handshake { acceptor: acceptor.clone(), admitted };
                    let jitter = random.unit_f64();
                    connections.spawn(server.run(application.clone(), signals.clone(), jitter));
                }
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// An accepted connection with the two places it holds.
struct Admitted {
    stream: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    handshakes: &Arc<Semaphore>,
) -> io::Result<Admitted> {
    let closed = |_| io::Error::other("semaphore closed");
    let slot = Arc::clone(slots).acquire_owned().await.map_err(closed)?;
    let handshake = Arc::clone(handshakes).acquire_owned().await.map_err(closed)?;
    let (stream, address) = listener.accept().await?;
    Ok(Admitted { stream, address, slot, handshake })
}

struct Handshake {
    acceptor: TlsAcceptor,
    admitted: Admitted,
}

impl Handshake {
    async fn run<A: Application>(self, application: A, signals: ConnectionSignals, jitter: f64) {
        let Admitted { stream, address, slot, handshake } = self.admitted;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, caller_addr = %address, "Connection ended before its handshake");
            return;
        }
        let accepted = tokio::select! {
            () = signals.shutdown.cancelled() => return,
            accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)) => accepted,
        };
        drop(handshake);
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, caller_addr = %address, "TLS handshake failed");
                return;
            }
            Err(_elapsed) => {
                tracing::debug!(caller_addr = %address, "TLS handshake timed out");
                return;
            }
        };
        let chain: Vec<Vec<u8>> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.as_ref().to_vec())
            .collect();
        let certificate = if chain.is_empty() {
            None
        } else {
            match PeerCertificate::from_chain(chain) {
                Ok(certificate) => Some(Arc::new(certificate)),
                Err(error) => {
                    tracing::debug!(%error, caller_addr = %address, "Client certificate is no X509-SVID");
                    return;
                }
            }
        };
        let peer = Arc::new(Peer::Remote { address, certificate });
        connection::serve(stream, peer, application, signals, Some(jitter)).await;
        drop(slot);
    }
}

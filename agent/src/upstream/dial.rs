//! One connection: TCP, then TLS, then HTTP/2 on top.
//!
//! Owns the dial and its errors, which keep what a person or the agent acts on: who was dialled and
//! whether the server's certificate hangs below no known authority.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::limits::CONNECT_TIMEOUT;

/// A server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("connect to {address}")]
    Connect {
        /// Who was dialled.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with {address}")]
    Handshake {
        /// Who was dialled.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The server's certificate chains to no authority of the bundle. The text is the one SPIRE's
    /// users and tools look for.
    #[error("TLS handshake with {address}: x509: certificate signed by unknown authority")]
    UnknownAuthority {
        /// Who was dialled.
        address: SocketAddr,
    },
    /// Nothing within [`CONNECT_TIMEOUT`].
    #[error("connect to {address}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Who was dialled.
        address: SocketAddr,
    },
}

/// Connects to one address. The channel dials the same address again when the connection ends.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: http::Uri| {
        let tls = Arc::clone(&tls);
        async move { dial(address, tls).await.map(TokioIo::new) }
    });
    // The scheme must not be https: that would ask for tonic's own TLS. The name is never sent to a
    // resolver and never compared: the server is known by its SPIFFE id.
    let endpoint = Endpoint::from_static("http://spire-server")
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("spire-agent/", env!("CARGO_PKG_VERSION")))?;
    endpoint.connect_with_connector(connector).await
}

async fn dial(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let attempt = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| DialError::Connect { address, source })?;
        stream.set_nodelay(true).map_err(|source| DialError::Connect { address, source })?;
        let name = ServerName::IpAddress(address.ip().into());
        let connected = TlsConnector::from(tls).connect(name, stream).await;
        connected.map_err(|source| handshake_error(address, source))
    };
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, attempt);
    attempt.await.unwrap_or(Err(DialError::TimedOut { address }))
}

fn handshake_error(address: SocketAddr, source: io::Error) -> DialError {
    // An io::Error hides its inner error from `source()`, hence the look inside.
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if inner.is_some_and(is_unknown_issuer) {
        return DialError::UnknownAuthority { address };
    }
    DialError::Handshake { address, source }
}

fn is_unknown_issuer(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

/// Finds the dial error below an error of the transport.
pub(super) fn dial_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a DialError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<DialError>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The texts of an error and its causes, outermost first.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

//! Dialling a peer: transport, TLS handshake, and the question who answered.
//!
//! Owns one attempt with its deadline and the error texts an operator sees. Retries, connection reuse
//! and RPC are `channels`'.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;

use crate::ids::{ClusterId, MemberId};
use crate::net::name::PeerName;
use crate::net::tls::{PeerTls, peer_name};
use crate::net::transport::{Connection, Transport};

/// A dial and handshake take two round trips; a peer that needs longer than this is of no use to
/// elections, and formation asks again.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a peer was not met.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nothing is known of where it is.
    #[error("no address is known of member {0}")]
    NoAddress(MemberId),
    /// The connection failed.
    #[error("{address}: {reason}")]
    Unreachable {
        /// Which address.
        address: String,
        /// The system's words, shortened.
        reason: String,
    },
    /// Its certificate is signed by a CA of another cluster key, or it said so of ours.
    #[error("{address}: cluster key differs; give both members the same cluster key file")]
    KeyDiffers {
        /// Which address.
        address: String,
    },
    /// It is a member, but not the one we look for.
    #[error("{address}: met {found}, not {expected}")]
    SomeoneElse {
        /// Which address.
        address: String,
        /// Who should be there.
        expected: Expected,
        /// Who is there.
        found: PeerName,
    },
}

/// Who must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Whoever holds the cluster key: Hello asks for the rest.
    Anyone,
    /// A member of a cluster.
    Member {
        /// Of which cluster.
        cluster: ClusterId,
        /// Which member.
        member: MemberId,
    },
}

impl Expected {
    fn fits(&self, found: &PeerName) -> bool {
        match self {
            Self::Anyone => true,
            Self::Member { cluster, member } => {
                *found == PeerName::Member { cluster: *cluster, member: *member }
            }
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => write!(f, "a peer"),
            Self::Member { cluster, member } => write!(f, "steeple://{cluster}/{member}"),
        }
    }
}

/// A TLS connection to a peer.
pub(crate) type PeerConnection = TlsStream<Connection>;

/// Dials one address and makes sure who answers.
///
/// # Errors
///
/// See [`DialError`]; also when [`DIAL_TIMEOUT`] has passed.
pub(crate) async fn dial(
    transport: &dyn Transport,
    tls: &PeerTls,
    address: &str,
    expected: Expected,
) -> Result<(PeerConnection, PeerName), DialError> {
    match timeout(DIAL_TIMEOUT, connect(transport, tls, address)).await {
        Ok(Ok((connection, found))) if expected.fits(&found) => Ok((connection, found)),
        Ok(Ok((_, found))) => {
            Err(DialError::SomeoneElse { address: address.to_owned(), expected, found })
        }
        Ok(Err(error)) => Err(explain(address, &error)),
        Err(_) => Err(DialError::Unreachable {
            address: address.to_owned(),
            reason: format!("no answer within {} s", DIAL_TIMEOUT.as_secs()),
        }),
    }
}

async fn connect(
    transport: &dyn Transport,
    tls: &PeerTls,
    address: &str,
) -> io::Result<(PeerConnection, PeerName)> {
    let connection = transport.dial(address).await?;
    let config = tls.client().map_err(io::Error::other)?;
    // Never sent (SNI is off) and never compared: certificates name members, not hosts.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let connection = TlsConnector::from(config).connect(name, connection).await?;
    let found = peer_name(connection.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    Ok((connection, found))
}

fn explain(address: &str, error: &io::Error) -> DialError {
    let address = address.to_owned();
    if is_key_refusal(error) {
        return DialError::KeyDiffers { address };
    }
    let kind = error.kind();
    let reason = if kind == io::ErrorKind::ConnectionRefused {
        "connection refused".to_owned()
    } else if matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        "connection closed during the handshake".to_owned()
    } else if error.to_string().contains("lookup address") {
        // The resolver's texts differ between systems and name errno strings.
        "no such host".to_owned()
    } else {
        error.to_string()
    };
    DialError::Unreachable { address, reason }
}

/// Whether a chain of errors says that one side does not accept the other's CA. A server's refusal
/// comes after the client's handshake is done (TLS 1.3), so RPC errors are asked too.
pub(crate) fn is_key_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(current) = next {
        let inside = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inside.is_some_and(|inside| is_key_refusal(inside)) {
            return true;
        }
        match current.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
            | Some(rustls::Error::AlertReceived(
                rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError,
            )) => return true,
            Some(_) | None => {}
        }
        next = current.source();
    }
    false
}

/// An error with its causes, for people: `connect: connection refused`.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    with_causes(error.to_string(), error)
}

/// A status with its causes, for people. As a text of its own it has the words of a program in it.
pub(crate) fn said(status: &Status) -> String {
    let text = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    with_causes(text.to_owned(), status)
}

fn with_causes(mut text: String, error: &(dyn Error + 'static)) -> String {
    let mut next = error.source();
    while let Some(cause) = next {
        next = cause.source();
        let cause_text = cause.to_string();
        // Some errors print their cause themselves, and one says that there is a cause.
        if !text.contains(&cause_text) && cause_text != "transport error" {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
    }
    text
}

/// The TLS material and the way out, shared by everything that dials.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) tls: Arc<PeerTls>,
}

impl Dialler {
    /// See [`dial`].
    ///
    /// # Errors
    ///
    /// See [`DialError`].
    pub(crate) async fn dial(
        &self,
        address: &str,
        expected: Expected,
    ) -> Result<(PeerConnection, PeerName), DialError> {
        dial(self.transport.as_ref(), &self.tls, address, expected).await
    }
}

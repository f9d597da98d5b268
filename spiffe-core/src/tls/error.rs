//! Why a TLS configuration or identity cannot be made, and how refusals of ours look to rustls.

use std::sync::Arc;

use crate::svid::x509::X509Error;

/// Why a TLS configuration or identity cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses the combination of provider and protocol versions.
    #[error("build TLS configuration")]
    Config(#[source] rustls::Error),
    /// The private key is not one that TLS can sign with.
    #[error("private key cannot be used for TLS")]
    BadKey(#[source] rustls::Error),
    /// The chain is no X.509-SVID.
    #[error("certificate chain is no X.509-SVID")]
    BadChain(#[from] X509Error),
    /// The leaf certifies another key.
    #[error("private key does not match the certificate")]
    KeyMismatch,
}

/// A peer is an SVID that verifies, but not one that may be at the other end of this connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("unexpected peer \"{0}\"")]
    UnexpectedId(String),
    #[error("no bundle for trust domain \"{0}\"")]
    NoBundle(String),
}

/// The alert that fits the reason why a peer's chain is refused.
pub(super) fn chain_refused(error: X509Error) -> rustls::Error {
    use rustls::CertificateError as Reason;
    let reason = match error {
        X509Error::Malformed(_) | X509Error::BadPublicKey | X509Error::BadName => {
            Reason::BadEncoding
        }
        X509Error::Untrusted(webpki::Error::UnknownIssuer) => Reason::UnknownIssuer,
        X509Error::Untrusted(webpki::Error::CertExpired { time, not_after }) => {
            Reason::ExpiredContext { time, not_after }
        }
        X509Error::Untrusted(webpki::Error::CertNotValidYet { time, not_before }) => {
            Reason::NotValidYetContext { time, not_before }
        }
        other => reason(other),
    };
    reason.into()
}

pub(super) fn reason(
    error: impl std::error::Error + Send + Sync + 'static,
) -> rustls::CertificateError {
    rustls::CertificateError::Other(rustls::OtherError(Arc::new(error)))
}

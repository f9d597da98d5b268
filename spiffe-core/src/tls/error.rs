//! Why a TLS configuration or identity cannot be made, and how refusals of ours look to rustls.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

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
    /// A root that is to be trusted is no certificate.
    #[error("root certificate cannot be used")]
    BadRoot(#[source] rustls::Error),
    /// The machine has no store of root certificates.
    #[error(
        "this machine trusts no certificate authority: install ca-certificates, or name a file of roots"
    )]
    NoSystemRoots,
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

/// The refusal as rustls reports it: with the alert that fits where rustls knows one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki's errors: all others are told as they are"
)]
pub(super) fn chain_refused(error: X509Error) -> rustls::Error {
    let X509Error::Untrusted(cause) = error else { return reason(error).into() };
    let refusal = match cause {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        other => reason(X509Error::Untrusted(other)),
    };
    refusal.into()
}

pub(super) fn reason(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(error)))
}

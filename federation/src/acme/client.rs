//! The seam to the server of certificates, in the steps that an order takes.

use std::fmt;

use futures::future::BoxFuture;
use steeple_spiffe_core::{Secret, Timestamp};

use super::settings::AcmeSettings;
use super::state::Digest;

/// The server that certificates are ordered from.
pub trait Acme: fmt::Debug + Send + Sync {
    /// Registers an account with a new key; returns its credentials.
    fn register<'a>(
        &'a self,
        settings: &'a AcmeSettings,
    ) -> BoxFuture<'a, Result<Secret, AcmeError>>;

    /// Comes as the holder of an account.
    fn open<'a>(
        &'a self,
        credentials: &'a Secret,
    ) -> BoxFuture<'a, Result<Box<dyn AcmeAccount>, AcmeError>>;
}

/// What the holder of an account can do. Orders are named by their addresses, so that whoever leads
/// next can go on with one.
pub trait AcmeAccount: Send + Sync {
    /// Orders a certificate for a name; returns the order's address.
    fn order<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<String, AcmeError>>;

    /// How an order stands.
    fn look<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<Progress, AcmeError>>;

    /// Tells the server that the challenge of an order is answered from now on.
    fn validate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<(), AcmeError>>;

    /// Has the certificate made for a request in DER.
    fn finalize<'a>(
        &'a self,
        order: &'a str,
        csr: &'a [u8],
    ) -> BoxFuture<'a, Result<(), AcmeError>>;

    /// The certificate of an order that is done: the chain in PEM, leaf first.
    fn certificate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<String, AcmeError>>;

    /// When the server wants a certificate (in DER) to be renewed; `None`: it does not say.
    fn renewal<'a>(&'a self, leaf: &'a [u8]) -> BoxFuture<'a, Result<Option<Window>, AcmeError>>;
}

/// How an order stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The server wants to know who answers at the name.
    Pending {
        /// What the answer has to say.
        challenge: Digest,
        /// Whether it has been told to look.
        is_asked: bool,
    },
    /// It has found out; the request may be sent.
    Ready,
    /// The certificate is being made.
    Processing,
    /// It is there.
    Valid,
    /// It came to nothing, and why.
    Invalid(String),
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its begin.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
}

/// The server was not reached, or refuses.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// It refuses, with a type of RFC 8555, 6.7, and its words.
    #[error("ACME server refuses: {text}")]
    Refused {
        /// The type, its last part: `rateLimited`.
        kind: String,
        /// Its words.
        text: String,
    },
    /// It offers no challenge that the endpoint can answer.
    #[error("ACME server offers no tls-alpn-01 challenge for the name")]
    NoChallenge,
    /// It was not reached, or what it said makes no sense.
    #[error("call ACME server")]
    Call(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AcmeError {
    /// Whether the server knows the account no more: it was made anew, or has removed it.
    pub(super) fn is_unknown_account(&self) -> bool {
        self.is_refused(&["accountDoesNotExist"])
    }

    /// Whether an order is best left alone, and another one made: the server has answered.
    pub(super) fn ends_order(&self) -> bool {
        match self {
            Self::Refused { .. } => !self.is_refused(&["rateLimited", "serverInternal"]),
            Self::NoChallenge => true,
            Self::Call(_) => false,
        }
    }

    /// What to do about it, where that is for the operator.
    pub(super) fn fix(&self) -> &'static str {
        match self {
            Self::Refused { text, .. }
                if text.to_ascii_lowercase().contains("terms of service") =>
            {
                "read the server's terms of service and set tos_accepted = true in the acme section"
            }
            Self::Refused { kind, .. } => match kind.as_str() {
                "userActionRequired" => {
                    "read the server's terms of service and set tos_accepted = true in the acme section"
                }
                "externalAccountRequired" => {
                    "this server wants an account of its own making, which is not supported: use \
                     another directory_url, or serving_cert_file"
                }
                "invalidContact" | "unsupportedContact" => {
                    "correct email in the acme section, or leave it out"
                }
                "rejectedIdentifier" | "caa" => {
                    "correct domain_name in the acme section, or the name's CAA records"
                }
                "connection" | "dns" | "tls" | "unauthorized" => {
                    "see that port 443 of domain_name leads to the bundle endpoint of every replica"
                }
                _ => "",
            },
            Self::NoChallenge => {
                "use a server that knows tls-alpn-01, or another client and serving_cert_file"
            }
            Self::Call(_) => {
                "see that directory_url can be reached; a server of your own needs its root in the file \
                 that SSL_CERT_FILE names"
            }
        }
    }

    fn is_refused(&self, kinds: &[&str]) -> bool {
        matches!(self, Self::Refused { kind, .. } if kinds.contains(&kind.as_str()))
    }
}

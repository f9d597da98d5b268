//! SPIFFE ids and the path rules of SPIRE.
//!
//! Owns the strict grammar (no normalisation, no percent encoding, no empty or dot segments) and
//! the reserved paths: `/spire/server` for servers, `/spire/agent/…` for agents, `/spire` and below
//! refused for workloads. Error texts are go-spiffe's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::SPIFFE_ID_BYTES_MAX;
use crate::trust_domain::{TrustDomain, TrustDomainError, is_trust_domain_byte};

const SCHEME: &str = "spiffe://";

/// A checked SPIFFE id: a trust domain and a path that is empty or starts with a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: Arc<str>,
}

/// Why a text is no SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("cannot be empty")]
    Empty,
    /// The scheme is not `spiffe`.
    #[error("scheme is missing or invalid")]
    WrongScheme,
    /// There is no trust domain.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// The trust domain has a character outside `[a-z0-9.-_]`.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadTrustDomainCharacter,
    /// The trust domain is too long.
    #[error("trust domain is too long")]
    TrustDomainTooLong,
    /// The path does not start with a slash.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// The path ends with a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// The path has an empty segment.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// The path has a segment `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// The path has a character outside `[A-Za-z0-9.-_]`.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    BadPathCharacter,
    /// The whole id is longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("SPIFFE ID is too long")]
    TooLong,
}

impl SpiffeId {
    /// Parses the text form, for instance `spiffe://example.org/web`.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::WrongScheme)?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (name, path) = rest.split_at(end);
        if name.is_empty() {
            return Err(SpiffeIdError::MissingTrustDomain);
        }
        if !name.bytes().all(is_trust_domain_byte) {
            return Err(SpiffeIdError::BadTrustDomainCharacter);
        }
        let trust_domain = TrustDomain::parse(name).map_err(trust_domain_error)?;
        Self::new(trust_domain, path)
    }

    /// Joins a trust domain and a path; the path is empty or starts with a slash.
    pub fn new(trust_domain: TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        if SCHEME.len() + trust_domain.as_str().len() + path.len() > SPIFFE_ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(Self { trust_domain, path: path.into() })
    }

    /// The id of the servers of a trust domain: path `/spire/server`.
    pub fn server(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, path: "/spire/server".into() }
    }

    /// The id of the trust domain itself: no path.
    pub fn of_trust_domain(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, path: "".into() }
    }

    /// The id of an agent: path `/spire/agent/` and the given suffix, for instance
    /// `join_token/…`.
    pub fn agent(trust_domain: TrustDomain, suffix: &str) -> Result<Self, SpiffeIdError> {
        Self::new(trust_domain, &format!("/spire/agent/{suffix}"))
    }

    /// This id, with its trust domain's name in the same memory as the other's if they are equal.
    #[must_use]
    pub fn sharing(mut self, trust_domain: &TrustDomain) -> Self {
        if self.trust_domain == *trust_domain {
            self.trust_domain = trust_domain.clone();
        }
        self
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, empty or with a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the id belongs to the trust domain (with or without a path).
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain == *trust_domain
    }

    /// Whether the path is reserved for SPIRE itself: `/spire` or below.
    pub fn is_reserved(&self) -> bool {
        *self.path == *"/spire" || self.path.starts_with("/spire/")
    }

    /// Whether the path is that of an agent: below `/spire/agent/`.
    pub fn is_agent(&self) -> bool {
        self.path.starts_with("/spire/agent/")
    }

    /// Whether the path is exactly `/spire/server`.
    pub fn is_server(&self) -> bool {
        *self.path == *"/spire/server"
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Checks a path alone: empty, or segments of `[A-Za-z0-9.-_]` each after a slash.
pub fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(SpiffeIdError::NoLeadingSlash)?;
    if segments.is_empty() || segments.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    if segment.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(SpiffeIdError::DotSegment);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if segment.bytes().all(allowed) { Ok(()) } else { Err(SpiffeIdError::BadPathCharacter) }
}

fn trust_domain_error(error: TrustDomainError) -> SpiffeIdError {
    match error {
        TrustDomainError::Missing => SpiffeIdError::MissingTrustDomain,
        TrustDomainError::BadCharacter | TrustDomainError::Id(_) => {
            SpiffeIdError::BadTrustDomainCharacter
        }
        TrustDomainError::TooLong => SpiffeIdError::TrustDomainTooLong,
    }
}

//! Trust domain names.
//!
//! Owns the strict grammar of SPIFFE-ID section 2.1 as SPIRE enforces it: lower-case letters,
//! digits, dots, dashes and underscores; nothing is normalised.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::SpiffeId;
use crate::limits::TRUST_DOMAIN_BYTES_MAX;

/// A checked trust domain name, for instance `example.org`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is no trust domain. Texts are go-spiffe's, which scripts and logs of SPIRE show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    /// The name is empty.
    #[error("trust domain is missing")]
    Missing,
    /// The name has a character outside `[a-z0-9.-_]`.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadCharacter,
    /// The name is longer than [`TRUST_DOMAIN_BYTES_MAX`].
    #[error("trust domain is too long")]
    TooLong,
    /// The text is a SPIFFE id that does not parse.
    #[error(transparent)]
    Id(#[from] Box<crate::id::SpiffeIdError>),
}

impl TrustDomain {
    /// Parses a bare trust domain name.
    pub fn parse(name: &str) -> Result<Self, TrustDomainError> {
        if name.is_empty() {
            return Err(TrustDomainError::Missing);
        }
        if !name.bytes().all(is_trust_domain_byte) {
            return Err(TrustDomainError::BadCharacter);
        }
        if name.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(TrustDomainError::TooLong);
        }
        Ok(Self(name.into()))
    }

    /// Parses a name or a SPIFFE id, of which the trust domain is taken: SPIRE accepts both
    /// `example.org` and `spiffe://example.org/anything` wherever a trust domain is asked for.
    pub fn parse_name_or_id(text: &str) -> Result<Self, TrustDomainError> {
        if text.contains(":/") {
            let id = SpiffeId::parse(text).map_err(Box::new)?;
            return Ok(id.trust_domain().clone());
        }
        Self::parse(text)
    }

    /// The bare name, for instance `example.org`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a SPIFFE id without a path, for instance `spiffe://example.org`.
    pub fn id_string(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

pub(crate) fn is_trust_domain_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

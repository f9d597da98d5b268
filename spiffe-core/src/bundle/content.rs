//! What a bundle holds.
//!
//! Owns the plain types. Order is that of appending; which change raises the sequence number and what
//! may be removed is decided where bundles are changed (raft-store's apply).

use crate::authority::AuthorityKind;
use crate::time::Timestamp;
use crate::trust_domain::TrustDomain;

/// An X.509 authority as verifiers see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct X509Authority {
    /// The certificate in DER.
    pub certificate_der: Vec<u8>,
    /// Whether SVIDs that chain to it are to be replaced.
    pub tainted: bool,
}

/// A JWT authority as verifiers see it; a WIT authority looks the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtAuthority {
    /// The key id (`kid`).
    pub key_id: String,
    /// The public key as SubjectPublicKeyInfo in DER.
    pub public_key_der: Vec<u8>,
    /// When the key ends; `None` = not stated.
    pub expires_at: Option<Timestamp>,
    /// Whether tokens signed with it are to be replaced.
    pub tainted: bool,
}

/// The bundle of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// X.509 authorities in the order they were appended.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT authorities in the order they were appended.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// WIT authorities in the order they were appended: of the own bundle alone, and in no document.
    pub wit_authorities: Vec<JwtAuthority>,
    /// How often consumers should look, in seconds; 0 = not stated.
    pub refresh_hint_s: i64,
    /// Rises with every change.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle without any authority.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            wit_authorities: Vec::new(),
            refresh_hint_s: 0,
            sequence_number: 0,
        }
    }

    /// The keys of a kind; none of X.509, whose authorities are certificates.
    pub fn keys(&self, kind: AuthorityKind) -> &[JwtAuthority] {
        match kind {
            AuthorityKind::X509 => &[],
            AuthorityKind::Jwt => &self.jwt_authorities,
            AuthorityKind::Wit => &self.wit_authorities,
        }
    }
}

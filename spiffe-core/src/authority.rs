//! Signing authorities: a key with its certificate (X.509) or key id (JWT and WIT), in slots.
//!
//! Owns names and states; who moves them is `server/authority`, where they are kept is raft-store.
//! Slots and marks follow `spec/spire-semantics.md` 2.

use std::fmt;

use crate::time::Timestamp;

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorityKind {
    /// X.509-SVIDs; the authority is a CA certificate.
    X509,
    /// JWT-SVIDs; the authority is a public key with a key id.
    Jwt,
    /// WIT-SVIDs (workload identity tokens); as for JWT-SVIDs. Only where the feature flag is on.
    Wit,
}

impl AuthorityKind {
    /// All kinds, in the order in which they are looked after.
    pub const ALL: [Self; 3] = [Self::X509, Self::Jwt, Self::Wit];
}

/// The name of an authority: for X.509 the lower-case hex of its SubjectKeyId, for JWT and WIT the
/// key id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId(String);

impl AuthorityId {
    /// Wraps a name that was made by us or read from replicated state.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The X.509 form: lower-case hex of a SubjectKeyId.
    pub fn from_subject_key_id(key_id: &[u8]) -> Self {
        Self(key_id.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorityStatus {
    /// Published, does not sign yet.
    Prepared,
    /// Signs.
    Active,
    /// Signed once; still published so that what it signed verifies.
    Old,
    /// Withdrawn from the bundle by an operator, its private key destroyed. The name stays until its
    /// end, so that what became of it can be told.
    Revoked,
}

impl AuthorityStatus {
    /// Whether it signs now or may sign next, so that its private key is needed.
    pub fn may_sign(self) -> bool {
        match self {
            Self::Prepared | Self::Active => true,
            Self::Old | Self::Revoked => false,
        }
    }

    /// Whether verifiers are told of it.
    pub fn is_published(self) -> bool {
        match self {
            Self::Prepared | Self::Active | Self::Old => true,
            Self::Revoked => false,
        }
    }
}

/// A private key as it is replicated: sealed under a key-encryption key, never in plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// Which cluster key's KEK sealed it.
    pub kek_id: String,
    /// Version of the sealing format.
    pub version: u32,
    /// 96-bit nonce.
    pub nonce: Vec<u8>,
    /// AES-256-GCM ciphertext and tag of the PKCS#8 document.
    pub ciphertext: Vec<u8>,
}

impl SealedKey {
    /// What is left of a key that was destroyed: nothing that opens.
    pub fn destroyed() -> Self {
        Self { kek_id: String::new(), version: 0, nonce: Vec::new(), ciphertext: Vec::new() }
    }
}

/// One authority of the cluster-wide journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name.
    pub id: AuthorityId,
    /// What it signs.
    pub kind: AuthorityKind,
    /// Where it stands.
    pub status: AuthorityStatus,
    /// X.509: the CA certificate in DER. JWT and WIT: the public key as SubjectPublicKeyInfo in DER.
    pub public_der: Vec<u8>,
    /// X.509 below an upstream authority: the chain above the CA certificate, nearest first.
    pub upstream_chain: Vec<Vec<u8>>,
    /// The sealed private key; [`SealedKey::destroyed`] once it is revoked.
    pub sealed_key: SealedKey,
    /// When it was prepared; lifetimes of the rotation thresholds count from here, not from the
    /// backdated notBefore (SPIRE's rule).
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whether an operator marked it tainted.
    pub tainted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x509_authorities_are_named_by_lower_case_hex() {
        let id = AuthorityId::from_subject_key_id(&[0x0a, 0xff, 0x00]);
        assert_eq!(id.to_string(), "0aff00");
    }
}

//! The sealed form of a private key, and of other values that the cluster keeps, under the
//! cluster's key-encryption key.
//!
//! Owns the associated data, which ties a ciphertext to one cluster, one authority, one purpose and
//! one version of this format (a value: to its name and its own version): what is moved to another
//! row does not open. The cipher is raft-store's (`Kek`); plaintext leaves here only as a
//! [`Secret`].

use steeple_raft_store::{ClusterId, ClusterKeys, SealedName};
use steeple_spiffe_core::authority::{AuthorityKind, SealedKey};
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::{AuthorityId, Secret};

/// The version written today: PKCS#8 in DER under AES-256-GCM with the associated data below.
const VERSION: u32 = 1;

/// Keeps these ciphertexts apart from everything else that the same key seals.
const LABEL: &[u8] = b"steeple authority key\0";

/// The same for values that are no authority's key.
const VALUE_LABEL: &[u8] = b"steeple sealed value\0";

/// What a sealed key belongs to.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    /// The cluster whose journal holds it.
    pub cluster_id: ClusterId,
    /// What the key signs.
    pub kind: AuthorityKind,
    /// The authority's name.
    pub authority_id: &'a AuthorityId,
}

/// What a sealed value belongs to.
#[derive(Clone, Copy, Debug)]
pub struct ValueContext {
    /// The cluster that keeps it.
    pub cluster_id: ClusterId,
    /// Its name.
    pub name: SealedName,
    /// Its version: an older one does not open in place of a newer one.
    pub version: u64,
}

/// A private key cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealKeyError {
    /// This replica does not hold the cluster key that seals.
    #[error(
        "cluster key {kek_id}, which seals, is not held; put its line into the key file and send SIGHUP"
    )]
    NotHeld {
        /// Which key.
        kek_id: String,
    },
    /// The crypto library refused.
    #[error("seal private key")]
    Crypto,
}

/// A sealed key cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenKeyError {
    /// This replica holds no cluster key with that id, or another one under the same id.
    #[error("cluster key does not open {kek_id}")]
    Sealed {
        /// Which cluster key sealed it.
        kek_id: String,
    },
    /// Sealed by a newer version of this program.
    #[error("sealed key has version {version}, this program reads {VERSION}")]
    NewerVersion {
        /// Its version.
        version: u32,
    },
    /// What was sealed is no private key, or not that of the authority.
    #[error("sealed key of authority {0} does not fit its public half")]
    WrongKey(AuthorityId),
}

/// Seals a private key (PKCS#8 in DER) under the current cluster key.
pub fn seal_key(
    keys: &ClusterKeys,
    random: &dyn Random,
    context: &SealContext<'_>,
    pkcs8: &Secret,
) -> Result<SealedKey, SealKeyError> {
    seal_key_under(keys, &keys.current_id(), random, context, pkcs8)
}

/// Seals a private key (PKCS#8 in DER) under a cluster key.
pub fn seal_key_under(
    keys: &ClusterKeys,
    kek_id: &str,
    random: &dyn Random,
    context: &SealContext<'_>,
    pkcs8: &Secret,
) -> Result<SealedKey, SealKeyError> {
    seal(keys, kek_id, random, &associated_data(context, VERSION), pkcs8)
}

/// Opens a sealed key.
pub fn open_key(
    keys: &ClusterKeys,
    context: &SealContext<'_>,
    sealed: &SealedKey,
) -> Result<Secret, OpenKeyError> {
    open(keys, &associated_data(context, sealed.version), sealed)
}

/// Seals a value that the cluster keeps.
///
/// # Errors
///
/// [`SealKeyError`].
pub fn seal_value(
    keys: &ClusterKeys,
    kek_id: &str,
    random: &dyn Random,
    context: &ValueContext,
    value: &Secret,
) -> Result<SealedKey, SealKeyError> {
    seal(keys, kek_id, random, &value_associated_data(context, VERSION), value)
}

/// Opens a value that the cluster keeps.
///
/// # Errors
///
/// [`OpenKeyError`].
pub fn open_value(
    keys: &ClusterKeys,
    context: &ValueContext,
    sealed: &SealedKey,
) -> Result<Secret, OpenKeyError> {
    open(keys, &value_associated_data(context, sealed.version), sealed)
}

fn seal(
    keys: &ClusterKeys,
    kek_id: &str,
    random: &dyn Random,
    aad: &[u8],
    secret: &Secret,
) -> Result<SealedKey, SealKeyError> {
    let not_held = || SealKeyError::NotHeld { kek_id: kek_id.to_owned() };
    let kek = keys.kek(kek_id).ok_or_else(not_held)?;
    kek.seal(random, aad, secret).map_err(|_refused| SealKeyError::Crypto)
}

fn open(keys: &ClusterKeys, aad: &[u8], sealed: &SealedKey) -> Result<Secret, OpenKeyError> {
    if sealed.version != VERSION {
        return Err(OpenKeyError::NewerVersion { version: sealed.version });
    }
    let closed = || OpenKeyError::Sealed { kek_id: sealed.kek_id.clone() };
    let kek = keys.kek(&sealed.kek_id).ok_or_else(closed)?;
    kek.open(aad, sealed).map_err(|_refused| closed())
}

/// Every part has a fixed length.
fn value_associated_data(context: &ValueContext, version: u32) -> Vec<u8> {
    let mut aad = VALUE_LABEL.to_vec();
    aad.extend_from_slice(&version.to_be_bytes());
    aad.extend_from_slice(&context.cluster_id.0.to_be_bytes());
    aad.push(context.name.number());
    aad.extend_from_slice(&context.version.to_be_bytes());
    aad
}

/// Every part but the last has a fixed length, so that no two contexts share their bytes.
fn associated_data(context: &SealContext<'_>, version: u32) -> Vec<u8> {
    let purpose = match context.kind {
        AuthorityKind::X509 => 1u8,
        AuthorityKind::Jwt => 2u8,
        AuthorityKind::Wit => 3u8,
    };
    let mut aad = LABEL.to_vec();
    aad.extend_from_slice(&version.to_be_bytes());
    aad.extend_from_slice(&context.cluster_id.0.to_be_bytes());
    aad.push(purpose);
    aad.extend_from_slice(context.authority_id.as_str().as_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::random::SeededRandom;

    use super::*;

    fn context<'a>(cluster: u128, kind: AuthorityKind, id: &'a AuthorityId) -> SealContext<'a> {
        SealContext { cluster_id: ClusterId(cluster), kind, authority_id: id }
    }

    #[test]
    fn a_sealed_key_opens_only_where_it_belongs() {
        let random = SeededRandom::new(1);
        let (keys, _) = ClusterKeys::generate(&random).unwrap();
        let (others, _) = ClusterKeys::generate(&random).unwrap();
        let (id, other_id) = (AuthorityId::new("a"), AuthorityId::new("b"));
        let secret = Secret::new(b"private".to_vec());
        let here = context(7, AuthorityKind::X509, &id);
        let sealed = seal_key(&keys, &random, &here, &secret).unwrap();
        assert!(!sealed.ciphertext.windows(7).any(|part| part == b"private"));

        let opened = open_key(&keys, &here, &sealed).map(|secret| secret.expose().to_vec());
        assert_eq!(opened.as_deref(), Ok(&b"private"[..]));

        let elsewhere = [
            ("another cluster", &keys, context(8, AuthorityKind::X509, &id), sealed.clone()),
            ("another purpose", &keys, context(7, AuthorityKind::Jwt, &id), sealed.clone()),
            (
                "another authority",
                &keys,
                context(7, AuthorityKind::X509, &other_id),
                sealed.clone(),
            ),
            ("another cluster key", &others, here, sealed.clone()),
            ("a short nonce", &keys, here, SealedKey { nonce: vec![0; 11], ..sealed.clone() }),
        ];
        for (name, keys, context, sealed) in elsewhere {
            let error = open_key(keys, &context, &sealed).err();
            let kek_id = sealed.kek_id.clone();
            assert_eq!(error, Some(OpenKeyError::Sealed { kek_id }), "{name}");
        }
        let newer = SealedKey { version: 2, ..sealed };
        let error = open_key(&keys, &here, &newer).err();
        assert_eq!(error, Some(OpenKeyError::NewerVersion { version: 2 }));
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_at_its_version() {
        let random = SeededRandom::new(1);
        let (keys, _) = ClusterKeys::generate(&random).unwrap();
        let (cluster_id, name) = (ClusterId(7), SealedName::AcmeAccount);
        let here = ValueContext { cluster_id, name, version: 3 };
        let secret = Secret::new(b"private".to_vec());
        let sealed = seal_value(&keys, &keys.current_id(), &random, &here, &secret).unwrap();
        assert!(!sealed.ciphertext.windows(7).any(|part| part == b"private"));
        let opened = open_value(&keys, &here, &sealed).map(|secret| secret.expose().to_vec());
        assert_eq!(opened.as_deref(), Ok(&b"private"[..]));
        let elsewhere = [
            ("another cluster", ValueContext { cluster_id: ClusterId(8), ..here }),
            ("another name", ValueContext { name: SealedName::AcmeCertificate, ..here }),
            ("another version", ValueContext { version: 2, ..here }),
        ];
        for (what, context) in elsewhere {
            assert!(open_value(&keys, &context, &sealed).is_err(), "{what}");
        }
        let id = AuthorityId::new("a");
        let authority = context(7, AuthorityKind::X509, &id);
        assert!(open_key(&keys, &authority, &sealed).is_err(), "in place of an authority's key");
        let refused = seal_value(&keys, "unknown", &random, &here, &secret).err();
        assert_eq!(refused, Some(SealKeyError::NotHeld { kek_id: "unknown".to_owned() }));
    }
}

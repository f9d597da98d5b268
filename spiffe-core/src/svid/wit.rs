//! WIT-SVIDs: workload identity tokens.
//!
//! Owns the token in SPIRE's shape (`spec/spire-semantics.md` 5): a compact JWS as for JWT-SVIDs, of
//! type `wit+jwt`, without an audience; it confirms a key of its holder (`cnf`, RFC 7800), with which
//! the holder signs what it sends. Which algorithms go with which key follows SPIRE.

use serde_json::{Map, Value};

use super::jwt::{Algorithm, JwtError, Parts, sign_compact};
use crate::id::SpiffeId;
use crate::jwk::insert_public_key;
use crate::public_key::{PublicKey, check};
use crate::signer::Signer;
use crate::time::Timestamp;

/// The type in the header.
const TYPE: &str = "wit+jwt";

/// Why a key cannot be confirmed. Texts are SPIRE's where it has its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderKeyError {
    /// No public key on a NIST curve, and no RSA key of 2048 to 8192 bits.
    #[error("not a public key that can sign tokens")]
    Malformed,
    /// The key cannot sign with that algorithm.
    #[error("unsupported signing algorithm for {key} key: {algorithm}")]
    Algorithm {
        /// What the key is.
        key: &'static str,
        /// What was asked for.
        algorithm: String,
    },
}

/// The key that a token confirms, and the algorithm that its holder signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderKey {
    spki: Vec<u8>,
    algorithm: String,
}

impl HolderKey {
    /// Checks a key (SubjectPublicKeyInfo in DER) and the algorithm (RFC 7518, 3.1) for it.
    ///
    /// # Errors
    ///
    /// [`HolderKeyError`].
    pub fn new(spki: &[u8], algorithm: &str) -> Result<Self, HolderKeyError> {
        let key = PublicKey::from_spki(spki).map_err(|_why| HolderKeyError::Malformed)?;
        check(key).map_err(|_why| HolderKeyError::Malformed)?;
        let fits = Algorithm::from_name(algorithm).is_some_and(|known| known.fit(key).is_some());
        if !fits {
            let (key, algorithm) = (key.name(), algorithm.to_owned());
            return Err(HolderKeyError::Algorithm { key, algorithm });
        }
        Ok(Self { spki: spki.to_vec(), algorithm: algorithm.to_owned() })
    }
}

/// What goes into a token.
#[derive(Clone, Copy, Debug)]
pub struct WitClaims<'a> {
    /// Whom the token names.
    pub subject: &'a SpiffeId,
    /// The key it confirms.
    pub key: &'a HolderKey,
    /// When it was made; rounded down to a second.
    pub issued_at: Timestamp,
    /// When it ends; rounded down to a second.
    pub expires_at: Timestamp,
    /// The `iss` claim, if configured.
    pub issuer: Option<&'a str>,
}

/// Writes and signs a token.
///
/// # Errors
///
/// If the signer fails.
pub fn sign_wit_svid(
    signer: &dyn Signer,
    key_id: &str,
    claims: &WitClaims<'_>,
) -> Result<String, JwtError> {
    let mut jwk = Map::new();
    let HolderKey { spki, algorithm } = claims.key;
    insert_public_key(&mut jwk, None, Some(algorithm), spki).ok_or(JwtError::Malformed)?;
    // In alphabetical order, as Go writes maps; but the key in its own.
    let mut payload = Map::new();
    payload.insert("cnf".to_owned(), serde_json::json!({ "jwk": jwk }));
    payload.insert("exp".to_owned(), Value::from(claims.expires_at.unix_s()));
    payload.insert("iat".to_owned(), Value::from(claims.issued_at.unix_s()));
    if let Some(issuer) = claims.issuer {
        payload.insert("iss".to_owned(), Value::from(issuer));
    }
    payload.insert("sub".to_owned(), Value::from(claims.subject.to_string()));
    Ok(sign_compact(signer, key_id, TYPE, payload)?)
}

/// A token as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitSvid {
    /// Whom the token names.
    pub id: SpiffeId,
    /// For whom it is; SPIRE's have none.
    pub audience: Vec<String>,
    /// From when on it holds, if it says so.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Which key signed it.
    pub key_id: String,
}

impl WitSvid {
    /// Reads a token **without** checking its signature or lifetime: for those that were signed here.
    ///
    /// # Errors
    ///
    /// If it is no token of this kind.
    pub fn parse_insecure(token: &str) -> Result<Self, JwtError> {
        let Parts { svid, not_before, .. } = Parts::read(token, &[TYPE])?;
        let (id, audience, expires_at, key_id) =
            (svid.id, svid.audience, svid.expires_at, svid.key_id);
        Ok(Self { id, audience, not_before, expires_at, key_id })
    }
}

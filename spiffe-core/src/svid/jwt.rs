//! JWT-SVIDs.
//!
//! Owns the token in SPIRE's shape (`spec/spire-semantics.md` 5): compact JWS, header `alg`, `kid`,
//! `typ`, claims `aud` (always a list), `exp`, `iat`, `sub`, and `iss` and `jti` where asked for. Reads
//! RS, PS and ES with 256, 384 and 512, never `none` or a shared secret. Texts of refusals are
//! SPIRE's. Lifetimes are the caller's; keys come from bundles.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::bundle::Bundle;
use crate::id::{SpiffeId, SpiffeIdError};
use crate::json;
use crate::key::KeyType;
use crate::limits::JWT_BYTES_MAX;
use crate::public_key::{Curve, PublicKey};
use crate::signer::{SignError, Signer};
use crate::time::Timestamp;
use crate::trust_domain::TrustDomain;

/// How far the clocks of signer and verifier may differ (SPIRE: its library's default).
const LEEWAY: Duration = Duration::from_secs(60);

/// The types that a JWT-SVID's header may have (JWT-SVID, section 2.3).
const TYPES: [&str; 2] = ["JWT", "JOSE"];

/// Why a token cannot be written or is refused. Texts are SPIRE's where it has its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// The signer failed.
    #[error("sign token")]
    Sign(#[from] SignError),
    /// No audience is left once empty ones are dropped.
    #[error("audience is required")]
    NoAudience,
    /// Not a compact JWS of a known algorithm with a JSON header and JSON claims.
    #[error("unable to parse JWT token")]
    Malformed,
    /// The header's type is another kind of token's.
    #[error("token header type not supported: {0:?}")]
    WrongType(String),
    /// The header names no key.
    #[error("token header missing key id")]
    NoKeyId,
    /// There is no subject.
    #[error("token missing subject claim")]
    NoSubject,
    /// There is no expiry.
    #[error("token missing exp claim")]
    NoExpiry,
    /// The subject is no SPIFFE id. (The slip of the pen is SPIRE's.)
    #[error("token has in invalid subject claim: {0}")]
    BadSubject(#[from] SpiffeIdError),
    /// There is no bundle for the subject's trust domain.
    #[error("no keys found for trust domain {0:?}")]
    NoBundle(String),
    /// The bundle has no key of that id.
    #[error("public key {key_id:?} not found in trust domain {trust_domain:?}")]
    NoKey {
        /// The key id of the header.
        key_id: String,
        /// The trust domain of the subject.
        trust_domain: String,
    },
    /// The signature is not the key's, or the key does not fit the algorithm.
    #[error("token signature is invalid")]
    BadSignature,
    /// None of the token's audiences is one that the verifier goes by.
    #[error("expected audience in {} (audience={})", quoted(.expected), quoted(.got))]
    WrongAudience {
        /// The verifier's.
        expected: Vec<String>,
        /// The token's.
        got: Vec<String>,
    },
    /// The token has ended.
    #[error("token has expired")]
    Expired,
    /// The token does not hold yet (`nbf`).
    #[error("token not valid yet (nbf)")]
    NotYetValid,
    /// The token was made in the future (`iat`).
    #[error("token issued in the future (iat)")]
    IssuedInTheFuture,
}

/// What goes into a token.
#[derive(Clone, Copy, Debug)]
pub struct JwtClaims<'a> {
    /// Whom the token names.
    pub subject: &'a SpiffeId,
    /// For whom it is; empty strings are dropped, one must remain.
    pub audience: &'a [String],
    /// When it was made; rounded down to a second.
    pub issued_at: Timestamp,
    /// When it ends; rounded down to a second.
    pub expires_at: Timestamp,
    /// The `iss` claim, if configured.
    pub issuer: Option<&'a str>,
    /// The `jti` claim, if the entry asks for one.
    pub jwt_id: Option<&'a str>,
}

/// Writes and signs a token.
pub fn sign_jwt_svid(
    signer: &dyn Signer,
    key_id: &str,
    claims: &JwtClaims<'_>,
) -> Result<String, JwtError> {
    let audience: Vec<&str> =
        claims.audience.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    // In alphabetical order, as Go writes maps.
    let mut payload = Map::new();
    payload.insert("aud".to_owned(), Value::from(audience));
    payload.insert("exp".to_owned(), Value::from(claims.expires_at.unix_s()));
    payload.insert("iat".to_owned(), Value::from(claims.issued_at.unix_s()));
    if let Some(issuer) = claims.issuer {
        payload.insert("iss".to_owned(), Value::from(issuer));
    }
    if let Some(jwt_id) = claims.jwt_id {
        payload.insert("jti".to_owned(), Value::from(jwt_id));
    }
    payload.insert("sub".to_owned(), Value::from(claims.subject.to_string()));
    Ok(sign_compact(signer, key_id, "JWT", payload)?)
}

/// Writes and signs a compact JWS; `kind` is the type in its header.
pub(super) fn sign_compact(
    signer: &dyn Signer,
    key_id: &str,
    kind: &str,
    payload: Map<String, Value>,
) -> Result<String, SignError> {
    let header = serde_json::json!({
        "alg": signing_algorithm(signer.key_type()),
        "kid": key_id,
        "typ": kind,
    });
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(Value::Object(payload).to_string(), &mut token);
    let signature = signer.sign_jws(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// A token as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvid {
    /// Whom the token names.
    pub id: SpiffeId,
    /// For whom it is.
    pub audience: Vec<String>,
    /// When it was made.
    pub issued_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Which key signed it.
    pub key_id: String,
    /// All claims: the payload as it stood in the token.
    pub claims_json: String,
    /// The token itself.
    pub token: String,
}

impl JwtSvid {
    /// Reads a token **without** checking its signature, lifetime or audience: for tokens that came
    /// over an authenticated connection from the server that signed them.
    pub fn parse_insecure(token: &str) -> Result<Self, JwtError> {
        Ok(Parts::read(token, &TYPES)?.svid)
    }

    /// Reads a token and checks it: signature by a key of the subject's trust domain, then audience
    /// (one of `audience` must be in the token; an empty list asks for none), then times with a
    /// leeway of one minute.
    pub fn validate(
        token: &str,
        audience: &[String],
        bundles: &dyn Fn(&TrustDomain) -> Option<Arc<Bundle>>,
        now: Timestamp,
    ) -> Result<Self, JwtError> {
        let parts = Parts::read(token, &TYPES)?;
        parts.check_signature(bundles)?;
        parts.check_audience(audience)?;
        parts.check_times(now)?;
        Ok(parts.svid)
    }
}

/// A token taken apart.
pub(super) struct Parts<'a> {
    pub(super) svid: JwtSvid,
    algorithm: Algorithm,
    pub(super) not_before: Option<Timestamp>,
    /// Header and payload as they were signed.
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// Takes a token apart whose header has one of `types`, or none at all.
    pub(super) fn read(token: &'a str, types: &[&str]) -> Result<Self, JwtError> {
        if token.len() > JWT_BYTES_MAX {
            return Err(JwtError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let (algorithm, key_id) = read_header(&object(&decode(header)?)?, types)?;
        let signature = decode(signature)?;
        let payload = decode(payload)?;
        let claims = object(&payload)?;

        let subject = match claims.get("sub") {
            None | Some(Value::Null) => return Err(JwtError::NoSubject),
            Some(value) => value.as_str().ok_or(JwtError::Malformed)?,
        };
        if subject.is_empty() {
            return Err(JwtError::NoSubject);
        }
        let svid = JwtSvid {
            audience: read_audience(claims.get("aud"))?,
            issued_at: read_time(claims.get("iat"))?,
            expires_at: read_time(claims.get("exp"))?.ok_or(JwtError::NoExpiry)?,
            id: SpiffeId::parse(subject)?,
            key_id,
            claims_json: String::from_utf8(payload.clone())
                .map_err(|_not_text| JwtError::Malformed)?,
            token: token.to_owned(),
        };
        let not_before = read_time(claims.get("nbf"))?;
        Ok(Self { svid, algorithm, not_before, signed, signature })
    }

    fn check_signature(
        &self,
        bundles: &dyn Fn(&TrustDomain) -> Option<Arc<Bundle>>,
    ) -> Result<(), JwtError> {
        let trust_domain = self.svid.id.trust_domain();
        let bundle =
            bundles(trust_domain).ok_or_else(|| JwtError::NoBundle(trust_domain.to_string()))?;
        let key_id = &self.svid.key_id;
        let authority = bundle.jwt_authorities.iter().find(|key| key.key_id == *key_id);
        // A tainted key still verifies: its tokens are replaced, not cut off.
        let authority = authority.ok_or_else(|| JwtError::NoKey {
            key_id: key_id.clone(),
            trust_domain: trust_domain.to_string(),
        })?;
        let key = PublicKey::from_spki(&authority.public_key_der)
            .map_err(|_malformed| JwtError::BadSignature)?;
        let (verification, bits) = self.algorithm.fit(key).ok_or(JwtError::BadSignature)?;
        UnparsedPublicKey::new(verification, bits)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_unspecified| JwtError::BadSignature)
    }

    fn check_audience(&self, expected: &[String]) -> Result<(), JwtError> {
        let got = &self.svid.audience;
        if expected.is_empty() || expected.iter().any(|name| got.contains(name)) {
            return Ok(());
        }
        Err(JwtError::WrongAudience { expected: expected.to_vec(), got: got.clone() })
    }

    fn check_times(&self, now: Timestamp) -> Result<(), JwtError> {
        let (early, late) = (now.minus(LEEWAY), now.plus(LEEWAY));
        if self.not_before.is_some_and(|at| late < at) {
            return Err(JwtError::NotYetValid);
        }
        if early > self.svid.expires_at {
            return Err(JwtError::Expired);
        }
        if self.svid.issued_at.is_some_and(|at| late < at) {
            return Err(JwtError::IssuedInTheFuture);
        }
        Ok(())
    }
}

/// The algorithms that a JWT-SVID may have (JWT-SVID, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            _ => return None,
        })
    }

    /// How the key verifies signatures of this algorithm, and its bits; `None` when it cannot.
    pub(super) fn fit(
        self,
        key: PublicKey<'_>,
    ) -> Option<(&'static dyn VerificationAlgorithm, &[u8])> {
        let (curve, verification): (_, &'static dyn VerificationAlgorithm) = match self {
            Self::Rs256 => (None, &RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => (None, &RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => (None, &RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => (None, &RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => (None, &RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => (None, &RSA_PSS_2048_8192_SHA512),
            Self::Es256 => (Some(Curve::P256), &ECDSA_P256_SHA256_FIXED),
            Self::Es384 => (Some(Curve::P384), &ECDSA_P384_SHA384_FIXED),
            Self::Es512 => (Some(Curve::P521), &ECDSA_P521_SHA512_FIXED),
        };
        match (key, curve) {
            (PublicKey::Rsa { pkcs1, .. }, None) => Some((verification, pkcs1)),
            (PublicKey::Ec { curve, point }, Some(wanted)) if curve == wanted => {
                Some((verification, point))
            }
            (PublicKey::Rsa { .. } | PublicKey::Ec { .. }, _) => None,
        }
    }
}

fn signing_algorithm(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcP256 => "ES256",
        KeyType::EcP384 => "ES384",
        KeyType::EcP521 => "ES512",
        KeyType::Rsa2048 | KeyType::Rsa4096 => "RS256",
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_invalid| JwtError::Malformed)
}

fn object(json_text: &[u8]) -> Result<Map<String, Value>, JwtError> {
    match json::parse(json_text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) | Err(_) => Err(JwtError::Malformed),
    }
}

/// Algorithm and key id of a header.
fn read_header(
    header: &Map<String, Value>,
    types: &[&str],
) -> Result<(Algorithm, String), JwtError> {
    // Extensions that a reader must understand (RFC 7515, 4.1.11): we understand none.
    if header.contains_key("crit") {
        return Err(JwtError::Malformed);
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
    let algorithm = algorithm.ok_or(JwtError::Malformed)?;
    match header.get("typ") {
        None => {}
        Some(Value::String(kind)) if types.contains(&kind.as_str()) => {}
        Some(Value::String(kind)) => return Err(JwtError::WrongType(kind.clone())),
        Some(_) => return Err(JwtError::Malformed),
    }
    match header.get("kid") {
        Some(Value::String(key_id)) if !key_id.is_empty() => Ok((algorithm, key_id.clone())),
        None | Some(Value::String(_) | Value::Null) => Err(JwtError::NoKeyId),
        Some(_) => Err(JwtError::Malformed),
    }
}

/// `aud` is a text or a list of texts (RFC 7519, 4.1.3).
fn read_audience(claim: Option<&Value>) -> Result<Vec<String>, JwtError> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(JwtError::Malformed);
    match claim {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(text).collect(),
        Some(value) => Ok(vec![text(value)?]),
    }
}

/// A NumericDate (RFC 7519, 2); fractions of a second are dropped.
fn read_time(claim: Option<&Value>) -> Result<Option<Timestamp>, JwtError> {
    match claim {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            // A number beyond 64 bits saturates, and so does the conversion to milliseconds.
            let whole = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
            whole.map(|unix_s| Some(Timestamp::from_unix_s(unix_s))).ok_or(JwtError::Malformed)
        }
    }
}

/// A list of texts as Go prints it with `%q`.
fn quoted(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

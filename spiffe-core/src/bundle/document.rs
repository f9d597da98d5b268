//! The SPIFFE bundle document: a JSON Web Key Set that carries a bundle.
//!
//! Owns both directions. Writing follows SPIRE byte for byte (order of members, four spaces of
//! indent). Reading follows the SPIFFE Trust Domain and Bundle standard: a key without `use` or with an
//! unknown one is ignored; a key of a known use that is not well-formed fails the whole document, as
//! in SPIRE, since a bundle that silently lost an authority would cut off its SVIDs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Bundle, JwtAuthority, X509Authority};
use crate::json;
use crate::jwk::insert_public_key;
use crate::limits::BUNDLE_DOCUMENT_BYTES_MAX;
use crate::public_key::{self, Curve};
use crate::svid::x509::certificate_facts;
use crate::trust_domain::TrustDomain;

/// Which document is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DocumentOptions {
    /// Write `spiffe_sequence` (bundle endpoint, `bundle show`).
    pub include_sequence: bool,
    /// Write a plain JSON Web Key Set for verifiers of tokens (Workload API): JWT keys alone,
    /// without `use` and without members of SPIFFE.
    pub jwks_only: bool,
}

/// Why a bundle document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than [`BUNDLE_DOCUMENT_BYTES_MAX`].
    #[error("bundle document is longer than {BUNDLE_DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or an object names a member twice.
    #[error("malformed bundle document: {0}")]
    Json(String),
    /// A member has the wrong type.
    #[error("malformed bundle document: {0}")]
    BadMember(&'static str),
    /// There is no `keys` member.
    #[error("no authorities found")]
    NoKeys,
    /// An X.509 key carries no certificate or more than one.
    #[error("expected a single certificate in x509-svid entry {index}; got {count}")]
    CertificateCount {
        /// Its place in `keys`, from 0.
        index: usize,
        /// How many it carries.
        count: usize,
    },
    /// A JWT key has no key id.
    #[error("missing key ID in jwt-svid entry {index}")]
    NoKeyId {
        /// Its place in `keys`, from 0.
        index: usize,
    },
    /// A key is not well-formed.
    #[error("{usage} entry {index}: {cause}")]
    BadKey {
        /// Its use.
        usage: &'static str,
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong.
        cause: KeyError,
    },
}

/// What is wrong with one key of a bundle document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `x5c` is not base64 of a certificate in DER.
    #[error("malformed certificate")]
    BadCertificate,
    /// The certificate is no CA.
    #[error("certificate is not a CA")]
    NotCa,
    /// The certificate's key is another one than the members say.
    #[error("key and certificate do not match")]
    Mismatch,
    /// Two different JWT keys have the same key id.
    #[error("key ID is used twice")]
    DuplicateKeyId,
    /// `kty` or `crv` names no known kind of key.
    #[error("unsupported key type")]
    UnsupportedType,
    /// The members of the key are missing, malformed or no valid key.
    #[error("malformed key")]
    BadKey,
}

/// Writes the document. Authorities whose key is neither RSA nor on a NIST curve cannot be
/// expressed for verifiers and are left out.
pub fn to_json(bundle: &Bundle, options: DocumentOptions) -> String {
    let mut keys = Vec::new();
    if !options.jwks_only {
        keys.extend(bundle.x509_authorities.iter().filter_map(x509_jwk));
    }
    let with_use = !options.jwks_only;
    keys.extend(bundle.jwt_authorities.iter().filter_map(|key| jwt_jwk(key, with_use)));

    let mut document = Map::new();
    document.insert("keys".to_owned(), Value::Array(keys));
    if options.include_sequence && !options.jwks_only && bundle.sequence_number != 0 {
        document.insert("spiffe_sequence".to_owned(), bundle.sequence_number.into());
    }
    if !options.jwks_only && bundle.refresh_hint_s > 0 {
        document.insert("spiffe_refresh_hint".to_owned(), bundle.refresh_hint_s.into());
    }
    indented(&Value::Object(document))
}

/// Reads a document.
pub fn from_json(trust_domain: TrustDomain, text: &str) -> Result<Bundle, DocumentError> {
    if text.len() > BUNDLE_DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLong);
    }
    let document =
        json::parse(text.as_bytes()).map_err(|error| DocumentError::Json(error.to_string()))?;
    let document = document.as_object().ok_or(DocumentError::BadMember("not an object"))?;
    let keys = match document.get("keys") {
        None | Some(Value::Null) => return Err(DocumentError::NoKeys),
        Some(value) => value.as_array().ok_or(DocumentError::BadMember("keys is not a list"))?,
    };
    let mut bundle = Bundle::empty(trust_domain);
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_object().ok_or(DocumentError::BadMember("a key is not an object"))?;
        match key.get("use").and_then(Value::as_str) {
            Some("x509-svid") => add_x509(&mut bundle, index, key)?,
            Some("jwt-svid") => add_jwt(&mut bundle, index, key)?,
            // Not a key for us: the standard wants such keys ignored.
            Some(_) | None => {}
        }
    }
    let number = |name: &'static str| match document.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or(DocumentError::BadMember(name)),
    };
    bundle.sequence_number = number("spiffe_sequence")?;
    bundle.refresh_hint_s = i64::try_from(number("spiffe_refresh_hint")?)
        .map_err(|_range| DocumentError::BadMember("spiffe_refresh_hint"))?;
    Ok(bundle)
}

fn x509_jwk(authority: &X509Authority) -> Option<Value> {
    let facts = certificate_facts(&authority.certificate_der).ok()?;
    let mut jwk = Map::new();
    jwk.insert("use".to_owned(), "x509-svid".into());
    insert_public_key(&mut jwk, None, None, &facts.spki)?;
    let certificate = STANDARD.encode(&authority.certificate_der);
    jwk.insert("x5c".to_owned(), vec![certificate].into());
    Some(Value::Object(jwk))
}

fn jwt_jwk(authority: &JwtAuthority, with_use: bool) -> Option<Value> {
    let mut jwk = Map::new();
    if with_use {
        jwk.insert("use".to_owned(), "jwt-svid".into());
    }
    insert_public_key(&mut jwk, Some(&authority.key_id), None, &authority.public_key_der)?;
    Some(Value::Object(jwk))
}

fn indented(document: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    document.serialize(&mut serializer).expect("a tree of plain values goes into memory");
    String::from_utf8(out).expect("JSON is text")
}

fn add_x509(
    bundle: &mut Bundle,
    index: usize,
    key: &Map<String, Value>,
) -> Result<(), DocumentError> {
    let bad = |cause| DocumentError::BadKey { usage: "x509-svid", index, cause };
    let certificates = match key.get("x5c") {
        None => &[][..],
        Some(value) => value.as_array().ok_or(bad(KeyError::BadCertificate))?,
    };
    let [certificate] = certificates else {
        return Err(DocumentError::CertificateCount { index, count: certificates.len() });
    };
    let certificate_der = read_certificate(key, certificate).map_err(bad)?;
    let authority = X509Authority { certificate_der, tainted: false };
    if !bundle.x509_authorities.contains(&authority) {
        bundle.x509_authorities.push(authority);
    }
    Ok(())
}

/// The certificate in DER, if it is a CA's and the members of the key say the same key.
fn read_certificate(key: &Map<String, Value>, certificate: &Value) -> Result<Vec<u8>, KeyError> {
    let base64 = certificate.as_str().ok_or(KeyError::BadCertificate)?;
    let der = STANDARD.decode(base64).map_err(|_invalid| KeyError::BadCertificate)?;
    let facts = certificate_facts(&der).map_err(|_malformed| KeyError::BadCertificate)?;
    if !facts.is_ca {
        return Err(KeyError::NotCa);
    }
    if public_key::split_spki(&read_key(key)?) != public_key::split_spki(&facts.spki) {
        return Err(KeyError::Mismatch);
    }
    Ok(der)
}

fn add_jwt(
    bundle: &mut Bundle,
    index: usize,
    key: &Map<String, Value>,
) -> Result<(), DocumentError> {
    let bad = |cause| DocumentError::BadKey { usage: "jwt-svid", index, cause };
    let key_id = match key.get("kid") {
        Some(Value::String(key_id)) if !key_id.is_empty() => key_id.clone(),
        Some(_) | None => return Err(DocumentError::NoKeyId { index }),
    };
    let public_key_der = read_key(key).map_err(bad)?;
    let known = bundle.jwt_authorities.iter().find(|known| known.key_id == key_id);
    match known {
        Some(known) if known.public_key_der == public_key_der => Ok(()),
        Some(_) => Err(bad(KeyError::DuplicateKeyId)),
        None => {
            let authority =
                JwtAuthority { key_id, public_key_der, expires_at: None, tainted: false };
            bundle.jwt_authorities.push(authority);
            Ok(())
        }
    }
}

/// The SubjectPublicKeyInfo of a key's members.
fn read_key(key: &Map<String, Value>) -> Result<Vec<u8>, KeyError> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let number = |name: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text(name).ok_or(KeyError::BadKey)?);
        bytes.map_err(|_invalid| KeyError::BadKey)
    };
    let spki = match text("kty") {
        Some("EC") => {
            let curve = text("crv").and_then(Curve::from_jwk_name);
            let curve = curve.ok_or(KeyError::UnsupportedType)?;
            public_key::ec_spki(curve, &number("x")?, &number("y")?)
        }
        Some("RSA") => public_key::rsa_spki(&number("n")?, &number("e")?),
        Some(_) | None => return Err(KeyError::UnsupportedType),
    };
    spki.map_err(|_malformed| KeyError::BadKey)
}

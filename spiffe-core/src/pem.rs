//! PEM text around certificates and private keys.
//!
//! Owns the armour only. Files that mix kinds are refused rather than filtered, as SPIRE does: a
//! private key in a bundle file is an accident worth stopping for. Blocks of kinds that nobody here
//! knows are skipped: OpenSSL writes `EC PARAMETERS` before a key that repeats them.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

use crate::key::Secret;
use crate::signer::{LocalSigner, SignError, rsa_rejected};

/// The kinds of private keys that are read.
const PRIVATE_KEYS: &str = "[\"PRIVATE KEY\" \"RSA PRIVATE KEY\" \"EC PRIVATE KEY\"]";

/// Why a PEM text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no block.
    #[error("no PEM blocks")]
    Empty,
    /// The armour or its base64 is broken.
    #[error("malformed PEM: {0}")]
    Malformed(String),
    /// A block of another kind than the one asked for (SPIRE's text).
    #[error("expected block type {expected}; got \"{got}\"")]
    WrongKind {
        /// What was asked for: one kind in quotes, or a list of them as Go prints it.
        expected: &'static str,
        /// The label of the block that stands there.
        got: &'static str,
    },
    /// Several private keys in one text (SPIRE's text).
    #[error("expected 1 PEM blocks; got {0}")]
    TooMany(usize),
    /// The block is no private key of a known type.
    #[error("private key is malformed or of an unsupported type")]
    BadPrivateKey,
    /// A key that is too weak, or of a length that is not known.
    #[error(transparent)]
    Key(SignError),
}

/// Certificates, one block after the other.
pub fn encode_certificates(ders: &[Vec<u8>]) -> String {
    ders.iter().map(|der| armour("CERTIFICATE", der)).collect()
}

/// A certificate request (in DER) as a `CERTIFICATE REQUEST` block.
pub fn encode_request(der: &[u8]) -> String {
    armour("CERTIFICATE REQUEST", der)
}

/// Reads a text of one or more certificates; their DER is not parsed.
pub fn decode_certificates(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let blocks = decode(text)?;
    let take = |(kind, der): (SectionKind, Vec<u8>)| {
        let fits = matches!(kind, SectionKind::Certificate);
        if fits { Ok(der) } else { Err(wrong_kind("\"CERTIFICATE\"", &kind)) }
    };
    blocks.into_iter().map(take).collect()
}

/// A private key (PKCS#8 in DER) as a `PRIVATE KEY` block.
pub fn encode_private_key(pkcs8: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(armour("PRIVATE KEY", pkcs8))
}

/// Reads one private key in PKCS#8, SEC 1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`) form;
/// returns it as PKCS#8 in DER.
pub fn decode_private_key(text: &str) -> Result<Secret, PemError> {
    let mut blocks = decode(text)?;
    let count = blocks.len();
    let Some((kind, der)) = blocks.pop() else { return Err(PemError::Empty) };
    if count > 1 {
        return Err(PemError::TooMany(count));
    }
    let der = Secret::new(der);
    let pkcs8 = if matches!(kind, SectionKind::PrivateKey) {
        der
    } else if matches!(kind, SectionKind::EcPrivateKey) {
        sec1_to_pkcs8(der.expose())?
    } else if matches!(kind, SectionKind::RsaPrivateKey) {
        pkcs1_to_pkcs8(der.expose())?
    } else {
        return Err(wrong_kind(PRIVATE_KEYS, &kind));
    };
    LocalSigner::from_pkcs8(pkcs8.expose()).map_err(key_rejected)?;
    Ok(pkcs8)
}

fn key_rejected(rejected: SignError) -> PemError {
    match rejected {
        SignError::WeakRsa | SignError::RsaLength(_) => PemError::Key(rejected),
        SignError::Generate | SignError::BadPrivateKey | SignError::Sign => PemError::BadPrivateKey,
    }
}

fn decode(text: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, PemError> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
    let blocks: Result<Vec<_>, _> = sections.collect();
    let blocks = blocks.map_err(|error| PemError::Malformed(error.to_string()))?;
    if blocks.is_empty() { Err(PemError::Empty) } else { Ok(blocks) }
}

fn wrong_kind(expected: &'static str, got: &SectionKind) -> PemError {
    PemError::WrongKind { expected, got: label(got) }
}

/// What stands behind `BEGIN`.
fn label(kind: &SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "CERTIFICATE",
        SectionKind::PublicKey => "PUBLIC KEY",
        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
        SectionKind::PrivateKey => "PRIVATE KEY",
        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
        SectionKind::Crl => "X509 CRL",
        SectionKind::Csr => "CERTIFICATE REQUEST",
        SectionKind::EchConfigList => "ECHCONFIG",
        // The library may learn more kinds.
        _ => "unknown",
    }
}

fn armour(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so that any index is a character's edge.
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn sec1_to_pkcs8(der: &[u8]) -> Result<Secret, PemError> {
    let algorithms = [
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
        &ECDSA_P521_SHA512_ASN1_SIGNING,
    ];
    let pair = algorithms
        .into_iter()
        .find_map(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok())
        .ok_or(PemError::BadPrivateKey)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(|_unspecified| PemError::BadPrivateKey)?;
    Ok(Secret::new(pkcs8.as_ref().to_vec()))
}

fn pkcs1_to_pkcs8(der: &[u8]) -> Result<Secret, PemError> {
    let pair = rsa::KeyPair::from_der(der).map_err(|error| key_rejected(rsa_rejected(error)))?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_unspecified| PemError::BadPrivateKey)?;
    Ok(Secret::new(pkcs8.as_ref().to_vec()))
}

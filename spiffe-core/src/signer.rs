//! Keys that sign.
//!
//! Owns the [`Signer`] that certificate and token writers ask, and the one that keeps its key in
//! this process. Who owns a key, how it is sealed and when it may sign is `server/authority`.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom as AwsRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256,
};

use crate::key::{KeyType, Secret};

/// Something that holds a private key and signs with it.
///
/// Hash and padding follow from the key type: P-256 signs SHA-256, P-384 signs SHA-384, P-521
/// signs SHA-512, RSA signs SHA-256 with PKCS#1 v1.5 padding, as SPIRE's CA keys do.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The type of the key.
    fn key_type(&self) -> KeyType;

    /// The public half as SubjectPublicKeyInfo in DER.
    fn public_key_spki(&self) -> &[u8];

    /// Signs as X.509 wants it: ECDSA signatures are a DER sequence of r and s.
    fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Signs as JWS wants it: ECDSA signatures are r and s, each at full width.
    fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A key cannot be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The crypto library refused to make a key.
    #[error("generate private key")]
    Generate,
    /// The bytes are no private key of a known [`KeyType`].
    #[error("private key is malformed or of an unsupported type")]
    BadPrivateKey,
    /// An RSA key that no verifier should believe.
    #[error(
        "an RSA key of less than 2048 bits is too weak; use ec-p256, ec-p384, rsa-2048 or rsa-4096"
    )]
    WeakRsa,
    /// An RSA key of a length that is not known.
    #[error("an RSA key of {0} bits is not supported; use rsa-2048, rsa-4096, ec-p256 or ec-p384")]
    RsaLength(usize),
    /// The crypto library refused to sign.
    #[error("sign with private key")]
    Sign,
}

/// A signer whose key lives in this process. The crypto library wipes it when it is dropped.
pub struct LocalSigner {
    key_type: KeyType,
    pair: Pair,
    public_key_spki: Vec<u8>,
}

enum Pair {
    /// The library ties the signature's form to the pair, hence two pairs of one key.
    Ec {
        der: EcdsaKeyPair,
        fixed: EcdsaKeyPair,
    },
    Rsa(Box<rsa::KeyPair>),
}

impl LocalSigner {
    /// Makes a new key; also returns it as PKCS#8 in DER. RSA keys take up to a second: callers in
    /// async code do this on a blocking thread.
    pub fn generate(key_type: KeyType) -> Result<(Self, Secret), SignError> {
        let pkcs8 = match key_type {
            KeyType::EcP256 => generate_ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcP384 => generate_ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::EcP521 => generate_ec(&ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyType::Rsa2048 => generate_rsa(rsa::KeySize::Rsa2048),
            KeyType::Rsa4096 => generate_rsa(rsa::KeySize::Rsa4096),
        }?;
        Ok((Self::from_pkcs8(pkcs8.expose())?, pkcs8))
    }

    /// Reads a key from PKCS#8 in DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        let p256 = (&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING);
        if let Some(pair) = read_ec(p256.0, p256.1, der) {
            return Self::new(KeyType::EcP256, pair);
        }
        let p384 = (&ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING);
        if let Some(pair) = read_ec(p384.0, p384.1, der) {
            return Self::new(KeyType::EcP384, pair);
        }
        let p521 = (&ECDSA_P521_SHA512_ASN1_SIGNING, &ECDSA_P521_SHA512_FIXED_SIGNING);
        if let Some(pair) = read_ec(p521.0, p521.1, der) {
            return Self::new(KeyType::EcP521, pair);
        }
        let pair = rsa::KeyPair::from_pkcs8(der).map_err(rsa_rejected)?;
        let key_type = match pair.public_modulus_len() {
            256 => KeyType::Rsa2048,
            512 => KeyType::Rsa4096,
            bytes => return Err(SignError::RsaLength(bytes * 8)),
        };
        Self::new(key_type, Pair::Rsa(Box::new(pair)))
    }

    fn new(key_type: KeyType, pair: Pair) -> Result<Self, SignError> {
        let spki: Result<PublicKeyX509Der<'_>, _> = match &pair {
            Pair::Ec { der, .. } => der.public_key().as_der(),
            Pair::Rsa(pair) => pair.public_key().as_der(),
        };
        let spki = spki.map_err(|_unspecified| SignError::BadPrivateKey)?;
        let public_key_spki = spki.as_ref().to_vec();
        Ok(Self { key_type, pair, public_key_spki })
    }
}

/// Why the library takes no RSA key.
pub(crate) fn rsa_rejected(rejected: KeyRejected) -> SignError {
    // Its word for keys below 2048 bits.
    match rejected.to_string().as_str() {
        "TooSmall" => SignError::WeakRsa,
        _ => SignError::BadPrivateKey,
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner").field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

impl Signer for LocalSigner {
    fn key_type(&self) -> KeyType {
        self.key_type
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.public_key_spki
    }

    fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ec { der, .. } => sign_ec(der, message),
            Pair::Rsa(pair) => sign_rsa(pair, message),
        }
    }

    fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ec { fixed, .. } => sign_ec(fixed, message),
            Pair::Rsa(pair) => sign_rsa(pair, message),
        }
    }
}

fn generate_ec(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Secret, SignError> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &AwsRandom::new())
        .map_err(|_unspecified| SignError::Generate)?;
    Ok(Secret::new(pkcs8.as_ref().to_vec()))
}

fn generate_rsa(size: rsa::KeySize) -> Result<Secret, SignError> {
    let pair = rsa::KeyPair::generate(size).map_err(|_unspecified| SignError::Generate)?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_unspecified| SignError::Generate)?;
    Ok(Secret::new(pkcs8.as_ref().to_vec()))
}

fn read_ec(
    der: &'static EcdsaSigningAlgorithm,
    fixed: &'static EcdsaSigningAlgorithm,
    pkcs8: &[u8],
) -> Option<Pair> {
    let der = EcdsaKeyPair::from_pkcs8(der, pkcs8).ok()?;
    let fixed = EcdsaKeyPair::from_pkcs8(fixed, pkcs8).ok()?;
    Some(Pair::Ec { der, fixed })
}

fn sign_ec(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let signature =
        pair.sign(&AwsRandom::new(), message).map_err(|_unspecified| SignError::Sign)?;
    Ok(signature.as_ref().to_vec())
}

fn sign_rsa(pair: &rsa::KeyPair, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &AwsRandom::new(), message, &mut signature)
        .map_err(|_unspecified| SignError::Sign)?;
    Ok(signature)
}

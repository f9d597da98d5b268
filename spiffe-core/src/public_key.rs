//! Public keys taken apart and put together.
//!
//! Owns the two views of a key that the crate needs: SubjectPublicKeyInfo (certificates, protobuf,
//! replicated state) and the members of a JSON Web Key (bundle documents). Says which keys are
//! known; who may use which key for what stands with its user.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use rustls_pki_types::alg_id;

use crate::der::{self, Malformed, Reader};

/// A NIST curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The name that JSON Web Keys use.
    pub(crate) fn jwk_name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    pub(crate) fn from_jwk_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.jwk_name() == name)
    }

    /// Bytes of one coordinate.
    pub(crate) fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// The content of the AlgorithmIdentifier of keys on this curve.
    fn algorithm(self) -> &'static [u8] {
        match self {
            Self::P256 => alg_id::ECDSA_P256.as_ref(),
            Self::P384 => alg_id::ECDSA_P384.as_ref(),
            Self::P521 => alg_id::ECDSA_P521.as_ref(),
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
            Self::P521 => &ECDSA_P521_SHA512_ASN1,
        }
    }
}

/// A public key of a kind that signs certificates or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey<'a> {
    /// An uncompressed point: 0x04, x, y.
    Ec { curve: Curve, point: &'a [u8] },
    /// Big-endian numbers without leading zeros, and the PKCS#1 RSAPublicKey they stand in.
    Rsa { modulus: &'a [u8], exponent: &'a [u8], pkcs1: &'a [u8] },
}

impl<'a> PublicKey<'a> {
    /// Takes a SubjectPublicKeyInfo apart. Points are not checked to lie on their curve: the
    /// crypto library does so when it uses them.
    pub(crate) fn from_spki(spki: &'a [u8]) -> Result<Self, Malformed> {
        let (algorithm, bits) = split_spki(spki)?;
        if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
            let mut numbers = Reader::new(der::read_single(bits, der::SEQUENCE)?);
            let modulus = unsigned(numbers.expect(der::INTEGER)?.content)?;
            let exponent = unsigned(numbers.expect(der::INTEGER)?.content)?;
            numbers.end()?;
            return Ok(Self::Rsa { modulus, exponent, pkcs1: bits });
        }
        let curve = Curve::ALL.into_iter().find(|curve| curve.algorithm() == algorithm);
        let curve = curve.ok_or(Malformed)?;
        let uncompressed = bits.first() == Some(&0x04);
        if !uncompressed || bits.len() != 1 + 2 * curve.coordinate_bytes() {
            return Err(Malformed);
        }
        Ok(Self::Ec { curve, point: bits })
    }
}

impl PublicKey<'_> {
    /// What kind of key it is, as SPIRE's texts call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RSA",
            Self::Ec { curve: Curve::P256, .. } => "ec-p256",
            Self::Ec { curve: Curve::P384, .. } => "ec-p384",
            Self::Ec { curve: Curve::P521, .. } => "ec-p521",
        }
    }
}

/// Refuses points that are not on their curve, and RSA keys of other than 2048 to 8192 bits.
pub(crate) fn check(key: PublicKey<'_>) -> Result<(), Malformed> {
    let spki = match key {
        PublicKey::Rsa { modulus, exponent, .. } => rsa_spki(modulus, exponent),
        PublicKey::Ec { curve, point } => {
            let coordinates = point.get(1..).ok_or(Malformed)?;
            let halves = coordinates.split_at_checked(curve.coordinate_bytes());
            halves.ok_or(Malformed).and_then(|(x, y)| ec_spki(curve, x, y))
        }
    };
    spki.map(drop)
}

/// The content of the AlgorithmIdentifier and the key bits of a SubjectPublicKeyInfo.
pub(crate) fn split_spki(spki: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut fields = Reader::new(der::read_single(spki, der::SEQUENCE)?);
    let algorithm = fields.expect(der::SEQUENCE)?.content;
    let bits = der::whole_bits(fields.expect(der::BIT_STRING)?.content)?;
    fields.end()?;
    Ok((algorithm, bits))
}

/// SHA-1 of the key bits: the key id that SPIRE puts in certificates (RFC 5280, 4.2.1.2, method 1).
pub(crate) fn key_id(spki: &[u8]) -> Result<[u8; 20], Malformed> {
    let (_, bits) = split_spki(spki)?;
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bits);
    <[u8; 20]>::try_from(hash.as_ref()).map_err(|_length| Malformed)
}

/// The SubjectPublicKeyInfo of a point; refuses points that are not on the curve.
pub(crate) fn ec_spki(curve: Curve, x: &[u8], y: &[u8]) -> Result<Vec<u8>, Malformed> {
    let width = curve.coordinate_bytes();
    if x.len() != width || y.len() != width {
        return Err(Malformed);
    }
    let point = [&[0x04], x, y].concat();
    ParsedPublicKey::new(curve.verification(), &point).map_err(|_rejected| Malformed)?;
    Ok(join_spki(curve.algorithm(), &point))
}

/// The SubjectPublicKeyInfo of an RSA key of 2048 to 8192 bits.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, Malformed> {
    let numbers = [der::unsigned_integer(modulus), der::unsigned_integer(exponent)];
    let pkcs1 = der::sequence(&[&numbers[0], &numbers[1]]);
    let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
    if !(2048..=8192).contains(&bits) {
        return Err(Malformed);
    }
    ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &pkcs1).map_err(|_rejected| Malformed)?;
    Ok(join_spki(alg_id::RSA_ENCRYPTION.as_ref(), &pkcs1))
}

fn join_spki(algorithm: &[u8], bits: &[u8]) -> Vec<u8> {
    der::sequence(&[&der::sequence(&[algorithm]), &der::bit_string(0, bits)])
}

/// The magnitude of a positive INTEGER's content.
fn unsigned(content: &[u8]) -> Result<&[u8], Malformed> {
    match content.split_first() {
        Some((0, rest)) if !rest.is_empty() => Ok(rest),
        Some((first, _)) if (1..0x80).contains(first) => Ok(content),
        Some(_) | None => Err(Malformed),
    }
}

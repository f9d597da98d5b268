//! The proof of possession: challenge out, signature back.
//!
//! Owns SPIRE's JSON and its signatures over SHA-256(server's nonce, agent's nonce): RSA-PSS, or
//! ECDSA with r and s as big-endian numbers. Keys of JSON objects are matched as Go matches them,
//! without regard to case.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPssSaltLength, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::certificate::{Certificate, Curve, Key};

/// Bytes of each side's nonce.
pub(super) const NONCE_BYTES: usize = 32;

/// Go signs with the longest salt that fits, other agents may take the digest's length.
const RSA_PSS_LONGEST_SALT: RsaParameters =
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);

/// What an agent is asked to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Rsa,
    Ecdsa,
}

/// A challenge that was sent.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    method: Method,
    nonce: [u8; NONCE_BYTES],
}

impl Challenge {
    /// A challenge that the certificate's key can answer. The error is SPIRE's text.
    pub(super) fn new(
        certificate: &Certificate,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, &'static str> {
        if !certificate.may_sign {
            return Err("certificate not intended for digital signature use");
        }
        let method = match certificate.key {
            Key::Rsa { .. } => Method::Rsa,
            Key::Ec { .. } => Method::Ecdsa,
            Key::Unsupported => return Err("unsupported public key type"),
        };
        Ok(Self { method, nonce })
    }

    /// The challenge as it is sent.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let nonce = json!({ "nonce": STANDARD.encode(self.nonce) });
        let (rsa, ecdsa) = match self.method {
            Method::Rsa => (nonce, Value::Null),
            Method::Ecdsa => (Value::Null, nonce),
        };
        json!({ "rsa_signature": rsa, "ecdsa_signature": ecdsa }).to_string().into_bytes()
    }

    /// Verifies the answer with the certificate's key. The error is SPIRE's text.
    pub(super) fn verify(&self, key: &Key, response: &Response) -> Result<(), &'static str> {
        match (key, self.method) {
            (Key::Rsa { der, .. }, Method::Rsa) => {
                let answer = response.rsa.as_ref().ok_or("expecting RSA response")?;
                let message = self.message(&answer.nonce)?;
                let verifies = [&RSA_PSS_LONGEST_SALT, &RSA_PSS_2048_8192_SHA256]
                    .into_iter()
                    .any(|algorithm| verify(algorithm, der, &message, &answer.signature));
                if verifies { Ok(()) } else { Err("RSA signature verify failed") }
            }
            (Key::Ec { curve, point }, Method::Ecdsa) => {
                let answer = response.ecdsa.as_ref().ok_or("expecting ECDSA response")?;
                let message = self.message(&answer.nonce)?;
                let algorithm: &'static dyn VerificationAlgorithm = match curve {
                    Curve::P256 => &ECDSA_P256_SHA256_ASN1,
                    Curve::P384 => &ECDSA_P384_SHA256_ASN1,
                    Curve::P521 => &ECDSA_P521_SHA256_ASN1,
                };
                let signature = ecdsa_der(&answer.r, &answer.s);
                let verifies =
                    signature.is_some_and(|der| verify(algorithm, point, &message, &der));
                if verifies { Ok(()) } else { Err("ECDSA signature verify failed") }
            }
            (Key::Ec { .. }, Method::Rsa) => Err("expecting ECDSA challenge"),
            (Key::Rsa { .. }, Method::Ecdsa) => Err("expecting RSA challenge"),
            (Key::Unsupported, Method::Rsa | Method::Ecdsa) => Err("unsupported public key type"),
        }
    }

    /// What was signed, before hashing.
    fn message(&self, nonce: &[u8]) -> Result<Vec<u8>, &'static str> {
        if nonce.len() != NONCE_BYTES {
            return Err("invalid response nonce");
        }
        Ok([self.nonce.as_slice(), nonce].concat())
    }
}

/// An agent's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    rsa: Option<RsaAnswer>,
    ecdsa: Option<EcdsaAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RsaAnswer {
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct EcdsaAnswer {
    nonce: Vec<u8>,
    r: Vec<u8>,
    s: Vec<u8>,
}

impl Response {
    /// Parses an answer.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let object = parse_object(json)?;
        let rsa = sub_object(&object, "rsa_signature")?.map(|answer| {
            Ok::<_, String>(RsaAnswer {
                nonce: bytes(answer, "nonce")?,
                signature: bytes(answer, "signature")?,
            })
        });
        let ecdsa = sub_object(&object, "ecdsa_signature")?.map(|answer| {
            Ok::<_, String>(EcdsaAnswer {
                nonce: bytes(answer, "nonce")?,
                r: bytes(answer, "r")?,
                s: bytes(answer, "s")?,
            })
        });
        Ok(Self { rsa: rsa.transpose()?, ecdsa: ecdsa.transpose()? })
    }
}

/// The certificates of an attestation payload, leaf first.
pub(super) fn parse_payload(json: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let object = parse_object(json)?;
    match field(&object, "certificates") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| decode(Some(item))).collect(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Err("\"certificates\" is no list".to_owned())
        }
    }
}

fn parse_object(json: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_),
        ) => Err("not an object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn sub_object<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, String> {
    match field(object, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(format!("\"{name}\" is no object"))
        }
    }
}

fn bytes(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    decode(field(object, name)).map_err(|error| format!("\"{name}\": {error}"))
}

fn decode(value: Option<&Value>) -> Result<Vec<u8>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => STANDARD.decode(text).map_err(|error| error.to_string()),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err("not base64 text".to_owned())
        }
    }
}

/// Go takes the last of the keys that match without regard to case.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn verify(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

/// Longest r or s: P-521's 66 bytes. Longer ones verify with no curve.
const SCALAR_BYTES_MAX: usize = 66;

/// `ECDSA-Sig-Value` of two big-endian numbers; `None` when one is too long for any curve.
fn ecdsa_der(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let mut body = integer(r)?;
    body.extend(integer(s)?);
    let mut der = vec![0x30];
    let length = u8::try_from(body.len()).ok()?;
    if length >= 0x80 {
        der.push(0x81);
    }
    der.push(length);
    der.extend(body);
    Some(der)
}

fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = number.get(start..).filter(|digits| digits.len() <= SCALAR_BYTES_MAX)?;
    let needs_zero = digits.first().is_none_or(|first| *first >= 0x80);
    let length = u8::try_from(digits.len() + usize::from(needs_zero)).ok()?;
    let mut der = vec![0x02, length];
    if needs_zero {
        der.push(0);
    }
    der.extend_from_slice(digits);
    Some(der)
}

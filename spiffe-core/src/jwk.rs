//! JSON Web Keys (RFC 7517), written as SPIRE's library writes them.
//!
//! Owns the order of their members: bundle documents, the keys that tokens confirm, and the private
//! keys of tokens' holders show the same one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::der::{self, Malformed, Reader};
use crate::key::Secret;
use crate::public_key::PublicKey;
use crate::signer::{LocalSigner, SignError, Signer as _};

/// Adds the members of a public key; `None` if it is of no known kind.
pub(crate) fn insert_public_key(
    jwk: &mut Map<String, Value>,
    key_id: Option<&str>,
    algorithm: Option<&str>,
    spki: &[u8],
) -> Option<()> {
    let number = |bytes: &[u8]| Value::String(URL_SAFE_NO_PAD.encode(bytes));
    let key = PublicKey::from_spki(spki).ok()?;
    let kind = match key {
        PublicKey::Ec { .. } => "EC",
        PublicKey::Rsa { .. } => "RSA",
    };
    jwk.insert("kty".to_owned(), kind.into());
    if let Some(key_id) = key_id {
        jwk.insert("kid".to_owned(), key_id.into());
    }
    if let PublicKey::Ec { curve, .. } = key {
        jwk.insert("crv".to_owned(), curve.jwk_name().into());
    }
    if let Some(algorithm) = algorithm {
        jwk.insert("alg".to_owned(), algorithm.into());
    }
    match key {
        PublicKey::Ec { curve, point } => {
            let (x, y) = point.get(1..)?.split_at_checked(curve.coordinate_bytes())?;
            jwk.insert("x".to_owned(), number(x));
            jwk.insert("y".to_owned(), number(y));
        }
        PublicKey::Rsa { modulus, exponent, .. } => {
            jwk.insert("n".to_owned(), number(modulus));
            jwk.insert("e".to_owned(), number(exponent));
        }
    }
    Some(())
}

/// A private key as a JSON Web Key on one line, for its holder. `pkcs8` is what
/// [`LocalSigner::generate`] made.
///
/// # Errors
///
/// If it is no key of a known type.
pub fn private_jwk(pkcs8: &Secret) -> Result<Secret, SignError> {
    let signer = LocalSigner::from_pkcs8(pkcs8.expose())?;
    let mut public = Map::new();
    insert_public_key(&mut public, None, None, signer.public_key_spki())
        .ok_or(SignError::BadPrivateKey)?;
    let numbers = private_numbers(pkcs8.expose()).map_err(|_why| SignError::BadPrivateKey)?;
    let public = Value::Object(public).to_string();
    let public = public.trim_end_matches('}');
    // Of its final size from the start: a text that grew would leave pieces of the key behind.
    let size = numbers.iter().map(|(name, bytes)| name.len() + 2 * bytes.len() + 8).sum::<usize>();
    let mut text = String::with_capacity(public.len() + size + 1);
    text.push_str(public);
    for (name, bytes) in numbers {
        text.push_str(",\"");
        text.push_str(name);
        text.push_str("\":\"");
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text.push('"');
    }
    text.push('}');
    Ok(Secret::new(text.into_bytes()))
}

/// The private members of a key: of an EC key its scalar (RFC 5915), of an RSA key the exponent, the
/// primes and what speeds up their use (RFC 8017, A.1.2).
fn private_numbers(pkcs8: &[u8]) -> Result<Vec<(&'static str, &[u8])>, Malformed> {
    let mut document = Reader::new(der::read_single(pkcs8, der::SEQUENCE)?);
    document.expect(der::INTEGER)?;
    document.expect(der::SEQUENCE)?;
    let key = document.expect(der::OCTET_STRING)?.content;
    let mut fields = Reader::new(der::read_single(key, der::SEQUENCE)?);
    fields.expect(der::INTEGER)?;
    let second = fields.any()?;
    if second.tag == der::OCTET_STRING {
        return Ok(vec![("d", second.content)]);
    }
    // The modulus was the second, the public exponent is the third.
    fields.expect(der::INTEGER)?;
    let names = ["d", "p", "q", "dp", "dq", "qi"];
    let mut numbers = Vec::with_capacity(names.len());
    for name in names {
        let content = fields.expect(der::INTEGER)?.content;
        numbers.push((name, content.strip_prefix(&[0]).unwrap_or(content)));
    }
    Ok(numbers)
}

//! `x509pop`: proof that this machine holds the private key of a certificate.
//!
//! Wire form of `spire-config` 6.2, JSON with base64 byte strings: the payload carries the chain, the
//! challenge a nonce; the answer carries a second nonce and a signature over SHA-256 of both, with
//! PSS for RSA keys and r and s apart for ECDSA keys.

use std::path::PathBuf;

use aws_lc_rs::digest::{Context, Digest, SHA256, SHA384};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use steeple_spiffe_core::random::{Random as _, SystemRandom};
use steeple_spiffe_core::{Secret, pem};

use super::method::NodeAttestError;

const NONCE_BYTES: usize = 32;

/// The method with its files.
#[derive(Clone, Debug)]
pub struct X509Pop {
    /// The private key in PEM.
    pub private_key_path: PathBuf,
    /// The certificate in PEM, possibly followed by intermediates.
    pub certificate_path: PathBuf,
    /// More intermediates in PEM.
    pub intermediates_path: Option<PathBuf>,
}

#[derive(Serialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
struct Challenge {
    #[serde(default)]
    rsa_signature: Option<NonceChallenge>,
    #[serde(default)]
    ecdsa_signature: Option<NonceChallenge>,
}

#[derive(Deserialize)]
struct NonceChallenge {
    nonce: String,
}

#[derive(Serialize)]
struct Response {
    rsa_signature: Option<RsaResponse>,
    ecdsa_signature: Option<EcdsaResponse>,
}

#[derive(Serialize)]
struct RsaResponse {
    nonce: String,
    signature: String,
}

#[derive(Serialize)]
struct EcdsaResponse {
    nonce: String,
    r: String,
    s: String,
}

impl X509Pop {
    pub(super) fn payload(&self) -> Result<Vec<u8>, NodeAttestError> {
        let mut chain = read_certificates(&self.certificate_path)?;
        if let Some(path) = &self.intermediates_path {
            chain.extend(read_certificates(path)?);
        }
        let certificates = chain.iter().map(|der| STANDARD.encode(der)).collect();
        to_json(&Payload { certificates })
    }

    pub(super) fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        let malformed =
            |error| NodeAttestError::Malformed(format!("unable to unmarshal challenge: {error}"));
        let challenge: Challenge = serde_json::from_slice(challenge).map_err(malformed)?;
        let text = read(&self.private_key_path)?;
        let key = pem::decode_private_key(&text).map_err(|error| {
            let path = self.private_key_path.display();
            NodeAttestError::Malformed(format!("unable to load private key {path}: {error}"))
        })?;
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom.fill(&mut nonce);
        let response = match (challenge.rsa_signature, challenge.ecdsa_signature) {
            (Some(theirs), _) => rsa_response(&key, &theirs.nonce, &nonce)?,
            (None, Some(theirs)) => ecdsa_response(&key, &theirs.nonce, &nonce)?,
            (None, None) => {
                return Err(NodeAttestError::Malformed("challenge of an unknown kind".to_owned()));
            }
        };
        to_json(&response)
    }
}

fn rsa_response(key: &Secret, theirs: &str, nonce: &[u8]) -> Result<Response, NodeAttestError> {
    let wrong = |_rejected| NodeAttestError::Malformed("expecting RSA private key".to_owned());
    let key = rsa::KeyPair::from_pkcs8(key.expose()).map_err(wrong)?;
    let mut signature = vec![0; key.public_modulus_len()];
    let digest = digest(theirs, nonce)?;
    // The salt has the length of the digest; the server's verifier takes any.
    key.sign_digest(&RSA_PSS_SHA256, &digest, &mut signature)
        .map_err(|_unspecified| NodeAttestError::Sign)?;
    let rsa = RsaResponse { nonce: STANDARD.encode(nonce), signature: STANDARD.encode(signature) };
    Ok(Response { rsa_signature: Some(rsa), ecdsa_signature: None })
}

fn ecdsa_response(key: &Secret, theirs: &str, nonce: &[u8]) -> Result<Response, NodeAttestError> {
    let digest = digest(theirs, nonce)?;
    let signature = sign_ecdsa(key, &digest)?;
    let (r, s) = signature.split_at(signature.len() / 2);
    let ecdsa = EcdsaResponse {
        nonce: STANDARD.encode(nonce),
        r: STANDARD.encode(r),
        s: STANDARD.encode(s),
    };
    Ok(Response { rsa_signature: None, ecdsa_signature: Some(ecdsa) })
}

/// Signs the digest with whatever curve the key has; r and s at full width, one after the other.
fn sign_ecdsa(key: &Secret, digest: &Digest) -> Result<Vec<u8>, NodeAttestError> {
    let failed = |_unspecified| NodeAttestError::Sign;
    let signed = |signature: aws_lc_rs::signature::Signature| signature.as_ref().to_vec();
    let der = key.expose();
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
        return pair.sign_digest(digest).map(signed).map_err(failed);
    }
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der) {
        // The library signs with P-384 only what it takes for a SHA-384 digest. ECDSA reads a digest
        // as a number of at most 384 bits: with zeros in front it is the same number.
        let mut padded = vec![0; SHA384.output_len().saturating_sub(digest.as_ref().len())];
        padded.extend_from_slice(digest.as_ref());
        let padded = Digest::import_less_safe(&padded, &SHA384).map_err(failed)?;
        return pair.sign_digest(&padded).map(signed).map_err(failed);
    }
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA256_FIXED_SIGNING, der) {
        return pair.sign_digest(digest).map(signed).map_err(failed);
    }
    Err(NodeAttestError::Malformed("expecting ECDSA private key".to_owned()))
}

fn digest(theirs: &str, nonce: &[u8]) -> Result<Digest, NodeAttestError> {
    let malformed = |error| NodeAttestError::Malformed(format!("malformed nonce: {error}"));
    let theirs = STANDARD.decode(theirs).map_err(malformed)?;
    let mut context = Context::new(&SHA256);
    context.update(&theirs);
    context.update(nonce);
    Ok(context.finish())
}

fn read_certificates(path: &PathBuf) -> Result<Vec<Vec<u8>>, NodeAttestError> {
    let bad = |error| {
        let path = path.display();
        NodeAttestError::Malformed(format!("unable to load certificate {path}: {error}"))
    };
    pem::decode_certificates(&read(path)?).map_err(bad)
}

fn read(path: &PathBuf) -> Result<String, NodeAttestError> {
    let failed = |source| NodeAttestError::Read { path: path.display().to_string(), source };
    std::fs::read_to_string(path).map_err(failed)
}

fn to_json(message: &impl Serialize) -> Result<Vec<u8>, NodeAttestError> {
    let failed = |error: serde_json::Error| NodeAttestError::Malformed(error.to_string());
    serde_json::to_vec(message).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1, RSA_PSS_2048_8192_SHA256,
        UnparsedPublicKey,
    };
    use serde_json::{Value, json};
    use steeple_spiffe_core::{KeyType, LocalSigner, Signer as _};

    use super::*;

    struct Case {
        method: X509Pop,
        signer: LocalSigner,
        _folder: tempfile::TempDir,
    }

    fn case(key_type: KeyType) -> Case {
        let folder = tempfile::tempdir().expect("folder");
        let (signer, key) = LocalSigner::generate(key_type).expect("key");
        let path = folder.path().join("key.pem");
        fs::write(&path, pem::encode_private_key(key.expose()).as_bytes()).expect("write");
        let method = X509Pop {
            private_key_path: path,
            certificate_path: folder.path().join("cert.pem"),
            intermediates_path: None,
        };
        Case { method, signer, _folder: folder }
    }

    fn answer(case: &Case, kind: &str, nonce: &[u8]) -> Value {
        let mut challenge = json!({"rsa_signature": null, "ecdsa_signature": null});
        challenge[kind] = json!({"nonce": STANDARD.encode(nonce)});
        let answer = case.method.answer(challenge.to_string().as_bytes()).expect("answer");
        serde_json::from_slice(&answer).expect("JSON")
    }

    fn bytes(value: &Value) -> Vec<u8> {
        STANDARD.decode(value.as_str().expect("text")).expect("base64")
    }

    fn signed_message(answer: &Value, nonce: &[u8]) -> Vec<u8> {
        let theirs = bytes(&answer["nonce"]);
        assert_eq!(theirs.len(), 32);
        [nonce, &theirs].concat()
    }

    #[test]
    fn ecdsa_answers_verify_with_sha256_on_p256() {
        let case = case(KeyType::EcP256);
        let answer = &answer(&case, "ecdsa_signature", b"nonce")["ecdsa_signature"];
        let signature = [bytes(&answer["r"]), bytes(&answer["s"])].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, case.signer.public_key_spki())
            .verify(&signed_message(answer, b"nonce"), &signature)
            .expect("signature");
    }

    #[test]
    fn ecdsa_answers_verify_with_sha256_on_p384() {
        let case = case(KeyType::EcP384);
        let answer = &answer(&case, "ecdsa_signature", b"nonce")["ecdsa_signature"];
        let (r, s) = (bytes(&answer["r"]), bytes(&answer["s"]));
        let der = der_signature(&r, &s);
        UnparsedPublicKey::new(&ECDSA_P384_SHA256_ASN1, case.signer.public_key_spki())
            .verify(&signed_message(answer, b"nonce"), &der)
            .expect("signature");
    }

    #[test]
    fn rsa_answers_verify_with_pss() {
        let case = case(KeyType::Rsa2048);
        let answer = &answer(&case, "rsa_signature", b"nonce")["rsa_signature"];
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, case.signer.public_key_spki())
            .verify(&signed_message(answer, b"nonce"), &bytes(&answer["signature"]))
            .expect("signature");
    }

    #[test]
    fn a_challenge_of_the_wrong_kind_is_an_error() {
        let case = case(KeyType::EcP256);
        for challenge in
            [r#"{"rsa_signature":{"nonce":"AAAA"}}"#, "{}", r#"{"ecdsa_signature":{"nonce":"?"}}"#]
        {
            assert!(case.method.answer(challenge.as_bytes()).is_err(), "{challenge}");
        }
    }

    fn der_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |bytes: &[u8]| {
            let stripped: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
            let mut value =
                if stripped.first().is_some_and(|b| b & 0x80 != 0) { vec![0] } else { vec![] };
            value.extend(stripped);
            [vec![2, u8::try_from(value.len()).expect("short")], value].concat()
        };
        let body = [integer(r), integer(s)].concat();
        [vec![0x30, u8::try_from(body.len()).expect("short")], body].concat()
    }
}

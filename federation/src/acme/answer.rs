//! Keys and requests of certificates, and the certificate that answers a challenge (RFC 8737, 3).

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::tls::{AcmeChallenge, TlsError};

use super::state::Digest;

/// A key or a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The library of certificates refused.
    #[error("make key or certificate")]
    Make(#[from] rcgen::Error),
    /// What was made cannot be presented.
    #[error("present the answer to the challenge")]
    Present(#[from] TlsError),
}

/// A new private key for a certificate, PKCS#8 in DER.
pub(super) fn new_key() -> Result<Secret, AnswerError> {
    Ok(Secret::new(KeyPair::generate()?.serialize_der()))
}

/// The request in DER for a certificate of a key: it names the host and nothing else.
pub(super) fn request(domain: &str, key: &Secret) -> Result<Vec<u8>, AnswerError> {
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose()))?;
    let request = params(domain)?.serialize_request(&key)?;
    Ok(request.der().to_vec())
}

/// The answer to a challenge. Its key is its own: each replica makes one.
pub(super) fn answer(domain: &str, digest: &Digest) -> Result<AcmeChallenge, AnswerError> {
    let key = KeyPair::generate()?;
    let mut params = params(domain)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = Secret::new(key.serialize_der());
    let certificate = certificate.der().to_vec();
    Ok(AcmeChallenge::new(domain.to_owned(), certificate, &key)?)
}

fn params(domain: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_the_digest_in_a_critical_extension_and_the_name() {
        let answer = answer("a.example", &[7; 32]).unwrap();
        let leaf = answer.leaf();
        assert!(leaf.windows(9).any(|part| part == b"a.example"), "{leaf:02x?}");
        // id-pe-acmeIdentifier, critical, an octet string of 32 bytes in an octet string.
        let mut extension = vec![0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f];
        extension.extend([0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20]);
        extension.extend([7; 32]);
        assert!(leaf.windows(extension.len()).any(|part| part == extension), "{leaf:02x?}");
    }

    #[test]
    fn a_request_is_of_the_key_that_is_kept() {
        let key = new_key().unwrap();
        let request = request("a.example", &key).unwrap();
        let public = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose())).unwrap();
        for part in [b"a.example".as_slice(), public.public_key_raw()] {
            assert!(request.windows(part.len()).any(|found| found == part), "{part:02x?}");
        }
    }
}

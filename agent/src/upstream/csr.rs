//! Certificate requests, in the form stock agents send them.
//!
//! A request proves possession of its key and names at most one SPIFFE id; the server takes nothing
//! else from it (`spire-semantics` 4.6).

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use steeple_spiffe_core::{Secret, SpiffeId};

/// A certificate request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The SPIFFE id holds something a certificate can't.
    #[error("encode certificate request")]
    Encode(#[from] rcgen::Error),
}

/// A request in DER for the key; an agent's own carries no id, a workload's one URI SAN.
pub fn certificate_request(key: &Secret, id: Option<&SpiffeId>) -> Result<Vec<u8>, CsrError> {
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose()))?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "US");
    subject.push(DnType::OrganizationName, "SPIRE");
    params.distinguished_name = subject;
    if let Some(id) = id {
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    }
    Ok(params.serialize_request(&key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{CertificateRequest, KeyType, LocalSigner, Signer as _};

    use super::*;

    #[test]
    fn requests_carry_the_key_and_at_most_one_id_and_are_signed() {
        let id = SpiffeId::parse("spiffe://example.org/web").expect("test id");
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            for id in [None, Some(&id)] {
                let (signer, key) = LocalSigner::generate(key_type).expect("key");
                let der = certificate_request(&key, id).expect("request");
                CertificateRequest::verify_signature(&der).expect("signature");
                let request = CertificateRequest::parse(&der).expect("parse");
                assert_eq!(request.public_key_spki, signer.public_key_spki(), "{key_type}");
                let want: Vec<String> = id.iter().map(ToString::to_string).collect();
                assert_eq!(request.uris, want, "{key_type}");
            }
        }
    }
}

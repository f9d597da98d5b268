//! Certificate requests as rcgen writes them, whole and damaged; PEM and private keys.

use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use steeple_spiffe_core::csr::CsrError;
use steeple_spiffe_core::pem::{
    PemError, decode_certificates, decode_private_key, encode_certificates, encode_private_key,
};
use steeple_spiffe_core::{CertificateRequest, KeyType, LocalSigner, Signer};

use crate::fixture::{Ca, key};

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    request_by(&KeyPair::generate().expect("a key"), change)
}

fn request_by(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).expect("a request").der().to_vec()
}

#[test]
fn key_names_and_subject_are_taken() {
    let bare = CertificateRequest::parse(&request(|_| {})).unwrap();
    assert!(bare.subject_is_empty);
    assert_eq!((bare.uris.len(), bare.dns_names.len()), (0, 0));

    let full = request(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "o");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::URI("spiffe://td/x".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::DnsName("b.example".try_into().unwrap()),
            SanType::URI("https://y".try_into().unwrap()),
        ];
    });
    let parsed = CertificateRequest::parse(&full).unwrap();
    assert!(!parsed.subject_is_empty);
    assert_eq!(parsed.uris, ["spiffe://td/x", "https://y"]);
    assert_eq!(parsed.dns_names, ["a.example", "b.example"]);
    assert!(LocalSigner::from_pkcs8(&parsed.public_key_spki).is_err());
}

#[test]
fn signatures_of_every_usual_key_verify() {
    let algorithms = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    for algorithm in algorithms {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = request_by(&key, |_| {});
        assert_eq!(CertificateRequest::verify_signature(&der), Ok(()), "{algorithm:?}");
    }
}

#[test]
fn parsing_does_not_verify_and_verifying_does() {
    let mut der = request(|_| {});
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(CertificateRequest::parse(&der).is_ok(), "agents' requests are taken unverified");
    assert_eq!(CertificateRequest::verify_signature(&der), Err(CsrError::BadSignature));
}

#[test]
fn malformed_requests_are_refused() {
    let der = request(|_| {});
    let trailing = [der.clone(), vec![0]].concat();
    let cut = der[..der.len() - 1].to_vec();
    let certificate = Ca::new(KeyType::EcP256, 1).certificate_der;
    for bad in [Vec::new(), b"text".to_vec(), trailing, cut, certificate] {
        assert!(matches!(CertificateRequest::parse(&bad), Err(CsrError::Malformed(_))), "{bad:?}");
        assert!(CertificateRequest::verify_signature(&bad).is_err());
    }
    let long = vec![0x30; 70_000];
    assert_eq!(CertificateRequest::parse(&long), Err(CsrError::TooLong));
    assert_eq!(CertificateRequest::verify_signature(&long), Err(CsrError::TooLong));
}

#[test]
fn certificates_survive_pem() {
    let ders = vec![Ca::new(KeyType::EcP256, 1).certificate_der, vec![1, 2, 3]];
    let text = encode_certificates(&ders);
    assert_eq!(decode_certificates(&text), Ok(ders.clone()));
    assert!(text.lines().all(|line| line.len() <= 64));
    let with_notes = format!("a note\n{}\nanother\n", text.replace('\n', "\r\n"));
    assert_eq!(decode_certificates(&with_notes), Ok(ders));
    assert_eq!(decode_certificates("nothing"), Err(PemError::Empty));
    let cut = text.replace("-----END CERTIFICATE-----", "");
    assert!(matches!(decode_certificates(&cut), Err(PemError::Malformed(_))));
}

#[test]
fn private_keys_survive_pem_in_every_usual_form() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let (signer, secret) = key(kind);
        let text = encode_private_key(secret.expose());
        let back = LocalSigner::from_pkcs8(decode_private_key(&text).unwrap().expose()).unwrap();
        assert_eq!(back.public_key_spki(), signer.public_key_spki());
        assert_eq!(back.key_type(), kind);
        assert!(!format!("{back:?}").contains("pair"), "keys do not print");
        let mixed = format!("{}{}", &*text, encode_certificates(&[vec![1]]));
        let mixed = decode_certificates(&mixed).unwrap_err().to_string();
        assert_eq!(mixed, "expected block type \"CERTIFICATE\"; got \"PRIVATE KEY\"");
        let twice = decode_private_key(&text.repeat(2)).err().map(|error| error.to_string());
        assert_eq!(twice.as_deref(), Some("expected 1 PEM blocks; got 2"));
    }
    let refusals = [
        (
            encode_certificates(&[vec![1]]),
            "expected block type [\"PRIVATE KEY\" \"RSA PRIVATE KEY\" \"EC PRIVATE KEY\"]; got \
             \"CERTIFICATE\"",
        ),
        (String::new(), "no PEM blocks"),
        (
            encode_private_key(&[1, 2]).to_string(),
            "private key is malformed or of an unsupported type",
        ),
    ];
    for (text, message) in refusals {
        assert_eq!(
            decode_private_key(&text).err().map(|e| e.to_string()).as_deref(),
            Some(message)
        );
    }
}

#[test]
fn openssl_keys_in_older_forms_are_read() {
    let openssl =
        |arguments: &[&str]| std::process::Command::new("openssl").args(arguments).output();
    let Ok(ec) = openssl(&["ecparam", "-name", "prime256v1", "-genkey"]) else {
        println!("SKIPPED: no openssl program on this machine");
        return;
    };
    let text = String::from_utf8(ec.stdout).unwrap();
    assert!(text.contains("EC PARAMETERS") && text.contains("EC PRIVATE KEY"), "{text}");
    let secret = decode_private_key(&text).unwrap();
    assert_eq!(LocalSigner::from_pkcs8(secret.expose()).unwrap().key_type(), KeyType::EcP256);

    let rsa = openssl(&["genrsa", "-traditional", "2048"]).unwrap();
    let text = String::from_utf8(rsa.stdout).unwrap();
    assert!(text.contains("RSA PRIVATE KEY"), "{text}");
    let secret = decode_private_key(&text).unwrap();
    assert_eq!(LocalSigner::from_pkcs8(secret.expose()).unwrap().key_type(), KeyType::Rsa2048);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn damaged_requests_never_panic(position: prop::sample::Index, byte: u8, cut: bool) {
        let mut der = request(|params| {
            params.subject_alt_names = vec![SanType::URI("spiffe://td/x".try_into().unwrap())];
        });
        let index = position.index(der.len());
        if cut {
            der.truncate(index);
        } else {
            der[index] = byte;
        }
        drop(CertificateRequest::parse(&der));
        drop(CertificateRequest::verify_signature(&der));
    }
}

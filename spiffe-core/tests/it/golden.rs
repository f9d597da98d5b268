//! Byte-for-byte agreement with Go's `crypto/x509`, which is what SPIRE's certificates are made by.
//!
//! The file beside this one holds certificates that Go made; here the same are written again. ECDSA
//! signatures differ each time, so that the signed part is compared; RSA certificates are compared
//! whole.

use std::collections::BTreeMap;

use steeple_spiffe_core::svid::x509::{
    CaSubject, DownstreamSubject, DownstreamTemplate, IssuerIdentity, LeafSubject, LeafTemplate,
    certificate_facts, self_signed_ca, sign_downstream_ca, sign_leaf,
};
use steeple_spiffe_core::{KeyType, LocalSigner, Signer, Timestamp};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fixture::{id, seconds, trust_domain};

const GOLDEN: &str = include_str!("golden/go_x509.txt");

/// Key type → name of the document → its bytes.
fn golden() -> BTreeMap<&'static str, BTreeMap<&'static str, Vec<u8>>> {
    let mut groups = BTreeMap::new();
    let mut group = "";
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(' ') {
            None => group = line,
            Some((name, hex)) => {
                let documents: &mut BTreeMap<_, _> = groups.entry(group).or_default();
                documents.insert(name, unhex(hex));
            }
        }
    }
    groups
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// The part of a certificate that is signed.
fn signed_part(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    certificate.tbs_certificate.as_ref().to_vec()
}

#[test]
fn certificates_are_the_bytes_that_go_writes() {
    let begin = Timestamp::from_unix_s(1_763_769_589);
    let leaf_serial: [u8; 16] = [0x8f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut ca_serial = [0; 16];
    ca_serial[14..].copy_from_slice(&[0x80, 1]);
    let subject = CaSubject {
        country: vec!["US".to_owned(), "CH".to_owned()],
        organization: vec!["Mü*ller & Co".to_owned(), "b".to_owned()],
        common_name: "root_1".to_owned(),
    };
    let groups = golden();
    assert_eq!(groups.len(), 3);
    for (name, documents) in groups {
        let signer = LocalSigner::from_pkcs8(&documents["pkcs8"]).unwrap();
        let key_type: KeyType = name.parse().unwrap();
        assert_eq!(signer.key_type(), key_type);
        let subject = (key_type == KeyType::EcP384).then_some(&subject);
        let ca_end = begin.plus(seconds(40 * 365 * 86_400));
        let ca = self_signed_ca(&trust_domain(), subject, &signer, ca_serial, begin, ca_end);

        let issuer = IssuerIdentity::from_certificate(&documents["ca"]).unwrap();
        let spki = certificate_facts(&documents["leaf"]).unwrap().spki;
        let end = begin.plus(seconds(3600));
        let leaf = sign_leaf(
            &issuer,
            &signer,
            &LeafTemplate {
                spiffe_id: &id("/ns/a/sa/b"),
                dns_names: &["*.db.example.org".to_owned(), "x".to_owned()],
                subject: LeafSubject::Default,
                unique_id: false,
                public_key_spki: &spki,
                serial: leaf_serial,
                not_before: begin,
                not_after: end,
            },
        );
        let downstream = sign_downstream_ca(
            &issuer,
            &signer,
            &DownstreamTemplate {
                trust_domain: &trust_domain(),
                subject: DownstreamSubject::Depth(1),
                public_key_spki: &spki,
                serial: leaf_serial,
                not_before: begin,
                not_after: end,
            },
        );
        for (document, written) in [("ca", ca), ("leaf", leaf), ("downstream", downstream)] {
            let (written, expected) = (written.unwrap(), &documents[document]);
            assert_eq!(signed_part(&written), signed_part(expected), "{name} {document}");
            if key_type == KeyType::Rsa2048 {
                assert_eq!(written, *expected, "{name} {document}");
            }
        }
    }
}

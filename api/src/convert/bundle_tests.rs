//! Tests of bundle conversions, with real certificates and keys.

use super::*;

struct Authority {
    certificate: Vec<u8>,
    public_key: Vec<u8>,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        certificate: certificate.der().to_vec(),
        public_key: rcgen::PublicKeyData::subject_public_key_info(&key),
    }
}

fn x509(asn1: &[u8], tainted: bool) -> pb::types::X509Certificate {
    pb::types::X509Certificate { asn1: asn1.to_vec(), tainted }
}

fn jwt(public_key: &[u8], key_id: &str) -> pb::types::JwtKey {
    pb::types::JwtKey {
        public_key: public_key.to_vec(),
        key_id: key_id.to_owned(),
        expires_at: 1_900_000_000,
        tainted: true,
    }
}

fn full() -> pb::types::Bundle {
    let (first, second) = (authority(), authority());
    pb::types::Bundle {
        trust_domain: "example.org".to_owned(),
        x509_authorities: vec![x509(&first.certificate, false), x509(&second.certificate, true)],
        jwt_authorities: vec![
            jwt(&first.public_key, "k1"),
            pb::types::JwtKey { expires_at: 0, tainted: false, ..jwt(&second.public_key, "k2") },
        ],
        refresh_hint: 300,
        sequence_number: 17,
        wit_authorities: Vec::new(),
    }
}

#[test]
fn a_bundle_comes_back_as_it_went_in() {
    let message = full();
    assert_eq!(to_pb(&with_taints_from_pb(&message).unwrap()), message);
}

#[test]
fn wit_keys_go_out_and_are_not_taken_in() {
    let key = jwt(&authority().public_key, "w");
    let taken = from_pb(&full()).unwrap();
    let own = Bundle { wit_authorities: vec![jwt_authority_from_pb(&key).unwrap()], ..taken };
    let pb::types::JwtKey { public_key, key_id, expires_at, tainted } = key;
    let message = to_pb(&own);
    let expected = pb::types::WitKey { public_key, key_id, expires_at, tainted };
    assert_eq!(message.wit_authorities, [expected]);
    assert!(with_taints_from_pb(&message).unwrap().wit_authorities.is_empty());
}

#[test]
fn a_request_cannot_taint() {
    let bundle = from_pb(&full()).unwrap();
    assert!(bundle.x509_authorities.iter().all(|authority| !authority.tainted));
    assert!(bundle.jwt_authorities.iter().all(|authority| !authority.tainted));
    assert_eq!(bundle.jwt_authorities.len(), 2);
}

#[test]
fn certificates_that_follow_each_other_become_authorities_each() {
    let (first, second) = (authority(), authority());
    let both = [first.certificate.clone(), second.certificate.clone()].concat();
    let authorities = x509_authorities_from_pb(&[x509(&both, false)]).unwrap();
    let ders: Vec<_> = authorities.into_iter().map(|one| one.certificate_der).collect();
    assert_eq!(ders, [first.certificate, second.certificate]);
    assert_eq!(x509_authorities_from_pb(&[x509(&[], false)]), Ok(Vec::new()));
}

#[test]
fn a_trust_domain_may_be_given_as_an_id() {
    let message = pb::types::Bundle { trust_domain: "spiffe://example.org".to_owned(), ..full() };
    assert_eq!(from_pb(&message).unwrap().trust_domain.as_str(), "example.org");
}

#[test]
fn a_malformed_bundle_is_refused_with_spires_text() {
    type Refusal = (fn(&mut pb::types::Bundle, &Authority), &'static str);
    let table: [Refusal; 9] = [
        (|b, _| b.trust_domain.clear(), "invalid trust domain: trust domain is missing"),
        (
            |b, _| b.trust_domain = "a/b".to_owned(),
            "invalid trust domain: trust domain characters are limited to lowercase letters, \
             numbers, dots, dashes, and underscores",
        ),
        (
            |b, _| b.x509_authorities.push(x509(b"junk", false)),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b, a| b.x509_authorities.push(x509(&[&a.certificate[..], b"tail"].concat(), false)),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b, a| b.x509_authorities.push(x509(&a.public_key, false)),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b, _| b.jwt_authorities.push(jwt(b"junk", "k")),
            "unable to parse JWT authority: x509: malformed public key",
        ),
        (
            |b, a| b.jwt_authorities.push(jwt(&[&a.public_key[..], b"tail"].concat(), "k")),
            "unable to parse JWT authority: x509: malformed public key",
        ),
        (
            |b, a| b.jwt_authorities.push(jwt(&a.public_key, "")),
            "unable to parse JWT authority: missing key ID",
        ),
        (
            |b, a| {
                b.wit_authorities.push(pb::types::WitKey {
                    public_key: a.public_key.clone(),
                    ..Default::default()
                });
            },
            "unable to parse WIT authority: missing key ID",
        ),
    ];
    for (spoil, text) in table {
        let mut message = full();
        spoil(&mut message, &authority());
        let error = from_pb(&message).expect_err(text);
        assert_eq!(error.to_string(), text);
        let status = error.bundle_status();
        assert_eq!(status.code, 3);
        assert_eq!(status.message, format!("failed to convert bundle: {text}"));
    }
}

#[test]
fn a_mask_keeps_exactly_the_fields_it_names() {
    type Keep = (fn(&mut pb::types::BundleMask), fn(&mut pb::types::Bundle, pb::types::Bundle));
    let fields: [Keep; 5] = [
        (|m| m.x509_authorities = true, |b, f| b.x509_authorities = f.x509_authorities),
        (|m| m.jwt_authorities = true, |b, f| b.jwt_authorities = f.jwt_authorities),
        (|m| m.refresh_hint = true, |b, f| b.refresh_hint = f.refresh_hint),
        (|m| m.sequence_number = true, |b, f| b.sequence_number = f.sequence_number),
        (|m| m.wit_authorities = true, |b, f| b.wit_authorities = f.wit_authorities),
    ];
    let stored =
        pb::types::Bundle { wit_authorities: vec![pb::types::WitKey::default()], ..full() };
    for (set, copy) in fields {
        let mut mask = pb::types::BundleMask::default();
        set(&mut mask);
        let nothing =
            pb::types::Bundle { trust_domain: "example.org".to_owned(), ..Default::default() };
        let mut expected = nothing.clone();
        copy(&mut expected, stored.clone());
        let mut bundle = stored.clone();
        apply_mask(&mut bundle, Some(&mask));
        assert_eq!(bundle, expected);
        assert_ne!(bundle, nothing);
    }
    for mask in [None, Some(&ALL)] {
        let mut bundle = stored.clone();
        apply_mask(&mut bundle, mask);
        assert_eq!(bundle, stored);
    }
}

#[test]
fn an_update_writes_exactly_what_its_mask_names() {
    let stored = from_pb(&full()).unwrap();
    let update = from_pb(&pb::types::Bundle { refresh_hint: 9, sequence_number: 99, ..full() });
    let update = update.unwrap();
    let mask =
        pb::types::BundleMask { refresh_hint: true, jwt_authorities: true, ..Default::default() };
    let mut changed = stored.clone();
    apply_update(&mut changed, update.clone(), Some(&mask));
    let expected = Bundle {
        refresh_hint_s: 9,
        jwt_authorities: update.jwt_authorities.clone(),
        ..stored.clone()
    };
    assert_eq!(changed, expected);

    let mut replaced = stored;
    apply_update(&mut replaced, update.clone(), None);
    assert_eq!(replaced, update);
}

//! Certificates: SPIRE's profile as independent readers see it, the form that SVIDs must have, and
//! trust.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use steeple_spiffe_core::bundle::X509Authority;
use steeple_spiffe_core::pem::encode_certificates;
use steeple_spiffe_core::svid::x509::{
    CaSubject, DownstreamSubject, DownstreamTemplate, IssuerIdentity, LeafSubject, X509Error,
    X509Svid, ca_request, certificate_facts, self_signed_ca, sign_downstream_ca, sign_leaf,
    subject_key_id, verify_chain,
};
use steeple_spiffe_core::{CertificateRequest, KeyType, Serial, Signer};
use x509_cert::der::{Decode as _, Encode as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fixture::{Ca, bundle, id, key, now, seconds, template_of, trust_domain};

/// Extensions as `oid critical` in their order.
fn extensions(der: &[u8]) -> Vec<String> {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    let print = |extension: &x509_parser::extensions::X509Extension<'_>| {
        format!("{} {}", extension.oid, extension.critical)
    };
    certificate.extensions().iter().map(print).collect()
}

/// The value of an extension, hex.
fn extension_value(der: &[u8], oid: &str) -> String {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    let extension =
        certificate.extensions().iter().find(|extension| extension.oid.to_string() == oid);
    extension.expect("the extension").value.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names(der: &[u8]) -> (String, String) {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    (certificate.subject().to_string(), certificate.issuer().to_string())
}

#[test]
fn leaf_has_spires_profile() {
    let ca = Ca::new(KeyType::EcP256, 7);
    let (leaf_key, _) = key(KeyType::EcP384);
    let dns_names = ["db.example.org".to_owned(), "*.example.org".to_owned()];
    let workload = id("/db");
    let template = template_of(&workload, leaf_key.public_key_spki(), &dns_names);
    let der = sign_leaf(&ca.issuer, &ca.signer, &template).unwrap();

    let (rest, parsed) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    assert_eq!(parsed.version.0, 2, "version 3 is written as 2");
    assert_eq!(parsed.raw_serial(), [&[0][..], &[0x8f; 16]].concat());
    assert_eq!(parsed.validity().not_before.timestamp(), now().unix_s() - 10);
    assert_eq!(parsed.validity().not_after.timestamp(), now().unix_s() + 3600);
    assert_eq!(parsed.public_key().raw, leaf_key.public_key_spki());
    assert_eq!(parsed.signature_algorithm, parsed.tbs_certificate.signature);
    assert_eq!(
        names(&der),
        ("C=US, O=SPIRE, CN=db.example.org".into(), "C=US, O=SPIFFE, serialNumber=7".into())
    );
    assert_eq!(
        extensions(&der),
        [
            "2.5.29.15 true",  // key usage
            "2.5.29.37 false", // extended key usage
            "2.5.29.19 true",  // basic constraints
            "2.5.29.14 false", // subject key id
            "2.5.29.35 false", // authority key id
            "2.5.29.17 false", // subject alternative name
        ]
    );
    assert_eq!(extension_value(&der, "2.5.29.15"), "030203a8");
    assert_eq!(extension_value(&der, "2.5.29.37"), "301406082b0601050507030106082b06010505070302");
    assert_eq!(extension_value(&der, "2.5.29.19"), "3000");

    let svid = X509Svid::parse_chain(std::slice::from_ref(&der)).unwrap();
    assert_eq!(svid.id, workload);
    assert_eq!(svid.dns_names, dns_names);
    assert_eq!(svid.serial.as_str(), u128::from_be_bytes([0x8f; 16]).to_string());
    assert_eq!(svid.subject_key_id, subject_key_id(leaf_key.public_key_spki()).unwrap());
    assert_eq!(
        svid.authority_key_id,
        certificate_facts(&ca.certificate_der).unwrap().subject_key_id
    );
}

#[test]
fn a_unique_id_is_the_last_attribute_and_the_one_that_spire_computes() {
    let ca = Ca::new(KeyType::EcP256, 7);
    let (leaf_key, _) = key(KeyType::EcP256);
    let workload = id("/web");
    // Both subjects are recorded from SPIRE 1.15.3 with its composer "uniqueid".
    for (dns_names, common_name) in
        [(vec![], ""), (vec!["db.example.org".to_owned()], "db.example.org")]
    {
        let mut template = template_of(&workload, leaf_key.public_key_spki(), &dns_names);
        template.unique_id = true;
        let der = sign_leaf(&ca.issuer, &ca.signer, &template).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let attributes: Vec<(String, u32, &str)> = parsed
            .subject()
            .iter_attributes()
            .map(|one| {
                let value = one.attr_value();
                (one.attr_type().to_string(), value.header.tag().0, one.as_str().unwrap())
            })
            .collect();
        // 19 is a PrintableString.
        let mut expected = vec![
            ("2.5.4.6".to_owned(), 19, "US"),
            ("2.5.4.10".to_owned(), 19, "SPIRE"),
            ("2.5.4.45".to_owned(), 19, "5435ad736577b1c6010684ba059e1171"),
        ];
        if !common_name.is_empty() {
            expected.insert(2, ("2.5.4.3".to_owned(), 19, common_name));
        }
        assert_eq!(attributes, expected);
    }
}

#[test]
fn self_signed_ca_has_spires_profile() {
    let ca = Ca::new(KeyType::EcP384, 1);
    assert_eq!(names(&ca.certificate_der).0, "C=US, O=SPIFFE, serialNumber=1");
    assert_eq!(
        extensions(&ca.certificate_der),
        ["2.5.29.15 true", "2.5.29.19 true", "2.5.29.14 false", "2.5.29.17 false"],
        "no authority key id on a root"
    );
    assert_eq!(extension_value(&ca.certificate_der, "2.5.29.15"), "03020106");
    assert_eq!(extension_value(&ca.certificate_der, "2.5.29.19"), "30030101ff");
    let facts = certificate_facts(&ca.certificate_der).unwrap();
    assert!(facts.is_ca);
    assert_eq!(facts.uris, ["spiffe://example.org"]);
    assert!(facts.authority_key_id.is_empty());

    let (signer, _) = key(KeyType::EcP256);
    let subject = CaSubject {
        country: vec!["DE".into(), "CH".into()],
        organization: vec!["Müller".into()],
        common_name: "root".into(),
    };
    let configured = |subject: &CaSubject| {
        let ends = (now(), now().plus(seconds(60)));
        self_signed_ca(&trust_domain(), Some(subject), &signer, [1; 16], ends.0, ends.1).unwrap()
    };
    let serial = Serial::from_be_bytes(&[1; 16]);
    let expected = format!("C=CH + C=DE, O=Müller, CN=root, serialNumber={serial}");
    assert_eq!(names(&configured(&subject)).0, expected);
    let expected = format!("C=US, O=SPIFFE, serialNumber={serial}");
    assert_eq!(names(&configured(&CaSubject::default())).0, expected);
}

#[test]
fn downstream_ca_replaces_the_unit_of_its_parent() {
    let ca = Ca::new(KeyType::EcP256, 3);
    let (downstream, _) = key(KeyType::EcP256);
    let template = DownstreamTemplate {
        trust_domain: &trust_domain(),
        subject: DownstreamSubject::Depth(1),
        public_key_spki: downstream.public_key_spki(),
        serial: [2; 16],
        not_before: now(),
        not_after: now().plus(seconds(600)),
    };
    let intermediate = sign_downstream_ca(&ca.issuer, &ca.signer, &template).unwrap();
    assert_eq!(names(&intermediate).0, "C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber=3");

    let issuer = IssuerIdentity::from_certificate(&intermediate).unwrap();
    let (leaf_key, _) = key(KeyType::EcP256);
    let workload = id("/w");
    let template = template_of(&workload, leaf_key.public_key_spki(), &[]);
    let leaf = sign_leaf(&issuer, &downstream, &template).unwrap();
    let trusted = bundle(vec![ca.authority()], vec![]);
    let chain = [leaf, intermediate];
    assert_eq!(verify_chain(&chain, &trusted, now()), Ok(workload));
    let alone = verify_chain(&chain[..1], &trusted, now());
    assert_eq!(alone, Err(X509Error::Untrusted(webpki::Error::UnknownIssuer)));
}

#[test]
fn a_request_for_a_ca_certificate_proves_its_key_and_names_the_trust_domain_alone() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let (signer, _) = key(key_type);
        let der = ca_request(&trust_domain(), None, &signer, [2; 16]).unwrap();
        CertificateRequest::verify_signature(&der).unwrap();
        let request = CertificateRequest::parse(&der).unwrap();
        assert_eq!(request.public_key_spki, signer.public_key_spki());
        assert_eq!(request.uris, [trust_domain().id_string()]);
        assert!(request.dns_names.is_empty() && !request.subject_is_empty);

        let ca = Ca::new(KeyType::EcP256, 3);
        let template = DownstreamTemplate {
            trust_domain: &trust_domain(),
            subject: DownstreamSubject::Given(&request.subject_der),
            public_key_spki: &request.public_key_spki,
            serial: [4; 16],
            not_before: now(),
            not_after: now().plus(seconds(600)),
        };
        let intermediate = sign_downstream_ca(&ca.issuer, &ca.signer, &template).unwrap();
        // The number that the request was drawn for, in decimal, not the certificate's own.
        let number = Serial::from_be_bytes(&[2; 16]);
        assert_eq!(names(&intermediate).0, format!("C=US, O=SPIFFE, serialNumber={number}"));
        let facts = certificate_facts(&intermediate).unwrap();
        assert!(facts.is_ca);
        assert_eq!(facts.uris, [trust_domain().id_string()]);
        assert_eq!(facts.issuer_der, ca.issuer.name_der);
        assert_eq!(facts.authority_key_id, ca.issuer.key_id);
    }
}

#[test]
fn subject_of_a_request_is_kept_as_go_keeps_it() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let (leaf_key, _) = key(KeyType::EcP256);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "given");
    params.distinguished_name.push(DnType::CountryName, "FR");
    params
        .distinguished_name
        .push(DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, 25]), "dropped");
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let request = CertificateRequest::parse(request.der()).unwrap();
    let workload = id("/w");

    let dns_names = ["first.example".to_owned()];
    for (dns_names, subject, expected) in [
        (&dns_names[..0], LeafSubject::Given(&request.subject_der), "C=FR, CN=given"),
        (&dns_names[..], LeafSubject::Given(&request.subject_der), "C=FR, CN=first.example"),
        (&dns_names[..0], LeafSubject::Given(&[0x30, 0]), "C=US, O=SPIRE"),
    ] {
        let mut template = template_of(&workload, leaf_key.public_key_spki(), dns_names);
        template.subject = subject;
        let der = sign_leaf(&ca.issuer, &ca.signer, &template).unwrap();
        assert_eq!(names(&der).0, expected);
    }
    let mut template = template_of(&workload, leaf_key.public_key_spki(), &[]);
    template.subject = LeafSubject::Given(b"no name");
    assert_eq!(sign_leaf(&ca.issuer, &ca.signer, &template), Err(X509Error::BadName));
}

#[test]
fn impossible_certificates_are_not_signed() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let (leaf_key, _) = key(KeyType::EcP256);
    let workload = id("/w");
    let template = || template_of(&workload, leaf_key.public_key_spki(), &[]);

    let mut zero = template();
    zero.serial = [0; 16];
    assert_eq!(sign_leaf(&ca.issuer, &ca.signer, &zero), Err(X509Error::ZeroSerial));
    let mut ended = template();
    ended.not_after = ended.not_before;
    assert_eq!(sign_leaf(&ca.issuer, &ca.signer, &ended), Err(X509Error::BadLifetime));
    let mut endless = template();
    endless.not_after = steeple_spiffe_core::Timestamp::from_unix_s(300_000_000_000);
    assert_eq!(sign_leaf(&ca.issuer, &ca.signer, &endless), Err(X509Error::BadLifetime));
    let mut keyless = template();
    keyless.public_key_spki = &[0x30, 0];
    assert_eq!(sign_leaf(&ca.issuer, &ca.signer, &keyless), Err(X509Error::BadPublicKey));
}

#[test]
fn every_kind_of_authority_signs_leaves_that_verify() {
    let kinds = [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048];
    for kind in kinds {
        let ca = Ca::new(kind, 1);
        let (leaf, _) = ca.leaf("/w");
        let trusted = bundle(vec![ca.authority()], vec![]);
        assert_eq!(verify_chain(&[leaf], &trusted, now()), Ok(id("/w")), "{kind}");
    }
}

#[test]
fn trust_needs_the_right_authority_at_the_right_time() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let other = Ca::new(KeyType::EcP256, 2);
    let (leaf, _) = ca.leaf("/w");
    let chain = [leaf];
    let both = bundle(vec![other.authority(), ca.authority()], vec![]);
    assert_eq!(verify_chain(&chain, &both, now()), Ok(id("/w")));

    let mut tainted = ca.authority();
    tainted.tainted = true;
    assert_eq!(verify_chain(&chain, &bundle(vec![tainted], vec![]), now()), Ok(id("/w")));

    let unknown = Err(X509Error::Untrusted(webpki::Error::UnknownIssuer));
    let without = bundle(vec![other.authority()], vec![]);
    assert_eq!(verify_chain(&chain, &without, now()), unknown);
    assert_eq!(verify_chain(&chain, &bundle(vec![], vec![]), now()), unknown);

    let late = verify_chain(&chain, &both, now().plus(seconds(3602)));
    assert!(
        matches!(late, Err(X509Error::Untrusted(webpki::Error::CertExpired { .. }))),
        "{late:?}"
    );
    let early = verify_chain(&chain, &both, now().minus(seconds(3600)));
    assert!(
        matches!(early, Err(X509Error::Untrusted(webpki::Error::CertNotValidYet { .. }))),
        "{early:?}"
    );

    let mut foreign = (*both).clone();
    foreign.trust_domain = steeple_spiffe_core::TrustDomain::parse("other.org").unwrap();
    let wrong = verify_chain(&chain, &foreign, now());
    assert!(matches!(wrong, Err(X509Error::WrongTrustDomain { .. })), "{wrong:?}");
    assert_eq!(verify_chain(&[], &both, now()), Err(X509Error::EmptyChain));
}

#[test]
fn expired_authority_is_no_anchor_although_webpki_would_take_it() {
    let expired = Ca::valid(KeyType::EcP256, 1, now().minus(seconds(100)), now().minus(seconds(1)));
    let (leaf, _) = expired.leaf("/w");
    let trusted = bundle(vec![expired.authority()], vec![]);
    let verdict = verify_chain(std::slice::from_ref(&leaf), &trusted, now());
    assert_eq!(verdict, Err(X509Error::Untrusted(webpki::Error::UnknownIssuer)));
    // The same chain was fine while the authority lived: the leaf itself is not what failed.
    assert_eq!(verify_chain(&[leaf], &trusted, now().minus(seconds(2))), Ok(id("/w")));
}

/// A certificate made by rcgen with one thing wrong.
fn foreign(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.subject_alt_names =
        vec![SanType::URI("spiffe://example.org/w".try_into().expect("ASCII"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").der().to_vec()
}

#[test]
fn leaves_of_the_wrong_form_are_refused() {
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let id_error = steeple_spiffe_core::SpiffeId::parse("https://x").unwrap_err();
    let cases: Vec<(Vec<u8>, X509Error)> = vec![
        (foreign(|p| p.subject_alt_names.clear()), X509Error::NoUri),
        (foreign(|p| p.subject_alt_names = vec![uri("https://x")]), X509Error::BadId(id_error)),
        (foreign(|p| p.subject_alt_names.push(uri("spiffe://example.org/x"))), X509Error::ManyUris),
        (foreign(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), X509Error::LeafIsCa),
        (foreign(|p| p.key_usages.clear()), X509Error::LeafCannotSign),
        (
            foreign(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            X509Error::LeafCannotSign,
        ),
        (
            foreign(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            X509Error::LeafSignsCertificates,
        ),
        (foreign(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), X509Error::LeafSignsCrls),
    ];
    for (der, expected) in cases {
        assert_eq!(X509Svid::parse_chain(&[der]), Err(expected));
    }
    assert!(X509Svid::parse_chain(&[foreign(|_| {})]).is_ok(), "the control");
    assert_eq!(X509Svid::parse_chain(&[]), Err(X509Error::EmptyChain));

    let leaf = foreign(|_| {});
    let not_ca = X509Svid::parse_chain(&[leaf.clone(), leaf.clone()]);
    assert_eq!(not_ca, Err(X509Error::IntermediateNotCa));
    let mute = foreign(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(
        X509Svid::parse_chain(&[leaf.clone(), mute]),
        Err(X509Error::IntermediateCannotSign)
    );
    let trailing = [leaf, vec![0]].concat();
    assert!(matches!(X509Svid::parse_chain(&[trailing]), Err(X509Error::Malformed(_))));
}

#[test]
fn issuer_name_is_copied_as_it_is() {
    // An upstream CA that writes its name as UTF8String and in an order of its own: re-encoding it
    // would break the chain.
    let upstream_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Upstream");
    params.distinguished_name.push(DnType::CountryName, "US");
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    let upstream = params.self_signed(&upstream_key).unwrap().der().to_vec();
    let signer =
        steeple_spiffe_core::LocalSigner::from_pkcs8(upstream_key.serialized_der()).unwrap();
    let issuer = IssuerIdentity::from_certificate(&upstream).unwrap();

    let (leaf_key, _) = key(KeyType::EcP256);
    let workload = id("/w");
    let template = template_of(&workload, leaf_key.public_key_spki(), &[]);
    let leaf = sign_leaf(&issuer, &signer, &template).unwrap();
    let authority = X509Authority { certificate_der: upstream, tainted: false };
    assert_eq!(verify_chain(&[leaf], &bundle(vec![authority], vec![]), now()), Ok(workload));
}

/// A certificate of rcgen for a CA, and what signs with it.
fn rcgen_ca(
    is_ca: BasicConstraints,
    usage: KeyUsagePurpose,
    above: Option<&Issuer<'static, KeyPair>>,
) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::SeqCst));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(is_ca);
    params.key_usages = vec![usage];
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    let certificate = match above {
        Some(above) => params.signed_by(&key, above),
        None => params.self_signed(&key),
    };
    (certificate.expect("a certificate").der().to_vec(), Issuer::new(params, key))
}

#[test]
fn a_root_limits_what_stands_below_it_although_webpki_does_not_look() {
    use BasicConstraints::{Constrained, Unconstrained};
    use KeyUsagePurpose::{DigitalSignature, KeyCertSign};

    let leaf_below = |issuer: &Issuer<'static, KeyPair>| {
        let mut leaf = CertificateParams::new(Vec::new()).unwrap();
        leaf.subject_alt_names = vec![SanType::URI("spiffe://example.org/w".try_into().unwrap())];
        leaf.key_usages = vec![DigitalSignature];
        leaf.not_before = rcgen::date_time_ymd(2025, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2035, 1, 1);
        leaf.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
    };
    let too_long = Err(X509Error::Untrusted(webpki::Error::PathLenConstraintViolated));
    let no_anchor = Err(X509Error::Untrusted(webpki::Error::UnknownIssuer));
    let table = [
        (Unconstrained, KeyCertSign, 1, Ok(id("/w"))),
        (Constrained(1), KeyCertSign, 1, Ok(id("/w"))),
        (Constrained(0), KeyCertSign, 0, Ok(id("/w"))),
        (Constrained(0), KeyCertSign, 1, too_long),
        (Unconstrained, DigitalSignature, 0, no_anchor),
    ];
    for (is_ca, usage, between, expected) in table {
        let (root, mut issuer) = rcgen_ca(is_ca, usage, None);
        let mut above = Vec::new();
        for _ in 0..between {
            let (certificate, next) = rcgen_ca(Unconstrained, KeyCertSign, Some(&issuer));
            above.insert(0, certificate);
            issuer = next;
        }
        let chain: Vec<_> = std::iter::once(leaf_below(&issuer)).chain(above).collect();
        let authority = X509Authority { certificate_der: root, tainted: false };
        let verdict = verify_chain(&chain, &bundle(vec![authority], vec![]), now());
        assert_eq!(verdict, expected, "{is_ca:?}, {usage:?}, {between} between");
    }
}

#[test]
fn chain_with_a_uri_name_constraint_is_not_trusted() {
    // webpki cannot check constraints on URIs and fails closed; this pins that it still does.
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    // permittedSubtrees { URI "example.org" }
    let host = b"example.org";
    let mut value = vec![0x30, 17, 0xa0, 15, 0x30, 13, 0x86, 11];
    value.extend_from_slice(host);
    let constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], value);
    params.custom_extensions = vec![constraint];
    let root = params.self_signed(&root_key).unwrap().der().to_vec();
    let issuer = Issuer::new(params, root_key);

    let leaf_key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://example.org/w".try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.not_before = rcgen::date_time_ymd(2025, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2035, 1, 1);
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap().der().to_vec();
    let authority = X509Authority { certificate_der: root, tainted: false };
    let verdict = verify_chain(&[leaf], &bundle(vec![authority], vec![]), now());
    assert!(
        matches!(verdict, Err(X509Error::Untrusted(webpki::Error::NameConstraintViolation))),
        "{verdict:?}"
    );
}

#[test]
fn openssl_reads_and_verifies_what_is_written() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: no openssl program on this machine");
        return;
    }
    let ca = Ca::new(KeyType::EcP256, 7);
    let (leaf_key, _) = key(KeyType::EcP256);
    let dns_names = ["db.example.org".to_owned()];
    let workload = id("/db");
    let template = template_of(&workload, leaf_key.public_key_spki(), &dns_names);
    let leaf = sign_leaf(&ca.issuer, &ca.signer, &template).unwrap();
    let dir = std::env::temp_dir().join(format!("steeple-openssl-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (ca_file, leaf_file) = (dir.join("ca.pem"), dir.join("leaf.pem"));
    std::fs::write(&ca_file, encode_certificates(std::slice::from_ref(&ca.certificate_der)))
        .unwrap();
    std::fs::write(&leaf_file, encode_certificates(&[leaf])).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let verify = ["verify", "-x509_strict", "-purpose", "sslclient", "-attime"];
    let at = now().unix_s().to_string();
    run(Command::new("openssl").args(verify).arg(at).arg("-CAfile").arg(&ca_file).arg(&leaf_file));
    let text =
        run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&leaf_file));
    std::fs::remove_dir_all(&dir).unwrap();
    for part in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Issuer: C = US, O = SPIFFE, serialNumber = 7",
        "Subject: C = US, O = SPIRE, CN = db.example.org",
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment, Key Agreement",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "DNS:db.example.org, URI:spiffe://example.org/db",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn x509_cert_reads_every_leaf_and_writes_it_back_unchanged(
        path in "(/[a-zA-Z0-9._-]{1,200}x){1,5}",
        dns_names in prop::collection::vec("[a-z0-9]{1,60}(\\.[a-z]{1,20}){0,3}", 0..30),
        serial in prop::array::uniform16(any::<u8>()),
        lifetime_s in 1_u64..40_000_000_000,
    ) {
        prop_assume!(serial != [0; 16]);
        let ca = Ca::new(KeyType::EcP256, 1);
        let (leaf_key, _) = key(KeyType::EcP256);
        let workload = id(&path);
        let mut template = template_of(&workload, leaf_key.public_key_spki(), &dns_names);
        template.serial = serial;
        template.not_after = template.not_before.plus(seconds(lifetime_s));
        let der = sign_leaf(&ca.issuer, &ca.signer, &template).unwrap();
        let certificate = x509_cert::Certificate::from_der(&der).unwrap();
        prop_assert_eq!(certificate.to_der().unwrap(), der.clone());

        let svid = X509Svid::parse_chain(&[der]).unwrap();
        prop_assert_eq!(svid.id, workload.clone());
        prop_assert_eq!(svid.serial.as_str(), u128::from_be_bytes(serial).to_string());
        prop_assert_eq!(svid.not_after, template.not_after.floor_to_second());
        prop_assert_eq!(svid.dns_names, dns_names);
    }

    #[test]
    fn damaged_certificates_never_panic(position: prop::sample::Index, byte: u8) {
        let (mut der, _) = Ca::new(KeyType::EcP256, 1).leaf("/w");
        let index = position.index(der.len());
        der[index] = byte;
        drop(certificate_facts(&der));
        drop(X509Svid::parse_chain(&[der]));
    }
}

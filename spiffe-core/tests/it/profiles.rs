//! The profiles of SPIRE's certificates and tokens, field by field and for every key type, as two readers
//! see them that share no code with the writer: x509-parser and the `openssl` program
//! (`spec/spire-semantics.md` 4 and 5).

use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use steeple_spiffe_core::pem::encode_certificates;
use steeple_spiffe_core::svid::jwt::{JwtClaims, sign_jwt_svid};
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, sign_downstream_ca, sign_leaf,
};
use steeple_spiffe_core::{KeyType, LocalSigner, Signer, SpiffeId};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fixture::{Ca, id, key, now, seconds, template_of, trust_domain};

const KEY_TYPES: [KeyType; 5] =
    [KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa2048, KeyType::Rsa4096];

/// An extension: its name, whether it is critical, its value.
type Extension = (&'static str, bool, String);

/// Everything that a certificate says but its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Profile {
    version: u32,
    serial_hex: String,
    signature: String,
    issuer: String,
    /// Seconds before and after the time at which the tests play.
    validity_s: (i64, i64),
    subject: String,
    spki: Vec<u8>,
    extensions: Vec<Extension>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-1 of the bits of the key: a subject key id.
fn key_id(certificate: &X509Certificate<'_>) -> String {
    let bits = &certificate.public_key().subject_public_key.data;
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bits).as_ref())
}

fn key_id_of(der: &[u8]) -> String {
    key_id(&X509Certificate::from_der(der).expect("a certificate").1)
}

/// As x509-parser reads an extension.
#[expect(clippy::wildcard_enum_match_arm, reason = "no certificate of ours has any other")]
fn read_extension(extension: &x509_parser::extensions::X509Extension<'_>) -> Extension {
    let (name, value) = match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => ("key usage", usage.to_string()),
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let rest = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            let said = [("server", usage.server_auth), ("client", usage.client_auth), ("x", rest)];
            let said = said.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name);
            ("extended key usage", said.collect::<Vec<_>>().join(", "))
        }
        ParsedExtension::BasicConstraints(basic) => {
            ("basic constraints", format!("{} {:?}", basic.ca, basic.path_len_constraint))
        }
        ParsedExtension::SubjectKeyIdentifier(id) => ("subject key id", hex(id.0)),
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            assert!(id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none());
            ("authority key id", hex(id.key_identifier.as_ref().expect("a key id").0))
        }
        ParsedExtension::SubjectAlternativeName(names) => {
            let name = |name: &GeneralName<'_>| match name {
                GeneralName::DNSName(name) => format!("DNS:{name}"),
                GeneralName::URI(uri) => format!("URI:{uri}"),
                other => format!("unexpected {other:?}"),
            };
            let names: Vec<String> = names.general_names.iter().map(name).collect();
            ("names", names.join(", "))
        }
        other => ("unexpected", format!("{other:?}")),
    };
    (name, extension.critical, value)
}

fn read(der: &[u8]) -> Profile {
    let (rest, parsed) = X509Certificate::from_der(der).expect("a certificate");
    assert!(rest.is_empty() && parsed.issuer_uid.is_none() && parsed.subject_uid.is_none());
    assert_eq!(parsed.signature_algorithm, parsed.tbs_certificate.signature, "both are the same");
    let offset = |time: i64| time - now().unix_s();
    let validity = parsed.validity();
    Profile {
        version: parsed.version.0 + 1,
        serial_hex: hex(parsed.raw_serial()).trim_start_matches("00").to_owned(),
        signature: parsed.signature_algorithm.algorithm.to_id_string(),
        issuer: parsed.issuer().to_string(),
        validity_s: (
            offset(validity.not_before.timestamp()),
            offset(validity.not_after.timestamp()),
        ),
        subject: parsed.subject().to_string(),
        spki: parsed.public_key().raw.to_vec(),
        extensions: parsed.extensions().iter().map(read_extension).collect(),
    }
}

/// The algorithm that an authority of a type signs certificates with: its OID, and openssl's name.
fn signs_with(key_type: KeyType) -> (&'static str, &'static str) {
    match key_type {
        KeyType::EcP256 => ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256"),
        KeyType::EcP384 => ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384"),
        KeyType::EcP521 => ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512"),
        KeyType::Rsa2048 | KeyType::Rsa4096 => ("1.2.840.113549.1.1.11", "sha256WithRSAEncryption"),
    }
}

/// One certificate, what it must say, and what else its reader needs.
struct Case {
    what: &'static str,
    der: Vec<u8>,
    expected: Profile,
    /// Between it and the root.
    between: Option<Vec<u8>>,
}

const CA_USES: &str = "Key Cert Sign, CRL Sign";
const LEAF_USES: &str = "Digital Signature, Key Encipherment, Key Agreement";

fn ca_extensions(der: &[u8], authority_key_id: Option<String>) -> Vec<Extension> {
    let above = authority_key_id.map(|id| ("authority key id", false, id));
    let mut all = vec![
        ("key usage", true, CA_USES.to_owned()),
        ("basic constraints", true, "true None".to_owned()),
        ("subject key id", false, key_id_of(der)),
    ];
    all.extend(above);
    all.push(("names", false, "URI:spiffe://example.org".to_owned()));
    all
}

fn leaf_extensions(der: &[u8], authority_key_id: String, names: &str) -> Vec<Extension> {
    vec![
        ("key usage", true, LEAF_USES.to_owned()),
        ("extended key usage", false, "server, client".to_owned()),
        ("basic constraints", true, "false None".to_owned()),
        ("subject key id", false, key_id_of(der)),
        ("authority key id", false, authority_key_id),
        ("names", false, names.to_owned()),
    ]
}

/// A server's CA, self-signed, and one below it.
fn authorities(ca: &Ca, key_type: KeyType) -> ([Case; 2], LocalSigner, Vec<u8>) {
    let signature = signs_with(key_type).0.to_owned();
    let root = Case {
        what: "server CA",
        der: ca.certificate_der.clone(),
        expected: Profile {
            version: 3,
            serial_hex: "07".to_owned(),
            signature: signature.clone(),
            issuer: "C=US, O=SPIFFE, serialNumber=7".to_owned(),
            validity_s: (-10, 86_400),
            subject: "C=US, O=SPIFFE, serialNumber=7".to_owned(),
            spki: ca.signer.public_key_spki().to_vec(),
            extensions: ca_extensions(&ca.certificate_der, None),
        },
        between: None,
    };
    let (signer, _) = key(key_type);
    let template = DownstreamTemplate {
        trust_domain: &trust_domain(),
        subject: DownstreamSubject::Depth(1),
        public_key_spki: signer.public_key_spki(),
        serial: [0x91; 16],
        not_before: now().minus(seconds(10)),
        not_after: now().plus(seconds(7_200)),
    };
    let der = sign_downstream_ca(&ca.issuer, &ca.signer, &template).expect("a downstream CA");
    let below = Case {
        what: "downstream CA",
        expected: Profile {
            serial_hex: "91".repeat(16),
            validity_s: (-10, 7_200),
            subject: "C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber=7".to_owned(),
            spki: signer.public_key_spki().to_vec(),
            extensions: ca_extensions(&der, Some(key_id_of(&ca.certificate_der))),
            ..root.expected.clone()
        },
        der: der.clone(),
        between: None,
    };
    ([root, below], signer, der)
}

/// SVIDs: of the server, of an agent, of a workload with DNS names, and of one below a downstream CA.
fn svids(ca: &Ca, key_type: KeyType, downstream: (&LocalSigner, &Vec<u8>)) -> Vec<Case> {
    let dns_names = ["db.example.org".to_owned(), "*.example.org".to_owned()];
    let (below, below_der) = downstream;
    let below_identity = IssuerIdentity::from_certificate(below_der).expect("an issuer");
    type Wanted<'a> = (&'static str, SpiffeId, &'a [String], bool);
    let wanted: [Wanted<'_>; 4] = [
        ("server SVID", SpiffeId::server(trust_domain()), &[], false),
        ("agent SVID", id("/spire/agent/x509pop/a"), &[], false),
        ("workload SVID", id("/db"), &dns_names, false),
        ("workload SVID below", id("/db"), &[], true),
    ];
    let make = |(what, spiffe_id, dns_names, is_below): Wanted<'_>| {
        let (signer, _) = key(key_type);
        let template = template_of(&spiffe_id, signer.public_key_spki(), dns_names);
        let (identity, authority, authority_der): (_, &LocalSigner, _) = match is_below {
            true => (&below_identity, below, below_der),
            false => (&ca.issuer, &ca.signer, &ca.certificate_der),
        };
        let der = sign_leaf(identity, authority, &template).expect("a leaf");
        let common_name = dns_names.first().map(|name| format!(", CN={name}"));
        let uri = format!("URI:{spiffe_id}");
        let names = dns_names.iter().map(|name| format!("DNS:{name}")).chain([uri]);
        let names = names.collect::<Vec<_>>().join(", ");
        let expected = Profile {
            version: 3,
            serial_hex: "8f".repeat(16),
            signature: signs_with(key_type).0.to_owned(),
            issuer: read(authority_der).subject,
            validity_s: (-10, 3_600),
            subject: format!("C=US, O=SPIRE{}", common_name.unwrap_or_default()),
            spki: signer.public_key_spki().to_vec(),
            extensions: leaf_extensions(&der, key_id_of(authority_der), &names),
        };
        Case { what, der, expected, between: is_below.then(|| below_der.clone()) }
    };
    wanted.into_iter().map(make).collect()
}

fn cases(key_type: KeyType) -> (Ca, Vec<Case>) {
    let ca = Ca::new(key_type, 7);
    let (authorities, signer, der) = authorities(&ca, key_type);
    let svids = svids(&ca, key_type, (&signer, &der));
    (ca, authorities.into_iter().chain(svids).collect())
}

#[test]
fn every_certificate_says_what_spire_says_and_nothing_else() {
    for key_type in KEY_TYPES {
        let (_, cases) = cases(key_type);
        for case in cases {
            assert_eq!(read(&case.der), case.expected, "{} of {key_type}", case.what);
        }
    }
}

/// The openssl program in a folder of its own; `None` where there is none.
struct Openssl {
    folder: PathBuf,
}

impl Drop for Openssl {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl Openssl {
    fn find(name: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            return None;
        }
        let folder = std::env::temp_dir().join(format!("steeple-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Some(Self { folder })
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// What it prints; it must succeed.
    fn run(&self, words: &[&str], files: &[(&str, &Path)]) -> String {
        let mut command = Command::new("openssl");
        command.args(words);
        files.iter().for_each(|(option, path)| {
            command.args(Some(*option).filter(|option| !option.is_empty())).arg(path);
        });
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {text}{said}");
        text
    }
}

/// The extensions of a printed certificate, in the words of [`read_extension`].
fn printed_extensions(text: &str) -> Vec<Extension> {
    const NAMES: [(&str, &str); 6] = [
        ("X509v3 Key Usage", "key usage"),
        ("X509v3 Extended Key Usage", "extended key usage"),
        ("X509v3 Basic Constraints", "basic constraints"),
        ("X509v3 Subject Key Identifier", "subject key id"),
        ("X509v3 Authority Key Identifier", "authority key id"),
        ("X509v3 Subject Alternative Name", "names"),
    ];
    let after = text.split("X509v3 extensions:").nth(1).expect("extensions");
    let list = after.split("    Signature Algorithm").next().expect("what is before it");
    let mut lines = list.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut found = Vec::new();
    while let Some(heading) = lines.next() {
        let (name, flag) = heading.split_once(':').expect("a heading");
        let name = NAMES.iter().find(|(printed, _)| *printed == name).expect("a known extension").1;
        let value = lines.next().expect("a value");
        let value = match name {
            "subject key id" | "authority key id" => {
                value.trim_start_matches("keyid:").replace(':', "").to_lowercase()
            }
            "basic constraints" => format!("{} None", value == "CA:TRUE"),
            "extended key usage" => value
                .replace("TLS Web Server Authentication", "server")
                .replace("TLS Web Client Authentication", "client"),
            "key usage" => value.replace("Certificate Sign", "Key Cert Sign"),
            _ => value.to_owned(),
        };
        found.push((name, flag.trim() == "critical", value));
    }
    found
}

/// What openssl must print of a key of this type.
fn printed_key(key_type: KeyType) -> [&'static str; 3] {
    match key_type {
        KeyType::EcP256 => ["id-ecPublicKey", "(256 bit)", "ASN1 OID: prime256v1"],
        KeyType::EcP384 => ["id-ecPublicKey", "(384 bit)", "ASN1 OID: secp384r1"],
        KeyType::EcP521 => ["id-ecPublicKey", "(521 bit)", "ASN1 OID: secp521r1"],
        KeyType::Rsa2048 => ["rsaEncryption", "(2048 bit)", "Exponent: 65537 (0x10001)"],
        KeyType::Rsa4096 => ["rsaEncryption", "(4096 bit)", "Exponent: 65537 (0x10001)"],
    }
}

/// The time at which the tests play, so many seconds later, as openssl prints it.
fn printed_time(offset_s: i64) -> &'static str {
    match offset_s {
        -10 => "Nov 21 23:59:49 2025 GMT",
        3_600 => "Nov 22 00:59:59 2025 GMT",
        7_200 => "Nov 22 01:59:59 2025 GMT",
        86_400 => "Nov 22 23:59:59 2025 GMT",
        _ => "no certificate here begins or ends then",
    }
}

fn check_printed(openssl: &Openssl, key_type: KeyType, case: &Case) {
    let what = format!("{} of {key_type}", case.what);
    let file = openssl.file("it.pem", encode_certificates(std::slice::from_ref(&case.der)));
    let expected = &case.expected;
    let text = openssl.run(&["x509", "-noout", "-text"], &[("-in", &file)]);
    assert_eq!(printed_extensions(&text), expected.extensions, "{what}");
    assert!(text.contains("Version: 3 (0x2)"), "{what}: {text}");
    let algorithm = format!("Signature Algorithm: {}\n", signs_with(key_type).1);
    assert_eq!(text.matches(&algorithm).count(), 2, "{what}: {text}");
    assert!(printed_key(key_type).iter().all(|part| text.contains(part)), "{what}: {text}");

    let words = ["x509", "-noout", "-serial", "-subject", "-issuer", "-dates", "-nameopt"];
    let words = [&words[..], &["sep_comma_plus_space,sname"]].concat();
    let short = openssl.run(&words, &[("-in", &file)]);
    let (begins, ends) = expected.validity_s;
    let lines = [
        format!("serial={}", expected.serial_hex.to_uppercase()),
        format!("subject={}", expected.subject),
        format!("issuer={}", expected.issuer),
        format!("notBefore={}", printed_time(begins)),
        format!("notAfter={}", printed_time(ends)),
    ];
    let printed: Vec<&str> = short.lines().map(str::trim).collect();
    assert_eq!(printed, lines, "{what}");
}

#[test]
fn openssl_prints_the_same_of_every_certificate_and_verifies_its_chain() {
    let Some(openssl) = Openssl::find("profiles") else {
        println!("SKIPPED: no openssl program on this machine");
        return;
    };
    for key_type in KEY_TYPES {
        let (ca, cases) = cases(key_type);
        let root = encode_certificates(std::slice::from_ref(&ca.certificate_der));
        let root = openssl.file("root.pem", root);
        for case in cases {
            check_printed(&openssl, key_type, &case);
            let purposes: &[&str] = match case.what {
                "server CA" | "downstream CA" => &["any"],
                _ => &["sslclient", "sslserver"],
            };
            for purpose in purposes {
                let at = now().unix_s().to_string();
                let words = ["verify", "-x509_strict", "-purpose", purpose, "-attime", &at];
                let mut files = vec![("-CAfile", root.clone())];
                if let Some(between) = &case.between {
                    let text = encode_certificates(std::slice::from_ref(between));
                    files.push(("-untrusted", openssl.file("between.pem", text)));
                }
                let text = encode_certificates(std::slice::from_ref(&case.der));
                files.push(("", openssl.file("it.pem", text)));
                let files: Vec<(&str, &Path)> =
                    files.iter().map(|(option, path)| (*option, path.as_path())).collect();
                openssl.run(&words, &files);
            }
        }
    }
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

/// A signature as openssl wants it: numbers of a curve as a DER sequence, not side by side.
fn in_der(key_type: KeyType, signature: &[u8]) -> Vec<u8> {
    if matches!(key_type, KeyType::Rsa2048 | KeyType::Rsa4096) {
        return signature.to_vec();
    }
    let integer = |number: &[u8]| {
        let mut bytes: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        if bytes.first().is_none_or(|first| *first >= 0x80) {
            bytes.insert(0, 0);
        }
        let length = u8::try_from(bytes.len()).expect("below 128");
        [vec![2, length], bytes].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let both = [integer(r), integer(s)].concat();
    let length = u8::try_from(both.len()).expect("a curve of at most 521 bits");
    // Those of P-521 are longer than a length of one byte can say.
    let long: &[u8] = if length < 0x80 { &[] } else { &[0x81] };
    [&[0x30], long, &[length], &both].concat()
}

#[test]
fn every_token_says_what_spire_says_and_openssl_verifies_its_signature() {
    let openssl = Openssl::find("tokens");
    if openssl.is_none() {
        println!("SKIPPED: no openssl program on this machine");
    }
    let (subject, audience) = (id("/w"), ["a".to_owned(), String::new(), "b".to_owned()]);
    for key_type in KEY_TYPES {
        let (signer, _) = key(key_type);
        let (algorithm, hash) = match key_type {
            KeyType::EcP256 => ("ES256", "-sha256"),
            KeyType::EcP384 => ("ES384", "-sha384"),
            KeyType::EcP521 => ("ES512", "-sha512"),
            KeyType::Rsa2048 | KeyType::Rsa4096 => ("RS256", "-sha256"),
        };
        let issued = now().unix_s();
        let base = json!({
            "aud": ["a", "b"], "exp": issued + 300, "iat": issued, "sub": "spiffe://example.org/w",
        });
        let mut full = base.clone();
        full["iss"] = json!("https://issuer");
        full["jti"] = json!("AAAA");
        for (issuer, jwt_id, expected) in
            [(None, None, base), (Some("https://issuer"), Some("AAAA"), full)]
        {
            let claims = JwtClaims {
                subject: &subject,
                audience: &audience,
                issued_at: now(),
                expires_at: now().plus(seconds(300)),
                issuer,
                jwt_id,
            };
            let token = sign_jwt_svid(&signer, "kid1", &claims).expect("a token");
            let header = json!({"alg": algorithm, "kid": "kid1", "typ": "JWT"});
            assert_eq!(part(&token, 0), header, "{key_type}");
            assert_eq!(part(&token, 1), expected, "{key_type}");
            let (signed, signature) = token.rsplit_once('.').expect("a signature");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            if let Some(openssl) = &openssl {
                let key = openssl.file("key.der", signer.public_key_spki());
                let pem = openssl.folder.join("key.pem");
                let words = ["pkey", "-pubin", "-inform", "DER", "-pubout"];
                openssl.run(&words, &[("-in", &key), ("-out", &pem)]);
                let signature = openssl.file("signature", in_der(key_type, &signature));
                let signed = openssl.file("signed", signed);
                let files: [(&str, &Path); 3] =
                    [("-verify", &pem), ("-signature", &signature), ("", &signed)];
                let said = openssl.run(&["dgst", hash], &files);
                assert_eq!(said.trim(), "Verified OK", "{key_type}");
            }
        }
    }
}

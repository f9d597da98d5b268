//! `x509 mint`, `jwt mint` and `wit mint`.
//!
//! Owns what each sends, prints, writes and refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use steeple_api::pb;
use steeple_api::pb::server::svid::v1::*;
use steeple_spiffe_core::{CertificateRequest, pem};
use tonic::Status;

use crate::certificates::Ca;
use crate::driver::{CommandLine, NOW, line};
use crate::fake::Fake;

const JWT: &str =
    "spire-server jwt mint -spiffeID spiffe://example.org/w -audience a -audience b,c";
const X509: &str = "spire-server x509 mint -spiffeID spiffe://example.org/w";

fn minted_jwt(lifetime_s: i64) -> MintJwtsvidResponse {
    let svid = pb::types::Jwtsvid {
        token: "head.body.signature".to_owned(),
        id: Some(pb::types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: "/w".to_owned(),
        }),
        expires_at: NOW + lifetime_s,
        issued_at: NOW,
        hint: String::new(),
    };
    MintJwtsvidResponse { svid: Some(svid) }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file was written").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_jwt_is_printed_alone_on_a_line() {
    let fake = Fake::start();
    fake.answer("mint_jwtsvid", minted_jwt(60));
    let stdout = line(&format!("{JWT} -ttl 59.2s")).on(&fake).await.success();
    assert_eq!(stdout, "head.body.signature\n");
    let call = fake.only_call();
    let request = call.message::<MintJwtsvidRequest>();
    assert_eq!(request.audience, ["a", "b,c"]);
    assert_eq!(request.ttl, 60);
    assert!(call.metadata.contains_key("steeple-request-id"));

    fake.answer("mint_jwtsvid", minted_jwt(60));
    line(&format!("{JWT} -output json")).on(&fake).await.matches("jwt-mint-json");
}

#[tokio::test]
async fn a_shorter_life_than_asked_for_is_told() {
    let fake = Fake::start();
    fake.answer("mint_jwtsvid", minted_jwt(60));
    line(&format!("{JWT} -ttl 1h")).on(&fake).await.matches("jwt-mint-capped");
}

#[tokio::test]
async fn a_jwt_can_go_to_a_file_of_the_users_own() {
    let fake = Fake::start();
    fake.answer("mint_jwtsvid", minted_jwt(60));
    let path = fake.folder().join("token");
    let stdout = line(&format!("{JWT} -write {}", path.display())).on(&fake).await.success();
    assert_eq!(stdout, format!("JWT-SVID written to {}\n", path.display()));
    assert_eq!(std::fs::read_to_string(&path).expect("written"), "head.body.signature");
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn mints_are_refused_in_spires_words() {
    for (words, expected) in [
        ("jwt mint", "spiffeID must be specified"),
        ("jwt mint -spiffeID spiffe://a.test/b", "at least one audience must be specified"),
        ("jwt mint -spiffeID x -audience y", "scheme is missing or invalid"),
        ("x509 mint", "spiffeID must be specified"),
        ("x509 mint -spiffeID x", "scheme is missing or invalid"),
    ] {
        let fake = Fake::start();
        let stderr = line(&format!("spire-server {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    }
    let fake = Fake::start();
    fake.refuse("mint_jwtsvid", Status::unimplemented("JWT functionality is disabled"));
    let stderr = line(JWT).on(&fake).await.failure();
    assert!(
        stderr.ends_with("rpc error: code = Unimplemented desc = JWT functionality is disabled\n"),
        "{stderr}"
    );
}

const WIT: &str = "spire-server wit mint -spiffeID spiffe://example.org/w";

fn minted_wit(lifetime_s: i64) -> MintWitsvidResponse {
    let jwt = minted_jwt(lifetime_s).svid.expect("it has one");
    let pb::types::Jwtsvid { token, id, expires_at, issued_at, hint } = jwt;
    let svid = pb::types::Witsvid { token, id, expires_at, issued_at, hint };
    MintWitsvidResponse { svid: Some(svid) }
}

/// The command is there for those who set the variable.
fn wit(words: &str) -> CommandLine {
    line(words).variable("SPIRE_SERVER_FFLAGS", "i_am_a_test_flag wit-svid")
}

/// Members of a private key with their values left out.
fn members(jwk: &str) -> Vec<String> {
    let jwk: serde_json::Value = serde_json::from_str(jwk).expect("JSON");
    jwk.as_object().expect("an object").keys().cloned().collect()
}

#[tokio::test]
async fn a_wit_is_printed_with_its_private_key() {
    let fake = Fake::start();
    fake.answer("mint_witsvid", minted_wit(60));
    let stdout = wit(&format!("{WIT} -ttl 59.2s")).on(&fake).await.success();
    let (token, key) = stdout.split_once('\n').expect("two lines");
    assert_eq!(token, "head.body.signature");
    assert_eq!(members(key.strip_suffix('\n').expect("a line")), ["kty", "crv", "x", "y", "d"]);
    let call = fake.only_call();
    let request = call.message::<MintWitsvidRequest>();
    assert_eq!((request.ttl, request.signing_algorithm.as_str()), (60, "ES256"));
    assert_eq!(request.id.as_ref().expect("an id").path, "/w");
    assert_eq!(request.public_key.len(), 91, "a key on P-256");

    fake.answer("mint_witsvid", minted_wit(60));
    let rsa = wit(&format!("{WIT} -keyType rsa-2048 -signingAlgorithm PS384 -output json"));
    let printed = rsa.on(&fake).await.success();
    let parsed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let key = parsed["private_key"].as_str().expect("a text");
    assert_eq!(members(key), ["kty", "n", "e", "d", "p", "q", "dp", "dq", "qi"]);
    let bare = printed.replace(&key.replace('"', "\\\""), "KEY");
    let expected = concat!(
        r#"{"private_key":"KEY","svid":{"token":"head.body.signature","#,
        r#""id":{"trust_domain":"example.org","path":"/w"},"#,
        r#""expires_at":1767323105,"issued_at":1767323045}}"#,
        "\n"
    );
    assert_eq!(bare, expected);
}

#[tokio::test]
async fn a_wit_and_its_key_can_go_to_files_of_the_users_own() {
    let fake = Fake::start();
    fake.answer("mint_witsvid", minted_wit(60));
    let folder = fake.folder();
    let command = wit(&format!("{WIT} -ttl 1h -write {}", folder.display()));
    let outcome = command.on(&fake).await.without(&folder.display().to_string());
    outcome.matches("wit-mint-write");
    for file in ["token", "key"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    let key = std::fs::read_to_string(folder.join("key")).expect("written");
    assert_eq!(members(&key), ["kty", "crv", "x", "y", "d"]);
}

#[tokio::test]
async fn wit_mint_has_spires_flags_and_refusals_where_the_variable_names_its_feature() {
    wit("spire-server wit mint -h").run().await.matches("help-wit-mint");
    for (words, expected) in [
        ("", "spiffeID must be specified"),
        ("-spiffeID x", "scheme is missing or invalid"),
        (
            "-spiffeID spiffe://a.test/b -keyType rsa-2048",
            "unsupported key type 'rsa-2048' for 'ES256' signing algorithm",
        ),
        (
            "-spiffeID spiffe://a.test/b -signingAlgorithm ES512",
            "unsupported signing algorithm: ES512",
        ),
        (
            "-spiffeID spiffe://a.test/b -keyType ec-p384 -signingAlgorithm RS256",
            "unsupported key type 'ec-p384' for signing algorithm 'RS256'",
        ),
    ] {
        let fake = Fake::start();
        let stderr = wit(&format!("spire-server wit mint {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    }
    for flags in ["", "wit-svid2", "wit-svid,other"] {
        let absent = line(WIT).variable("SPIRE_SERVER_FFLAGS", flags).run().await;
        assert_eq!(absent.code, 127, "{flags}");
        let help = line("spire-server -h").variable("SPIRE_SERVER_FFLAGS", flags).run().await;
        assert!(!help.stderr.contains("WIT"), "{}", help.stderr);
    }
}

/// Queues what `x509 mint` asks for.
fn answer_x509(fake: &Fake, ca: &Ca) -> Vec<u8> {
    let leaf = ca.leaf("spiffe://example.org/w").der;
    let svid = pb::types::X509svid {
        cert_chain: vec![leaf.clone()],
        expires_at: NOW + 3600,
        ..Default::default()
    };
    fake.answer("mint_x509svid", MintX509svidResponse { svid: Some(svid) });
    let root = |tainted| pb::types::X509Certificate { asn1: ca.der.clone(), tainted };
    let bundle = pb::types::Bundle {
        trust_domain: "example.org".to_owned(),
        x509_authorities: vec![root(false), root(true)],
        ..Default::default()
    };
    fake.answer("get_bundle", bundle);
    leaf
}

#[tokio::test]
async fn a_certificate_is_printed_with_its_key_and_all_roots() {
    let (fake, ca) = (Fake::start(), Ca::new("example.org"));
    let leaf = answer_x509(&fake, &ca);
    let command = line(&format!("{X509} -dns a.example.org -dns b.example.org -ttl 1h"));
    let stdout = command.on(&fake).await.success();
    let chain = pem::encode_certificates(&[leaf]);
    let roots = pem::encode_certificates(&[ca.der.clone(), ca.der.clone()]);
    let rest = stdout.strip_prefix(&format!("X509-SVID:\n{chain}\nPrivate key:\n")).expect(&stdout);
    let key = rest.strip_suffix(&format!("\nRoot CAs:\n{roots}\n")).expect(&stdout);
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key}");
    pem::decode_private_key(key).expect("a key in PKCS#8");

    let calls = fake.calls();
    let request = calls[0].message::<MintX509svidRequest>();
    assert_eq!(request.ttl, 3600);
    CertificateRequest::verify_signature(&request.csr).expect("signed with its key");
    let csr = CertificateRequest::parse(&request.csr).expect("a request");
    assert_eq!(csr.uris, ["spiffe://example.org/w"]);
    assert_eq!(csr.dns_names, ["a.example.org", "b.example.org"]);
    assert!(csr.subject_is_empty);
}

#[tokio::test]
async fn a_certificate_as_json_has_spires_members() {
    let (fake, ca) = (Fake::start(), Ca::new("example.org"));
    answer_x509(&fake, &ca);
    let stdout = line(&format!("{X509} -output json")).on(&fake).await.success();
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(value.as_object().expect("an object").len(), 3);
    // In the order that SPIRE 1.15.3 prints them.
    let places = ["x509_svid", "private_key", "root_cas"].map(|member| stdout.find(member));
    assert!(places.is_sorted() && places[0].is_some(), "{stdout}");
    assert_eq!(value["x509_svid"].as_array().expect("a list").len(), 1);
    assert_eq!(value["root_cas"].as_array().expect("a list").len(), 2);
}

#[tokio::test]
async fn a_certificate_can_go_to_files() {
    let (fake, ca) = (Fake::start(), Ca::new("example.org"));
    answer_x509(&fake, &ca);
    let folder = fake.folder().display();
    let outcome = line(&format!("{X509} -ttl 2h -write {folder}")).on(&fake).await;
    let expected = format!(
        "X509-SVID written to {folder}/svid.pem\nPrivate key written to {folder}/key.pem\nRoot CAs written to {folder}/bundle.pem\n"
    );
    assert_eq!((outcome.code, outcome.stdout), (0, expected));
    assert_eq!(
        outcome.stderr,
        "X509-SVID lifetime was capped shorter than specified ttl; expires \"2026-01-02T04:04:05Z\"\n"
    );
    for (file, expected) in [("svid.pem", 0o644), ("key.pem", 0o600), ("bundle.pem", 0o644)] {
        assert_eq!(mode(&fake.folder().join(file)), expected, "{file}");
    }
}

//! `spire-agent api …`.
//!
//! Owns what each sends, prints, writes and refuses, and when `watch` ends.

use std::os::unix::fs::PermissionsExt as _;

use steeple_api::pb::workload::*;
use tonic::Status;

use crate::certificates::Ca;
use crate::driver::line;
use crate::fake::Fake;

/// Two SVIDs, the second with a hint, and a federated bundle.
fn svids() -> X509svidResponse {
    let (ca, other) = (Ca::new("example.org"), Ca::new("fed.test"));
    let svid = |path: &str, hint: &str| {
        let id = format!("spiffe://example.org{path}");
        let leaf = ca.leaf(&id);
        X509svid {
            spiffe_id: id,
            x509_svid: leaf.der,
            x509_svid_key: leaf.key.expose().to_vec(),
            bundle: ca.der.clone(),
            hint: hint.to_owned(),
        }
    };
    X509svidResponse {
        svids: vec![svid("/a", ""), svid("/b", "external")],
        crl: vec![],
        federated_bundles: [("spiffe://fed.test".to_owned(), other.der)].into(),
    }
}

#[tokio::test]
async fn fetch_prints_each_svid_with_its_lifetimes() {
    for words in ["api fetch", "api fetch x509", "api fetch x509 -timeout 1m"] {
        let fake = Fake::start();
        fake.answer("fetch_x509svid", vec![svids()]);
        line(&format!("spire-agent {words}")).on(&fake).await.matches("api-fetch-x509");
        let call = fake.only_call();
        let header = call.metadata.get("workload.spiffe.io").expect("the security header");
        assert_eq!(header, "true");
    }
}

#[tokio::test]
async fn fetch_of_one_svid_is_singular_and_intermediates_are_numbered() {
    let fake = Fake::start();
    let mut response = svids();
    response.svids.truncate(1);
    response.federated_bundles.clear();
    // The root stands in for an intermediate: for verifiers it is a needless one.
    let root = response.svids[0].bundle.clone();
    response.svids[0].x509_svid.extend(root);
    fake.answer("fetch_x509svid", vec![response]);
    line("spire-agent api fetch").on(&fake).await.matches("api-fetch-x509-one");
}

#[tokio::test]
async fn fetch_as_json_shows_the_reply_unverified() {
    let fake = Fake::start();
    let svid = X509svid {
        spiffe_id: "spiffe://example.org/a".to_owned(),
        x509_svid: vec![1],
        x509_svid_key: vec![2],
        bundle: vec![3],
        hint: String::new(),
    };
    let federated_bundles = [("spiffe://fed.test".to_owned(), vec![4])].into();
    let response = X509svidResponse { svids: vec![svid], crl: vec![], federated_bundles };
    fake.answer("fetch_x509svid", vec![response]);
    let command = line("spire-agent api fetch x509 -output json");
    command.on(&fake).await.matches("api-fetch-x509-json");
}

#[tokio::test]
async fn fetch_refuses_an_svid_that_does_not_chain_to_its_bundle() {
    let fake = Fake::start();
    let mut response = svids();
    response.svids[1].bundle = Ca::new("example.org").der;
    fake.answer("fetch_x509svid", vec![response]);
    let stderr = line("spire-agent api fetch").on(&fake).await.failure();
    let expected = "\"spiffe://example.org/b\" SVID failed verification against bundle: ";
    assert!(stderr.starts_with(expected), "{stderr}");
}

#[tokio::test]
async fn fetch_writes_files_and_says_so_even_when_silent() {
    let fake = Fake::start();
    fake.answer("fetch_x509svid", vec![svids()]);
    let folder = fake.folder().display();
    let stdout = line(&format!("spire-agent api fetch x509 -silent -write {folder}/"))
        .on(&fake)
        .await
        .success();
    let mut expected = String::new();
    for n in 0..2 {
        expected += &format!(
            "Writing SVID #{n} to file {folder}/svid.{n}.pem.\nWriting key #{n} to file {folder}/svid.{n}.key.\nWriting bundle #{n} to file {folder}/bundle.{n}.pem.\nWriting federated bundle #0 for trust domain spiffe://fed.test to file {folder}/federated_bundle.{n}.0.pem.\n"
        );
    }
    assert_eq!(stdout, expected);
    for (file, mode) in [("svid.0.pem", 0o644), ("svid.0.key", 0o600), ("bundle.1.pem", 0o644)] {
        let metadata = std::fs::metadata(fake.folder().join(file)).expect("the file was written");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
}

#[tokio::test]
async fn a_workload_without_identity_is_told_so_without_prefix() {
    let fake = Fake::start();
    fake.refuse("fetch_x509svid", Status::permission_denied("no identity issued"));
    let stderr = line("spire-agent api fetch").on(&fake).await.failure();
    assert_eq!(stderr, "rpc error: code = PermissionDenied desc = no identity issued\n");
}

#[tokio::test]
async fn fetch_gives_up_at_its_deadline() {
    let fake = Fake::start();
    // A stream that stays open and says nothing.
    fake.answer("fetch_x509svid", Vec::<X509svidResponse>::new());
    let stderr = line("spire-agent api fetch -timeout 1ms").on(&fake).await.failure();
    assert_eq!(stderr, "rpc error: code = DeadlineExceeded desc = context deadline exceeded\n");
}

fn jwt_svids() -> JwtsvidResponse {
    let svid = |path: &str, hint: &str| Jwtsvid {
        spiffe_id: format!("spiffe://example.org{path}"),
        svid: format!("token-of{path}"),
        hint: hint.to_owned(),
    };
    JwtsvidResponse { svids: vec![svid("/a", ""), svid("/b", "external")] }
}

fn jwt_bundles() -> JwtBundlesResponse {
    let keys = |trust_domain: &str| (trust_domain.to_owned(), b"{\"keys\":[]}".to_vec());
    JwtBundlesResponse { bundles: [keys("spiffe://example.org"), keys("spiffe://fed.test")].into() }
}

#[tokio::test]
async fn jwts_are_fetched_with_the_keys_to_validate_them() {
    for (words, golden) in [
        ("", "api-fetch-jwt"),
        ("-output json", "api-fetch-jwt-json"),
        ("-format json", "api-fetch-jwt-json"),
    ] {
        let fake = Fake::start();
        fake.answer("fetch_jwt_bundles", vec![jwt_bundles()]);
        fake.answer("fetch_jwtsvid", jwt_svids());
        let command = line(&format!(
            "spire-agent api fetch jwt -audience x -audience a,b -spiffeID spiffe://example.org/a {words}"
        ));
        command.on(&fake).await.matches(golden);
        let calls = fake.calls();
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(methods, ["fetch_jwt_bundles", "fetch_jwtsvid"]);
        let request = calls[1].message::<JwtsvidRequest>();
        assert_eq!(request.audience, ["a", "b"]);
        assert_eq!(request.spiffe_id, "spiffe://example.org/a");
        assert!(calls.iter().all(|call| call.metadata.contains_key("workload.spiffe.io")));
    }
}

#[tokio::test]
async fn flags_that_must_be_given_are_asked_for() {
    for (words, expected) in [
        ("fetch jwt", "audience must be specified"),
        ("validate jwt", "audience must be specified"),
        ("validate jwt -audience a", "svid must be specified"),
    ] {
        let fake = Fake::start();
        let stderr = line(&format!("spire-agent api {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("{expected}\n"), "{words}");
    }
}

fn claims() -> ValidateJwtsvidResponse {
    use prost_types::value::Kind;
    let value = |kind| prost_types::Value { kind: Some(kind) };
    let audience =
        prost_types::ListValue { values: vec![value(Kind::StringValue("a".to_owned()))] };
    let fields = [
        ("aud", value(Kind::ListValue(audience))),
        ("exp", value(Kind::NumberValue(1_767_323_105.0))),
        ("sub", value(Kind::StringValue("spiffe://example.org/a".to_owned()))),
    ];
    ValidateJwtsvidResponse {
        spiffe_id: "spiffe://example.org/a".to_owned(),
        claims: Some(prost_types::Struct {
            fields: fields.map(|(key, value)| (key.to_owned(), value)).into(),
        }),
    }
}

#[tokio::test]
async fn a_valid_jwt_is_shown_with_its_claims() {
    for (output, golden) in [("pretty", "api-validate-jwt"), ("json", "api-validate-jwt-json")] {
        let fake = Fake::start();
        fake.answer("validate_jwtsvid", claims());
        let words = format!("spire-agent api validate jwt -audience a -svid t -output {output}");
        line(&words).on(&fake).await.matches(golden);
    }
}

#[tokio::test]
async fn an_invalid_jwt_is_told_from_a_question_not_answered() {
    let words = "spire-agent api validate jwt -audience a -svid t";
    let fake = Fake::start();
    fake.refuse("validate_jwtsvid", Status::invalid_argument("token has expired"));
    let stderr = line(words).on(&fake).await.failure();
    assert_eq!(stderr, "SVID is not valid: token has expired\n");
    fake.refuse("validate_jwtsvid", Status::internal("no keys"));
    let stderr = line(words).on(&fake).await.failure();
    assert_eq!(stderr, "unable to validate JWT SVID: rpc error: code = Internal desc = no keys\n");
}

#[tokio::test]
async fn watch_prints_each_update_until_it_is_interrupted() {
    let fake = Fake::start();
    let mut second = svids();
    second.svids.truncate(1);
    fake.answer("fetch_x509svid", vec![svids(), second]);
    let first_lines = 18;
    let second_lines = 10;
    let command = line("spire-agent api watch").interrupt_after(first_lines + second_lines);
    command.on(&fake).await.matches("api-watch");
}

#[tokio::test]
async fn watch_waits_for_an_identity() {
    let fake = Fake::start();
    fake.refuse("fetch_x509svid", Status::permission_denied("no identity issued"));
    fake.answer("fetch_x509svid", vec![svids()]);
    let outcome = line("spire-agent api watch").interrupt_after(18).on(&fake).await;
    assert!(outcome.stdout.starts_with("Received 2 svids after "), "{}", outcome.stdout);
    assert_eq!(
        outcome.stderr,
        "rpc error: code = PermissionDenied desc = no identity issued\nrpc error: code = Canceled desc = context canceled\n"
    );
    assert_eq!(outcome.code, 1);
}

#[tokio::test]
async fn watch_ends_on_a_refusal_that_no_waiting_mends() {
    let fake = Fake::start();
    fake.refuse("fetch_x509svid", Status::invalid_argument("security header missing from request"));
    let stderr = line("spire-agent api watch").on(&fake).await.failure();
    assert_eq!(
        stderr,
        "rpc error: code = InvalidArgument desc = security header missing from request\n"
    );
}

//! `bundle show`, `count`, `list`, `set`, `delete`.
//!
//! Owns what each sends, prints and refuses.

use steeple_api::pb::server::bundle::v1::*;
use steeple_api::{pb, status};
use tonic::Code;

use crate::certificates::Ca;
use crate::driver::line;
use crate::fake::Fake;

pub(crate) fn bundle(trust_domain: &str, ca: &Ca) -> pb::types::Bundle {
    pb::types::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities: vec![pb::types::X509Certificate { asn1: ca.der.clone(), tainted: false }],
        refresh_hint: 300,
        sequence_number: 7,
        ..Default::default()
    }
}

fn pem(ca: &Ca) -> String {
    steeple_spiffe_core::pem::encode_certificates(std::slice::from_ref(&ca.der))
}

#[tokio::test]
async fn show_has_three_forms() {
    let (fake, ca) = (Fake::start(), Ca::new("example.org"));
    for words in ["", "-format pem", "-format PEM"] {
        fake.answer("get_bundle", bundle("example.org", &ca));
        let stdout = line(&format!("spire-server bundle show {words}")).on(&fake).await.success();
        assert_eq!(stdout, pem(&ca), "{words}");
    }
    for words in ["-format spiffe", "--format SPIFFE"] {
        fake.answer("get_bundle", bundle("example.org", &ca));
        let stdout = line(&format!("spire-server bundle show {words}")).on(&fake).await.success();
        assert!(stdout.starts_with("{\n    \"keys\": [\n        {\n            \""), "{stdout}");
        assert!(stdout.ends_with("\n}\n"), "{stdout}");
        let document: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!(document["keys"][0]["use"], "x509-svid");
        assert_eq!(document["spiffe_sequence"], 7);
        assert_eq!(document["spiffe_refresh_hint"], 300);
    }
    let json = pb::types::Bundle {
        x509_authorities: vec![pb::types::X509Certificate { asn1: vec![1, 2, 3], tainted: true }],
        ..bundle("example.org", &ca)
    };
    fake.answer("get_bundle", json);
    line("spire-server bundle show -output json").on(&fake).await.matches("bundle-show-json");
}

#[tokio::test]
async fn unknown_formats_are_refused() {
    for command in ["show", "list", "set -id x"] {
        let fake = Fake::start();
        let words = format!("spire-server bundle {command} -format der");
        let stderr = line(&words).on(&fake).await.failure();
        assert_eq!(stderr, "Error: invalid format: \"der\"\n", "{command}");
    }
}

#[tokio::test]
async fn count_knows_its_plural() {
    let fake = Fake::start();
    for (words, count, expected) in
        [("", 1, "1 bundle\n"), ("", 2, "2 bundles\n"), ("-output json", 2, "{\"count\":2}\n")]
    {
        fake.answer("count_bundles", CountBundlesResponse { count });
        let stdout = line(&format!("spire-server bundle count {words}")).on(&fake).await.success();
        assert_eq!(stdout, expected);
    }
}

#[tokio::test]
async fn list_heads_each_bundle_and_show_one_without() {
    let (fake, ca) = (Fake::start(), Ca::new("a.test"));
    let rule = "*".repeat(40);
    let bundles = vec![bundle("a.test", &ca), bundle("b.test", &ca)];
    let response = ListFederatedBundlesResponse { bundles, next_page_token: String::new() };
    fake.answer("list_federated_bundles", response);
    let stdout = line("spire-server bundle list").on(&fake).await.success();
    let pem = pem(&ca);
    let expected = format!("{rule}\n* a.test\n{rule}\n{pem}\n{rule}\n* b.test\n{rule}\n{pem}");
    assert_eq!(stdout, expected);

    fake.answer("get_federated_bundle", bundle("a.test", &ca));
    let stdout = line("spire-server bundle list -id spiffe://a.test").on(&fake).await.success();
    assert_eq!(stdout, pem);
}

#[tokio::test]
async fn set_takes_both_formats_from_a_file_or_stdin() {
    let (fake, ca) = (Fake::start(), Ca::new("other.test"));
    let file = fake.folder().join("bundle.pem");
    std::fs::write(&file, pem(&ca)).expect("the folder is ours");
    fake.answer("get_bundle", bundle("other.test", &ca));
    let document = line("spire-server bundle show -format spiffe").on(&fake).await.success();
    fake.calls();
    for (words, stdin, sequence_number) in [
        (format!("bundle set --id spiffe://other.test --path {}", file.display()), "", 0),
        ("bundle set -id other.test".to_owned(), pem(&ca).as_str(), 0),
        ("bundle set -id other.test -format spiffe".to_owned(), document.as_str(), 7),
    ] {
        let result = batch_set_federated_bundle_response::Result {
            status: Some(status::ok()),
            bundle: None,
        };
        let response = BatchSetFederatedBundleResponse { results: vec![result] };
        fake.answer("batch_set_federated_bundle", response);
        let stdout = line(&format!("spire-server {words}")).stdin(stdin).on(&fake).await.success();
        assert_eq!(stdout, "bundle set.\n", "{words}");
        let call = fake.only_call();
        let sent = &call.message::<BatchSetFederatedBundleRequest>().bundle[0];
        assert_eq!(sent.trust_domain, "other.test", "{words}");
        assert_eq!(sent.x509_authorities[0].asn1, ca.der, "{words}");
        assert_eq!(sent.sequence_number, sequence_number, "{words}");
        assert!(call.metadata.contains_key("steeple-request-id"), "{words}");
    }
}

#[tokio::test]
async fn set_and_delete_fail_in_spires_words() {
    let fake = Fake::start();
    for (words, expected) in [
        ("set", "id flag is required"),
        ("delete", "id is required"),
        ("delete -id x -mode burn", "unsupported mode \"burn\""),
    ] {
        let stderr = line(&format!("spire-server bundle {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    }
    let key = "-----BEGIN PRIVATE KEY-----\nAQI=\n-----END PRIVATE KEY-----\n";
    let stderr = line("spire-server bundle set -id x.test").stdin(key).on(&fake).await.failure();
    let expected = "unable to parse bundle data: expected block type \"CERTIFICATE\"; got \
                    \"PRIVATE KEY\"";
    assert_eq!(stderr, format!("Error: {expected}\n"));
    let refused = Some(status::item(Code::Internal, "disk full"));
    let result =
        batch_set_federated_bundle_response::Result { status: refused.clone(), bundle: None };
    let response = BatchSetFederatedBundleResponse { results: vec![result] };
    fake.answer("batch_set_federated_bundle", response);
    let stdin = pem(&Ca::new("x.test"));
    let stderr = line("spire-server bundle set -id x.test").stdin(&stdin).on(&fake).await.failure();
    assert_eq!(stderr, "Error: failed to set federated bundle: disk full\n");

    let result = batch_delete_federated_bundle_response::Result {
        status: refused,
        trust_domain: "x.test".to_owned(),
    };
    let response = BatchDeleteFederatedBundleResponse { results: vec![result] };
    fake.answer("batch_delete_federated_bundle", response);
    let stderr = line("spire-server bundle delete -id x.test").on(&fake).await.failure();
    assert_eq!(stderr, "Error: failed to delete federated bundle \"x.test\": disk full\n");
}

#[tokio::test]
async fn delete_sends_its_mode() {
    use batch_delete_federated_bundle_request::Mode;
    let fake = Fake::start();
    for (words, mode) in [
        ("", Mode::Restrict),
        ("-mode restrict", Mode::Restrict),
        ("-mode delete", Mode::Delete),
        ("-mode dissociate", Mode::Dissociate),
    ] {
        let result = batch_delete_federated_bundle_response::Result {
            status: Some(status::ok()),
            trust_domain: "x.test".to_owned(),
        };
        let response = BatchDeleteFederatedBundleResponse { results: vec![result] };
        fake.answer("batch_delete_federated_bundle", response);
        let command = line(&format!("spire-server bundle delete -id x.test {words}"));
        assert_eq!(command.on(&fake).await.success(), "bundle deleted.\n");
        let call = fake.only_call();
        assert_eq!(call.message::<BatchDeleteFederatedBundleRequest>().mode(), mode);
    }
}

//! `federation create`, `update`, `list`, `show`, `delete`, `refresh`.
//!
//! Owns what each sends, prints and refuses.

use steeple_api::pb::server::trustdomain::v1::*;
use steeple_api::pb::types::federation_relationship::BundleEndpointProfile;
use steeple_api::{pb, status};
use tonic::{Code, Status};

use crate::certificates::Ca;
use crate::driver::{NOW, line};
use crate::fake::Fake;

const WEB: &str = "-trustDomain td1.test -bundleEndpointURL https://td1.test/bundle \
                   -bundleEndpointProfile https_web";

fn web(trust_domain: &str, url: &str) -> pb::types::FederationRelationship {
    pb::types::FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(
            pb::types::HttpsWebProfile {},
        )),
        trust_domain_bundle: None,
    }
}

fn spiffe(der: Vec<u8>) -> pb::types::FederationRelationship {
    let profile =
        pb::types::HttpsspiffeProfile { endpoint_spiffe_id: "spiffe://td2.test/e".to_owned() };
    pb::types::FederationRelationship {
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(profile)),
        trust_domain_bundle: Some(pb::types::Bundle {
            trust_domain: "td2.test".to_owned(),
            x509_authorities: vec![pb::types::X509Certificate { asn1: der, tainted: false }],
            ..Default::default()
        }),
        ..web("td2.test", "https://td2.test/bundle")
    }
}

type Created = batch_create_federation_relationship_response::Result;

fn created(relationship: &pb::types::FederationRelationship) -> Created {
    let federation_relationship = Some(relationship.clone());
    Created { status: Some(status::ok()), federation_relationship }
}

fn not_created(code: Code, text: &str) -> Created {
    Created { status: Some(status::item(code, text)), federation_relationship: None }
}

fn answer_create(fake: &Fake, results: Vec<Created>) {
    let response = BatchCreateFederationRelationshipResponse { results };
    fake.answer("batch_create_federation_relationship", response);
}

fn sent(fake: &Fake) -> Vec<pb::types::FederationRelationship> {
    let call = fake.only_call();
    assert!(call.metadata.contains_key("steeple-request-id"));
    let message: &BatchCreateFederationRelationshipRequest = call.message();
    assert_eq!(message.output_mask, None);
    message.federation_relationships.clone()
}

#[tokio::test]
async fn create_sends_what_the_flags_say() {
    let (fake, ca) = (Fake::start(), Ca::new("td2.test"));
    answer_create(&fake, vec![created(&web("td1.test", "https://td1.test/bundle"))]);
    let outcome = line(&format!("spire-server federation create {WEB}")).on(&fake).await;
    outcome.matches("federation-create");
    assert_eq!(sent(&fake), [web("td1.test", "https://td1.test/bundle")]);

    // A bundle belongs to the trust domain of the endpoint's id.
    let file = fake.folder().join("bundle.pem");
    let pem = steeple_spiffe_core::pem::encode_certificates(std::slice::from_ref(&ca.der));
    std::fs::write(&file, pem).expect("the folder is ours");
    let flags = "-trustDomain spiffe://other.test -bundleEndpointURL https://td2.test/bundle \
                 -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://td2.test/e";
    let expected = pb::types::FederationRelationship {
        trust_domain: "spiffe://other.test".to_owned(),
        ..spiffe(ca.der.clone())
    };
    answer_create(&fake, vec![created(&expected)]);
    let words =
        format!("spire-server federation create {flags} -trustDomainBundlePath {}", file.display());
    line(&words).on(&fake).await.success();
    assert_eq!(sent(&fake), [expected]);
}

#[tokio::test]
async fn create_reads_relationships_from_a_file_or_from_stdin() {
    let (fake, ca) = (Fake::start(), Ca::new("td2.test"));
    let pem = steeple_spiffe_core::pem::encode_certificates(std::slice::from_ref(&ca.der));
    let bundle = spiffe(ca.der.clone()).trust_domain_bundle.expect("it has one");
    fake.answer("get_bundle", bundle);
    let document = line("spire-server bundle show -format spiffe").on(&fake).await.success();
    fake.calls();
    let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
    let item = |bundle, format| {
        serde_json::json!({
            "trustDomain": "td2.test", "bundleEndpointURL": "https://td2.test/bundle",
            "bundleEndpointProfile": "https_spiffe", "endpointSPIFFEID": "spiffe://td2.test/e",
            "trustDomainBundle": bundle, "trustDomainBundleFormat": format,
        })
    };
    let items = [item(pem.into(), "pem"), item(document, "spiffe")];
    let text = serde_json::json!({ "federationRelationships": items }).to_string();
    let file = fake.folder().join("relationships.json");
    std::fs::write(&file, &text).expect("the folder is ours");
    for path in ["-".to_owned(), file.display().to_string()] {
        answer_create(&fake, vec![created(&spiffe(ca.der.clone())); 2]);
        let words = format!("spire-server federation create -data {path}");
        line(&words).stdin(&text).on(&fake).await.success();
        assert_eq!(sent(&fake), [spiffe(ca.der.clone()), spiffe(ca.der.clone())], "{path}");
    }
    answer_create(&fake, Vec::new());
    let none = "{\"federationRelationships\":[]}";
    let stdout =
        line("spire-server federation create -data -").stdin(none).on(&fake).await.success();
    assert_eq!(stdout, "");
}

#[tokio::test]
async fn create_and_update_name_what_was_refused() {
    let fake = Fake::start();
    let (a, b) = (web("a.test", "https://a.test"), web("b.test", "https://b.test"));
    let own = "unable to create federation relationship for server trust domain";
    let results = vec![created(&a), created(&b), not_created(Code::InvalidArgument, own)];
    answer_create(&fake, results);
    let item = |name: &str, url: &str| {
        serde_json::json!({
            "trustDomain": name, "bundleEndpointURL": url, "bundleEndpointProfile": "https_web"
        })
    };
    let items = [
        item("a.test", "https://a.test"),
        item("b.test", "https://b.test"),
        item("example.org", "https://b.test"),
    ];
    let text = serde_json::json!({ "federationRelationships": items }).to_string();
    let command = line("spire-server federation create -data -").stdin(&text);
    command.on(&fake).await.matches("federation-create-mixed");

    let exists = "failed to create federation relationship: datastore-sql: UNIQUE constraint \
                  failed: federated_trust_domains.trust_domain";
    let results =
        vec![not_created(Code::Internal, exists), not_created(Code::InvalidArgument, own)];
    answer_create(&fake, results);
    let command = line("spire-server federation create -data - -output json").stdin(&text);
    command.on(&fake).await.matches("federation-create-failed-json");

    fake.calls();
    let gone = "failed to update federation relationship: unable to fetch federation \
                relationship: record not found";
    let result = batch_update_federation_relationship_response::Result {
        status: Some(status::item(Code::Internal, gone)),
        federation_relationship: None,
    };
    let response = BatchUpdateFederationRelationshipResponse { results: vec![result] };
    fake.answer("batch_update_federation_relationship", response);
    let flags = "-trustDomain td9.test -bundleEndpointURL https://td1.test/new \
                 -bundleEndpointProfile https_web";
    let command = line(&format!("spire-server federation update {flags}"));
    command.on(&fake).await.matches("federation-update-failed");
    let call = fake.only_call();
    let message: &BatchUpdateFederationRelationshipRequest = call.message();
    assert_eq!(message.federation_relationships, [web("td9.test", "https://td1.test/new")]);
    assert_eq!(message.input_mask, None, "everything is replaced");
}

#[tokio::test]
async fn list_and_show_print_blocks() {
    let fake = Fake::start();
    let both = ListFederationRelationshipsResponse {
        federation_relationships: vec![
            web("td1.test", "https://td1.test/bundle"),
            spiffe(vec![1, 2, 3]),
        ],
        next_page_token: String::new(),
    };
    for (words, name) in [("", "federation-list"), ("-output json", "federation-list-json")] {
        fake.answer("list_federation_relationships", both.clone());
        let command = line(&format!("spire-server federation list {words}"));
        command.on(&fake).await.matches(name);
    }
    for (count, expected) in
        [(0, "Found 0 federation relationships\n"), (1, "Found 1 federation relationship\n")]
    {
        let federation_relationships =
            both.federation_relationships.iter().take(count).cloned().collect();
        let response = ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token: String::new(),
        };
        fake.answer("list_federation_relationships", response);
        let stdout = line("spire-server federation list").on(&fake).await.success();
        assert!(stdout.starts_with(expected), "{stdout}");
    }
    fake.answer("get_federation_relationship", spiffe(vec![1, 2, 3]));
    let command = line("spire-server federation show -trustDomain td2.test");
    command.on(&fake).await.matches("federation-show");
}

#[tokio::test]
async fn show_says_how_the_fetching_goes_if_it_is_asked_to() {
    use pb::cluster::v1::{FederatedBundle, StatusResponse};
    let bundle = FederatedBundle {
        trust_domain: "td2.test".to_owned(),
        bundle_endpoint_url: "https://td2.test/bundle".to_owned(),
        bundle_endpoint_profile: "https_spiffe".to_owned(),
        endpoint_spiffe_id: "spiffe://td2.test/e".to_owned(),
        from_file: true,
        stored: true,
        sequence_number: 7,
        authorities_end_at: NOW + 24 * 3600,
        succeeded_at: NOW,
        failing_since: NOW + 60,
        failure: "no such host".to_owned(),
        ..FederatedBundle::default()
    };
    let fake = Fake::start();
    let answer = |succeeded_at_is_exact| {
        let bundle = FederatedBundle { succeeded_at_is_exact, ..bundle.clone() };
        let federated_bundles = vec![bundle];
        fake.answer("status", StatusResponse { federated_bundles, ..StatusResponse::default() });
    };
    answer(false);
    let show = "spire-server federation show -status -trustDomain";
    let stdout = line(&format!("{show} spiffe://td2.test")).on(&fake).await.success();
    let expected = "Trust domain              : td2.test\n\
                    Bundle endpoint URL       : https://td2.test/bundle\n\
                    Bundle endpoint profile   : https_spiffe\n\
                    Endpoint SPIFFE ID        : spiffe://td2.test/e\n\
                    Source                    : file\n\
                    Bundle stored             : yes\n\
                    Sequence number           : 7\n\
                    Authorities end           : 2026-01-03 03:04:05 +0000 UTC\n\
                    Last fetched              : 2026-01-02 03:04:05 +0000 UTC or up to an hour later \
                    (the leader knows)\n\
                    Last try                  : -\n\
                    Next try                  : -\n\
                    Failing since             : 2026-01-02 03:05:05 +0000 UTC\n\
                    Failure                   : no such host\n";
    assert_eq!(stdout, expected);
    answer(true);
    let stdout = line(&format!("{show} td2.test")).on(&fake).await.success();
    let exact = expected.replace(" or up to an hour later (the leader knows)", "");
    assert_eq!(stdout, exact);
    answer(true);
    let stdout = line(&format!("{show} td2.test -output json")).on(&fake).await.success();
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(value["failure"], "no such host");
    assert_eq!(value["succeeded_at_is_exact"], true);
    answer(true);
    let stderr = line(&format!("{show} td3.test")).on(&fake).await.failure();
    let none = "Error: there is no federation relationship with trust domain \"td3.test\"\n";
    assert_eq!(stderr, none);
}

#[tokio::test]
async fn delete_and_refresh_say_what_became_of_it() {
    let fake = Fake::start();
    let answer_delete = |status: pb::types::Status, name: &str| {
        let result = batch_delete_federation_relationship_response::Result {
            status: Some(status),
            trust_domain: name.to_owned(),
        };
        let response = BatchDeleteFederationRelationshipResponse { results: vec![result] };
        fake.answer("batch_delete_federation_relationship", response);
    };
    answer_delete(status::ok(), "td1.test");
    let stdout = line("spire-server federation delete -id td1.test").on(&fake).await.success();
    assert_eq!(stdout, "federation relationship deleted.\n");
    let call = fake.only_call();
    let message: &BatchDeleteFederationRelationshipRequest = call.message();
    assert_eq!(message.trust_domains, ["td1.test"]);

    answer_delete(status::item(Code::NotFound, "federation relationship not found"), "td1.test");
    let stderr = line("spire-server federation delete -id td1.test").on(&fake).await.failure();
    assert_eq!(
        stderr,
        "Error: failed to delete federation relationship \"td1.test\": federation relationship \
         not found\n"
    );
    answer_delete(status::ok(), "td2.test");
    let command = line("spire-server federation delete -id td2.test -output json");
    command.on(&fake).await.matches("federation-delete-json");

    for (words, expected) in
        [("", "Bundle refreshed\n"), ("-output json", "{\"code\":0,\"message\":\"OK\"}\n")]
    {
        fake.answer("refresh_bundle", ());
        let words = format!("spire-server federation refresh -id td1.test {words}");
        assert_eq!(line(&words).on(&fake).await.success(), expected);
    }
    fake.refuse("refresh_bundle", Status::not_found("no relationship"));
    let stderr = line("spire-server federation refresh -id nope.test").on(&fake).await.failure();
    let expected = "Error: there is no federation relationship with trust domain \"nope.test\"\n";
    assert_eq!(stderr, expected);
}

/// Runs `federation` with words that it must refuse before it calls.
async fn refused(fake: &Fake, words: &str, stdin: &str, expected: &str) {
    let command = line(&format!("spire-server federation {words}")).stdin(stdin);
    let stderr = command.on(fake).await.failure();
    assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    assert_eq!(fake.calls().len(), 0, "{words}");
}

#[tokio::test]
async fn flags_that_cannot_be_sent_are_refused_in_spires_words() {
    let fake = Fake::start();
    let at_x = "create -trustDomain t -bundleEndpointURL x -bundleEndpointProfile";
    let (other, spiffe) = (format!("{at_x} https_foo"), format!("{at_x} https_spiffe"));
    let bad_id = format!("{spiffe} -endpointSpiffeID foo");
    for (words, expected) in [
        ("create", "trust domain is required"),
        ("update -trustDomain t", "bundle endpoint URL is required"),
        (&other, "unknown bundle endpoint profile type: \"https_foo\""),
        (&spiffe, "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set"),
        (&bad_id, "cannot parse bundle endpoint SPIFFE ID: scheme is missing or invalid"),
        ("show", "a trust domain name is required"),
        ("delete", "id is required"),
        ("refresh", "id is required"),
    ] {
        refused(&fake, words, "", expected).await;
    }
    fake.refuse("get_federation_relationship", Status::not_found("x does not exist"));
    let stderr = line("spire-server federation show -trustDomain x").on(&fake).await.failure();
    assert!(stderr.starts_with("Error: error showing federation relationship: "), "{stderr}");
    assert!(stderr.contains("code = NotFound desc = x does not exist"), "{stderr}");
}

#[tokio::test]
async fn files_that_cannot_be_sent_are_refused_in_spires_words() {
    let fake = Fake::start();
    let file = fake.folder().join("bundle.pem");
    std::fs::write(&file, "no bundle").expect("the folder is ours");
    let der = format!(
        "create {WEB} -trustDomainBundlePath {} -trustDomainBundleFormat der",
        file.display()
    );
    let absent = format!("create {WEB} -trustDomainBundlePath /nope");
    let both = format!("create -data - {WEB}");
    for (words, expected) in [
        (&*absent, "cannot read bundle file: open /nope: no such file or directory"),
        (&*der, "cannot parse bundle file: bundle format \"der\" is unsupported"),
        (&*both, "cannot use other flags to specify relationship fields when 'data' flag is set"),
        ("create -data nope.json", "open nope.json: no such file or directory"),
    ] {
        refused(&fake, words, "", expected).await;
    }
    let data = |member: &str| format!("{{\"federationRelationships\":[{{{member}}}]}}");
    let unnamed = "\"trustDomain\":\"a.test\",\"bundleEndpointURL\":\"https://a.test\",\
                   \"bundleEndpointProfile\":\"https_web\",\"trustDomainBundle\":\"x\"";
    for (text, expected) in [
        (
            data(unnamed),
            "could not parse item 0: cannot parse bundle raw message: bundle format \"\" is \
             unsupported",
        ),
        (data("\"bundleEndpointURL\":\"x\""), "could not parse item 0: trust domain is required"),
        (
            "{}".to_owned(),
            "failed to parse JSON: expected an object with \"federationRelationships\"",
        ),
    ] {
        refused(&fake, "create -data -", &text, expected).await;
    }
}

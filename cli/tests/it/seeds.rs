//! What the walkthroughs type, old spellings included.
//!
//! Owns the spellings of `seeds.md` that other tests do not use by the way.

use steeple_api::pb::server::bundle::v1::*;
use steeple_api::pb::server::entry::v1::*;
use steeple_api::{pb, status};

use crate::bundle::bundle;
use crate::certificates::Ca;
use crate::driver::line;
use crate::entry::plain;
use crate::fake::Fake;

#[tokio::test]
async fn the_entry_id_is_cut_out_by_column_and_field() {
    let fake = Fake::start();
    let entries = vec![plain("8a5f", "/api")];
    fake.answer("list_entries", ListEntriesResponse { entries, next_page_token: String::new() });
    let command = line("spire-server entry show -spiffeID spiffe://example.org/api");
    let stdout = command.on(&fake).await.success();
    // grep 'Entry ID         :' <file> | awk '{print $4}'
    let found = stdout.lines().find(|line| line.contains("Entry ID         :"));
    let found = found.expect("nine blanks before the colon");
    assert_eq!(found.split_whitespace().nth(3), Some("8a5f"));
}

const UPDATE: &str = "spire-server entry update -entryID 8a5f -parentID spiffe://example.org/node \
    -spiffeID spiffe://example.org/api -selector unix:uid:1000";

#[tokio::test]
async fn the_old_ttl_sets_the_lifetime_of_x509_svids_alone() {
    let fake = Fake::start();
    let result = batch_update_entry_response::Result {
        status: Some(status::ok()),
        entry: Some(plain("8a5f", "/api")),
    };
    fake.answer("batch_update_entry", BatchUpdateEntryResponse { results: vec![result] });
    let outcome = line(&format!("{UPDATE} -ttl 60")).on(&fake).await;
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.starts_with("Entry ID         : 8a5f\n"), "{}", outcome.stdout);
    assert!(outcome.stderr.starts_with("Warning: -ttl is an old spelling"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("-x509SVIDTTL"), "the new spelling: {}", outcome.stderr);
    let call = fake.only_call();
    let sent = &call.message::<BatchUpdateEntryRequest>().entries[0];
    assert_eq!((sent.x509_svid_ttl, sent.jwt_svid_ttl), (60, 0));
}

#[tokio::test]
async fn the_old_ttl_is_refused_beside_the_new_and_when_negative() {
    let both = "use x509SVIDTTL and jwtSVIDTTL flags or the deprecated ttl flag";
    for (words, expected) in [
        ("-ttl 60 -x509SVIDTTL 60", both),
        ("-ttl 60 -jwtSVIDTTL 60", both),
        ("-ttl -1", "a positive TTL is required"),
    ] {
        let fake = Fake::start();
        let stderr = line(&format!("{UPDATE} {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    }
}

#[tokio::test]
async fn the_old_name_of_the_socket_flag_works() {
    let fake = Fake::start();
    fake.answer("count_entries", CountEntriesResponse { count: 1 });
    let socket = fake.socket().display().to_string();
    let words = format!("spire-server entry count -registrationUDSPath {socket}");
    let outcome = line(&words).run().await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "1 registration entry\n"));
    assert!(outcome.stderr.contains("use -socketPath"), "{}", outcome.stderr);
    let stderr = line(&format!("{words} -socketPath {socket}")).run().await.failure();
    assert!(stderr.contains("not both"), "{stderr}");
}

/// Runs an old command, which warns of its heir alone, and returns what it printed.
async fn old(words: &str, stdin: &str, heir: &str, fake: &Fake) -> String {
    let command = words.split(" -").next().expect("split yields one part");
    let outcome = line(&format!("spire-server {words}")).stdin(stdin).on(fake).await;
    let warning = format!("Warning: {command} is an old spelling; use {heir}\n");
    assert_eq!((outcome.code, outcome.stderr), (0, warning), "{words}");
    outcome.stdout
}

#[tokio::test]
async fn the_experimental_bundle_commands_are_hidden_and_work() {
    let (fake, ca) = (Fake::start(), Ca::new("bar.example.com"));
    let bundle = bundle("bar.example.com", &ca);
    fake.answer("get_bundle", bundle.clone());
    let document = line("spire-server bundle show -format spiffe").on(&fake).await.success();
    fake.answer("get_bundle", bundle.clone());
    let heir = "bundle show -format spiffe";
    assert_eq!(old("experimental bundle show", "", heir, &fake).await, document);

    let two = vec![
        bundle.clone(),
        pb::types::Bundle { trust_domain: "baz".to_owned(), ..bundle.clone() },
    ];
    let response = ListFederatedBundlesResponse { bundles: two, next_page_token: String::new() };
    fake.answer("list_federated_bundles", response);
    let heir = "bundle list -format spiffe";
    let rule = "*".repeat(40);
    let expected = format!(
        "{rule}\n* spiffe://bar.example.com\n{rule}\n{document}\n{rule}\n* spiffe://baz\n{rule}\n{document}"
    );
    assert_eq!(old("experimental bundle list", "", heir, &fake).await, expected);
    fake.answer("get_federated_bundle", bundle);
    let words = "experimental bundle list -id spiffe://bar.example.com";
    assert_eq!(old(words, "", heir, &fake).await, document);

    fake.calls();
    let result =
        batch_set_federated_bundle_response::Result { status: Some(status::ok()), bundle: None };
    let response = BatchSetFederatedBundleResponse { results: vec![result] };
    fake.answer("batch_set_federated_bundle", response);
    let words = "experimental bundle set --id spiffe://bar.example.com";
    let stdout = old(words, &document, "bundle set -format spiffe", &fake).await;
    assert_eq!(stdout, "bundle set.\n");
    let call = fake.only_call();
    let sent = &call.message::<BatchSetFederatedBundleRequest>().bundle[0];
    assert_eq!((sent.trust_domain.as_str(), sent.sequence_number), ("bar.example.com", 7));

    let result = batch_delete_federated_bundle_response::Result {
        status: Some(status::ok()),
        trust_domain: "bar.example.com".to_owned(),
    };
    let response = BatchDeleteFederatedBundleResponse { results: vec![result] };
    fake.answer("batch_delete_federated_bundle", response);
    let words = "experimental bundle delete -id spiffe://bar.example.com";
    assert_eq!(old(words, "", "bundle delete", &fake).await, "bundle deleted.\n");

    for words in ["", "--help", "bundle", "bundle --help"] {
        let help = line(&format!("spire-server {words}")).run().await.stderr;
        assert!(!help.contains("experimental"), "{words}: {help}");
    }
}

#[tokio::test]
async fn entries_are_created_as_the_walk_through_two_trust_domains_types_it() {
    let foo = "spiffe://foo.example.com";
    for (words, parent, dns, federates) in [
        (
            format!("--spiffeID {foo}/spire-agent --selector k8s_psat:agent_ns:foo --node"),
            "/spire/server",
            vec![],
            vec![],
        ),
        (
            format!(
                "--parentID {foo}/spire-agent --spiffeID {foo}/http-server \
                 --selector k8s:pod-label:app:http-server --dns http-server \
                 --dns http-server.foo.svc.cluster.local --federatesWith spiffe://bar.example.com"
            ),
            "/spire-agent",
            vec!["http-server", "http-server.foo.svc.cluster.local"],
            vec!["spiffe://bar.example.com"],
        ),
    ] {
        let fake = Fake::start();
        let result = batch_create_entry_response::Result {
            status: Some(status::ok()),
            entry: Some(plain("8a5f", "/http-server")),
        };
        fake.answer("batch_create_entry", BatchCreateEntryResponse { results: vec![result] });
        line(&format!("spire-server entry create {words}")).on(&fake).await.success();
        let call = fake.only_call();
        let sent = &call.message::<BatchCreateEntryRequest>().entries[0];
        let sent_parent = sent.parent_id.as_ref().expect("a parent");
        assert_eq!(
            (sent_parent.trust_domain.as_str(), sent_parent.path.as_str()),
            ("foo.example.com", parent)
        );
        assert_eq!(
            (&sent.dns_names, &sent.federates_with),
            (&owned(&dns), &owned(&federates)),
            "{words}"
        );
    }
    let fake = Fake::start();
    let words = "spire-server entry create -node -spiffeID spiffe://a.test/x -selector a:b";
    let stderr = line(&format!("{words} -federatesWith b.test")).on(&fake).await.failure();
    assert_eq!(stderr, "Error: node entries can not federate\n");
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

//! What the walkthroughs type, old spellings included.
//!
//! Owns the spellings of `seeds.md` that other tests do not use by the way.

use steeple_api::pb::server::bundle::v1::ListFederatedBundlesResponse;
use steeple_api::pb::server::entry::v1::*;
use steeple_api::status;

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

#[tokio::test]
async fn the_experimental_bundle_commands_are_hidden_and_work() {
    let fake = Fake::start();
    let response = ListFederatedBundlesResponse::default();
    fake.answer("list_federated_bundles", response);
    assert_eq!(line("spire-server experimental bundle list").on(&fake).await.success(), "");
    let help = line("spire-server").run().await.stderr;
    assert!(!help.contains("experimental"), "{help}");
}

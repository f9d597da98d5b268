//! `entry create`, `update`, `delete`, `show`, `count`.
//!
//! Owns what each sends, prints and refuses.

use steeple_api::pb::server::entry::v1::*;
use steeple_api::{pb, status};
use tonic::{Code, Status};

use crate::driver::{NOW, line};
use crate::fake::Fake;

fn id(path: &str) -> Option<pb::types::Spiffeid> {
    Some(pb::types::Spiffeid { trust_domain: "example.org".to_owned(), path: path.to_owned() })
}

fn selector(kind: &str, value: &str) -> pb::types::Selector {
    pb::types::Selector { r#type: kind.to_owned(), value: value.to_owned() }
}

/// An entry with an id, a path and one selector.
pub(crate) fn plain(entry_id: &str, path: &str) -> pb::types::Entry {
    pb::types::Entry {
        id: entry_id.to_owned(),
        spiffe_id: id(path),
        parent_id: id("/node"),
        selectors: vec![selector("unix", "uid:1000")],
        ..Default::default()
    }
}

/// An entry with every field set.
fn full(entry_id: &str) -> pb::types::Entry {
    pb::types::Entry {
        selectors: vec![selector("unix", "uid:1000"), selector("k8s", "ns:default")],
        x509_svid_ttl: 3600,
        jwt_svid_ttl: 300,
        federates_with: vec!["other.test".to_owned(), "third.test".to_owned()],
        admin: true,
        downstream: true,
        expires_at: NOW,
        dns_names: vec!["web".to_owned(), "web.example.org".to_owned()],
        revision_number: 3,
        store_svid: true,
        hint: "external".to_owned(),
        created_at: 1_767_000_000,
        additional_attributes: Some(pb::types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
        ..plain(entry_id, "/web")
    }
}

fn created(entry: pb::types::Entry) -> batch_create_entry_response::Result {
    batch_create_entry_response::Result { status: Some(status::ok()), entry: Some(entry) }
}

/// The flags that describe [`full`].
const FULL_FLAGS: &str = "-parentID spiffe://example.org/node -spiffeID spiffe://example.org/web \
    -selector unix:uid:1000 -selector k8s:ns:default -x509SVIDTTL 3600 -jwtSVIDTTL 300 \
    -federatesWith spiffe://other.test -federatesWith third.test -admin -downstream \
    -entryExpiry 1767323045 -dns web -dns web.example.org -storeSVID -hint external \
    -disableX509SVIDPrefetch -jwtSVIDIncludeJTI";

const PLAIN_FLAGS: &str = "-parentID spiffe://example.org/node -spiffeID spiffe://example.org/web \
    -selector unix:uid:1000";

#[tokio::test]
async fn create_sends_every_flag_and_prints_the_entry_in_the_narrow_layout() {
    let fake = Fake::start();
    let results = vec![created(full("e-1"))];
    fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
    let command = line(&format!("spire-server entry create -entryID e-1 {FULL_FLAGS}"));
    command.on(&fake).await.matches("entry-create");

    let call = fake.only_call();
    let sent = &call.message::<BatchCreateEntryRequest>().entries;
    let expected = pb::types::Entry {
        federates_with: vec!["spiffe://other.test".to_owned(), "third.test".to_owned()],
        revision_number: 0,
        created_at: 0,
        ..full("e-1")
    };
    assert_eq!(sent, &[expected]);
    let request_id = call.metadata.get("steeple-request-id").expect("a write carries an id");
    let request_id = request_id.to_str().expect("hex is text");
    assert_eq!(request_id.len(), 32);
    assert!(request_id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{request_id}");
}

#[tokio::test]
async fn two_writes_carry_two_request_ids() {
    let fake = Fake::start();
    for _ in 0..2 {
        let results = vec![created(plain("e-1", "/web"))];
        fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
        line(&format!("spire-server entry create {PLAIN_FLAGS}")).on(&fake).await.success();
    }
    let ids: Vec<_> =
        fake.calls().iter().map(|call| call.metadata.get("steeple-request-id").cloned()).collect();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn create_as_json_has_spires_shape() {
    let fake = Fake::start();
    let results = vec![created(full("e-1"))];
    fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
    let command = line(&format!("spire-server entry create {PLAIN_FLAGS} -output json"));
    command.on(&fake).await.matches("entry-create-json");
}

#[tokio::test]
async fn create_names_what_failed_and_fails() {
    for (output, golden) in
        [("pretty", "entry-create-failed"), ("json", "entry-create-failed-json")]
    {
        let fake = Fake::start();
        let failed = batch_create_entry_response::Result {
            status: Some(status::item(Code::AlreadyExists, "similar entry already exists")),
            entry: None,
        };
        let results = vec![failed];
        fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
        let command = line(&format!("spire-server entry create {PLAIN_FLAGS} -output {output}"));
        command.on(&fake).await.matches(golden);
    }
}

#[tokio::test]
async fn create_takes_the_parent_of_a_node_entry_from_its_trust_domain() {
    let fake = Fake::start();
    let results = vec![created(plain("e-1", "/agents"))];
    fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
    let command = line(
        "spire-server entry create -spiffeID spiffe://example.org/agents -selector k8s_psat:cluster:e1 -node",
    );
    command.on(&fake).await.success();
    let call = fake.only_call();
    let sent = &call.message::<BatchCreateEntryRequest>().entries[0];
    assert_eq!(sent.parent_id, id("/spire/server"));
    assert_eq!(sent.selectors, [selector("k8s_psat", "cluster:e1")]);
    assert_eq!(sent.additional_attributes, None);
}

#[tokio::test]
async fn create_and_update_refuse_what_is_missing_in_spires_words() {
    let id = "-spiffeID spiffe://example.org/a";
    let parent = "-parentID spiffe://example.org/p";
    let selector = "-selector a:b";
    for (words, expected) in [
        ("create".to_owned(), "at least one selector is required"),
        (format!("create {selector} -node -federatesWith x"), "node entries can not federate"),
        (format!("create {selector}"), "a parent ID is required if the node flag is not set"),
        (format!("create {selector} {parent}"), "a SPIFFE ID is required"),
        (format!("create {selector} -node"), "a SPIFFE ID is required"),
        (
            format!("create {selector} {parent} {id} -x509SVIDTTL -1"),
            "a positive x509-SVID TTL is required",
        ),
        (
            format!("create {selector} {parent} {id} -jwtSVIDTTL -1"),
            "a positive JWT-SVID TTL is required",
        ),
        (
            format!("create {parent} {id} -selector nocolon"),
            "selector \"nocolon\" must be formatted as type:value",
        ),
        (
            format!("create {selector} {parent} -spiffeID example.org/a"),
            "scheme is missing or invalid",
        ),
        ("update".to_owned(), "entry ID is required"),
        ("update -entryID x".to_owned(), "at least one selector is required"),
        (format!("update -entryID x {selector}"), "a parent ID is required"),
        (format!("update -entryID x {selector} {parent}"), "a SPIFFE ID is required"),
        (
            format!("update -entryID x {selector} {parent} {id} -x509SVIDTTL -1"),
            "a positive x509-SVID TTL is required",
        ),
        (
            format!("update -entryID x {selector} {parent} {id} -jwtSVIDTTL -1"),
            "a positive JWT-SVID TTL is required",
        ),
        ("delete".to_owned(), "an entry ID is required"),
        (format!("show -entryID x {id}"), "the -entryID flag can't be combined with others"),
        (format!("show -entryID x {parent}"), "the -entryID flag can't be combined with others"),
        (format!("show -entryID x {selector}"), "the -entryID flag can't be combined with others"),
        (format!("show {selector} -matchSelectorsOn half"), "match behavior \"half\" unknown"),
        (
            "show -federatesWith x -matchFederatesWithOn half".to_owned(),
            "match behavior \"half\" unknown",
        ),
    ] {
        let fake = Fake::start();
        let stderr = line(&format!("spire-server entry {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
        assert_eq!(fake.calls().len(), 0, "{words}");
    }
}

#[tokio::test]
async fn create_refuses_a_lifetime_that_does_not_fit() {
    let fake = Fake::start();
    let command = line(&format!("spire-server entry create {PLAIN_FLAGS} -x509SVIDTTL 3000000000"));
    let stderr = command.on(&fake).await.failure();
    assert!(stderr.starts_with("Error: invalid value for X509 SVID TTL: "), "{stderr}");
}

#[tokio::test]
async fn create_reads_entries_from_a_file_or_from_stdin() {
    let text = r#"{"entries":[{"selectors":[{"type":"unix","value":"uid:1000"}],
        "spiffe_id":"spiffe://example.org/blog","parent_id":"spiffe://example.org/node",
        "ttl":3600,"dns_names":["blog"],"node":"true"}]}"#;
    let fake = Fake::start();
    let file = fake.folder().join("entries.json");
    std::fs::write(&file, text).expect("the folder is ours");
    for path in ["-".to_owned(), file.display().to_string()] {
        let results = vec![created(plain("e-1", "/blog"))];
        fake.answer("batch_create_entry", BatchCreateEntryResponse { results });
        // Other flags are neither used nor checked.
        let command = line(&format!("spire-server entry create -data {path} -x509SVIDTTL -1"));
        let outcome = command.stdin(text).on(&fake).await;
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stderr.starts_with("Warning: the key \"ttl\" is an old spelling"));
        let call = fake.only_call();
        let expected = pb::types::Entry {
            x509_svid_ttl: 3600,
            dns_names: vec!["blog".to_owned()],
            ..plain("", "/blog")
        };
        assert_eq!(call.message::<BatchCreateEntryRequest>().entries, [expected]);
    }
}

#[tokio::test]
async fn update_replaces_the_whole_entry() {
    let fake = Fake::start();
    let entry = pb::types::Entry { revision_number: 1, ..plain("e-1", "/web") };
    let result =
        batch_update_entry_response::Result { status: Some(status::ok()), entry: Some(entry) };
    fake.answer("batch_update_entry", BatchUpdateEntryResponse { results: vec![result] });
    let command = line(&format!("spire-server entry update -entryID e-1 {PLAIN_FLAGS}"));
    command.on(&fake).await.matches("entry-update");
    let call = fake.only_call();
    let request = call.message::<BatchUpdateEntryRequest>();
    assert_eq!(request.entries, [plain("e-1", "/web")]);
    assert_eq!(request.input_mask, None);
}

#[tokio::test]
async fn update_names_what_failed_and_fails() {
    let fake = Fake::start();
    let failed = batch_update_entry_response::Result {
        status: Some(status::item(Code::NotFound, "failed to update entry: no such \"entry\"")),
        entry: None,
    };
    fake.answer("batch_update_entry", BatchUpdateEntryResponse { results: vec![failed] });
    let command = line(&format!("spire-server entry update -entryID e-1 {PLAIN_FLAGS}"));
    command.on(&fake).await.matches("entry-update-failed");
}

#[tokio::test]
async fn update_keeps_the_additional_attribute_that_was_not_given() {
    let fake = Fake::start();
    let result = batch_update_entry_response::Result {
        status: Some(status::ok()),
        entry: Some(full("e-1")),
    };
    fake.answer("get_entry", full("e-1"));
    fake.answer("batch_update_entry", BatchUpdateEntryResponse { results: vec![result] });
    let words = format!(
        "spire-server entry update -entryID e-1 {PLAIN_FLAGS} -disableX509SVIDPrefetch=false"
    );
    assert_eq!(line(&words).on(&fake).await.code, 0);
    let calls = fake.calls();
    assert_eq!(calls[0].message::<GetEntryRequest>().id, "e-1");
    let sent = &calls[1].message::<BatchUpdateEntryRequest>().entries[0];
    let expected = pb::types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: true,
    };
    assert_eq!(sent.additional_attributes, Some(expected));

    fake.refuse("get_entry", Status::not_found("entry not found"));
    let stderr = line(&words).on(&fake).await.failure();
    assert_eq!(
        stderr,
        "Error: failed to fetch existing entry to merge additional attributes: rpc error: code = NotFound desc = entry not found\n"
    );
}

fn deleted(id: &str, code: Code, message: &str) -> batch_delete_entry_response::Result {
    batch_delete_entry_response::Result {
        status: Some(status::item(code, message)),
        id: id.to_owned(),
    }
}

#[tokio::test]
async fn delete_tells_what_went_and_what_stayed() {
    let gone = || deleted("e-1", Code::Ok, "OK");
    let missing = || deleted("e-2", Code::NotFound, "entry not found");
    for (results, output, golden) in [
        (vec![gone()], "pretty", "entry-delete"),
        (vec![missing()], "pretty", "entry-delete-failed"),
        (vec![gone(), missing()], "pretty", "entry-delete-mixed"),
        (vec![gone(), missing()], "json", "entry-delete-json"),
    ] {
        let fake = Fake::start();
        fake.answer("batch_delete_entry", BatchDeleteEntryResponse { results });
        let command = line(&format!("spire-server entry delete -entryID e-1 -output {output}"));
        command.on(&fake).await.matches(golden);
        assert_eq!(fake.only_call().message::<BatchDeleteEntryRequest>().ids, ["e-1"]);
    }
}

#[tokio::test]
async fn delete_reads_ids_from_stdin() {
    let fake = Fake::start();
    let results = vec![deleted("e-1", Code::Ok, "OK"), deleted("e-2", Code::Ok, "OK")];
    fake.answer("batch_delete_entry", BatchDeleteEntryResponse { results });
    let command = line("spire-server entry delete -file -").stdin(r#"{"ids":["e-1","e-2"]}"#);
    let stdout = command.on(&fake).await.success();
    assert!(stdout.ends_with("Deleted 2 entries successfully"), "{stdout}");
    assert_eq!(fake.only_call().message::<BatchDeleteEntryRequest>().ids, ["e-1", "e-2"]);
}

fn page(entries: Vec<pb::types::Entry>, next_page_token: &str) -> ListEntriesResponse {
    ListEntriesResponse { entries, next_page_token: next_page_token.to_owned() }
}

#[tokio::test]
async fn show_reads_all_pages_and_sorts() {
    let fake = Fake::start();
    fake.answer("list_entries", page(vec![plain("e-3", "/b"), full("e-1")], "7"));
    fake.answer("list_entries", page(vec![plain("e-2", "/a")], ""));
    line("spire-server entry show").on(&fake).await.matches("entry-show");
    let calls = fake.calls();
    let requests: Vec<_> =
        calls.iter().map(|call| call.message::<ListEntriesRequest>().clone()).collect();
    assert_eq!(requests[0].page_size, 500);
    assert_eq!((requests[0].page_token.as_str(), requests[1].page_token.as_str()), ("", "7"));
    let filter = requests[0].filter.clone().expect("a filter is always sent");
    assert_eq!(
        filter,
        list_entries_request::Filter { by_downstream: Some(false), ..Default::default() }
    );
}

#[tokio::test]
async fn show_finds_none_and_one() {
    let fake = Fake::start();
    fake.answer("list_entries", page(vec![], ""));
    let stdout = line("spire-server entry show").on(&fake).await.success();
    assert_eq!(stdout, "Found 0 entries\n");
    fake.answer("get_entry", plain("e-1", "/web"));
    line("spire-server entry show -entryID e-1").on(&fake).await.matches("entry-show-one");
    fake.answer("get_entry", plain("e-1", "/web"));
    let command = line("spire-server entry show -entryID e-1 -output json");
    command.on(&fake).await.matches("entry-show-one-json");
}

#[tokio::test]
async fn show_and_count_send_the_filters() {
    let flags = "-parentID spiffe://example.org/p -spiffeID spiffe://example.org/s -downstream \
        -selector a:b -matchSelectorsOn exact -federatesWith x.test -matchFederatesWithOn any -hint h";
    let fake = Fake::start();
    fake.answer("list_entries", page(vec![], ""));
    line(&format!("spire-server entry show {flags}")).on(&fake).await.success();
    let call = fake.only_call();
    let listed = call.message::<ListEntriesRequest>().filter.clone().expect("a filter");
    assert_eq!(listed.by_parent_id, id("/p"));
    assert_eq!(listed.by_spiffe_id, id("/s"));
    assert_eq!(listed.by_downstream, Some(true));
    assert_eq!(listed.by_hint.as_deref(), Some("h"));
    let by_selectors = listed.by_selectors.expect("selectors");
    assert_eq!(by_selectors.selectors, [selector("a", "b")]);
    assert_eq!(by_selectors.r#match(), pb::types::selector_match::MatchBehavior::MatchExact);
    let by_federates_with = listed.by_federates_with.expect("trust domains");
    assert_eq!(by_federates_with.trust_domains, ["x.test"]);
    let any = pb::types::federates_with_match::MatchBehavior::MatchAny;
    assert_eq!(by_federates_with.r#match(), any);

    fake.answer("count_entries", CountEntriesResponse { count: 1 });
    let stdout = line(&format!("spire-server entry count {flags}")).on(&fake).await.success();
    assert_eq!(stdout, "1 registration entry\n");
    let call = fake.only_call();
    let counted = call.message::<CountEntriesRequest>().filter.clone().expect("a filter");
    assert_eq!(counted.by_hint.as_deref(), Some("h"));
    assert_eq!(counted.by_spiffe_id, id("/s"));
}

#[tokio::test]
async fn count_knows_its_plural_and_its_json() {
    let fake = Fake::start();
    for (words, count, expected) in [
        ("entry count", 0, "0 registration entries\n"),
        ("entry count", 2, "2 registration entries\n"),
        ("entry count -output json", 2, "{\"count\":2}\n"),
    ] {
        fake.answer("count_entries", CountEntriesResponse { count });
        let stdout = line(&format!("spire-server {words}")).on(&fake).await.success();
        assert_eq!(stdout, expected);
    }
}

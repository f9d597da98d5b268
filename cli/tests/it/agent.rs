//! `agent list`, `count`, `show`, `ban`, `evict`, `purge`.
//!
//! Owns what each sends, prints and refuses.

use steeple_api::pb;
use steeple_api::pb::server::agent::v1::*;
use tonic::Status;

use crate::driver::{NOW, line};
use crate::fake::Fake;

const DAY: i64 = 24 * 3600;

fn id(path: &str) -> Option<pb::types::Spiffeid> {
    Some(pb::types::Spiffeid { trust_domain: "example.org".to_owned(), path: path.to_owned() })
}

fn agent(path: &str) -> pb::types::Agent {
    pb::types::Agent {
        id: id(path),
        attestation_type: "x509pop".to_owned(),
        x509svid_serial_number: "1234567890".to_owned(),
        x509svid_expires_at: NOW,
        selectors: vec![pb::types::Selector {
            r#type: "x509pop".to_owned(),
            value: "subject:cn:a".to_owned(),
        }],
        can_reattest: true,
        agent_version: "1.15.3".to_owned(),
        ..Default::default()
    }
}

fn banned(path: &str) -> pb::types::Agent {
    pb::types::Agent {
        attestation_type: "join_token".to_owned(),
        x509svid_serial_number: String::new(),
        banned: true,
        can_reattest: false,
        agent_version: String::new(),
        selectors: vec![],
        ..agent(path)
    }
}

fn page(agents: Vec<pb::types::Agent>, next_page_token: &str) -> ListAgentsResponse {
    ListAgentsResponse { agents, next_page_token: next_page_token.to_owned() }
}

#[tokio::test]
async fn list_reads_all_pages() {
    for (output, golden) in [("pretty", "agent-list"), ("json", "agent-list-json")] {
        let fake = Fake::start();
        fake.answer("list_agents", page(vec![agent("/spire/agent/x509pop/a")], "1"));
        fake.answer("list_agents", page(vec![banned("/spire/agent/join_token/b")], ""));
        let command = line(&format!("spire-server agent list -output {output}"));
        command.on(&fake).await.matches(golden);
        let calls = fake.calls();
        let last = calls[1].message::<ListAgentsRequest>();
        assert_eq!((last.page_size, last.page_token.as_str()), (1000, "1"));
    }
}

#[tokio::test]
async fn list_and_count_know_none_and_one() {
    let fake = Fake::start();
    fake.answer("list_agents", page(vec![], ""));
    let stdout = line("spire-server agent list").on(&fake).await.success();
    assert_eq!(stdout, "No attested agents found\n");
    fake.answer("list_agents", page(vec![agent("/spire/agent/x509pop/a")], ""));
    let stdout = line("spire-server agent list").on(&fake).await.success();
    assert!(stdout.starts_with("Found 1 attested agent:\n\nSPIFFE ID "), "{stdout}");
    for (words, count, expected) in [
        ("agent count", 1, "1 attested agent\n"),
        ("agent count", 3, "3 attested agents\n"),
        ("agent count -output json", 3, "{\"count\":3}\n"),
    ] {
        fake.answer("count_agents", CountAgentsResponse { count });
        let stdout = line(&format!("spire-server {words}")).on(&fake).await.success();
        assert_eq!(stdout, expected);
    }
}

#[tokio::test]
async fn list_and_count_send_the_filters() {
    let flags = "-selector a:b -matchSelectorsOn any -attestationType x509pop -canReattest true \
        -banned false -expiresBefore '2024-01-01 00:00:00 +0000 +00'";
    let fake = Fake::start();
    fake.answer("list_agents", page(vec![], ""));
    line(&format!("spire-server agent list {flags}")).on(&fake).await.success();
    let call = fake.only_call();
    let filter = call.message::<ListAgentsRequest>().filter.clone().expect("a filter");
    assert_eq!(filter.by_attestation_type, "x509pop");
    assert_eq!((filter.by_can_reattest, filter.by_banned), (Some(true), Some(false)));
    assert_eq!(filter.by_expires_before, "2024-01-01 00:00:00 +0000 +00");
    let selectors = filter.by_selector_match.expect("selectors");
    assert_eq!(selectors.r#match(), pb::types::selector_match::MatchBehavior::MatchAny);

    fake.answer("count_agents", CountAgentsResponse { count: 0 });
    line("spire-server agent count -banned all").on(&fake).await.success();
    let call = fake.only_call();
    let filter = call.message::<CountAgentsRequest>().filter.clone().expect("a filter");
    assert_eq!(filter, count_agents_request::Filter::default());
}

#[tokio::test]
async fn show_prints_the_selectors_after_the_block() {
    for (output, golden) in [("pretty", "agent-show"), ("json", "agent-show-json")] {
        let fake = Fake::start();
        fake.answer("get_agent", agent("/spire/agent/x509pop/a"));
        let words = "spire-server agent show -spiffeID spiffe://example.org/spire/agent/x509pop/a";
        line(&format!("{words} -output {output}")).on(&fake).await.matches(golden);
        let call = fake.only_call();
        assert_eq!(call.message::<GetAgentRequest>().id, id("/spire/agent/x509pop/a"));
    }
}

#[tokio::test]
async fn ban_and_evict_confirm() {
    let flag = "-spiffeID spiffe://example.org/spire/agent/x509pop/a";
    let fake = Fake::start();
    for (words, method, expected) in [
        ("ban", "ban_agent", "Agent banned successfully\n"),
        ("evict", "delete_agent", "Agent evicted successfully\n"),
        ("ban -output json", "ban_agent", "{}\n"),
        ("evict -output json", "delete_agent", "{}\n"),
    ] {
        fake.answer(method, ());
        let stdout = line(&format!("spire-server agent {words} {flag}")).on(&fake).await.success();
        assert_eq!(stdout, expected, "{words}");
        assert!(fake.only_call().metadata.contains_key("steeple-request-id"), "{words}");
    }
}

#[tokio::test]
async fn a_refused_call_is_shown_as_grpc_shows_it() {
    let flag = "-spiffeID spiffe://example.org/spire/agent/x509pop/a";
    for (words, method) in [("show", "get_agent"), ("ban", "ban_agent"), ("evict", "delete_agent")]
    {
        for output in ["pretty", "json"] {
            let fake = Fake::start();
            fake.refuse(method, Status::not_found("agent not found"));
            let command = line(&format!("spire-server agent {words} {flag} -output {output}"));
            let stderr = command.on(&fake).await.failure();
            assert_eq!(stderr, "Error: rpc error: code = NotFound desc = agent not found\n");
        }
    }
}

#[tokio::test]
async fn the_agent_must_be_named() {
    for (words, expected) in [
        ("show", "a SPIFFE ID is required"),
        ("ban", "a SPIFFE ID is required"),
        ("evict", "a SPIFFE ID is required"),
        ("show -spiffeID x", "scheme is missing or invalid"),
    ] {
        let fake = Fake::start();
        let stderr = line(&format!("spire-server agent {words}")).on(&fake).await.failure();
        assert_eq!(stderr, format!("Error: {expected}\n"), "{words}");
    }
}

/// Gone for 31 days, for 29, and for 40.
fn old_agents() -> ListAgentsResponse {
    let aged = |name: &str, days: i64| pb::types::Agent {
        x509svid_expires_at: NOW - days * DAY,
        ..agent(&format!("/spire/agent/x509pop/{name}"))
    };
    page(vec![aged("a", 31), aged("b", 29), aged("c", 40)], "")
}

#[tokio::test]
async fn purge_deletes_what_is_gone_for_longer_than_asked() {
    for (output, golden) in [("pretty", "agent-purge"), ("json", "agent-purge-json")] {
        let fake = Fake::start();
        fake.answer("list_agents", old_agents());
        fake.answer("delete_agent", ());
        fake.refuse("delete_agent", Status::internal("disk full"));
        let command = line(&format!("spire-server agent purge -output {output}"));
        command.on(&fake).await.matches(golden);
        let calls = fake.calls();
        let filter = calls[0].message::<ListAgentsRequest>().filter.clone().expect("a filter");
        assert_eq!(filter.by_can_reattest, Some(true));
        let deleted: Vec<_> =
            calls[1..].iter().map(|call| call.message::<DeleteAgentRequest>().id.clone()).collect();
        assert_eq!(deleted, [id("/spire/agent/x509pop/a"), id("/spire/agent/x509pop/c")]);
    }
}

#[tokio::test]
async fn purge_can_only_look() {
    let fake = Fake::start();
    fake.answer("list_agents", old_agents());
    let command = line("spire-server agent purge -dryRun -expiredFor 840h");
    command.on(&fake).await.matches("agent-purge-dry-run");
    for (output, expected) in
        [("pretty", "No agents to purge.\n"), ("json", "{\"expired_agents\":[]}\n")]
    {
        fake.answer("list_agents", old_agents());
        let words = format!("spire-server agent purge -expiredFor 2400h -output {output}");
        assert_eq!(line(&words).on(&fake).await.success(), expected);
    }
}

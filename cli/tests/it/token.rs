//! `token generate` and `healthcheck`.
//!
//! Owns the two commands that are a group of their own.

use steeple_api::pb;
use steeple_api::pb::health::{HealthCheckResponse, health_check_response::ServingStatus};
use steeple_api::pb::server::agent::v1::CreateJoinTokenRequest;
use tonic::Status;

use crate::driver::{NOW, line};
use crate::fake::Fake;

fn token() -> pb::types::JoinToken {
    let value = "11111111-2222-4333-8444-555555555555".to_owned();
    pb::types::JoinToken { value, expires_at: NOW + 600 }
}

#[tokio::test]
async fn the_token_is_the_second_word_of_the_first_line() {
    let fake = Fake::start();
    let value = token().value;
    let flag = "-spiffeID spiffe://example.org/myagent";
    for (words, ttl, expected) in [
        (format!("{flag} -ttl 60"), 60, format!("Token: {value}\n")),
        (String::new(), 600, format!("Token: {value}\nWarning: Missing SPIFFE ID.\n")),
        (
            "-output json".to_owned(),
            600,
            format!("{{\"expires_at\":\"1767323645\",\"value\":\"{value}\"}}\n"),
        ),
    ] {
        fake.answer("create_join_token", token());
        let command = line(&format!("spire-server token generate {words}"));
        assert_eq!(command.on(&fake).await.success(), expected, "{words}");
        let call = fake.only_call();
        let request = call.message::<CreateJoinTokenRequest>();
        assert_eq!(request.ttl, ttl, "{words}");
        assert_eq!(request.agent_id.is_some(), words.contains("-spiffeID"), "{words}");
        assert!(call.metadata.contains_key("steeple-request-id"));
    }
}

#[tokio::test]
async fn a_token_for_nobody_is_refused() {
    let fake = Fake::start();
    let stderr = line("spire-server token generate -spiffeID x").on(&fake).await.failure();
    assert_eq!(stderr, "Error: scheme is missing or invalid\n");
    let stderr = line("spire-server token generate -ttl 3000000000").on(&fake).await.failure();
    assert!(stderr.starts_with("Error: invalid value for TTL: "), "{stderr}");
}

fn health(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tokio::test]
async fn healthy_daemons_are_said_to_be() {
    let fake = Fake::start();
    for (words, expected) in [
        ("spire-server healthcheck", "Server is healthy.\n"),
        ("spire-server healthcheck -shallow", "Server is healthy.\n"),
        ("spire-server healthcheck -verbose", "Checking server health...\nServer is healthy.\n"),
        ("spire-agent healthcheck", "Agent is healthy.\n"),
        ("spire-agent healthcheck --shallow", "Agent is healthy.\n"),
        ("spire-agent healthcheck -verbose", "Checking agent health...\nAgent is healthy.\n"),
    ] {
        fake.answer("check", health(ServingStatus::Serving));
        assert_eq!(line(words).on(&fake).await.success(), expected, "{words}");
    }
}

#[tokio::test]
async fn unhealthy_daemons_fail_the_check() {
    let fake = Fake::start();
    for (words, expected) in [
        (
            "spire-server healthcheck",
            "Error: server is unhealthy: server returned status \"NOT_SERVING\"\n",
        ),
        ("spire-agent healthcheck", "Agent is unhealthy: agent returned status \"NOT_SERVING\"\n"),
    ] {
        fake.answer("check", health(ServingStatus::NotServing));
        assert_eq!(line(words).on(&fake).await.failure(), expected, "{words}");
    }
    for (words, expected) in [
        ("spire-server healthcheck", "Error: server is unhealthy: unable to determine health\n"),
        ("spire-agent healthcheck", "Agent is unhealthy: unable to determine health\n"),
    ] {
        fake.refuse("check", Status::unavailable("starting"));
        assert_eq!(line(words).on(&fake).await.failure(), expected, "{words}");
    }
    fake.refuse("check", Status::unavailable("starting"));
    let outcome = line("spire-server healthcheck -verbose").on(&fake).await;
    outcome.matches("healthcheck-verbose");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unhealthy_and_the_hint_says_why() {
    for (words, first) in [
        ("spire-server healthcheck", "Error: server is unhealthy: unable to determine health\n"),
        ("spire-agent healthcheck", "Agent is unhealthy: unable to determine health\n"),
    ] {
        let stderr =
            line(&format!("{words} -socketPath /nonexistent/api.sock")).run().await.failure();
        let hint = stderr.strip_prefix(first).expect(&stderr);
        assert!(hint.starts_with("Hint: no socket at /nonexistent/api.sock: is the "), "{hint}");
    }
}

//! A join token admits at most one agent, whoever redeems it where and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steeple_api::pb;
use steeple_testkit::client::{AttestedClient, unix_channel};
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::sync::Semaphore;

/// Tokens, and redemptions of each, as the issue of this test asks.
const TOKENS: usize = 200;
const REDEMPTIONS: usize = 12;

/// Redemptions under way at once.
const PARALLEL: usize = 48;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_tokens_redeemed_twelve_times_at_once_admit_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec {
        server_lines: "  ratelimit { attestation = false }\n".to_owned(),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let ports: Vec<u16> = cluster.members().iter().map(|member| member.api_port).collect();
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut tasks = Vec::new();
    let mut successes = Vec::new();
    for number in 0..TOKENS {
        let token = create_token(&cluster, number % 3, &format!("token-{number}")).await;
        let count = Arc::new(AtomicUsize::new(0));
        successes.push(Arc::clone(&count));
        for redemption in 0..REDEMPTIONS {
            let (token, port) = (token.clone(), ports[redemption % 3]);
            let (count, permits) = (Arc::clone(&count), Arc::clone(&permits));
            tasks.push(tokio::spawn(async move {
                let _permit = permits.acquire().await.unwrap();
                if AttestedClient::attest(&[port], &token).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let counts: Vec<usize> = successes.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(counts.iter().all(|count| *count <= 1), "a token admitted twice: {counts:?}");
    let admitted: usize = counts.iter().sum();
    assert_eq!(admitted, TOKENS, "with every replica up, each token admits exactly once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_asked_for_again_is_the_same_token() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let ask = async |index: usize, ttl: i32| {
        let channel = unix_channel(&cluster.member(index).unwrap().socket());
        let mut agents = pb::server::agent::v1::agent_client::AgentClient::new(channel);
        let (token, agent_id) = (String::new(), None);
        let asked = pb::server::agent::v1::CreateJoinTokenRequest { ttl, token, agent_id };
        let mut request = tonic::Request::new(asked);
        request
            .metadata_mut()
            .insert("steeple-request-id", "0000000000000000000000000000002a".parse().unwrap());
        agents.create_join_token(request).await.map(tonic::Response::into_inner)
    };
    let first = ask(0, 600).await.unwrap();
    // Time itself has to pass, there is nothing to wait for: ends are whole seconds, and after more than two
    // of them another end would show.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    for index in 0..3 {
        let again = ask(index, 600).await.unwrap();
        assert_eq!(again.value, first.value);
        assert!((again.expires_at - first.expires_at).abs() <= 1, "{again:?} after {first:?}");
    }
    let other = ask(1, 601).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::InvalidArgument, "{other}");
    assert!(other.message().contains("request id was used for another request"), "{other}");
    assert!(admitted(&cluster, 2, &first.value).await);
    assert!(!admitted(&cluster, 0, &first.value).await, "there is one");
}

/// Creates a token with a value of its own.
pub(crate) async fn create_token(cluster: &Cluster, index: usize, value: &str) -> String {
    let channel = unix_channel(&cluster.member(index).unwrap().socket());
    let mut agents = pb::server::agent::v1::agent_client::AgentClient::new(channel);
    let request = pb::server::agent::v1::CreateJoinTokenRequest {
        ttl: 600,
        token: value.to_owned(),
        agent_id: None,
    };
    agents.create_join_token(request).await.unwrap().into_inner().value
}

/// Whether a token admits through a member.
pub(crate) async fn admitted(cluster: &Cluster, index: usize, token: &str) -> bool {
    let port = cluster.member(index).unwrap().api_port;
    AttestedClient::attest(&[port], token).await.is_ok()
}

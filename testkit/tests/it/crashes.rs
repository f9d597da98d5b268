//! At least 50 SIGKILLs of one, two and all members under eight writers.

use std::time::Duration;

use steeple_api::pb;
use steeple_testkit::client::unix_channel;
use steeple_testkit::{Cluster, ClusterSpec};

use crate::registry::{Ledger, Writers};
use crate::tokens::{admitted, create_token};

/// SIGKILLs in all, as the issue of this test asks.
const KILLS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_through_fifty_kills_of_one_two_and_all_members() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec {
        server_lines: "  ratelimit { attestation = false }\n".to_owned(),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let spent = create_token(&cluster, 0, "spent-before-the-crashes").await;
    assert!(admitted(&cluster, 1, &spent).await, "the token admits once");
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 8, "", &ledger);
    let mut kills = 0;
    let mut round = 0;
    while kills < KILLS {
        let victims: Vec<usize> = (0..=round % 3).map(|n| (round + n) % 3).collect();
        for victim in &victims {
            cluster.kill_member(*victim).unwrap();
        }
        kills += victims.len();
        for victim in &victims {
            cluster.start_member(*victim).unwrap();
        }
        cluster.wait_ready(Duration::from_secs(30)).await.unwrap();
        round += 1;
    }
    writers.finish().await;
    ledger.is_kept_by(&cluster, 0..3, 200).await;
    for index in 0..3 {
        assert!(
            !admitted(&cluster, index, &spent).await,
            "a spent token admits again through member {index}"
        );
    }
    check_agent_is_listed(&cluster).await;
}

async fn check_agent_is_listed(cluster: &Cluster) {
    let channel = unix_channel(&cluster.member(2).unwrap().socket());
    let mut agents = pb::server::agent::v1::agent_client::AgentClient::new(channel);
    let reply =
        agents.count_agents(pb::server::agent::v1::CountAgentsRequest::default()).await.unwrap();
    assert_eq!(reply.into_inner().count, 1, "the agent admitted before the crashes");
}

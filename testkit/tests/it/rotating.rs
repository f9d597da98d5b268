//! `cluster rotate` on three members with agents below them: who is waited for and until when, and that a
//! rotation goes on wherever it is asked for again.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use steeple_api::pb::server::localauthority::v1::PrepareJwtAuthorityRequest;
use steeple_api::pb::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use steeple_api::{metadata, pb};
use steeple_testkit::client::{AttestedClient, unix_channel};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::bundles::{done, refused};

const SOON: Duration = Duration::from_secs(30);

fn active(cluster: &Cluster, member: usize, kind: &str) -> String {
    let args = ["localauthority", kind, "show"];
    let shown: Value = cluster.member(member).unwrap().cli_json(&args).unwrap();
    shown["active"]["authority_id"].as_str().unwrap().to_owned()
}

async fn agent_of(cluster: &Cluster, folder: &std::path::Path) -> (Agent, String) {
    let token = cluster.member(0).unwrap().cli_json(&["token", "generate"]).unwrap();
    let token = token["value"].as_str().unwrap().to_owned();
    let agent = Agent::start(folder, cluster, &[2, 1, 0], &token, "").await.unwrap();
    (agent, format!("spiffe://example.org/spire/agent/join_token/{token}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_an_agent_and_goes_on_through_another_member() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let (mut agent, id) = agent_of(&cluster, &folder.path().join("agent")).await;
    let first = active(&cluster, 0, "x509");

    let plan = done(&cluster, 1, &["cluster", "rotate", "x509", "-plan"]);
    assert!(plan.contains(&first) && plan.contains("Prepare") && plan.contains("now"), "{plan}");
    assert_eq!(active(&cluster, 1, "x509"), first, "a plan does nothing");

    agent.process().signal(Signal::SIGSTOP).unwrap();
    let waiting = format!("0 of 1 agents have it; waiting for 1 of 1 agents: {id}");
    let told = done(&cluster, 1, &["cluster", "rotate", "x509"]);
    assert!(told.contains("signs nothing yet") && told.contains(&waiting), "{told}");
    let shown: Value =
        cluster.member(2).unwrap().cli_json(&["localauthority", "x509", "show"]).unwrap();
    let second = shown["prepared"]["authority_id"].as_str().unwrap().to_owned();
    assert!(told.contains(&second), "{told}");

    // The command of before is no way round it, unless it is told so.
    let activate = ["localauthority", "x509", "activate", "-authorityID", &second];
    let text = refused(&cluster, 0, &activate);
    assert!(text.contains("not all know it yet") && text.contains(&id), "{text}");
    assert!(text.contains("or use -force"), "{text}");

    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    let told = wait_for("the same rotation without the first leader", SOON, async || {
        let output = cluster.member(other)?.cli(&["cluster", "rotate", "x509"])?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        // Nobody knows whether the first leader is gone, or cut off and serving.
        anyhow::ensure!(told.contains("it may give out the bundle of before for"), "{told}");
        Ok(told)
    });
    let told = told.await.unwrap();
    assert!(told.contains(&second) && told.contains("1 of 1 agents: "), "{told}");

    // An agent that has it is said to have it, though it is not known what the member gives out.
    agent.process().signal(Signal::SIGCONT).unwrap();
    let told = wait_for("the agent to be counted", SOON, async || {
        let output = cluster.member(other)?.cli(&["cluster", "rotate", "x509"])?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(told.contains("1 of 1 agents have it; waiting for member"), "{told}");
        Ok(told)
    });
    let told = told.await.unwrap();
    assert!(told.contains("it signs by itself from"), "{told}");

    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    let told = done(&cluster, other, &["cluster", "rotate", "x509", "-wait"]);
    assert!(told.contains(&format!("X.509 authority {second} signs.")), "{told}");
    assert_eq!(active(&cluster, other, "x509"), second);
    let text = refused(&cluster, other, &["cluster", "rotate", "x509"]);
    assert!(text.contains("2 of 3 places in the bundle are taken, and one is needed"), "{text}");

    let jwt = active(&cluster, leader, "jwt");
    let args = ["cluster", "rotate", "jwt", "-wait"];
    let seen: Value = cluster.member(leader).unwrap().cli_json(&args).unwrap();
    assert_eq!((&seen["complete"], &seen["published"]), (&Value::from(false), &Value::from(2)));
    assert_ne!(active(&cluster, leader, "jwt"), jwt);
}

/// Asks for a JWT key by the journal of a revision alone.
async fn prepare_by(cluster: &Cluster, member: usize, revision: &str) -> Result<(), Status> {
    let channel = unix_channel(&cluster.member(member).unwrap().socket());
    let mut client = LocalAuthorityClient::new(channel);
    let mut request = Request::new(PrepareJwtAuthorityRequest {});
    request.metadata_mut().insert(metadata::EXPECTED_JOURNAL, revision.parse().unwrap());
    client.prepare_jwt_authority(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rotations_at_one_time_prepare_one_authority_and_none_begins_without_a_quorum() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let plan = ["cluster", "rotate", "jwt", "-plan"];
    let seen = |cluster: &Cluster| -> (String, u64) {
        let seen: Value = cluster.member(0).unwrap().cli_json(&plan).unwrap();
        (seen["journal_revision"].as_str().unwrap().to_owned(), seen["published"].as_u64().unwrap())
    };
    let (revision, _) = seen(&cluster);
    prepare_by(&cluster, 1, &revision).await.unwrap();
    let error = prepare_by(&cluster, 2, &revision).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let error = prepare_by(&cluster, 2, "soon").await.unwrap_err();
    assert_eq!(error.message(), "steeple-expected-journal is no number");
    assert_eq!(seen(&cluster).1, 2, "one that signs, one that is prepared");

    for member in [1, 2] {
        cluster.kill_member(member).unwrap();
    }
    let alone = wait_for("the loss of contact", SOON, async || {
        let output = cluster.member(0)?.cli(&plan)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(text.contains("no leader: 1 of 3 voters reachable"), "{text}");
        Ok(output)
    });
    let alone = alone.await.unwrap();
    assert_eq!((alone.status.code(), alone.stdout.len()), (Some(1), 0));
    // It goes on when it can.
    let mut command =
        tokio::process::Command::new(steeple_testkit::process::binary("spire-server").unwrap());
    command.args(["cluster", "rotate", "jwt", "-wait", "-socketPath"]);
    command.arg(cluster.member(0).unwrap().socket()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut waiting = command.spawn().unwrap();
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("1 of 3 voters reachable; trying again"), "{first}");
    for member in [1, 2] {
        cluster.start_member(member).unwrap();
    }
    let ended = tokio::time::timeout(SOON * 2, waiting.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    let mut last = first;
    while let Some(line) = lines.next_line().await.unwrap() {
        last = line;
    }
    assert!(last.contains(" signs. The one before it leaves the bundle at "), "{last}");
}

/// Asks for the bundle as an agent that acknowledges; returns the receipt.
async fn answered(channel: &Channel, held: u64) -> u64 {
    let mut client = pb::server::bundle::v1::bundle_client::BundleClient::new(channel.clone());
    let message = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    let mut request = Request::new(message);
    request.metadata_mut().insert(metadata::BUNDLE_HELD, held.into());
    let reply = client.get_bundle(request).await.unwrap();
    metadata::number(reply.metadata(), metadata::BUNDLE_RECEIPT).unwrap()
}

async fn acknowledge(channel: &Channel, receipt: u64) {
    let mut client = pb::agent_ext::v1::updates_client::UpdatesClient::new(channel.clone());
    client.acknowledge(pb::agent_ext::v1::AcknowledgeRequest { receipt }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_acknowledges_is_waited_for_until_it_has_applied_what_it_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let (mut agent, stopped) = agent_of(&cluster, &folder.path().join("agent")).await;
    let ports: Vec<u16> = cluster.members().iter().map(|member| member.api_port).collect();
    let token = crate::tokens::create_token(&cluster, 0, "slow").await;
    let slow = AttestedClient::attest(&ports, &token).await.unwrap();
    let [first, second, _] = slow.channels() else { panic!("three members") };
    let held = answered(first, 0).await;
    acknowledge(first, held).await;

    agent.process().signal(Signal::SIGSTOP).unwrap();
    let told = done(&cluster, 0, &["cluster", "rotate", "x509"]);
    assert!(told.contains("0 of 2 agents have it; waiting for 2 of 2 agents: "), "{told}");
    assert!(told.contains(&stopped) && told.contains(&slow.id.to_string()), "{told}");
    agent.process().signal(Signal::SIGCONT).unwrap();
    let plan = ["cluster", "rotate", "x509", "-plan"];
    let waits = format!("waiting for 1 of 2 agents: {}\n", slow.id);
    let applied = wait_for("the acknowledgement of the agent that goes on", SOON, async || {
        let told = done(&cluster, 1, &plan);
        anyhow::ensure!(told.contains(&waits), "{told}");
        Ok(())
    });
    applied.await.unwrap();

    // Answered, by one member and by another, but nothing applied; nor does it help to say anything else.
    let by_first = answered(first, held).await;
    acknowledge(first, held).await;
    acknowledge(second, by_first).await;
    let by_second = answered(second, by_first).await;
    acknowledge(second, 0).await;
    acknowledge(second, by_first).await;
    for member in 0..3 {
        let told = done(&cluster, member, &plan);
        assert!(told.contains(&waits), "{told}");
    }
    acknowledge(second, by_second).await;
    let told = done(&cluster, 2, &["cluster", "rotate", "x509", "-wait"]);
    assert!(told.contains(" signs. The one before it leaves"), "{told}");
}

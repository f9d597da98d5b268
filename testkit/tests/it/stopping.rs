//! SIGTERM ends a server within seconds, whoever is connected and whatever its part is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec};

/// A stop hands over leadership (a fraction of a second), lets open calls end and gives silent
/// clients a second; the rest is room for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(8);

const SOON: Duration = Duration::from_secs(30);

/// Stops a member and returns what it logged on its way down.
async fn stop(cluster: &mut Cluster, index: usize, what: &str) -> String {
    let asked = Instant::now();
    cluster.stop_member(index).await.unwrap();
    let took = asked.elapsed();
    let log = fs::read_to_string(cluster.member(index).unwrap().log()).unwrap();
    let last = log.rsplit_once("Stopping").map_or(log.as_str(), |(_, last)| last).to_owned();
    assert!(took < STOP_MAX, "{what} took {took:?} to stop\n{last}");
    assert!(!last.contains("Leadership acquired"), "{what} won leadership while stopping\n{last}");
    last
}

async fn follows(agent: &Agent, times: usize) {
    let waited = wait_for("the agent to hold its push stream open", SOON, async || {
        let found = agent.log_text().matches("Following updates of the server").count();
        anyhow::ensure!(found >= times, "{found} streams so far");
        Ok(())
    });
    waited.await.unwrap();
}

async fn logs(path: &Path, text: &str) {
    let waited = wait_for(text, SOON, async || {
        anyhow::ensure!(fs::read_to_string(path)?.contains(text), "not yet");
        Ok(())
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_asked_to_stop_is_gone_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();

    // As leader, with an agent that holds streams open.
    let leader = cluster.leader(SOON).await.unwrap();
    let token = crate::tokens::create_token(&cluster, leader, "token").await;
    let place = folder.path().join("agent");
    let mut agent = Agent::start(&place, &cluster, &[leader], &token, "").await.unwrap();
    follows(&agent, 1).await;
    let log = stop(&mut cluster, leader, "a leader with an agent").await;
    assert!(log.contains("Leadership handed over"), "{log}");
    let next = cluster.leader(Duration::from_secs(1)).await.unwrap();
    assert_ne!(next, leader);

    // With an agent that hangs: it will never answer a goodbye.
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    follows(&agent, 2).await;
    agent.process().signal(Signal::SIGSTOP).unwrap();
    stop(&mut cluster, leader, "a member with an agent that hangs").await;
    agent.process().signal(Signal::SIGCONT).unwrap();

    // Sealed.
    let made = Command::new(binary("spire-server").unwrap()).args(["cluster", "keygen"]).output();
    let other = folder.path().join("other.key");
    fs::copy(folder.path().join("cluster.key"), &other).unwrap();
    fs::write(&other, made.unwrap().stdout).unwrap();
    let member = cluster.member(leader).unwrap();
    let (config, log) = (member.config(), member.log());
    let text = fs::read_to_string(&config).unwrap().replace("cluster.key", "other.key");
    fs::write(&config, text).unwrap();
    cluster.start_member(leader).unwrap();
    logs(&log, "Sealed: cluster key does not open").await;
    stop(&mut cluster, leader, "a sealed member").await;

    // The last two: the follower first, then a leader that has no one to hand over to.
    let follower = (0..3).find(|index| ![leader, next].contains(index)).unwrap();
    stop(&mut cluster, follower, "a follower").await;
    stop(&mut cluster, next, "a leader without a quorum").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_all_asked_to_stop_at_once_do_not_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let asked = Instant::now();
    for index in 0..3 {
        cluster.process(index).unwrap().signal(Signal::SIGTERM).unwrap();
    }
    for index in 0..3 {
        let status = cluster.process(index).unwrap().wait(STOP_MAX).await.unwrap();
        assert!(status.success(), "{status}");
    }
    // A hand-over that no one takes would be waited for 5 s.
    assert!(asked.elapsed() < Duration::from_millis(4500), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_to_leave_leaves_and_comes_back_as_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec {
        cluster_lines: "  leave_on_terminate = true\n".to_owned(),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let id_of = async |cluster: &Cluster, index: usize| {
        cluster.member(index).unwrap().status().await.unwrap().this_member.unwrap().id
    };
    let leader = cluster.leader(SOON).await.unwrap();
    let other = (leader + 1) % 3;
    let gone = id_of(&cluster, leader).await;
    let log = stop(&mut cluster, leader, "a leader that leaves").await;
    assert!(log.contains("Left the cluster"), "{log}");
    let members = cluster.member(other).unwrap().cli_json(&["cluster", "members"]).unwrap();
    let left = members["members"].as_array().unwrap();
    assert_eq!(left.len(), 2, "{members}");
    assert!(!members.to_string().contains(&gone), "{members}");

    cluster.start_member(leader).unwrap();
    let waited = wait_for("three voters again", Duration::from_secs(60), async || {
        let members = cluster.member(other)?.cli_json(&["cluster", "members"])?;
        let rows = members["members"].as_array().cloned().unwrap_or_default();
        let voters = rows.iter().filter(|row| row["role"] == "VOTER").count();
        anyhow::ensure!(voters == 3, "{members}");
        Ok(())
    });
    waited.await.unwrap();
    assert_ne!(id_of(&cluster, leader).await, gone);
    let kept = fs::read_dir(cluster.member(leader).unwrap().data()).unwrap();
    let kept: Vec<String> =
        kept.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(kept.iter().any(|name| name.starts_with("raft.left-")), "{kept:?}");

    // Two of three may leave; the last voter may not, and says so.
    for index in [leader, other] {
        let log = stop(&mut cluster, index, "a member that leaves").await;
        assert!(log.contains("Left the cluster"), "{log}");
    }
    let last = (leader + 2) % 3;
    let log = stop(&mut cluster, last, "the last voter").await;
    assert!(log.contains("Stays a member: "), "{log}");
    cluster.start_member(last).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
}

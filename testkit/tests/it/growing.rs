//! A cluster that grows, shrinks and moves, by what an operator edits and types.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};

use crate::registry::{Ledger, Writers};

const SOON: Duration = Duration::from_secs(30);
/// A learner is watched for 10 s before it gets a vote.
const PROMOTION: Duration = Duration::from_secs(60);

/// The members as `cluster members -output json` has them on one of them.
fn members(cluster: &Cluster, index: usize) -> anyhow::Result<Vec<serde_json::Value>> {
    let reply = cluster.member(index)?.cli_json(&["cluster", "members"])?;
    Ok(reply["members"].as_array().cloned().unwrap_or_default())
}

/// Waits until a member sees so many voters and no one else.
async fn voters(cluster: &Cluster, index: usize, count: usize) {
    let waited = wait_for("the voters", PROMOTION, async || {
        let members = members(cluster, index)?;
        let voters = members.iter().filter(|member| member["role"] == "VOTER").count();
        anyhow::ensure!(voters == count && members.len() == count, "{members:?}");
        Ok(())
    });
    waited.await.unwrap();
}

async fn id(cluster: &Cluster, index: usize) -> String {
    let status = cluster.member(index).unwrap().status().await.unwrap();
    status.this_member.unwrap().id
}

/// Removes one member through another, as an operator does, and waits for the end of its process.
async fn remove(cluster: &mut Cluster, through: usize, index: usize) {
    let gone = id(cluster, index).await;
    let args = ["cluster", "remove", "-id", &gone];
    let output = cluster.member(through).unwrap().cli(&args).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status = cluster.process(index).unwrap().wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(1), "a removed member ends");
    let log = fs::read_to_string(cluster.member(index).unwrap().log()).unwrap();
    assert!(log.contains("removed"), "and says why: {log}");
}

/// What a server without a `cluster` block is given to become the first of several.
fn open_for_others(cluster: &Cluster) {
    let member = cluster.member(0).unwrap();
    let key = member.data().join("cluster.key");
    // Made at the first start; now the others need it.
    fs::copy(&key, cluster.folder().join("cluster.key")).unwrap();
    let address = format!("127.0.0.1:{}", member.peer_port);
    let block = format!(
        "cluster {{\n  bind_address = \"127.0.0.1\"\n  bind_port = {port}\n  \
         advertise_address = \"{address}\"\n  peers = [\"{address}\"]\n  key_file = \"{key}\"\n}}\n",
        port = member.peer_port,
        key = key.display(),
    );
    let text = fs::read_to_string(member.config()).unwrap();
    assert!(!text.contains("cluster {"), "{text}");
    fs::write(member.config(), text + &block).unwrap();
}

/// Adds a member whose configuration names the cluster as the first one does: by default.
fn add(cluster: &mut Cluster) -> usize {
    let index = cluster.add_member(&ClusterSpec::default()).unwrap();
    let config = cluster.member(index).unwrap().config();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("  name = \"testkit\"\n", "")).unwrap();
    cluster.start_member(index).unwrap();
    index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_grows_to_three_and_five_and_shrinks_to_three_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let alone = ClusterSpec { members: 1, ..ClusterSpec::default() };
    let mut cluster = Cluster::start(folder.path(), &alone).await.unwrap();
    let ledger = Ledger::default();
    let mut writers = Writers::start(&cluster, 1, "a", &ledger);
    cluster.stop_member(0).await.unwrap();
    open_for_others(&cluster);
    cluster.start_member(0).unwrap();
    cluster.wait_ready(SOON).await.unwrap();

    for count in [3, 5] {
        for _ in 0..2 {
            add(&mut cluster);
        }
        cluster.wait_ready(SOON).await.unwrap();
        for index in 0..count {
            voters(&cluster, index, count).await;
        }
        writers.more(&cluster, 1, &format!("b{count}"));
    }

    let leader = cluster.leader(SOON).await.unwrap();
    remove(&mut cluster, (leader + 1) % 5, leader).await;
    let next = cluster.leader(SOON).await.unwrap();
    let other = (0..5).find(|index| ![leader, next].contains(index)).unwrap();
    remove(&mut cluster, other, next).await;
    let left: Vec<usize> = (0..5).filter(|index| ![leader, next].contains(index)).collect();
    for index in &left {
        voters(&cluster, *index, 3).await;
    }
    writers.finish().await;
    ledger.is_kept_by(&cluster, left.iter().copied(), 100).await;
    for index in left {
        let status = cluster.member(index).unwrap().cli(&["cluster", "status"]).unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_may_come_back_at_other_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 2, "", &ledger);
    let written = wait_for("some entries", SOON, async || {
        anyhow::ensure!(ledger.acknowledged() > 50, "{}", ledger.acknowledged());
        Ok(())
    });
    written.await.unwrap();
    writers.finish().await;

    for index in 0..3 {
        cluster.kill_member(index).unwrap();
    }
    // Each takes the address of a member that was never started, and tells the others by `peers` alone.
    let fresh = Cluster::prepare(&folder.path().join("fresh"), &ClusterSpec::default()).unwrap();
    let ports: Vec<(u16, u16)> = (0..3)
        .map(|index| {
            let port = |cluster: &Cluster| cluster.member(index).unwrap().peer_port;
            (port(&cluster), port(&fresh))
        })
        .collect();
    for member in cluster.members() {
        let text = fs::read_to_string(member.config()).unwrap();
        let moved = ports.iter().fold(text, |text, (old, new)| {
            text.replace(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{new}"))
                .replace(&format!("bind_port = {old}\n"), &format!("bind_port = {new}\n"))
        });
        fs::write(member.config(), moved).unwrap();
    }
    for index in 0..3 {
        cluster.start_member(index).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    let expected: BTreeSet<String> =
        ports.iter().map(|(_, new)| format!("127.0.0.1:{new}")).collect();
    ledger.is_kept_by(&cluster, 0..3, 50).await;
    for index in 0..3 {
        let recorded = wait_for("the new addresses", SOON, async || {
            let members = members(&cluster, index)?;
            let addresses: BTreeSet<String> = members
                .iter()
                .filter_map(|member| member["address"].as_str().map(str::to_owned))
                .collect();
            anyhow::ensure!(addresses == expected, "{addresses:?}");
            Ok(())
        });
        recorded.await.unwrap();
    }
}

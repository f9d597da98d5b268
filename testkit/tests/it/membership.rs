//! Members that come later: a fourth one joins, one that lost its folder takes its old seat.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use steeple_api::pb::cluster::v1::member::Role;
use steeple_testkit::client::http_reply;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Cluster, ClusterSpec};

use crate::registry::{Ledger, Writers, listed};

const SOON: Duration = Duration::from_secs(30);

/// Ids of members with this part, as a member sees them.
async fn members(cluster: &Cluster, index: usize, role: Role) -> anyhow::Result<BTreeSet<String>> {
    let status = cluster.member(index)?.status().await?;
    let members = status.members.into_iter().filter(|member| member.role() == role);
    Ok(members.map(|member| member.id).collect())
}

/// Waits until the body of a member's ready check has this part.
async fn ready_says(cluster: &Cluster, index: usize, part: &str) {
    let port = cluster.member(index).unwrap().health_port;
    let waited = wait_for(part, SOON, async || {
        let reply = http_reply(port, "/ready").await?;
        anyhow::ensure!(reply.contains(part), "{reply}");
        Ok(())
    });
    if let Err(error) = waited.await {
        panic!("{error:#}");
    }
}

async fn id(cluster: &Cluster, index: usize) -> String {
    let status = cluster.member(index).unwrap().status().await.unwrap();
    status.this_member.unwrap().id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_member_joins_with_all_that_was_acknowledged_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec::default();
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 2, "", &ledger);

    // First with another key: it says what is wrong, and the fix it names is enough.
    let fourth = cluster.add_member(&spec).unwrap();
    let made = Command::new(binary("spire-server").unwrap()).args(["cluster", "keygen"]).output();
    let other = folder.path().join("other.key");
    fs::copy(folder.path().join("cluster.key"), &other).unwrap();
    fs::write(&other, made.unwrap().stdout).unwrap();
    let config = cluster.member(fourth).unwrap().config();
    let right = fs::read_to_string(&config).unwrap();
    fs::write(&config, right.replace("cluster.key", "other.key")).unwrap();
    cluster.start_member(fourth).unwrap();
    let fix = "cluster key differs; give both members the same cluster key file";
    ready_says(&cluster, fourth, fix).await;
    cluster.stop_member(fourth).await.unwrap();
    fs::write(&config, right).unwrap();
    cluster.start_member(fourth).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    writers.finish().await;
    ledger.is_kept_by(&cluster, [fourth], 10).await;
    let words = ["entry", "create", "-entryID", "through-the-fourth", "-selector", "unix:uid:1"];
    let more = ["-parentID", "spiffe://example.org/n", "-spiffeID", "spiffe://example.org/w"];
    let made = cluster.member(fourth).unwrap().cli(&[words.as_slice(), &more].concat());
    assert!(made.as_ref().unwrap().status.success(), "{made:?}");
    assert!(listed(&cluster, 0).await.contains("through-the-fourth"));

    let learner = BTreeSet::from([id(&cluster, fourth).await]);
    let learners = members(&cluster, 0, Role::Learner).await.unwrap();
    assert_eq!(learners, learner, "four voters stand no more than three: it stays a learner");
    let own = env!("CARGO_PKG_VERSION");
    let versions = wait_for("versions of all members everywhere", SOON, async || {
        for member in cluster.members() {
            let status = member.status().await?;
            let known = status.members.iter().filter(|row| row.version == own).count();
            anyhow::ensure!(known == 4, "server-{} knows {known} of 4", member.index);
        }
        Ok(())
    });
    versions.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_folder_takes_its_old_seat_under_load_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let old = id(&cluster, 2).await;
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 1, "", &ledger);

    cluster.kill_member(2).unwrap();
    fs::remove_dir_all(cluster.member(2).unwrap().data()).unwrap();
    cluster.start_member(2).unwrap();
    // The old member must have been silent for 30 s before its seat is given away.
    let seated = wait_for("the newcomer to be a voter", Duration::from_secs(90), async || {
        let new = cluster.member(2)?.status().await?.this_member.map(|this| this.id);
        let voters = members(&cluster, 0, Role::Voter).await?;
        let new = new.filter(|new| voters.contains(new));
        anyhow::ensure!(new.is_some() && voters.len() == 3 && !voters.contains(&old), "{voters:?}");
        Ok(())
    });
    seated.await.unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    writers.finish().await;
    ledger.is_kept_by(&cluster, 0..3, 10).await;
    // It counts: with it, one of the two others may go.
    cluster.kill_member(0).unwrap();
    assert!(!listed(&cluster, 2).await.is_empty());
    // Alone it leads no one, whatever it was.
    cluster.kill_member(1).unwrap();
    ready_says(&cluster, 2, "\"role\":\"none\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_data_folder_that_is_started_beside_its_member_ends_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec::default();
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    let everyone = members(&cluster, 0, Role::Voter).await.unwrap();
    cluster.stop_member(2).await.unwrap();
    let copy = cluster.add_member(&spec).unwrap();
    let (from, to) = (cluster.member(2).unwrap().data(), cluster.member(copy).unwrap().data());
    let copied = Command::new("cp").arg("-aT").args([from, to]).status();
    assert!(copied.unwrap().success());
    cluster.start_member(2).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    cluster.start_member(copy).unwrap();
    let ended = cluster.process(copy).unwrap().wait(SOON).await.unwrap();
    let log = fs::read_to_string(cluster.member(copy).unwrap().log()).unwrap();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains(" runs twice, at ") && log.contains("move DATA_DIR/raft of"), "{log}");
    // The one that was there goes on, where it was.
    assert_eq!(members(&cluster, 0, Role::Voter).await.unwrap(), everyone);
    let address = format!("127.0.0.1:{}", cluster.member(2).unwrap().peer_port);
    let status = cluster.member(0).unwrap().status().await.unwrap();
    assert!(status.members.iter().any(|member| member.address == address), "{status:?}");
    // It counts: with it, one of the two others may go.
    cluster.kill_member(0).unwrap();
    cluster.leader(SOON).await.unwrap();

    // Where the copy is all that runs, it may. What has ended is not waited for.
    cluster.kill_member(copy).ok();
    cluster.start_member(0).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    cluster.stop_member(2).await.unwrap();
    cluster.start_member(copy).unwrap();
    let address = format!("127.0.0.1:{}", cluster.member(copy).unwrap().peer_port);
    let moved = wait_for("the copy at its address", SOON, async || {
        let status = cluster.member(0)?.status().await?;
        let found = status.members.iter().any(|member| member.address == address);
        anyhow::ensure!(found && status.members.len() == 3, "{:?}", status.members);
        Ok(())
    });
    moved.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_belongs_to_another_cluster_of_the_name_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec::default();
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    // It was started alone once, and has formed a cluster of its own.
    let other = cluster.add_member(&spec).unwrap();
    let config = cluster.member(other).unwrap().config();
    let right = fs::read_to_string(&config).unwrap();
    let peers = right.lines().find(|line| line.trim_start().starts_with("peers =")).unwrap();
    fs::write(&config, right.replace(peers, "")).unwrap();
    cluster.start_member(other).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    cluster.stop_member(other).await.unwrap();
    fs::write(&config, &right).unwrap();
    cluster.start_member(other).unwrap();
    let told = wait_for("the foreign peer to be told of", SOON, async || {
        let status = cluster.member(other)?.status().await?;
        let mut warnings = status.warnings.iter();
        let told = warnings.find(|warning| warning.code == "foreign_peer");
        anyhow::ensure!(told.is_some(), "{:?}", status.warnings);
        Ok(())
    });
    told.await.unwrap();
    let checked = cluster.member(other).unwrap().cli(&["cluster", "check"]).unwrap();
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(
        checked.contains("warn  epochs        peers of other clusters: 127.0.0.1:"),
        "{checked}"
    );
    assert!(checked.contains("there are no other members"), "{checked}");
}

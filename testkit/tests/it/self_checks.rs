//! What a cluster finds out about itself: `check`, `upgrade`, and a member whose disk has rotted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};

use crate::registry::{Ledger, Writers};

const SOON: Duration = Duration::from_secs(30);

/// Name and outcome of every verdict.
fn verdicts(checked: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = checked["verdicts"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| (text(&one["name"]), text(&one["outcome"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_passes_on_a_sound_cluster_and_names_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let passed = wait_for("a check that passes", SOON, async || {
        cluster.member(1)?.cli_json(&["cluster", "check"])
    });
    let found = verdicts(&passed.await.unwrap());
    assert_eq!(found.len(), 16, "{found:?}");
    assert!(found.iter().all(|(_, outcome)| outcome != "FAIL"), "{found:?}");
    let is_ok = |name: &str| found.contains(&(name.to_owned(), "OK".to_owned()));
    let names = ["quorum", "peers", "cluster_keys", "authorities", "settings", "state", "versions"];
    for name in names.into_iter().chain(["federation", "upstream"]) {
        assert!(is_ok(name), "{name}: {found:?}");
    }

    let level = cluster.member(2).unwrap().cli_json(&["cluster", "upgrade", "status"]).unwrap();
    assert_eq!(level["feature_level"], 7, "{level}");
    assert_eq!(level["members"].as_array().map(Vec::len), Some(3), "{level}");
    let raised = cluster.member(2).unwrap().cli(&["cluster", "upgrade", "finalize"]).unwrap();
    assert_eq!(raised.status.code(), Some(0));
    let text = String::from_utf8_lossy(&raised.stdout).into_owned();
    assert!(text.starts_with("Nothing to do: the cluster is at feature level 7"), "{text}");

    let gone = cluster.member(0).unwrap().status().await.unwrap().this_member.unwrap().id;
    cluster.kill_member(0).unwrap();
    let failed = wait_for("a check that fails", SOON, async || {
        let output = cluster.member(1)?.cli(&["cluster", "check"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Where it led, there is no leader for a moment, and the advice is another one.
        let advised = text.contains("see: docs/runbooks/lost-member.md");
        let failed = output.status.code() == Some(1) && text.contains("FAIL  peers");
        anyhow::ensure!(failed && advised, "{text}");
        Ok(text)
    });
    let text = failed.await.unwrap();
    assert!(text.contains(&format!("no answer from {gone} at ")), "{text}");
    // Every member says so, not only the leader.
    for index in [1, 2] {
        let said = wait_for("a status that names the dead member", SOON, async || {
            let output = cluster.member(index)?.cli(&["cluster", "status"])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let named = text.contains(&format!("member_unreachable: member {gone} at "));
            anyhow::ensure!(output.status.code() == Some(1) && named, "{text}");
            Ok(())
        });
        said.await.unwrap();
    }
}

/// The sorted files of a member's database.
fn tables(cluster: &Cluster, index: usize) -> Vec<PathBuf> {
    let db = cluster.member(index).unwrap().data().join("raft/db");
    let files = fs::read_dir(db).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_files_rot_ends_with_the_fix_and_rejoins_with_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &ClusterSpec::default()).await.unwrap();
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 2, "", &ledger);
    wait_for("something written", SOON, async || {
        anyhow::ensure!(ledger.acknowledged() > 50, "{}", ledger.acknowledged());
        Ok(())
    })
    .await
    .unwrap();
    // What is in the write-ahead log goes into sorted files at the next start.
    cluster.kill_member(2).unwrap();
    cluster.start_member(2).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    cluster.kill_member(2).unwrap();
    let rotten = tables(&cluster, 2);
    assert!(!rotten.is_empty());
    for path in rotten {
        let mut bytes = fs::read(&path).unwrap();
        bytes.iter_mut().skip(8).take(8).for_each(|byte| *byte ^= 0x55);
        fs::write(&path, bytes).unwrap();
    }
    cluster.start_member(2).unwrap();
    let ended = cluster.process(2).unwrap().wait(SOON).await.unwrap();
    let log = cluster.process(2).unwrap().log_tail(20);
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("move DATA_DIR/raft away"), "{log}");

    let raft = cluster.member(2).unwrap().data().join("raft");
    fs::rename(&raft, raft.with_extension("rotten")).unwrap();
    cluster.start_member(2).unwrap();
    let joined = wait_for("the member to serve again", Duration::from_secs(120), async || {
        let status = cluster.member(2)?.status().await?;
        anyhow::ensure!(status.members.len() == 3, "{:?}", status.this_member);
        Ok(())
    });
    joined.await.unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    writers.finish().await;
    ledger.is_kept_by(&cluster, [2], 50).await;
}

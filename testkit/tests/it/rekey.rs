//! Another cluster key, with real processes: from its line in the files to the old line's end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Cluster, ClusterSpec};

use crate::bundles::{done, refused};

const SOON: Duration = Duration::from_secs(60);

/// What `cluster keygen` prints.
fn keygen() -> String {
    let made = Command::new(binary("spire-server").unwrap()).args(["cluster", "keygen"]).output();
    String::from_utf8(made.unwrap().stdout).unwrap()
}

/// Writes the key file of one member.
fn write_key(cluster: &Cluster, index: usize, lines: &[&str]) {
    let path = cluster.member(index).unwrap().folder.join("member.key");
    fs::write(&path, lines.concat()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Three members, each with a key file of its own.
async fn start(folder: &std::path::Path) -> (Cluster, String) {
    let mut cluster = Cluster::prepare(folder, &ClusterSpec::default()).unwrap();
    let common = folder.join("cluster.key");
    let line = fs::read_to_string(&common).unwrap();
    for index in 0..3 {
        write_key(&cluster, index, &[&line]);
        let member = cluster.member(index).unwrap();
        let own = member.folder.join("member.key").display().to_string();
        let text = fs::read_to_string(member.config()).unwrap();
        let text = text.replace(&common.display().to_string(), &own);
        fs::write(member.config(), text).unwrap();
        cluster.start_member(index).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    (cluster, line)
}

fn keys(cluster: &Cluster, index: usize) -> Vec<Value> {
    let output = cluster.member(index).unwrap().cli(&["cluster", "status", "-output", "json"]);
    let status: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    status["cluster_keys"].as_array().cloned().unwrap_or_default()
}

/// Waits until a member sees these keys, each with its use and by how many members it is held.
async fn wait_for_keys(cluster: &Cluster, index: usize, expected: &[(&str, &str, usize)]) {
    let waited = wait_for("the cluster keys", SOON, async || {
        let found = keys(cluster, index);
        let rows: BTreeSet<(&str, &str, usize)> = found
            .iter()
            .map(|key| {
                let held_by = key["held_by"].as_array().map_or(0, Vec::len);
                (key["id"].as_str().unwrap(), key["use"].as_str().unwrap(), held_by)
            })
            .collect();
        anyhow::ensure!(rows == expected.iter().copied().collect(), "{found:?}");
        Ok(())
    });
    waited.await.unwrap();
}

fn hang_up(cluster: &mut Cluster, index: usize) {
    cluster.process(index).unwrap().signal(Signal::SIGHUP).unwrap();
}

async fn restart(cluster: &mut Cluster, index: usize) {
    cluster.stop_member(index).await.unwrap();
    cluster.start_member(index).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
}

/// The ids of all authorities that sign now, as a member says.
fn active(cluster: &Cluster, index: usize) -> BTreeSet<String> {
    let status = cluster.member(index).unwrap().cli(&["cluster", "status", "-output", "json"]);
    let status: Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
    let all = status["authorities"].as_array().unwrap().iter();
    let active = all.filter(|one| one["status"] == "ACTIVE");
    active.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// Both kinds of SVIDs, from every member that runs.
async fn all_sign(cluster: &Cluster) {
    for index in (0..3).filter(|index| cluster.member(*index).unwrap().is_started()) {
        let waited = wait_for("an SVID of each kind", SOON, async || {
            for args in [
                &["x509", "mint", "-spiffeID", "spiffe://example.org/w"][..],
                &["jwt", "mint", "-spiffeID", "spiffe://example.org/w", "-audience", "a"],
            ] {
                let output = cluster.member(index)?.cli(args)?;
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                anyhow::ensure!(output.status.success(), "{args:?} at {index}: {text}");
            }
            Ok(())
        });
        waited.await.unwrap();
    }
}

fn log_of(cluster: &Cluster, index: usize) -> String {
    fs::read_to_string(cluster.member(index).unwrap().log()).unwrap()
}

async fn said(cluster: &Cluster, index: usize, what: &str) {
    let waited = wait_for(what, SOON, async || {
        let log = log_of(cluster, index);
        let key_lines: Vec<&str> = log.lines().filter(|line| line.contains("luster key")).collect();
        anyhow::ensure!(log.contains(what), "{key_lines:#?}");
        Ok(())
    });
    waited.await.unwrap();
}

/// A key that is on its way in, and the one that seals before.
struct Change {
    old: String,
    old_line: String,
    new: String,
    new_line: String,
}

/// The line comes to two members: by SIGHUP, and by a restart. A file that cannot be read takes nothing
/// away.
async fn add_line_to_two(cluster: &mut Cluster, old_line: String) -> Change {
    let old = keys(cluster, 0)[0]["id"].as_str().unwrap().to_owned();
    let new_line = keygen();
    write_key(cluster, 0, &["nonsense\n"]);
    hang_up(cluster, 0);
    said(cluster, 0, "Cluster key was not read again: the keys in use stay").await;
    write_key(cluster, 0, &[&new_line, &old_line]);
    hang_up(cluster, 0);
    write_key(cluster, 1, &[&old_line, &new_line]);
    restart(cluster, 1).await;
    let waited = wait_for("the new key at two members", SOON, async || {
        let found = keys(cluster, 0);
        let new = found.iter().find(|key| key["use"] == "NEW");
        let new = new.ok_or_else(|| anyhow::anyhow!("{found:?}"))?;
        anyhow::ensure!(new["held_by"].as_array().map(Vec::len) == Some(2), "{found:?}");
        Ok(new["id"].as_str().unwrap().to_owned())
    });
    Change { new: waited.await.unwrap(), old, old_line, new_line }
}

/// One member lacks the key: refused, by any member, with its name. Then it comes there too.
async fn refused_until_all_hold_it(cluster: &mut Cluster, change: &Change) {
    let Change { old, new, .. } = change;
    let lacking = cluster.member(2).unwrap().status().await.unwrap().this_member.unwrap().id;
    let expected =
        format!("not every member is known to hold cluster key {new}: missing at {lacking}");
    for asked in 0..3 {
        wait_for_keys(cluster, asked, &[(old, "SEALS", 3), (new, "NEW", 2)]).await;
        for words in [&["cluster", "rekey"][..], &["cluster", "rekey", "-to", new, "-plan"]] {
            let text = refused(cluster, asked, words);
            assert!(text.contains(&expected), "{text}");
        }
    }
    write_key(cluster, 2, &[&change.old_line, &change.new_line]);
    hang_up(cluster, 2);
    wait_for_keys(cluster, 1, &[(old, "SEALS", 3), (new, "NEW", 3)]).await;
    let plan = done(cluster, 1, &["cluster", "rekey", "-plan"]);
    assert!(plan.contains(&format!("1. move to {new}; 2. seal 2 private keys anew")), "{plan}");
    wait_for_keys(cluster, 1, &[(old, "SEALS", 3), (new, "NEW", 3)]).await;
}

/// Asked at a follower, and the leader is killed as soon as the key has moved.
async fn rekey_while_the_leader_is_killed(cluster: &mut Cluster, change: &Change) {
    let Change { old, new, .. } = change;
    let leader = cluster.leader(SOON).await.unwrap();
    let asked = (leader + 1) % 3;
    wait_for_keys(cluster, asked, &[(old, "SEALS", 3), (new, "NEW", 3)]).await;
    let rekey = Command::new(binary("spire-server").unwrap())
        .args(["cluster", "rekey", "-socketPath"])
        .arg(cluster.member(asked).unwrap().socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    said(cluster, asked, "Cluster key moved").await;
    cluster.kill_member(leader).unwrap();
    all_sign(cluster).await;
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    let ended = tokio::task::spawn_blocking(move || rekey.wait_with_output()).await;
    let ended = ended.unwrap().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{text} {}", String::from_utf8_lossy(&ended.stderr));
    assert!(text.contains(&format!("Cluster key moved from {old} to {new}.")), "{text}");
    assert!(text.contains(&format!("Nothing depends on {old} any more: drop its line")), "{text}");
    all_sign(cluster).await;

    // Asked again it goes nowhere, least of all back.
    let text = refused(cluster, asked, &["cluster", "rekey"]);
    assert!(text.contains(&format!("no member holds a new cluster key beside {new}")), "{text}");
    let check = cluster.member(asked).unwrap().cli_json(&["cluster", "check"]).unwrap();
    let mut verdicts = check["verdicts"].as_array().unwrap().iter();
    let verdict = verdicts.find(|one| one["name"] == "cluster_keys").unwrap();
    let text = verdict["text"].as_str().unwrap();
    let expected = format!("{old} nothing depends on it: its line may be dropped");
    assert!(text.contains(&expected), "{text}");
}

/// The old line goes, member by member: one by SIGHUP, all by a restart.
async fn drop_the_old_line(cluster: &mut Cluster, change: &Change) {
    write_key(cluster, 0, &[&change.new_line]);
    hang_up(cluster, 0);
    said(cluster, 0, &format!("dropped={}", change.old)).await;
    for index in 0..3 {
        write_key(cluster, index, &[&change.new_line]);
        restart(cluster, index).await;
        all_sign(cluster).await;
    }
    wait_for_keys(cluster, 2, &[(&change.new, "SEALS", 3)]).await;
    let file = cluster.folder().join("after.snapshot").display().to_string();
    done(cluster, 0, &["cluster", "snapshot", "save", &file]);
    let mut inspect = Command::new(binary("spire-server").unwrap());
    let inspected = inspect.args(["cluster", "snapshot", "inspect", &file]).output().unwrap();
    let text = String::from_utf8(inspected.stdout).unwrap();
    assert!(text.contains(&format!("Key ID            : {}\n", change.new)), "{text}");
}

/// A file without the key that seals: it is kept, and said. After a restart the member signs nothing and
/// says what it lacks; nothing is lost, and the line mends it, with and without a restart.
async fn take_away_what_is_needed(cluster: &mut Cluster, change: &Change) {
    let Change { old_line, new_line, .. } = change;
    write_key(cluster, 2, &[old_line]);
    hang_up(cluster, 2);
    said(cluster, 2, "Cluster key has no line any more but is still needed").await;
    all_sign(cluster).await;
    cluster.stop_member(2).await.unwrap();
    cluster.start_member(2).unwrap();
    said(cluster, 2, "Cluster key is needed and not held: nothing is lost; put its line back")
        .await;
    let text = refused(cluster, 2, &["x509", "mint", "-spiffeID", "spiffe://example.org/w"]);
    assert!(text.contains("Unavailable"), "{text}");
    write_key(cluster, 2, &[old_line, new_line]);
    hang_up(cluster, 2);
    cluster.wait_ready(SOON).await.unwrap();
    all_sign(cluster).await;
    write_key(cluster, 2, &[new_line]);
    restart(cluster, 2).await;
    all_sign(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_key_is_replaced_under_way_and_the_authorities_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, old_line) = start(folder.path()).await;
    let before = active(&cluster, 0);
    assert_eq!(before.len(), 2);
    let text = refused(&cluster, 1, &["cluster", "rekey"]);
    assert!(text.contains("no member holds a new cluster key beside"), "{text}");
    let change = add_line_to_two(&mut cluster, old_line).await;
    refused_until_all_hold_it(&mut cluster, &change).await;
    rekey_while_the_leader_is_killed(&mut cluster, &change).await;
    drop_the_old_line(&mut cluster, &change).await;
    for index in 0..3 {
        assert_eq!(active(&cluster, index), before, "the same authorities sign");
    }
    take_away_what_is_needed(&mut cluster, &change).await;
    for index in 0..3 {
        let log = log_of(&cluster, index);
        let shown = [&change.old_line, &change.new_line].map(|line| log.contains(line.trim()));
        assert_eq!(shown, [false, false], "no log shows a key");
    }
}

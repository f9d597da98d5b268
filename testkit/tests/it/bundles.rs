//! The bundle of another trust domain, from the command that sets it to the workload that gets it.

use std::fs;
use std::time::Duration;

use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};

const SOON: Duration = Duration::from_secs(30);

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn done(cluster: &Cluster, member: usize, args: &[&str]) -> String {
    let output = cluster.member(member).unwrap().cli(args).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and returns what it printed.
pub(crate) fn refused(cluster: &Cluster, member: usize, args: &[&str]) -> String {
    let output = cluster.member(member).unwrap().cli(args).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Waits until the workload gets the other trust domain's bundle, or until it does not any more.
async fn workload_gets_it(agent: &Agent, wanted: bool) {
    let waited = wait_for("the workload's federated bundle", SOON, async || {
        let output = agent.cli(&["api", "fetch", "x509"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let gets = text.contains("[spiffe://other.org] CA #1");
        anyhow::ensure!(output.status.success() && gets == wanted, "{text}");
        Ok(())
    });
    waited.await.unwrap();
}

/// Every member has one entry.
fn only_the_alias_is_left(cluster: &Cluster) {
    for member in cluster.members() {
        let count = member.cli_json(&["entry", "count"]).unwrap();
        assert_eq!(count["count"], 1, "the node's alias is left: {count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_bundle_reaches_workloads_and_goes_as_its_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(&folder.path().join("cluster"), &ClusterSpec::default()).await.unwrap();
    let node = "spiffe://example.org/node";
    let token = cluster.member(0).unwrap().cli_json(&["token", "generate", "-spiffeID", node]);
    let token = token.unwrap()["value"].as_str().unwrap().to_owned();
    let place = folder.path().join("agent");
    let agent = Agent::start(&place, &cluster, &[2, 1, 0], &token, "").await.unwrap();

    // Any authority will do for another trust domain's.
    let document = folder.path().join("other.json");
    fs::write(&document, done(&cluster, 0, &["bundle", "show", "-format", "spiffe"])).unwrap();
    let path = document.to_str().unwrap();
    let set = ["bundle", "set", "-id", "other.org", "-format", "spiffe", "-path", path];
    assert_eq!(done(&cluster, 0, &set), "bundle set.\n");
    assert_eq!(done(&cluster, 1, &["bundle", "count"]), "2 bundles\n");
    let list = ["bundle", "list", "-id", "other.org", "-format", "spiffe"];
    assert_eq!(done(&cluster, 2, &list), fs::read_to_string(&document).unwrap());

    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let create = [
        "entry",
        "create",
        "-parentID",
        node,
        "-spiffeID",
        "spiffe://example.org/web",
        "-selector",
        &uid,
        "-entryID",
        "web",
        "-federatesWith",
        "other.org",
    ];
    done(&cluster, 1, &create);
    workload_gets_it(&agent, true).await;

    let text = refused(&cluster, 2, &["bundle", "delete", "-id", "other.org"]);
    assert_eq!(
        text,
        "Error: failed to delete federated bundle \"other.org\": failed to delete federated \
         bundle: datastore-sql: cannot delete bundle; federated with 1 registration entries\n"
    );
    // Decided by the log, so also without the member that answered so far.
    let leader = cluster.leader(SOON).await.unwrap();
    cluster.kill_member(leader).unwrap();
    let other = (leader + 1) % 3;
    let dissociate = ["bundle", "delete", "-id", "other.org", "-mode", "dissociate"];
    assert_eq!(done(&cluster, other, &dissociate), "bundle deleted.\n");
    let shown = done(&cluster, (leader + 2) % 3, &["entry", "show", "-entryID", "web"]);
    assert!(!shown.contains("FederatesWith"), "{shown}");
    workload_gets_it(&agent, false).await;

    assert_eq!(done(&cluster, other, &set), "bundle set.\n");
    let update = [
        "entry",
        "update",
        "-entryID",
        "web",
        "-parentID",
        node,
        "-spiffeID",
        "spiffe://example.org/web",
        "-selector",
        &uid,
        "-federatesWith",
        "other.org",
    ];
    done(&cluster, other, &update);
    cluster.start_member(leader).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    let delete = ["bundle", "delete", "-id", "other.org", "-mode", "delete"];
    assert_eq!(done(&cluster, leader, &delete), "bundle deleted.\n");
    only_the_alias_is_left(&cluster);
}

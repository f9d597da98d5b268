//! An agent that proves itself by a certificate of its machine, against three members.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use steeple_testkit::process::{Process, binary, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec, Machines};

use crate::bundles::done;

const SOON: Duration = Duration::from_secs(30);

/// An agent's folder: its machine's certificate instead of a token, and keys that die with it.
fn configure(folder: &Path, cluster: &Cluster, order: &[usize], machines: &Machines, name: &str) {
    Agent::configure(folder, cluster, order, "").unwrap();
    machines.equip(folder, name).unwrap();
    let path = folder.join("agent.conf");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("KeyManager \"disk\"", "KeyManager \"memory\"");
    let keys = format!("      directory = \"{}/data\"\n", folder.display());
    fs::write(&path, text.replace(&keys, "")).unwrap();
}

async fn logs(agent: &Agent, text: &str, times: usize) {
    let waited = wait_for(text, SOON, async || {
        let found = agent.log_text().matches(text).count();
        anyhow::ensure!(found >= times, "{found} times so far\n{}", agent.log_text());
        Ok(())
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_attests_by_its_machines_certificate_renews_and_attests_again() {
    let folder = tempfile::tempdir().unwrap();
    let machines = Machines::new().unwrap();
    let spec = ClusterSpec {
        server_lines: "  agent_ttl = \"24s\"\n  ratelimit { attestation = false }\n".to_owned(),
        plugin_lines: machines.plugin(folder.path()).unwrap(),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(&folder.path().join("cluster"), &spec).await.unwrap();

    let place = folder.path().join("agent");
    configure(&place, &cluster, &[0, 1, 2], &machines, "one");
    let mut agent = Agent::launch(&place, None).await.unwrap();
    logs(&agent, "Node attestation was successful", 1).await;
    let listed = cluster.member(1).unwrap().cli_json(&["agent", "list"]).unwrap().to_string();
    assert!(listed.contains("/spire/agent/x509pop/"), "{listed}");
    assert!(listed.contains("subject:cn:one"), "the machine's name is a selector: {listed}");

    // Its keys are gone, its machine's are not: it attests anew and stays the same agent.
    agent.restart().await.unwrap();
    logs(&agent, "Node attestation was successful", 2).await;
    let count = cluster.member(2).unwrap().cli_json(&["agent", "count"]).unwrap();
    assert_eq!(count["count"], 1, "{count}");

    // At half its life; an agent of this kind proves itself again instead of renewing.
    logs(&agent, "Successfully reattested node", 1).await;

    let strangers = Machines::new().unwrap();
    let place = folder.path().join("stranger");
    configure(&place, &cluster, &[1], &strangers, "two");
    let mut command = Command::new(binary("spire-agent").unwrap());
    command.arg("run").arg("-config").arg(place.join("agent.conf"));
    let log = place.join("agent.log");
    let mut refused = Process::spawn("agent", &mut command, &log).unwrap();
    let status = refused.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(1), "a refused agent ends");
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("nodeattestor(x509pop): certificate verification failed: x509: certificate signed by unknown authority"),
        "{text}"
    );
    let count = cluster.member(0).unwrap().cli_json(&["agent", "count"]).unwrap();
    assert_eq!(count["count"], 1, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_away_from_taint_to_revocation_proves_itself_again() {
    let folder = tempfile::tempdir().unwrap();
    let machines = Machines::new().unwrap();
    let spec = ClusterSpec {
        plugin_lines: machines.plugin(folder.path()).unwrap(),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(&folder.path().join("cluster"), &spec).await.unwrap();
    let place = folder.path().join("agent");
    configure(&place, &cluster, &[0, 1, 2], &machines, "one");
    let mut agent = Agent::launch(&place, None).await.unwrap();
    done(&cluster, 0, &["cluster", "rotate", "x509", "-wait"]);

    agent.process().signal(Signal::SIGSTOP).unwrap();
    let shown = cluster.member(1).unwrap().cli_json(&["localauthority", "x509", "show"]).unwrap();
    let old = shown["old"]["authority_id"].as_str().unwrap();
    for step in ["taint", "revoke"] {
        done(&cluster, 1, &["localauthority", "x509", step, "-authorityID", old]);
    }
    agent.process().signal(Signal::SIGCONT).unwrap();
    logs(&agent, "The servers' bundle has no authority of the agent SVID any more", 1).await;
    logs(&agent, "Successfully reattested node", 1).await;
    let create =
        ["entry", "create", "-spiffeID", "spiffe://example.org/web", "-selector", "unix:uid:0"];
    let listed = cluster.member(2).unwrap().cli_json(&["agent", "list"]).unwrap();
    let id = &listed["agents"][0]["id"];
    let id = format!("spiffe://example.org{}", id["path"].as_str().unwrap());
    done(&cluster, 2, &[create.as_slice(), &["-parentID", &id]].concat());
    logs(&agent, "Entry created", 1).await;
}

/// No server lets in whose certificate has ended: it comes as a stranger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_svid_ended_while_no_server_was_there_attests_again_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let machines = Machines::new().unwrap();
    let spec = ClusterSpec {
        members: 1,
        server_lines: "  agent_ttl = \"5s\"\n  ratelimit { attestation = false }\n".to_owned(),
        plugin_lines: machines.plugin(folder.path()).unwrap(),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&folder.path().join("cluster"), &spec).await.unwrap();
    let place = folder.path().join("agent");
    configure(&place, &cluster, &[0], &machines, "one");
    let agent = Agent::launch(&place, None).await.unwrap();

    cluster.stop_member(0).await.unwrap();
    logs(&agent, "Agent SVID has expired", 1).await;
    // A connection of the last second would still be let in.
    let failed = agent.log_text().matches("Synchronize failed").count();
    logs(&agent, "Synchronize failed", failed + 1).await;
    let before = agent.log_text().matches("Successfully reattested node").count();
    cluster.start_member(0).unwrap();
    logs(&agent, "Successfully reattested node", before + 1).await;
    assert_eq!(agent.log_text().matches("Node attestation was successful").count(), 1);
}

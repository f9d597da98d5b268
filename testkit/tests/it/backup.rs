//! The worst day: every folder is lost, or all but one, and the cluster comes back by the commands
//! that an operator types.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use steeple_api::pb;
use steeple_testkit::client::AttestedClient;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};
use tonic::Code;

use crate::registry::listed;
use crate::tokens::{admitted, create_token};

const SOON: Duration = Duration::from_secs(60);

fn spec() -> ClusterSpec {
    ClusterSpec {
        server_lines: "  agent_ttl = \"2m\"\n  ratelimit { attestation = false }\n".to_owned(),
        ..ClusterSpec::default()
    }
}

/// Creates an entry of the workload that this test is, below an agent.
fn create(cluster: &Cluster, index: usize, id: &str, parent: &str) {
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let (spiffe_id, member) =
        (format!("spiffe://example.org/{id}"), cluster.member(index).unwrap());
    let words = ["entry", "create", "-entryID", id, "-selector", &uid];
    let more = ["-parentID", parent, "-spiffeID", &spiffe_id];
    let made = member.cli(&[words.as_slice(), &more].concat()).unwrap();
    assert!(made.status.success(), "{}", text(&made));
}

fn text(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}

/// Runs an operator's command and returns what it printed.
fn typed(cluster: &Cluster, index: usize, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = cluster.member(index).unwrap().cli(&words).unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// Runs an operator's command that is refused, and returns why.
fn refused(cluster: &Cluster, index: usize, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = cluster.member(index).unwrap().cli(&words).unwrap();
    assert!(!output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// Waits until an agent hands out the workload identity of an entry.
async fn hands_out(agent: &Agent, id: &str) {
    let wanted = format!("spiffe://example.org/{id}");
    let waited = wait_for(&wanted, SOON * 2, async || {
        let fetched = agent.cli(&["api", "fetch", "x509"])?;
        ensure!(text(&fetched).contains(&wanted), "{}", text(&fetched));
        Ok(())
    });
    if let Err(error) = waited.await {
        panic!("{error:#}\n{}", agent.log_text());
    }
}

async fn revision(cluster: &Cluster, index: usize) -> u64 {
    let status = cluster.member(index).unwrap().status().await.unwrap();
    status.this_member.unwrap().revision
}

/// Waits until all members are voters of an epoch and say so.
async fn voters(cluster: &Cluster, epoch: u32) {
    let waited = wait_for("three voters everywhere", SOON * 2, async || {
        for member in cluster.members() {
            let status = member.status().await?;
            let voters = status.quorum.map_or(0, |quorum| quorum.voters);
            ensure!((voters, status.epoch) == (3, epoch), "server-{}: {voters}", member.index);
        }
        Ok(())
    });
    waited.await.unwrap();
}

fn lose(cluster: &Cluster, index: usize) {
    fs::remove_dir_all(cluster.member(index).unwrap().data()).unwrap();
}

/// Asks for entries as an agent that was attested earlier.
async fn ask(client: &AttestedClient, place: usize) -> Result<(), tonic::Status> {
    let channel = client.channels()[place].clone();
    let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel);
    let request = pb::server::entry::v1::GetAuthorizedEntriesRequest { output_mask: None };
    entries.get_authorized_entries(request).await.map(drop)
}

async fn agent(folder: &Path, cluster: &Cluster, token: &str) -> Agent {
    let token = create_token(cluster, 0, token).await;
    Agent::start(folder, cluster, &[0, 1, 2], &token, "").await.unwrap()
}

/// Someone starts the two others with their old state. Together they are a cluster that goes on and
/// says so; one alone is told what to do, and ends.
async fn meet_the_old_epoch(cluster: &mut Cluster) {
    cluster.start_member(1).unwrap();
    cluster.start_member(2).unwrap();
    let alarmed = wait_for("the old epoch to meet the new one", SOON, async || {
        let status = cluster.member(1)?.status().await?;
        let codes: Vec<_> = status.warnings.iter().map(|warning| warning.code.as_str()).collect();
        ensure!(codes.contains(&"newer_epoch") && !codes.contains(&"no_contact"), "{codes:?}");
        Ok(())
    });
    alarmed.await.unwrap();
    cluster.kill_member(1).unwrap();
    let old = cluster.process(2).unwrap();
    let status = old.wait(SOON).await.unwrap();
    let log = old.log_tail(20);
    assert_eq!(status.code(), Some(1), "{log}");
    let fix = "move DATA_DIR/raft away and start it again: it joins";
    assert!(log.contains("epoch 2 of cluster") && log.contains(fix), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_every_folder_comes_back_from_a_snapshot_and_its_agents_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&folder.path().join("cluster"), &spec()).await.unwrap();
    let known = agent(&folder.path().join("known"), &cluster, "known").await;
    create(&cluster, 0, "kept", "spiffe://example.org/spire/agent/join_token/known");
    hands_out(&known, "kept").await;
    create_token(&cluster, 0, "unspent").await;

    let file = folder.path().join("prod.snapshot");
    let saved = typed(&cluster, 1, &format!("cluster snapshot save {}", file.display()));
    assert!(saved.contains("Confirmed         : by a quorum"), "{saved}");
    let serving = refused(&cluster, 1, "cluster recover -confirm testkit");
    assert!(serving.contains("this member serves; stop all members"), "{serving}");

    // After the snapshot: forgotten by the restored state, but not by those whom it concerns.
    let late = agent(&folder.path().join("late"), &cluster, "late").await;
    create(&cluster, 0, "lost", "spiffe://example.org/spire/agent/join_token/late");
    let ports: Vec<u16> = cluster.members().iter().map(|member| member.api_port).collect();
    let token = create_token(&cluster, 0, "client").await;
    let client = AttestedClient::attest(&ports, &token).await.unwrap();
    ask(&client, 1).await.unwrap();
    let before = revision(&cluster, 0).await;

    for index in 0..3 {
        cluster.kill_member(index).unwrap();
    }
    lose(&cluster, 0);
    cluster.hold_member(0).await.unwrap();
    let held = refused(&cluster, 0, "cluster status");
    assert!(held.contains("held: only \"cluster snapshot restore\""), "{held}");
    let unconfirmed = refused(&cluster, 0, &format!("cluster snapshot restore {}", file.display()));
    assert!(unconfirmed.contains("to confirm, type its name: -confirm testkit"), "{unconfirmed}");
    let restore = format!("cluster snapshot restore {} -confirm testkit", file.display());
    let restored = typed(&cluster, 0, &restore);
    assert!(restored.contains("Epoch             : 2\n"), "{restored}");
    assert!(restored.contains("Join tokens       : 1 void\n"), "{restored}");
    cluster.stop_member(0).await.unwrap();
    cluster.start_member(0).unwrap();
    cluster.wait_ready(SOON).await.unwrap();

    meet_the_old_epoch(&mut cluster).await;
    for index in 1..3 {
        lose(&cluster, index);
        cluster.start_member(index).unwrap();
    }
    cluster.wait_ready(SOON).await.unwrap();
    voters(&cluster, 2).await;

    for index in 0..3 {
        let entries = listed(&cluster, index).await;
        assert!(entries.contains("kept") && !entries.contains("lost"), "{entries:?}");
        assert!(revision(&cluster, index).await > before);
        assert!(!admitted(&cluster, index, "unspent").await, "an unspent token is void");
    }
    create(&cluster, 1, "anew", "spiffe://example.org/spire/agent/join_token/known");
    hands_out(&known, "anew").await;

    // Of the others nothing is known: they wait, and are told so in a way that costs them nothing.
    let status = refused(&cluster, 2, "cluster status");
    assert!(status.contains("agents_undecided: "), "{status}");
    let waits = ask(&client, 2).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert!(waits.message().contains("spire-server cluster agents adopt"), "{waits}");
    typed(&cluster, 1, "cluster agents adopt");
    let adopted =
        wait_for("the client to be adopted", SOON, async || ask(&client, 2).await.context("ask"));
    adopted.await.unwrap();
    create(&cluster, 0, "found", "spiffe://example.org/spire/agent/join_token/late");
    hands_out(&late, "found").await;
    assert!(!late.log_text().contains("Node attestation was successful\" attempts=2"));
    let agents = typed(&cluster, 2, "agent count");
    assert!(agents.contains('3'), "{agents}");
    typed(&cluster, 0, "cluster status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_three_is_recovered_with_all_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&folder.path().join("cluster"), &spec()).await.unwrap();
    let known = agent(&folder.path().join("known"), &cluster, "known").await;
    for number in 0..20 {
        let parent = "spiffe://example.org/spire/agent/join_token/known";
        create(&cluster, number % 3, &format!("kept-{number}"), parent);
    }
    create_token(&cluster, 0, "unspent").await;
    let before = revision(&cluster, 2).await;
    let entries = listed(&cluster, 2).await;
    for index in 0..3 {
        cluster.kill_member(index).unwrap();
    }
    lose(&cluster, 0);
    lose(&cluster, 1);

    // One with an empty folder that waits for founders is no cluster: it joins later.
    cluster.start_member(1).unwrap();
    cluster.hold_member(2).await.unwrap();
    let unnamed = refused(&cluster, 2, "cluster recover");
    assert!(unnamed.contains("to confirm, type its name: -confirm testkit"), "{unnamed}");
    let recovered = typed(&cluster, 2, "cluster recover -confirm testkit");
    assert!(recovered.contains("Epoch             : 2\n"), "{recovered}");
    assert!(
        recovered.contains("May be lost       : what other members acknowledged"),
        "{recovered}"
    );
    cluster.stop_member(2).await.unwrap();
    cluster.start_member(2).unwrap();
    cluster.start_member(0).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    voters(&cluster, 2).await;
    for index in 0..3 {
        assert_eq!(listed(&cluster, index).await, entries);
        assert!(revision(&cluster, index).await > before);
        assert!(!admitted(&cluster, index, "unspent").await, "an unspent token is void");
    }
    create(&cluster, 0, "anew", "spiffe://example.org/spire/agent/join_token/known");
    hands_out(&known, "anew").await;
}

/// Two survivors are recovered, each by itself: the mistake that the runbook warns of. Nobody can undo
/// it, but both say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recoveries_of_one_cluster_find_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&folder.path().join("cluster"), &spec()).await.unwrap();
    for index in 0..3 {
        cluster.kill_member(index).unwrap();
    }
    for index in 0..2 {
        cluster.hold_member(index).await.unwrap();
        let recovered = typed(&cluster, index, "cluster recover -confirm testkit");
        assert!(recovered.contains("Epoch             : 2\n"), "{recovered}");
        cluster.stop_member(index).await.unwrap();
    }
    for index in 0..2 {
        cluster.start_member(index).unwrap();
    }
    let found = wait_for("each to find the other", SOON, async || {
        for index in 0..2 {
            let status = cluster.member(index)?.status().await?;
            let mut warnings = status.warnings.iter();
            let told = warnings.find(|warning| warning.code == "epoch_twice");
            ensure!(told.is_some(), "server-{index}: {:?}", status.warnings);
        }
        Ok(())
    });
    found.await.unwrap();
    let shown = refused(&cluster, 0, "cluster status");
    assert!(shown.contains("let it join the other"), "{shown}");
}

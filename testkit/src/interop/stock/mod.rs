//! Stock SPIRE programs in our place and beside us: their agents on our cluster, their server under
//! our agent, and both command lines on both servers.
//!
//! Owns the order of the lane; `agents` the stock agents, `authorities` a forced rotation above
//! them, `restore` the drill with them, `server` the stock server, `nesting` one server below the
//! other, `federating` one server beside the other, `answers` the comparison of the command lines.
//! Written from the specification; the programs come from outside.

mod agents;
mod answers;
mod authorities;
mod federating;
mod nesting;
mod restore;
mod server;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, skip};

use super::WORKLOAD;
use agents::{NodeCertificate, StockAgent};

/// The alias that both agents stand for: the first by its token, the second by its certificate.
const NODE: &str = "spiffe://example.org/node";

/// An agent's SVID lives so long that one can lose two replicas for a while, and so short that it
/// is renewed in each part of the lane.
const AGENT_TTL: &str = "60s";

/// Long enough for an agent's next synchronisation (5 s), its back-off and a renewal.
const WITHIN: Duration = Duration::from_secs(60);

/// The lane.
#[expect(clippy::print_stdout, reason = "a lane says what it did")]
pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    if !nix::unistd::getuid().is_root() {
        skip::record("interop-stock", "needs root for a mount namespace with its own hosts file");
        return Ok(());
    }
    let certificate = NodeCertificate::make(folder)?;
    let spec = ClusterSpec {
        one_port: true,
        server_lines: format!("  agent_ttl = \"{AGENT_TTL}\"\n"),
        plugin_lines: certificate.server_plugin(),
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::start(&folder.join("cluster"), &spec).await?;
    let mut agents = start_agents(folder, binaries, &cluster, &certificate).await?;
    println!("both stock agents attested and serve");
    answers::compare(binaries, &cluster.member(0)?.socket()).context("on our server")?;
    println!("both command lines say the same on our server");

    authorities::replace(&cluster, &mut agents).await.context("a forced rotation")?;
    println!("both stock agents replaced what a tainted authority signed, and live without it");

    let victim = lose_its_replica(&mut cluster, &mut agents).await?;
    println!("an entry and both renewals went on when replica {victim} was killed");
    cluster.start_member(victim)?;
    cluster.wait_ready(WITHIN).await?;
    lose_the_quorum(&mut cluster, &mut agents).await?;
    println!("both agents served on one replica of three, and renewed when the others were back");
    restore::drill(folder, binaries, &mut cluster, &mut agents).await.context("a restore")?;
    println!("every folder was lost; no agent was, not the one attested after the snapshot either");
    let [by_token, by_certificate] = agents;
    refuse(&cluster, by_token, by_certificate, &certificate).await?;
    println!("the evicted agent and the banned one ended, the banned one may not come back");

    server::run(folder, binaries).await.context("a stock server")?;
    println!("our agent attested to a stock server and serves; the command lines agree there too");
    nested(folder, binaries).await?;
    federated(folder, binaries).await
}

/// The last part of the lane, which needs no root.
#[expect(clippy::print_stdout, reason = "a lane says what it did")]
pub(super) async fn federated(folder: &Path, binaries: &Path) -> Result<()> {
    federating::run(&folder.join("federated"), binaries).await.context("beside a stock server")?;
    println!(
        "our cluster and a stock server fetch each other's bundle through a rotation of each, and their \
         workloads shake hands"
    );
    Ok(())
}

/// The part before it, which needs no root either.
#[expect(clippy::print_stdout, reason = "a lane says what it did")]
pub(super) async fn nested(folder: &Path, binaries: &Path) -> Result<()> {
    nesting::run(folder, binaries).await?;
    println!(
        "a stock server below our cluster and our cluster below one share a root and follow its taint"
    );
    Ok(())
}

async fn start_agents(
    folder: &Path,
    binaries: &Path,
    cluster: &Cluster,
    certificate: &NodeCertificate,
) -> Result<[StockAgent; 2]> {
    let token = crate::demo::token(cluster, 0, Some(NODE))?;
    let alias = ["entry", "create", "-node", "-spiffeID", NODE, "-selector"];
    let alias = [alias.as_slice(), &["x509pop:subject:cn:stock-node"]].concat();
    cluster.member(1)?.cli_json(&alias)?;
    entry(cluster, 1, WORKLOAD)?;
    let mut agents = [
        StockAgent::by_token(&folder.join("by-token"), binaries, cluster, &token)?,
        StockAgent::by_certificate(&folder.join("by-cert"), binaries, cluster, certificate)?,
    ];
    for agent in &mut agents {
        agent.serves(WORKLOAD, WITHIN).await.context("the first SVID")?;
    }
    Ok(agents)
}

/// Kills the replica that the first agent talks to, and waits for a new entry and a renewal of each
/// agent. Returns the replica.
async fn lose_its_replica(cluster: &mut Cluster, agents: &mut [StockAgent; 2]) -> Result<usize> {
    let [first, _second] = &*agents;
    let connected = first.connected_replicas(cluster.member(0)?.api_port)?;
    let victim = *connected.first().context("the agent has no connection to a replica")?;
    let renewals: Vec<usize> = agents.iter().map(StockAgent::renewals).collect();
    cluster.kill_member(victim)?;
    let second = "spiffe://example.org/after-the-kill";
    entry(cluster, (victim + 1) % 3, second)?;
    for (agent, before) in agents.iter_mut().zip(renewals) {
        agent.serves(second, WITHIN).await.context("an entry made after its replica was killed")?;
        agent.renewed(before, WITHIN).await?;
    }
    Ok(victim)
}

/// Stops two of three replicas until the first agent was refused a renewal, and starts them again.
async fn lose_the_quorum(cluster: &mut Cluster, agents: &mut [StockAgent; 2]) -> Result<()> {
    let stopped = [0, 2];
    for index in stopped {
        cluster.kill_member(index)?;
    }
    let refused = cluster.member(1)?.cli(&["token", "generate"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(text.contains("code = Unavailable"), "a write without a quorum said: {text}");
    // An agent's own SVID is renewed by a write, which waits for the quorum; its workloads' are
    // not.
    let [by_token, _by_certificate] = &mut *agents;
    by_token.fails_to_renew(WITHIN).await.context("on one replica of three")?;
    for agent in &mut *agents {
        agent.serves(WORKLOAD, WITHIN).await.context("on one replica of three")?;
    }
    let renewals: Vec<usize> = agents.iter().map(StockAgent::renewals).collect();
    for index in stopped {
        cluster.start_member(index)?;
    }
    cluster.wait_ready(WITHIN).await?;
    let third = "spiffe://example.org/after-the-return";
    wait_for("an entry after the return", WITHIN, async || entry(cluster, 0, third)).await?;
    for (agent, before) in agents.iter_mut().zip(renewals) {
        agent.serves(third, WITHIN).await.context("an entry made after the return")?;
        agent.renewed(before, WITHIN).await.context("after the return")?;
        agent.never_gave_up()?;
    }
    Ok(())
}

/// Evicts the first agent and bans the second: both end, and the second is not let in again.
async fn refuse(
    cluster: &Cluster,
    mut by_token: StockAgent,
    mut by_certificate: StockAgent,
    certificate: &NodeCertificate,
) -> Result<()> {
    let member = cluster.member(1)?;
    for (attestor, command) in [("join_token", "evict"), ("x509pop", "ban")] {
        let listed = member.cli_json(&["agent", "list", "-attestationType", attestor])?;
        let path = listed.pointer("/agents/0/id/path").and_then(|path| path.as_str());
        let id = format!("spiffe://example.org{}", path.context("no agent is listed")?);
        member.cli_json(&["agent", command, "-spiffeID", &id])?;
    }
    by_token.ends_with("Agent failed re-attestation; removing SVID and shutting down").await?;
    by_certificate.ends_with("Agent is banned: removing SVID and shutting down").await?;
    by_certificate.attest_again(cluster, certificate)?;
    by_certificate.ends_with("failed to attest: agent is banned").await
}

/// An entry for processes of this user below the agents' alias.
fn entry(cluster: &Cluster, index: usize, id: &str) -> Result<()> {
    entry_below(cluster, index, NODE, id)
}

/// An entry for processes of this user.
fn entry_below(cluster: &Cluster, index: usize, parent: &str, id: &str) -> Result<()> {
    let selector = format!("unix:uid:{}", nix::unistd::getuid());
    let args = ["entry", "create", "-parentID", parent, "-spiffeID", id, "-selector", &selector];
    cluster.member(index)?.cli_json(&args).map(drop)
}

//! Stock SPIRE programs against our cluster: an agent that attests and serves across the kill of its
//! replica, and the server's command line on our admin socket.
//!
//! Written from the specification; the programs come from outside. A stock agent takes one address,
//! so the replicas listen on 127.0.0.1 to .3 with one port, under one name in a hosts file that only
//! the agent sees (a mount namespace: needs root).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spiffe::WorkloadApiClient;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, Process, skip};

use super::WORKLOAD;

/// The name that the agent is given for all replicas.
const REPLICAS: &str = "steeple-replicas";

/// A polling agent syncs every 5 s and reconnects with back-off.
const WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    if !nix::unistd::getuid().is_root() {
        skip::record("interop-stock", "needs root for a mount namespace with its own hosts file");
        return Ok(());
    }
    let spec = ClusterSpec { one_port: true, ..ClusterSpec::default() };
    let mut cluster = Cluster::start(folder, &spec).await?;
    let token = crate::demo::token(&cluster, 0, Some("spiffe://example.org/node"))?;
    entry(&cluster, 1, WORKLOAD, &format!("unix:uid:{}", nix::unistd::getuid()))?;
    let mut agent = start_agent(&folder.join("stock-agent"), binaries, &cluster, &token)?;
    let endpoint = format!("unix:{}", folder.join("stock-agent/api.sock").display());
    served(&mut agent, &endpoint, WORKLOAD).await.context("the first SVID")?;
    same_answers(&cluster, binaries)?;
    let connected = connected_replicas(&agent, cluster.member(0)?.api_port)?;
    let victim = *connected.first().context("the agent has no connection to a replica")?;
    cluster.kill_member(victim)?;
    let other = (victim + 1) % 3;
    let second = "spiffe://example.org/after-the-kill";
    entry(&cluster, other, second, &format!("unix:gid:{}", nix::unistd::getgid()))?;
    served(&mut agent, &endpoint, second)
        .await
        .context("an entry made after its replica was killed")?;
    ensure!(agent.is_running(), "the stock agent ended:\n{}", agent.log_tail(20));
    Ok(())
}

fn entry(cluster: &Cluster, index: usize, id: &str, selector: &str) -> Result<()> {
    let args = [
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/node",
        "-spiffeID",
        id,
        "-selector",
        selector,
    ];
    cluster.member(index)?.cli_json(&args).map(drop)
}

fn start_agent(folder: &Path, binaries: &Path, cluster: &Cluster, token: &str) -> Result<Process> {
    fs::create_dir_all(folder).context("create the stock agent's folder")?;
    let bundle = cluster.member(2)?.cli(&["bundle", "show"])?;
    fs::write(folder.join("bundle.pem"), &bundle.stdout).context("write the trust bundle")?;
    let hosts: String = (1..=3).map(|last| format!("127.0.0.{last} {REPLICAS}\n")).collect();
    fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{hosts}"))
        .context("write hosts")?;
    let port = cluster.member(0)?.api_port;
    let config = format!(
        "agent {{\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n  server_address = \"{REPLICAS}\"\n  \
         server_port = \"{port}\"\n  socket_path = \"{socket}\"\n  trust_bundle_path = \"{bundle}\"\n  \
         trust_domain = \"{TRUST_DOMAIN}\"\n}}\nplugins {{\n  NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n  \
         KeyManager \"memory\" {{ plugin_data {{}} }}\n  WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n}}\n",
        data = folder.join("data").display(),
        socket = folder.join("api.sock").display(),
        bundle = folder.join("bundle.pem").display(),
    );
    fs::write(folder.join("agent.conf"), config).context("write agent.conf")?;
    let script =
        "mount --make-rprivate / && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(folder.join("hosts"));
    command
        .arg(binaries.join("spire-agent"))
        .args(["run", "-config"])
        .arg(folder.join("agent.conf"));
    command.args(["-joinToken", token]);
    Process::spawn("stock spire-agent", &mut command, &folder.join("agent.log"))
}

async fn served(agent: &mut Process, endpoint: &str, id: &str) -> Result<()> {
    let outcome = wait_for("the stock agent to serve the identity", WITHIN, async || {
        let client = WorkloadApiClient::connect_to(endpoint).await?;
        let svids = client.fetch_all_x509_svids().await?;
        let ids: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
        ensure!(ids.iter().any(|one| one == id), "it serves {ids:?}");
        Ok(())
    })
    .await;
    outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", agent.log_tail(25)))
}

/// The stock command line and ours must print the same on our socket.
fn same_answers(cluster: &Cluster, binaries: &Path) -> Result<()> {
    let member = cluster.member(0)?;
    for args in [
        ["bundle", "show"].as_slice(),
        &["bundle", "show", "-format", "spiffe"],
        &["entry", "show", "-output", "json"],
        &["agent", "list"],
        &["agent", "list", "-output", "json"],
    ] {
        let mut command = Command::new(binaries.join("spire-server"));
        let stock = command.args(args).arg("-socketPath").arg(member.socket()).output();
        let stock = printed(args, stock.context("run the stock command line")?)?;
        let ours = printed(args, member.cli(args)?)?;
        if stock != ours {
            bail!("{} differs\nstock:\n{stock}\nours:\n{ours}", args.join(" "));
        }
    }
    Ok(())
}

fn printed(args: &[&str], output: Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {} {error}", args.join(" "), output.status);
    String::from_utf8(output.stdout).context("output is text")
}

/// Which replicas a process holds a connection to, by /proc.
fn connected_replicas(agent: &Process, port: u16) -> Result<Vec<usize>> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .context("list the agent's files")?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").context("read the connection table")?;
    let mut found = BTreeSet::new();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(remote), Some(state), Some(inode)) = (words.get(2), words.get(3), words.get(9))
        else {
            continue;
        };
        let Some((address, remote_port)) = remote.split_once(':') else { continue };
        let to_us = u16::from_str_radix(remote_port, 16).is_ok_and(|remote| remote == port);
        if to_us && *state == "01" && sockets.contains(*inode) {
            // Little-endian hexadecimal: the last part of 127.0.0.N comes first.
            let last = u8::from_str_radix(address.get(..2).unwrap_or(""), 16)
                .context("read an address")?;
            found.insert(usize::from(last).saturating_sub(1));
        }
    }
    Ok(found.into_iter().collect())
}

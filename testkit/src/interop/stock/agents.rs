//! A stock agent on our cluster.
//!
//! Owns its configuration, its node certificate, its renewals and its end. A stock agent takes one
//! address, so the replicas listen on 127.0.0.1 to .3 with one port, under one name in a hosts file
//! that only the agent sees (a mount namespace: needs root).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use spiffe::WorkloadApiClient;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, Process};

/// The name that the agent is given for all replicas.
const REPLICAS: &str = "steeple-replicas";

/// What a stock agent logs when it has a new SVID: one that can re-attest does so in place of
/// renewing.
const RENEWED: [&str; 2] = ["Successfully rotated agent SVID", "Successfully reattested node"];

/// What it logs when it could not get one.
const NOT_RENEWED: &str = "Could not rotate agent SVID";

/// A node's key and certificate, and the authority that the servers trust for `x509pop`.
pub(super) struct NodeCertificate {
    folder: PathBuf,
}

impl NodeCertificate {
    /// Makes the three files.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "stock nodes");
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?;
        let issuer = Issuer::from_params(&params, &key);
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "stock-node");
        let node_key = KeyPair::generate()?;
        let node = params.signed_by(&node_key, &issuer)?;
        for (file, text) in [
            ("node-ca.pem", authority.pem()),
            ("node.pem", node.pem()),
            ("node.key", node_key.serialize_pem()),
        ] {
            fs::write(folder.join(file), text).context("write the node's certificate")?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// For the server's `plugins`.
    pub(super) fn server_plugin(&self) -> String {
        format!(
            "  NodeAttestor \"x509pop\" {{\n    plugin_data {{\n      ca_bundle_path = \"{}\"\n    }}\n  }}\n",
            self.folder.join("node-ca.pem").display()
        )
    }

    fn agent_plugin(&self) -> String {
        format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{\n    private_key_path = \"{}\"\n    certificate_path = \"{}\"\n  }} }}",
            self.folder.join("node.key").display(),
            self.folder.join("node.pem").display()
        )
    }
}

/// A stock agent and its process.
pub(super) struct StockAgent {
    folder: PathBuf,
    binaries: PathBuf,
    process: Process,
}

impl StockAgent {
    /// Starts one that attests by join token.
    pub(super) fn by_token(
        folder: &Path,
        binaries: &Path,
        cluster: &Cluster,
        token: &str,
    ) -> Result<Self> {
        let attestor = "NodeAttestor \"join_token\" { plugin_data {} }";
        configure(folder, cluster, attestor)?;
        Self::start(folder, binaries, &["-joinToken", token])
    }

    /// Starts one that attests by certificate.
    pub(super) fn by_certificate(
        folder: &Path,
        binaries: &Path,
        cluster: &Cluster,
        certificate: &NodeCertificate,
    ) -> Result<Self> {
        configure(folder, cluster, &certificate.agent_plugin())?;
        Self::start(folder, binaries, &[])
    }

    /// Starts it again after its end, without an SVID.
    pub(super) fn attest_again(
        &mut self,
        cluster: &Cluster,
        certificate: &NodeCertificate,
    ) -> Result<()> {
        let folder = self.folder.join("again");
        *self = Self::by_certificate(&folder, &self.binaries, cluster, certificate)?;
        Ok(())
    }

    fn start(folder: &Path, binaries: &Path, args: &[&str]) -> Result<Self> {
        let script =
            "mount --make-rprivate / && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(folder.join("hosts"));
        command.arg(binaries.join("spire-agent")).args(["run", "-config"]);
        command.arg(folder.join("agent.conf")).args(args);
        let process = Process::spawn("stock spire-agent", &mut command, &folder.join("agent.log"))?;
        Ok(Self { folder: folder.to_owned(), binaries: binaries.to_owned(), process })
    }

    /// Its Workload API.
    pub(super) async fn client(&self) -> Result<WorkloadApiClient> {
        let endpoint = format!("unix:{}", self.folder.join("api.sock").display());
        Ok(WorkloadApiClient::connect_to(&endpoint).await?)
    }

    /// Whether its process runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The end of its log.
    pub(super) fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    /// How often it has renewed its SVID.
    pub(super) fn renewals(&self) -> usize {
        let log = self.log();
        RENEWED.iter().map(|words| log.matches(words).count()).sum()
    }

    /// Waits for one more renewal than it had.
    pub(super) async fn renewed(&mut self, before: usize, within: Duration) -> Result<()> {
        let outcome = wait_for("a renewal of the stock agent", within, async || {
            ensure!(self.process.is_running(), "the stock agent ended");
            ensure!(self.renewals() > before, "it has renewed {before} times");
            Ok(())
        })
        .await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.process.log_tail(25)))
    }

    /// Waits until it was told that its SVID can't be renewed now.
    pub(super) async fn fails_to_renew(&mut self, within: Duration) -> Result<()> {
        let before = self.log().matches(NOT_RENEWED).count();
        let outcome = wait_for("a renewal of the stock agent to fail", within, async || {
            ensure!(self.process.is_running(), "the stock agent ended");
            ensure!(self.log().matches(NOT_RENEWED).count() > before, "none has failed");
            Ok(())
        })
        .await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.process.log_tail(25)))
    }

    /// Waits until it serves the identity.
    pub(super) async fn serves(&mut self, id: &str, within: Duration) -> Result<()> {
        let outcome = wait_for("the stock agent to serve the identity", within, async || {
            ensure!(self.process.is_running(), "the stock agent ended");
            let svids = self.client().await?.fetch_all_x509_svids().await?;
            let ids: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
            ensure!(ids.iter().any(|one| one == id), "it serves {ids:?}");
            Ok(())
        })
        .await;
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.process.log_tail(25)))
    }

    /// It runs, and was never told to drop its SVID.
    pub(super) fn never_gave_up(&mut self) -> Result<()> {
        ensure!(self.process.is_running(), "it ended:\n{}", self.process.log_tail(25));
        let log = self.log();
        for words in ["re-attest:", "re-attest;", "shutting down", "removing SVID"] {
            ensure!(!log.contains(words), "it logged {words:?}:\n{}", self.process.log_tail(40));
        }
        Ok(())
    }

    /// Waits for its end by itself, with these words in its log.
    pub(super) async fn ends_with(&mut self, words: &str) -> Result<()> {
        let ended = self.process.wait(super::WITHIN).await;
        ended.with_context(|| format!("waiting for {words:?}:\n{}", self.process.log_tail(25)))?;
        ensure!(self.log().contains(words), "no {words:?}:\n{}", self.process.log_tail(25));
        Ok(())
    }

    /// Which replicas it holds a connection to, by /proc.
    pub(super) fn connected_replicas(&self, port: u16) -> Result<Vec<usize>> {
        connected_replicas(&self.process, port)
    }
}

fn configure(folder: &Path, cluster: &Cluster, attestor: &str) -> Result<()> {
    fs::create_dir_all(folder).context("create the stock agent's folder")?;
    let bundle = cluster.member(1)?.cli(&["bundle", "show"])?;
    fs::write(folder.join("bundle.pem"), &bundle.stdout).context("write the trust bundle")?;
    let hosts: String = (1..=3).map(|last| format!("127.0.0.{last} {REPLICAS}\n")).collect();
    fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{hosts}"))
        .context("write hosts")?;
    let port = cluster.member(0)?.api_port;
    let config = format!(
        "agent {{\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n  server_address = \"{REPLICAS}\"\n  \
         server_port = \"{port}\"\n  socket_path = \"{socket}\"\n  trust_bundle_path = \"{bundle}\"\n  \
         trust_domain = \"{TRUST_DOMAIN}\"\n}}\nplugins {{\n  {attestor}\n  \
         KeyManager \"memory\" {{ plugin_data {{}} }}\n  WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n}}\n",
        data = folder.join("data").display(),
        socket = folder.join("api.sock").display(),
        bundle = folder.join("bundle.pem").display(),
    );
    fs::write(folder.join("agent.conf"), config).context("write agent.conf")
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

//! A stock server, and our agent and both command lines on it.
//!
//! Owns the server's configuration and what is asked of the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Process, ports};

use super::{NODE, WITHIN, WORKLOAD, answers};

/// A stock server and its process.
pub(super) struct StockServer {
    folder: PathBuf,
    pub(super) port: u16,
    process: Process,
}

/// Our agent attests to it and serves, also what is registered later.
pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    let mut server = StockServer::start(&folder.join("stock-server"), binaries, "").await?;
    let (ours, stock) = (binary("spire-server")?, binaries.join("spire-server"));
    let token = server.token(&ours)?;
    server.entry(&ours, WORKLOAD)?;
    let bundle = server.bundle_pem(&ours)?;
    let addresses = [format!("127.0.0.1:{}", server.port)];
    let agent = Agent::start_at(&folder.join("our-agent"), &addresses, &bundle, &token).await?;
    let endpoint = agent.endpoint();
    let first = crate::demo::x509(&endpoint).await;
    let first = first.with_context(|| server.process.log_tail(25))?;
    ensure!(first == WORKLOAD, "another identity: {first}");
    let client = WorkloadApiClient::connect_to(&endpoint).await?;
    let subject = crate::demo::jwt(&client, "interop").await?;
    ensure!(subject == WORKLOAD, "another subject: {subject}");

    let later = "spiffe://example.org/later";
    server.entry(&stock, later)?;
    wait_for("an entry made later", WITHIN, async || {
        let svids = client.fetch_all_x509_svids().await?;
        ensure!(svids.iter().any(|svid| svid.spiffe_id().to_string() == later), "not yet served");
        Ok(())
    })
    .await?;
    ensure!(server.process.is_running(), "it ended:\n{}", server.process.log_tail(25));
    answers::compare(binaries, &server.socket())
}

impl StockServer {
    /// Starts one with further plugins.
    pub(super) async fn start(folder: &Path, binaries: &Path, plugins: &str) -> Result<Self> {
        Self::start_with(folder, binaries, "", plugins).await
    }

    /// As [`Self::start`], with further lines of the `server` block too.
    pub(super) async fn start_with(
        folder: &Path,
        binaries: &Path,
        lines: &str,
        plugins: &str,
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("data")).context("create the stock server's folder")?;
        let [port] = ports::lease()?;
        let config = format!(
            "server {{\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{port}\"\n  socket_path = \"{socket}\"\n  \
             trust_domain = \"{TRUST_DOMAIN}\"\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n{lines}}}\nplugins {{\n  \
             DataStore \"sql\" {{ plugin_data {{\n    database_type = \"sqlite3\"\n    \
             connection_string = \"{data}/datastore.sqlite3\"\n  }} }}\n  \
             NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n  KeyManager \"memory\" {{ plugin_data {{}} }}\n  {plugins}}}\n",
            socket = folder.join("api.sock").display(),
            data = folder.join("data").display(),
        );
        let path = folder.join("server.conf");
        fs::write(&path, config).context("write server.conf")?;
        let mut command = Command::new(binaries.join("spire-server"));
        command.args(["run", "-config"]).arg(&path);
        let log = folder.join("server.log");
        let process = Process::spawn("stock spire-server", &mut command, &log)?;
        let server = Self { folder: folder.to_owned(), port, process };
        let stock = binaries.join("spire-server");
        wait_for("the stock server", WITHIN, async || server.command(&stock, &["bundle", "count"]))
            .await
            .with_context(|| server.process.log_tail(25))?;
        Ok(server)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Runs a command of either tool, and returns its JSON.
    pub(super) fn command(&self, tool: &Path, args: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(tool);
        command.args(args).args(["-output", "json", "-socketPath"]).arg(self.socket());
        let output = command.output().context("run the command line")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {} {text}", args.join(" "), output.status);
        Ok(output.stdout)
    }

    fn entry(&self, tool: &Path, id: &str) -> Result<()> {
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        let args = ["entry", "create", "-parentID", NODE, "-spiffeID", id, "-selector", &selector];
        self.command(tool, &args).map(drop)
    }

    /// A join token for the node.
    pub(super) fn token(&self, tool: &Path) -> Result<String> {
        let made = self.json(tool, &["token", "generate", "-spiffeID", NODE])?;
        Ok(text(&made, "/value")?.to_owned())
    }

    /// The trust bundle as a file.
    pub(super) fn bundle_pem(&self, tool: &Path) -> Result<Vec<u8>> {
        let mut shown = Command::new(tool);
        shown.args(["bundle", "show", "-socketPath"]).arg(self.socket());
        Ok(shown.output().context("show the bundle")?.stdout)
    }

    /// What it logged.
    pub(super) fn log_text(&self) -> String {
        fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    /// Replaces the root and marks the old one; returns the old one and the new one.
    pub(super) fn replace_root(&self, tool: &Path) -> Result<[String; 2]> {
        let shown = self.json(tool, &["localauthority", "x509", "show"])?;
        let old = text(&shown, "/active/authority_id")?.to_owned();
        let made = self.json(tool, &["localauthority", "x509", "prepare"])?;
        let new = text(&made, "/prepared_authority/authority_id")?.to_owned();
        self.command(tool, &["localauthority", "x509", "activate", "-authorityID", &new])?;
        self.command(tool, &["localauthority", "x509", "taint", "-authorityID", &old])?;
        Ok([old, new])
    }

    /// As [`Self::command`], parsed.
    pub(super) fn json(&self, tool: &Path, args: &[&str]) -> Result<Value> {
        serde_json::from_slice(&self.command(tool, args)?).context("read the command's JSON")
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.with_context(|| format!("no {pointer} in {value}"))
}

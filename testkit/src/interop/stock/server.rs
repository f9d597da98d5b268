//! A stock server, and our agent and both command lines on it.
//!
//! Owns the server's configuration and what is asked of the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use spiffe::WorkloadApiClient;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Process, ports};

use super::{NODE, WITHIN, WORKLOAD, answers};

/// A stock server and its process.
struct StockServer {
    folder: PathBuf,
    port: u16,
    process: Process,
}

/// Our agent attests to it and serves, also what is registered later.
pub(super) async fn run(folder: &Path, binaries: &Path) -> Result<()> {
    let mut server = StockServer::start(&folder.join("stock-server"), binaries).await?;
    let (ours, stock) = (binary("spire-server")?, binaries.join("spire-server"));
    let token = server.command(&ours, &["token", "generate", "-spiffeID", NODE])?;
    let token: serde_json::Value = serde_json::from_slice(&token).context("read the token")?;
    let token = token.get("value").and_then(|value| value.as_str()).context("no token")?;
    server.entry(&ours, WORKLOAD)?;
    let mut shown = Command::new(&ours);
    shown.args(["bundle", "show", "-socketPath"]).arg(server.socket());
    let bundle = shown.output().context("show the bundle")?.stdout;
    let addresses = [format!("127.0.0.1:{}", server.port)];
    let agent = Agent::start_at(&folder.join("our-agent"), &addresses, &bundle, token).await?;
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
    async fn start(folder: &Path, binaries: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("data")).context("create the stock server's folder")?;
        let [port] = ports::lease()?;
        let config = format!(
            "server {{\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{port}\"\n  socket_path = \"{socket}\"\n  \
             trust_domain = \"{TRUST_DOMAIN}\"\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n}}\nplugins {{\n  \
             DataStore \"sql\" {{ plugin_data {{\n    database_type = \"sqlite3\"\n    \
             connection_string = \"{data}/datastore.sqlite3\"\n  }} }}\n  \
             NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n  KeyManager \"memory\" {{ plugin_data {{}} }}\n}}\n",
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

    fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Runs a command of either tool, and returns its JSON.
    fn command(&self, tool: &Path, args: &[&str]) -> Result<Vec<u8>> {
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
}

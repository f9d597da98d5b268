//! A real agent process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client;
use crate::cluster::{Cluster, TRUST_DOMAIN};
use crate::ports;
use crate::process::{Process, binary, wait_for};

/// An agent, its folder and its process.
#[derive(Debug)]
pub struct Agent {
    folder: PathBuf,
    health_port: u16,
    process: Process,
}

impl Agent {
    /// Starts an agent that knows the members in the given order and attests by join token. The
    /// trust bundle is fetched from the first one by command line and given as a file.
    pub async fn start(
        folder: &Path,
        cluster: &Cluster,
        order: &[usize],
        token: &str,
        lines: &str,
    ) -> Result<Self> {
        Self::configure(folder, cluster, order, lines)?;
        Self::launch(folder, Some(token)).await
    }

    /// Starts an agent for servers that are no cluster of ours, attesting by join token.
    pub async fn start_at(
        folder: &Path,
        addresses: &[String],
        bundle: &[u8],
        token: &str,
    ) -> Result<Self> {
        Self::configure_at(folder, addresses, bundle, "")?;
        Self::launch(folder, Some(token)).await
    }

    /// Starts an agent that has attested before, knowing the members in the given order.
    pub async fn resume(folder: &Path, cluster: &Cluster, order: &[usize]) -> Result<Self> {
        Self::configure(folder, cluster, order, "")?;
        Self::launch(folder, None).await
    }

    /// Starts an agent on a configured folder and waits until it is ready.
    pub async fn launch(folder: &Path, token: Option<&str>) -> Result<Self> {
        let port =
            fs::read_to_string(folder.join("health-port")).context("read the health port")?;
        let health_port = port.parse().context("read the health port")?;
        let process = Self::spawn(folder, token)?;
        let mut agent = Self { folder: folder.to_owned(), health_port, process };
        agent.wait_ready(Duration::from_secs(30)).await?;
        Ok(agent)
    }

    /// Writes `agent.conf` into the folder, for a test to change before the agent is launched.
    pub fn configure(folder: &Path, cluster: &Cluster, order: &[usize], lines: &str) -> Result<()> {
        let first = order.first().context("an agent needs a server")?;
        let bundle = cluster.member(*first)?.cli(&["bundle", "show"])?;
        if !bundle.status.success() {
            bail!("bundle show: {}", String::from_utf8_lossy(&bundle.stderr));
        }
        let addresses = order
            .iter()
            .map(|index| Ok(format!("127.0.0.1:{}", cluster.member(*index)?.api_port)))
            .collect::<Result<Vec<_>>>()?;
        Self::configure_in(folder, cluster.trust_domain(), &addresses, &bundle.stdout, lines)
    }

    /// As [`Agent::configure`], for servers at these addresses with this trust bundle.
    pub fn configure_at(
        folder: &Path,
        addresses: &[String],
        bundle: &[u8],
        lines: &str,
    ) -> Result<()> {
        Self::configure_in(folder, TRUST_DOMAIN, addresses, bundle, lines)
    }

    /// As [`Agent::configure_at`], for an agent of another trust domain.
    pub fn configure_in(
        folder: &Path,
        trust_domain: &str,
        addresses: &[String],
        bundle: &[u8],
        lines: &str,
    ) -> Result<()> {
        fs::create_dir_all(folder).context("create the agent's folder")?;
        let [health_port] = ports::lease()?;
        fs::write(folder.join("health-port"), health_port.to_string())
            .context("note the health port")?;
        fs::write(folder.join("bundle.pem"), bundle).context("write the trust bundle")?;
        let addresses: Vec<String> =
            addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let text = format!(
            "agent {{\n  data_dir = \"{data}\"\n  log_level = \"DEBUG\"\n  trust_domain = \"{trust_domain}\"\n  \
             server_addresses = [{addresses}]\n  socket_path = \"{socket}\"\n  trust_bundle_path = \"{bundle}\"\n\
             {lines}}}\n\nplugins {{\n  NodeAttestor \"join_token\" {{\n    plugin_data {{}}\n  }}\n  KeyManager \"disk\" {{\n    \
             plugin_data {{\n      directory = \"{data}\"\n    }}\n  }}\n  WorkloadAttestor \"unix\" {{\n    plugin_data {{}}\n  }}\n}}\n\n\
             health_checks {{\n  listener_enabled = true\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{health_port}\"\n}}\n",
            data = folder.join("data").display(),
            addresses = addresses.join(", "),
            socket = folder.join("api.sock").display(),
            bundle = folder.join("bundle.pem").display(),
        );
        fs::write(folder.join("agent.conf"), text).context("write agent.conf")
    }

    fn spawn(folder: &Path, token: Option<&str>) -> Result<Process> {
        let mut command = Command::new(binary("spire-agent")?);
        command.arg("run").arg("-config").arg(folder.join("agent.conf"));
        if let Some(token) = token {
            command.args(["-joinToken", token]);
        }
        Process::spawn("agent", &mut command, &folder.join("agent.log"))
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The Workload API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// The socket as clients want it.
    pub fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// What the agent logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    /// Runs a `spire-agent` command against this agent.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("spire-agent")?);
        command.args(args).arg("-socketPath").arg(self.socket());
        command.output().with_context(|| format!("run spire-agent {}", args.join(" ")))
    }

    /// Kills and starts it again with its data.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = Self::spawn(&self.folder, None)?;
        self.wait_ready(Duration::from_secs(30)).await
    }

    async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let port = self.health_port;
        let process = &mut self.process;
        let waited = wait_for("the agent to be ready", within, async || {
            if !process.is_running() {
                bail!("the agent ended:\n{}", process.log_tail(30));
            }
            client::http_ok(port, "/ready").await
        })
        .await;
        waited.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.process.log_tail(30)))
    }
}

//! A cluster of real server processes on loopback, each in a folder of its own.
//!
//! Owns configuration files, ports, start, kill and restart, and calling the command line.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use steeple_api::pb;

use crate::client;
use crate::ports;
use crate::process::{Process, binary, log_tail, wait_for};

/// What a cluster should look like.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// How many members.
    pub members: usize,
    /// Serve the API on 127.0.0.1, .2, .3 … with one port instead of one address with many.
    pub one_port: bool,
    /// The trust domain.
    pub trust_domain: &'static str,
    /// How much the members log.
    pub log_level: &'static str,
    /// Lines added to the `server` block.
    pub server_lines: String,
    /// Lines added to the `cluster` block.
    pub cluster_lines: String,
    /// Blocks added to `plugins`.
    pub plugin_lines: String,
    /// Members that stand for an older release, which knows no higher feature level. Needs binaries
    /// with assertions, as the tests' are.
    pub feature_level_max: Option<u32>,
    /// Where members live that are not on loopback, in their order.
    pub places: Vec<Place>,
    /// Variables that the members are started with.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// How long the minute of the bundle refresher is, and that for which peers are waited for before
    /// an authority signs; `None`: a minute. Needs binaries with assertions.
    pub refresh_minute: Option<Duration>,
}

/// Where a member listens, and what starts it there: a network namespace, for instance.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address of all its listeners.
    pub address: Ipv4Addr,
    /// A program and its arguments that becomes the member, given its command line.
    pub launcher: Vec<String>,
}

impl Default for Place {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, launcher: Vec::new() }
    }
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            members: 3,
            one_port: false,
            trust_domain: TRUST_DOMAIN,
            log_level: "DEBUG",
            server_lines: String::new(),
            cluster_lines: String::new(),
            plugin_lines: String::new(),
            feature_level_max: None,
            places: Vec::new(),
            environment: Vec::new(),
            refresh_minute: None,
        }
    }
}

/// The trust domain of a test cluster that is given no other.
pub const TRUST_DOMAIN: &str = "example.org";

/// A cluster and its folder.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    trust_domain: &'static str,
    members: Vec<Member>,
}

/// One member: its places, and its process while it runs.
#[derive(Debug)]
pub struct Member {
    /// 0, 1, 2 …
    pub index: usize,
    /// Where its configuration, data, socket and log are.
    pub folder: PathBuf,
    /// The address of the server API.
    pub api_address: Ipv4Addr,
    /// The port of the server API.
    pub api_port: u16,
    /// The port of the peer listener.
    pub peer_port: u16,
    /// The port of the health listener.
    pub health_port: u16,
    /// As in [`ClusterSpec`].
    feature_level_max: Option<u32>,
    environment: Vec<(&'static str, PathBuf)>,
    /// As in [`ClusterSpec`].
    refresh_minute: Option<Duration>,
    place: Place,
    process: Option<Process>,
}

impl Cluster {
    /// Writes the configuration of every member; starts nothing.
    pub fn prepare(folder: &Path, spec: &ClusterSpec) -> Result<Self> {
        fs::create_dir_all(folder).context("create the cluster's folder")?;
        let key = folder.join("cluster.key");
        let made = Command::new(binary("spire-server")?).args(["cluster", "keygen"]).output();
        let made = made.context("run spire-server cluster keygen")?;
        if !made.status.success() {
            bail!("cluster keygen: {}", String::from_utf8_lossy(&made.stderr));
        }
        fs::write(&key, &made.stdout).context("write the cluster key")?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).context("protect the key")?;
        let mut members = Vec::new();
        let [one_port] = ports::lease()?;
        for index in 0..spec.members {
            let mut member = Member::prepare(folder, index)?;
            member.feature_level_max = spec.feature_level_max;
            member.environment.clone_from(&spec.environment);
            member.refresh_minute = spec.refresh_minute;
            if let Some(place) = spec.places.get(index) {
                member.place = place.clone();
                member.api_address = place.address;
            }
            if spec.one_port {
                member.api_port = one_port;
                let last = u8::try_from(index + 1).context("a loopback address")?;
                member.api_address = Ipv4Addr::new(127, 0, 0, last);
            }
            members.push(member);
        }
        let (folder, trust_domain) = (folder.to_owned(), spec.trust_domain);
        let cluster = Self { folder, trust_domain, members };
        let peers = cluster.peers();
        for member in &cluster.members {
            member.write_config(spec, &key, &peers)?;
        }
        Ok(cluster)
    }

    /// The value of `peers`: all members.
    fn peers(&self) -> String {
        let address =
            |member: &Member| format!("\"{}:{}\"", member.place.address, member.peer_port);
        self.members.iter().map(address).collect::<Vec<_>>().join(", ")
    }

    /// Gives a member another place. Its own configuration says so; that of the others still names
    /// the old one.
    pub fn move_member(&mut self, index: usize, place: Place, spec: &ClusterSpec) -> Result<()> {
        let key = self.folder.join("cluster.key");
        let member = self.member_mut(index)?;
        member.api_address = place.address;
        member.place = place;
        let peers = self.peers();
        self.member(index)?.write_config(spec, &key, &peers)
    }

    /// Prepares, starts all members and waits until they serve.
    pub async fn start(folder: &Path, spec: &ClusterSpec) -> Result<Self> {
        let mut cluster = Self::prepare(folder, spec)?;
        for index in 0..spec.members {
            cluster.start_member(index)?;
        }
        cluster.wait_ready(Duration::from_secs(30)).await?;
        Ok(cluster)
    }

    /// Adds a member that is no founder: it asks the others to take it in. Returns its index; it is
    /// not started yet.
    pub fn add_member(&mut self, spec: &ClusterSpec) -> Result<usize> {
        let index = self.members.len();
        let member = Member::prepare(&self.folder, index)?;
        member.write_config(spec, &self.folder.join("cluster.key"), &self.peers())?;
        self.members.push(member);
        Ok(index)
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &'static str {
        self.trust_domain
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One member.
    pub fn member(&self, index: usize) -> Result<&Member> {
        self.members.get(index).with_context(|| format!("no member {index}"))
    }

    fn member_mut(&mut self, index: usize) -> Result<&mut Member> {
        self.members.get_mut(index).with_context(|| format!("no member {index}"))
    }

    /// Starts (or restarts) a member.
    pub fn start_member(&mut self, index: usize) -> Result<()> {
        self.start_with(index, &[])
    }

    /// Starts a member that is only to be rebuilt, and waits until its admin socket is open.
    pub async fn hold_member(&mut self, index: usize) -> Result<()> {
        self.start_with(index, &["-hold"])?;
        let socket = self.member(index)?.socket();
        wait_for("the admin socket of a held member", Duration::from_secs(30), async || {
            tokio::net::UnixStream::connect(&socket).await.map(drop).context("connect")
        })
        .await
    }

    fn start_with(&mut self, index: usize, flags: &[&str]) -> Result<()> {
        let member = self.member_mut(index)?;
        let server = binary("spire-server")?;
        let mut command = match member.place.launcher.split_first() {
            None => Command::new(server),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(server);
                command
            }
        };
        command.arg("run").arg("-config").arg(member.config()).args(flags);
        if let Some(level) = member.feature_level_max {
            command.env("STEEPLE_FEATURE_LEVEL_MAX", level.to_string());
        }
        command.envs(member.environment.iter().map(|(name, value)| (name, value)));
        if let Some(minute) = member.refresh_minute {
            command.env("STEEPLE_REFRESH_MINUTE_MS", minute.as_millis().to_string());
        }
        let process = Process::spawn(&format!("server-{index}"), &mut command, &member.log())?;
        member.process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_member(&mut self, index: usize) -> Result<()> {
        let member = self.member_mut(index)?;
        let mut process = member.process.take().context("the member does not run")?;
        process.kill()
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop_member(&mut self, index: usize) -> Result<()> {
        let member = self.member_mut(index)?;
        let mut process = member.process.take().context("the member does not run")?;
        process.terminate(Duration::from_secs(60)).await?;
        Ok(())
    }

    /// Which release a member stands for when it is started next; `None`: this build's.
    pub fn set_feature_level_max(&mut self, index: usize, level: Option<u32>) -> Result<()> {
        self.member_mut(index)?.feature_level_max = level;
        Ok(())
    }

    /// The running process of a member.
    pub fn process(&mut self, index: usize) -> Result<&mut Process> {
        self.member_mut(index)?.process.as_mut().context("the member does not run")
    }

    /// Waits until every running member answers its ready check.
    pub async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        for index in 0..self.members.len() {
            let member = self.member(index)?;
            let (port, log) = (member.health_port, member.log());
            if member.process.is_none() {
                continue;
            }
            let what = format!("server-{index} to be ready");
            let waited = wait_for(&what, within, async || {
                self.ended()?;
                client::http_ok(port, "/ready").await
            });
            waited.await.with_context(|| log_tail(&log, 30))?;
        }
        Ok(())
    }

    /// An error with the last words of a member that has ended by itself: the others may wait for it.
    fn ended(&mut self) -> Result<()> {
        for member in &mut self.members {
            let Some(process) = member.process.as_mut() else { continue };
            if !process.is_running() {
                bail!("server-{} ended:\n{}", member.index, process.log_tail(30));
            }
        }
        Ok(())
    }

    /// The index of the leader as the members see it.
    pub async fn leader(&self, within: Duration) -> Result<usize> {
        wait_for("a leader", within, async || {
            for member in self.members.iter().filter(|member| member.process.is_some()) {
                let Ok(status) = member.status().await else { continue };
                if status.members.iter().any(|row| row.this_member && row.leader) {
                    return Ok(member.index);
                }
            }
            bail!("no member leads")
        })
        .await
    }
}

impl Member {
    /// A member with ports and a folder of its own.
    fn prepare(cluster: &Path, index: usize) -> Result<Self> {
        let [api_port, peer_port, health_port] = ports::lease()?;
        let folder = cluster.join(format!("server-{index}"));
        fs::create_dir_all(&folder).context("create a member's folder")?;
        Ok(Self {
            index,
            folder,
            api_address: Ipv4Addr::LOCALHOST,
            api_port,
            peer_port,
            health_port,
            feature_level_max: None,
            environment: Vec::new(),
            refresh_minute: None,
            place: Place::default(),
            process: None,
        })
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("server.conf")
    }

    /// The log file.
    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Whether its process was started and not stopped.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Puts lines at the head of the `server` block of a member that is not started yet: what is its
    /// own, as the port of its bundle endpoint is.
    pub fn add_server_lines(&self, lines: &str) -> Result<()> {
        let text = fs::read_to_string(self.config()).context("read server.conf")?;
        let head = "server {\n";
        let text = text.replacen(head, &format!("{head}{lines}"), 1);
        fs::write(self.config(), text).context("write server.conf")
    }

    /// Runs a `spire-server` command against this member.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("spire-server")?);
        command.args(args).arg("-socketPath").arg(self.socket());
        command.output().with_context(|| format!("run spire-server {}", args.join(" ")))
    }

    /// As [`Member::cli`] with `-output json`, parsed; a non-zero exit is an error.
    pub fn cli_json(&self, args: &[&str]) -> Result<Value> {
        let output = self.cli(&[args, &["-output", "json"]].concat())?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("spire-server {}: {} {text}", args.join(" "), output.status);
        }
        serde_json::from_slice(&output.stdout).context("read the command's JSON")
    }

    /// What this member says of the cluster.
    pub async fn status(&self) -> Result<pb::cluster::v1::StatusResponse> {
        let channel = client::unix_channel(&self.socket());
        let mut cluster = pb::cluster::v1::cluster_client::ClusterClient::new(channel);
        let reply = cluster.status(pb::cluster::v1::StatusRequest {}).await?;
        Ok(reply.into_inner())
    }

    fn write_config(&self, spec: &ClusterSpec, key: &Path, peers: &str) -> Result<()> {
        let cluster = if spec.members == 1 {
            String::new()
        } else {
            format!(
                "cluster {{\n  name = \"testkit\"\n  bind_address = \"{address}\"\n  bind_port = {port}\n  \
                 advertise_address = \"{address}:{port}\"\n  peers = [{peers}]\n  key_file = \"{key}\"\n{lines}}}\n",
                address = self.place.address,
                port = self.peer_port,
                key = key.display(),
                lines = spec.cluster_lines,
            )
        };
        let text = format!(
            "server {{\n  bind_address = \"{address}\"\n  bind_port = \"{api}\"\n  socket_path = \"{socket}\"\n  \
             trust_domain = \"{trust_domain}\"\n  data_dir = \"{data}\"\n  log_level = \"{level}\"\n{lines}}}\n\n\
             {cluster}\nplugins {{\n  DataStore \"sql\" {{\n    plugin_data {{\n      database_type = \"sqlite3\"\n      \
             connection_string = \"{data}/datastore.sqlite3\"\n    }}\n  }}\n  NodeAttestor \"join_token\" {{\n    \
             plugin_data {{}}\n  }}\n  KeyManager \"memory\" {{\n    plugin_data {{}}\n  }}\n{plugins}}}\n\n\
             health_checks {{\n  listener_enabled = true\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{health}\"\n  \
             live_path = \"/live\"\n  ready_path = \"/ready\"\n}}\n",
            address = self.api_address,
            api = self.api_port,
            trust_domain = spec.trust_domain,
            socket = self.socket().display(),
            data = self.data().display(),
            level = spec.log_level,
            lines = spec.server_lines,
            plugins = spec.plugin_lines,
            health = self.health_port,
        );
        fs::write(self.config(), text).context("write server.conf")
    }
}

//! Three members of etcd 3.6, of the program that `STEEPLE_ETCD` names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use steeple_testkit::ports;
use steeple_testkit::process::{Process, wait_for};
use tonic::transport::{Channel, Endpoint};

use super::door::{BUNDLE_KEY, Door};

/// Generated from `proto/etcd.proto`.
#[expect(
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub(crate) mod rpc {
    tonic::include_proto!("etcdserverpb");
}

use rpc::maintenance_client::MaintenanceClient;

/// How long elections and starts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const MEMBERS: usize = 3;

/// How fast members notice that their leader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeouts {
    /// As etcd comes: heartbeat 100 ms, election 1 s.
    Default,
    /// Like ours: heartbeat 50 ms, election 250 ms, the shortest that etcd takes with it.
    LikeOurs,
}

/// Three members on loopback.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    /// What is printed of its settings.
    pub(crate) settings: String,
}

#[derive(Debug)]
struct Member {
    arguments: Vec<String>,
    log: PathBuf,
    client_port: u16,
    program: PathBuf,
    process: Option<Process>,
}

fn program() -> Result<PathBuf> {
    let named = std::env::var_os("STEEPLE_ETCD").map(PathBuf::from);
    let program = named.context(
        "STEEPLE_ETCD names no program (`cargo xtask bench` builds one where there is Go)",
    )?;
    ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}

impl Etcd {
    pub(crate) async fn start(folder: &Path, timeouts: Timeouts) -> Result<Self> {
        let program = program()?;
        let ports: Vec<[u16; 2]> =
            (0..MEMBERS).map(|_| ports::lease::<2>()).collect::<Result<_>>()?;
        let all =
            ports.iter().enumerate().map(|(i, [_, peer])| format!("e{i}=http://127.0.0.1:{peer}"));
        let all = all.collect::<Vec<_>>().join(",");
        let members = ports.iter().enumerate().map(|(index, [client, peer])| {
            let url = |port: &u16| format!("http://127.0.0.1:{port}");
            let data = folder.join(format!("etcd-{index}")).display().to_string();
            let mut arguments: Vec<String> = [
                ("--name", format!("e{index}")),
                ("--data-dir", data),
                ("--listen-peer-urls", url(peer)),
                ("--initial-advertise-peer-urls", url(peer)),
                ("--listen-client-urls", url(client)),
                ("--advertise-client-urls", url(client)),
                ("--initial-cluster", all.clone()),
                ("--log-level", "error".to_owned()),
            ]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect();
            if timeouts == Timeouts::LikeOurs {
                arguments.extend(
                    ["--heartbeat-interval=50", "--election-timeout=250"].map(String::from),
                );
            }
            let log = folder.join(format!("etcd-{index}.log"));
            Member { arguments, log, client_port: *client, program: program.clone(), process: None }
        });
        let mut etcd = Self { members: members.collect(), settings: String::new() };
        for member in &mut etcd.members {
            member.start()?;
        }
        etcd.wait_healthy().await?;
        let status = status(etcd.channel(0)?).await?;
        let timing = match timeouts {
            Timeouts::Default => "heartbeat 100 ms, election 1 s (its defaults)",
            Timeouts::LikeOurs => "heartbeat 50 ms, election 250 ms",
        };
        etcd.settings = format!(
            "etcd {}: three members, log level error, loopback TCP without TLS everywhere, {timing}, else its defaults",
            status.version
        );
        Ok(etcd)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| Some(member.process.as_ref()?.pid())).collect()
    }

    fn channel(&self, member: usize) -> Result<Channel> {
        let port = self.members.get(member).context("no such member")?.client_port;
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        Ok(endpoint.tcp_nodelay(true).connect_lazy())
    }

    /// Callers at one member, over so many connections.
    pub(crate) fn doors(
        &self,
        member: usize,
        callers: usize,
        connections: usize,
    ) -> Result<Vec<Door>> {
        let channels =
            (0..connections).map(|_| self.channel(member)).collect::<Result<Vec<_>>>()?;
        Ok(channels.iter().cycle().take(callers).cloned().map(Door::Etcd).collect())
    }

    /// The member that leads, as itself says.
    pub(crate) async fn leader(&self) -> Result<usize> {
        wait_for("a leader of etcd", PATIENCE, async || {
            for index in 0..MEMBERS {
                let Ok(status) = status(self.channel(index)?).await else { continue };
                if status.leader != 0 && member_id(&status) == status.leader {
                    return Ok(index);
                }
            }
            bail!("no member leads")
        })
        .await
    }

    /// One member that does not lead.
    pub(crate) async fn follower(&self) -> Result<usize> {
        Ok((self.leader().await? + 1) % MEMBERS)
    }

    async fn wait_healthy(&self) -> Result<()> {
        wait_for("every member of etcd", PATIENCE, async || {
            let mut leaders = Vec::new();
            for index in 0..MEMBERS {
                leaders.push(status(self.channel(index)?).await?.leader);
            }
            leaders.dedup();
            ensure!(leaders.len() == 1 && !leaders.contains(&0), "they follow {leaders:?}");
            Ok(())
        })
        .await
    }

    fn member_mut(&mut self, member: usize) -> Result<&mut Member> {
        self.members.get_mut(member).context("no such member")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, member: usize) -> Result<()> {
        self.member_mut(member)?.process.take().context("the member does not run")?.kill()
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self, member: usize) -> Result<()> {
        let process = self.member_mut(member)?.process.take();
        process.context("the member does not run")?.terminate(PATIENCE).await.map(drop)
    }

    /// Starts a member that does not run, and waits until all serve.
    pub(crate) async fn start_member(&mut self, member: usize) -> Result<()> {
        self.member_mut(member)?.start()?;
        self.wait_healthy().await
    }

    /// Writes the value that local reads read.
    pub(crate) async fn put_bundle(&self, member: usize, value: Vec<u8>) -> Result<()> {
        let key = BUNDLE_KEY.as_bytes().to_vec();
        let mut kv = rpc::kv_client::KvClient::new(self.channel(member)?);
        kv.put(rpc::PutRequest { key, value }).await.map(drop)?;
        Ok(())
    }

    /// Hands leadership from one member to another.
    pub(crate) async fn transfer(&self, from: usize, to: usize) -> Result<()> {
        let target_id = member_id(&status(self.channel(to)?).await?);
        let mut maintenance = MaintenanceClient::new(self.channel(from)?);
        maintenance.move_leader(rpc::MoveLeaderRequest { target_id }).await?;
        Ok(())
    }
}

async fn status(channel: Channel) -> Result<rpc::StatusResponse> {
    Ok(MaintenanceClient::new(channel).status(rpc::StatusRequest {}).await?.into_inner())
}

fn member_id(status: &rpc::StatusResponse) -> u64 {
    status.header.map_or(0, |header| header.member_id)
}

impl Member {
    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.process = Some(Process::spawn("etcd", &mut command, &self.log)?);
        Ok(())
    }
}

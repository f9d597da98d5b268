//! The agents of a run: started once, each where no member is, and never touched again.
//!
//! They prove themselves by a certificate of their machine, so that clients, which count and ban agents
//! that came by token, do not meet them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_api::pb::server::agent::v1 as api;
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Machines, Process};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::seen::{Notebook, Sight};
use super::workload::{self, Audiences, Workload};
use super::{IDENTITIES, TTL_S, WORKLOADS};
use crate::clients::ask::NewEntry;

/// How long agents of unoptimised programs may take until their workloads have all they should.
const READY_MAX: Duration = Duration::from_secs(60);

/// How soon after the faults a workload must have an identity that is new by then.
const SYNC_MAX: Duration = Duration::from_secs(10);

/// What an agent says when it has lost its identity, or its mind.
const NEVER: [&str; 4] = ["panicked at", "removing SVID", "Agent is banned", "Agent crashed"];

/// What it says when it proves itself for the first time.
const ATTESTED: &str = "Node attestation was successful";

/// Where an agent runs, and whom it asks.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// What starts a program where it is.
    pub(crate) launcher: Vec<String>,
    /// Addresses of the servers.
    pub(crate) servers: Vec<String>,
    /// Where the program lies if it is a stock agent's.
    pub(crate) stock: Option<PathBuf>,
}

impl Site {
    /// Configures the agent of this site.
    fn configure(&self, bundle: &[u8]) -> Result<()> {
        Agent::configure_at(&self.folder, &self.servers, bundle, "")?;
        if self.stock.is_none() {
            return Ok(());
        }
        // It takes one address.
        let (address, port) =
            self.servers.first().and_then(|first| first.split_once(':')).context("no server")?;
        let path = self.folder.join("agent.conf");
        let text = std::fs::read_to_string(&path).context("read agent.conf")?;
        let own = text.lines().map(|line| match line.contains("server_addresses") {
            true => format!("  server_address = \"{address}\"\n  server_port = {port}"),
            false => line.to_owned(),
        });
        let text: Vec<String> = own.collect();
        std::fs::write(&path, text.join("\n")).context("write agent.conf")
    }
}

/// Agents and their workloads. Ends with the run.
#[derive(Debug)]
pub(crate) struct Crew {
    agents: Vec<Process>,
    sockets: Vec<PathBuf>,
    notes: Notebook,
    stop: watch::Sender<bool>,
    workloads: Vec<JoinHandle<()>>,
}

/// The entries that agents and workloads live by: a name for each machine, identities under it.
pub(crate) fn entries(agents: usize) -> Vec<NewEntry> {
    let mut all = Vec::new();
    for agent in 0..agents {
        let node = node_path(agent);
        all.push(NewEntry {
            id: format!("node-{agent}"),
            path: node.clone(),
            parent: "/spire/server".to_owned(),
            selector: ("x509pop".to_owned(), format!("subject:cn:{}", machine(agent))),
            ttl_s: 0,
        });
        all.extend((0..IDENTITIES).map(|number| identity(agent, &number.to_string())));
    }
    all
}

/// An identity of the workloads of an agent.
pub(crate) fn identity(agent: usize, name: &str) -> NewEntry {
    NewEntry {
        id: format!("workload-{agent}-{name}"),
        path: format!("/workload/{agent}/{name}"),
        parent: node_path(agent),
        selector: ("unix".to_owned(), format!("uid:{}", nix::unistd::getuid())),
        ttl_s: TTL_S,
    }
}

fn node_path(agent: usize) -> String {
    format!("/node/{agent}")
}

fn machine(agent: usize) -> String {
    format!("machine-{agent}")
}

impl Crew {
    /// Starts agents, waits until their workloads have every identity, and begins to look.
    pub(crate) async fn start(
        sites: &[Site],
        machines: &Machines,
        bundle: &[u8],
        notes: Notebook,
        audiences: Audiences,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (agents, sockets, workloads) = Default::default();
        let mut crew = Self { agents, sockets, notes, stop, workloads };
        for (at, site) in sites.iter().enumerate() {
            site.configure(bundle)?;
            machines.equip(&site.folder, &machine(at))?;
            crew.agents.push(launch(at, site)?);
            crew.sockets.push(site.folder.join("api.sock"));
        }
        for (at, (socket, site)) in crew.sockets.iter().zip(sites).enumerate() {
            // While the only server that it knows is away, a stock agent has what it has.
            let audiences = if site.stock.is_some() { Audiences::Same } else { audiences };
            let waited = wait_for("an agent's workloads", READY_MAX, async || {
                let given = workload::fetch(socket).await?.len();
                ensure!(given == IDENTITIES, "{given} identities of {IDENTITIES}");
                Ok(())
            });
            waited.await.with_context(|| format!("agent {at}"))?;
            for number in 0..WORKLOADS {
                let one = Workload::new(at, number, socket, audiences, crew.notes.clone());
                crew.workloads.push(tokio::spawn(one.run(stopped.clone())));
            }
        }
        // Before the first fault: nobody promises a token that no server has signed yet.
        let warm = wait_for("every workload to have a token", READY_MAX, async || {
            let mut all = (0..sites.len()).flat_map(|at| (0..WORKLOADS).map(move |one| (at, one)));
            let cold = all.find(|(agent, number)| !crew.notes.has_token(*agent, *number));
            ensure!(cold.is_none(), "{cold:?} has none");
            Ok(())
        });
        warm.await?;
        Ok(crew)
    }

    /// How many agents there are.
    pub(crate) fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Waits until every workload has the identity that its agent was given last. Returns why not.
    pub(crate) async fn wait_synced(&self, name: &str) -> Option<String> {
        let synced = wait_for("workloads to have what is new", SYNC_MAX, async || {
            for agent in 0..self.agents.len() {
                let new = identity(agent, name).path;
                for workload in 0..WORKLOADS {
                    let held = self.notes.held(agent, workload);
                    let has = held.iter().any(|svid| svid.id.ends_with(&new));
                    ensure!(has, "workload {workload} of agent {agent} does not have {new}");
                }
            }
            Ok(())
        });
        synced.await.err().map(|error| format!("{error:#}"))
    }

    /// Ends the workloads, and looks at what has become of the agents: what is wrong with them.
    pub(crate) async fn finish(&mut self, admin: &Path) -> Result<Vec<String>> {
        self.stop.send_replace(true);
        for workload in self.workloads.drain(..) {
            workload.await.context("a workload")?;
        }
        let mut wrong = Vec::new();
        for (at, agent) in self.agents.iter_mut().enumerate() {
            if !agent.is_running() {
                wrong.push(format!("agent {at} ended by itself: {}", agent.log_tail(3)));
            }
            let log = std::fs::read_to_string(agent.log()).context("read an agent's log")?;
            wrong.extend(of_log(at, &log));
        }
        wrong.extend(self.listed(admin).await?);
        Ok(wrong)
    }

    /// Everything that workloads saw. They must have ended.
    pub(crate) fn sights(&self) -> Result<Vec<Sight>> {
        self.notes.finish()
    }

    /// What the servers think of the agents.
    async fn listed(&self, admin: &Path) -> Result<Vec<String>> {
        let mut client = api::agent_client::AgentClient::new(unix_channel(admin));
        let filter = api::list_agents_request::Filter {
            by_attestation_type: "x509pop".to_owned(),
            ..api::list_agents_request::Filter::default()
        };
        let body = api::ListAgentsRequest { filter: Some(filter), ..Default::default() };
        let listed = client.list_agents(body).await.context("list the agents")?.into_inner().agents;
        let mut wrong = Vec::new();
        if listed.len() != self.agents.len() {
            wrong.push(format!("{} agents are listed, {} run", listed.len(), self.agents.len()));
        }
        let banned = listed.iter().filter(|agent| agent.banned);
        wrong.extend(banned.map(|agent| format!("agent {:?} is banned", agent.id)));
        Ok(wrong)
    }
}

fn launch(at: usize, site: &Site) -> Result<Process> {
    start(&format!("agent-{at}"), &site.folder, &site.launcher, site.stock.as_deref())
}

/// Starts the agent of a configured folder by a launcher: ours, or the stock one of a folder.
pub(crate) fn start(
    name: &str,
    folder: &Path,
    launcher: &[String],
    stock: Option<&Path>,
) -> Result<Process> {
    let program = match stock {
        Some(folder) => folder.join("spire-agent"),
        None => binary("spire-agent")?,
    };
    let mut command = match launcher.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.arg("run").arg("-config").arg(folder.join("agent.conf"));
    Process::spawn(name, &mut command, &folder.join("agent.log"))
}

/// What is wrong by an agent's log.
fn of_log(at: usize, log: &str) -> Vec<String> {
    let bad = log.lines().filter(|line| NEVER.iter().any(|words| line.contains(words)));
    let mut wrong: Vec<String> =
        bad.take(1).map(|line| format!("agent {at} says: {line}")).collect();
    let times = log.matches(ATTESTED).count();
    if times != 1 {
        wrong.push(format!("agent {at} proved itself as a stranger {times} times"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_was_thrown_out_or_began_anew_is_seen_in_its_log() {
        let good = format!("info {ATTESTED}\ninfo Successfully reattested node\n");
        assert_eq!(of_log(0, &good), Vec::<String>::new());
        for bad in [
            String::new(),
            format!("{good}{ATTESTED}\n"),
            format!("{good}Agent is banned: removing SVID and shutting down\n"),
            format!("{good}thread 'main' panicked at x\n"),
        ] {
            assert_eq!(of_log(0, &bad).len(), 1, "{bad}");
        }
    }
}

//! The cluster under test and what can be done to it: processes, disks, the network.
//!
//! Owns everything that must not outlive the run. Who is hit and when is the plan's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use steeple_testkit::cluster::Place;
use steeple_testkit::{Cluster, ClusterSpec, Machines};

use crate::agents::TTL_S;
use crate::agents::crew::Site;
use crate::disk::{self, Disk};
use crate::neighbour;
use crate::net::Spaces;
use crate::options::{Nemesis, Options};
use crate::suspend;
use crate::system;

/// What a run needs of the system, and whether it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    network: bool,
    disks: bool,
    clocks: bool,
}

/// What the members' configuration calls their cluster.
pub(crate) const CLUSTER_NAME: &str = "testkit";

/// Fakes the wall clock of a process, and nothing else.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Everything under test.
#[derive(Debug)]
pub(crate) struct World {
    // Dropped in this order: processes end before their disks and namespaces go.
    cluster: Cluster,
    disks: Vec<Disk>,
    spaces: Option<Spaces>,
    spec: ClusterSpec,
    machines: Machines,
    agents: usize,
    is_planned: bool,
    folder: PathBuf,
    /// Which members are stopped, by us.
    paused: Vec<bool>,
    /// Members that may end by themselves: someone waits for it.
    awaited: BTreeSet<usize>,
    /// The feature level of the older release, if the run has two, and which members are of it.
    older: Option<u32>,
    are_older: Vec<bool>,
}

/// Why a kind of fault cannot be installed here; `None` if it can.
pub(crate) fn lacks(nemesis: Nemesis) -> Option<String> {
    let needs_root = nemesis.needs_network() || nemesis.needs_disk();
    if needs_root && !system::is_root() {
        return Some(format!("{} needs root", nemesis.name()));
    }
    if nemesis.needs_network() && !Path::new("/dev/net/tun").exists() {
        return Some(format!("{} needs /dev/net/tun", nemesis.name()));
    }
    if nemesis == Nemesis::Clock && !Path::new(FAKETIME).exists() {
        return Some("clock needs the package faketime".to_owned());
    }
    None
}

impl World {
    /// Prepares members for a run; starts none.
    ///
    /// `older` is the feature level of the older release, if it is to begin with that.
    pub(crate) fn prepare(
        folder: &Path,
        options: &Options,
        seed: u64,
        older: Option<u32>,
    ) -> Result<Self> {
        let wants = |of: fn(Nemesis) -> bool| options.nemeses.iter().any(|one| of(*one));
        // Agents on a network of ours can be counted and cut off; where there is none, they are not.
        let agents = options.agents_of_a_run();
        // Issuers call on loopback.
        let may = agents > 0 && !options.is_planned();
        let on_network = may && lacks(Nemesis::Partition).is_none();
        let needs = Needs {
            network: wants(Nemesis::needs_network) || on_network,
            disks: wants(Nemesis::needs_disk),
            clocks: options.nemeses.contains(&Nemesis::Clock),
        };
        let pid = std::process::id();
        let spaces = needs
            .network
            .then(|| Spaces::make(&format!("chaos{pid}-"), options.members + agents, folder, seed));
        let spaces = spaces.transpose().context("make the network")?;
        let machines = Machines::new()?;
        // Issuers are agents that never renew.
        let agent_ttl = if options.is_planned() { "1h".to_owned() } else { format!("{TTL_S}s") };
        let mut spec = ClusterSpec {
            members: options.members,
            server_lines: format!(
                "  agent_ttl = \"{agent_ttl}\"\n  ratelimit {{ attestation = false }}\n"
            ),
            feature_level_max: older,
            plugin_lines: machines.plugin(folder)?,
            cluster_lines: match options.nemeses.contains(&Nemesis::Suspend) {
                true => suspend::cluster_lines(),
                false => String::new(),
            },
            ..ClusterSpec::default()
        };
        for at in 0..options.members {
            spec.places.push(place(at, folder, needs, spaces.as_ref(), options)?);
        }
        let cluster = Cluster::prepare(folder, &spec)?;
        let mut disks = Vec::new();
        for member in cluster.members().iter().filter(|_| needs.disks) {
            std::fs::create_dir_all(member.data()).context("create a mount point")?;
            let name = format!("steeple-chaos-{pid}-{seed}-{}.img", member.index);
            disks.push(Disk::make(&name, &member.data()).context("make a disk")?);
        }
        let paused = vec![false; options.members];
        let folder = folder.to_owned();
        let (awaited, are_older) = (BTreeSet::new(), vec![older.is_some(); options.members]);
        Ok(Self {
            cluster,
            disks,
            spaces,
            spec,
            machines,
            agents,
            is_planned: options.is_planned(),
            folder,
            paused,
            awaited,
            older,
            are_older,
        })
    }

    /// Ports of the server API.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.cluster.members().iter().map(|member| member.api_port).collect()
    }

    /// Where a member's ready check can be asked; none if it is on a network of ours.
    pub(crate) fn health_port(&self, at: usize) -> Result<Option<u16>> {
        let port = self.cluster.member(at)?.health_port;
        Ok(self.spaces.is_none().then_some(port))
    }

    /// Which members are of the older release.
    pub(crate) fn are_older(&self) -> &[bool] {
        &self.are_older
    }

    /// Makes a member that does not run one of the older release, or of this one.
    pub(crate) fn set_release(&mut self, at: usize, is_older: bool) -> Result<()> {
        let older = self.older.context("the run has one release")?;
        self.cluster.set_feature_level_max(at, is_older.then_some(older))?;
        if let Some(known) = self.are_older.get_mut(at) {
            *known = is_older;
        }
        Ok(())
    }

    /// A member's registry: what it would lose with its volume.
    pub(crate) fn registry(&self, at: usize) -> Result<PathBuf> {
        Ok(self.cluster.member(at)?.data().join("raft"))
    }

    /// Moves a member's registry away, as runbooks say: beside where it was, with another ending.
    pub(crate) fn set_registry_aside(&self, at: usize, ending: &str) -> Result<()> {
        let registry = self.registry(at)?;
        let aside = registry.with_extension(ending);
        std::fs::rename(&registry, &aside).context("move a registry away")
    }

    /// Runs a command of `spire-server` on a member's machine. What it prints if it fails is the
    /// error.
    pub(crate) fn type_in(&self, at: usize, words: &[&str]) -> Result<()> {
        let member = self.cluster.member(at)?;
        let output = tokio::task::block_in_place(|| member.cli(words))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", words.join(" "), said.trim());
        Ok(())
    }

    /// Starts a member that is only to be rebuilt.
    pub(crate) async fn hold(&mut self, at: usize) -> Result<()> {
        self.cluster.hold_member(at).await
    }

    /// The run's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where somebody on a member's machine is, who attests by a token and asks for an entry.
    pub(crate) fn neighbourhood(
        &self,
        at: usize,
        token: &str,
        entry_id: &str,
    ) -> Result<neighbour::Place> {
        let spaces = self.spaces.as_ref().context("the run has no network of its own")?;
        let member = self.cluster.member(at)?;
        Ok(neighbour::Place {
            namespace: spaces.path(at)?,
            address: (member.api_address, member.api_port).into(),
            token: token.to_owned(),
            entry_id: entry_id.to_owned(),
        })
    }

    /// A member's log.
    pub(crate) fn log(&self, at: usize) -> Result<PathBuf> {
        Ok(self.cluster.member(at)?.log())
    }

    /// From now on someone waits for a member to end by itself, or no longer.
    pub(crate) fn await_end(&mut self, at: usize, is_awaited: bool) {
        if is_awaited {
            self.awaited.insert(at);
        } else {
            self.awaited.remove(&at);
        }
    }

    /// The last words of a member that has ended by itself.
    pub(crate) fn last_words(&mut self, at: usize) -> Result<Option<String>> {
        let process = self.cluster.process(at)?;
        if process.is_running() {
            return Ok(None);
        }
        let words = process.log_tail(3);
        self.kill(at)?;
        Ok(Some(words))
    }

    /// Who vouches for the machines of agents.
    pub(crate) fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Where agents run, and whom each asks first.
    pub(crate) fn sites(&self) -> Result<Vec<Site>> {
        let addresses: Vec<String> = self
            .cluster
            .members()
            .iter()
            .map(|member| format!("{}:{}", member.api_address, member.api_port))
            .collect();
        let mut sites = Vec::new();
        for at in 0..self.agents {
            let launcher = match &self.spaces {
                Some(spaces) => spaces.launcher(self.members() + at)?,
                None => Vec::new(),
            };
            let mut servers = addresses.clone();
            servers.rotate_left(at % self.members().max(1));
            let folder = self.folder.join(format!("agent-{at}"));
            // One of several, and where members are away for seconds: it knows one of them alone.
            let is_last = at > 0 && at + 1 == self.agents;
            let stock = stock_agents().filter(|_| is_last && self.is_planned);
            sites.push(Site { folder, launcher, servers, stock });
        }
        Ok(sites)
    }

    /// The trust bundle as a member's command line shows it.
    pub(crate) fn bundle(&self) -> Result<Vec<u8>> {
        let shown = self.cluster.member(0)?.cli(&["bundle", "show"])?;
        if !shown.status.success() {
            bail!("bundle show: {}", String::from_utf8_lossy(&shown.stderr));
        }
        Ok(shown.stdout)
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.cluster.members().len()
    }

    /// Their admin sockets.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        self.cluster.members().iter().map(steeple_testkit::cluster::Member::socket).collect()
    }

    /// The network, if the run has one of its own.
    pub(crate) fn spaces(&self) -> Option<&Spaces> {
        self.spaces.as_ref()
    }

    /// Whether a member's process was started and not ended by us.
    pub(crate) fn is_up(&self, at: usize) -> bool {
        self.cluster.member(at).is_ok_and(steeple_testkit::cluster::Member::is_started)
    }

    /// Starts a member.
    pub(crate) fn start(&mut self, at: usize) -> Result<()> {
        self.cluster.start_member(at)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        if let Some(paused) = self.paused.get_mut(at) {
            *paused = false;
        }
        self.cluster.kill_member(at)
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self, at: usize) -> Result<()> {
        self.cluster.stop_member(at).await
    }

    /// Lets a member stand still.
    pub(crate) fn pause(&mut self, at: usize) -> Result<()> {
        self.set_paused(at, true)
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self, at: usize) -> Result<()> {
        self.set_paused(at, false)
    }

    fn set_paused(&mut self, at: usize, is_paused: bool) -> Result<()> {
        let signal = if is_paused { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.cluster.process(at)?.signal(signal)?;
        if let Some(paused) = self.paused.get_mut(at) {
            *paused = is_paused;
        }
        Ok(())
    }

    /// Cuts the power of members: their disks first, then their processes; the disks are there again
    /// when it returns.
    pub(crate) fn cut_power(&mut self, members: &[usize]) -> Result<()> {
        let disks = members.iter().map(|at| self.disk(*at)).collect::<Result<Vec<_>>>()?;
        disk::power_off(&disks)?;
        for at in members {
            self.kill(*at)?;
        }
        for at in members {
            self.disk(*at)?.detach()?;
            self.disk(*at)?.attach()?;
        }
        Ok(())
    }

    /// A member's disk.
    pub(crate) fn disk(&self, at: usize) -> Result<&Disk> {
        self.disks.get(at).context("the member has no disk of its own")
    }

    /// Empties the data folder of a member that does not run.
    pub(crate) fn wipe(&self, at: usize) -> Result<()> {
        let data = self.cluster.member(at)?.data();
        for entry in std::fs::read_dir(&data).context("read the data folder")? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "lost+found") {
                continue;
            }
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Gives a member that does not run another address, and takes the old one away.
    pub(crate) fn move_to(&mut self, at: usize, new: Ipv4Addr) -> Result<()> {
        let old = self.cluster.member(at)?.api_address;
        let spaces = self.spaces.as_ref().context("the run has no network of its own")?;
        // In this order: with the first address of a network all others of it go.
        spaces.drop_address(at, old)?;
        spaces.take_address(at, new)?;
        let place = self.spec.places.get_mut(at).context("the member has no place")?;
        place.address = new;
        let place = place.clone();
        self.cluster.move_member(at, place, &self.spec)
    }

    /// Sets a member's wall clock so many seconds ahead.
    pub(crate) fn set_clock(&self, at: usize, ahead_s: i64) -> Result<()> {
        let path = clock_file(&self.folder, at);
        std::fs::write(&path, format!("{ahead_s:+}s\n")).context("set a clock")
    }

    /// Finds processes that have ended by themselves, and forgets them: who, and their last words.
    pub(crate) fn find_ended(&mut self) -> Result<Vec<(usize, String)>> {
        let mut ended = Vec::new();
        for at in 0..self.members() {
            if !self.is_up(at) || self.awaited.contains(&at) {
                continue;
            }
            if let Some(words) = self.last_words(at)? {
                ended.push((at, format!("m{at} ended by itself: {words}")));
            }
        }
        Ok(ended)
    }

    /// Ends every fault and starts whoever is down.
    pub(crate) fn heal(&mut self) -> Result<()> {
        if let Some(spaces) = &self.spaces {
            spaces.links().mend();
            if !spaces.is_alive() {
                bail!("the switch has ended");
            }
        }
        for at in 0..self.members() {
            if self.paused.get(at).copied().unwrap_or(false) {
                self.resume(at)?;
            }
            if !self.is_up(at) {
                self.start(at)?;
            }
        }
        Ok(())
    }

    /// Ends all processes.
    pub(crate) fn end_all(&mut self) -> Result<()> {
        for at in 0..self.members() {
            if self.is_up(at) {
                self.kill(at)?;
            }
        }
        Ok(())
    }

    /// Leaves the members' data in their folders, also what lies on disks of their own, or nothing.
    pub(crate) fn leave_data(&mut self, is_kept: bool) -> Result<()> {
        let folders: Vec<PathBuf> =
            self.cluster.members().iter().map(steeple_testkit::cluster::Member::data).collect();
        for data in folders.iter().filter(|_| is_kept && !self.disks.is_empty()) {
            let (from, to) = (data.display().to_string(), kept(data).display().to_string());
            system::run("cp", &["-a", "--sparse=always", &from, &to])?;
        }
        let had_disks = !self.disks.is_empty();
        self.disks.clear();
        for data in folders {
            if had_disks || !is_kept {
                std::fs::remove_dir_all(&data).context("remove a data folder")?;
            }
            if had_disks && is_kept {
                std::fs::rename(kept(&data), &data).context("leave a data folder")?;
            }
        }
        Ok(())
    }
}

/// The folder of published binaries, if there is one.
fn stock_agents() -> Option<PathBuf> {
    std::env::var_os("STEEPLE_STOCK_BIN").map(PathBuf::from)
}

fn kept(data: &Path) -> PathBuf {
    data.with_extension("kept")
}

fn clock_file(folder: &Path, at: usize) -> PathBuf {
    folder.join(format!("clock-{at}"))
}

fn place(
    at: usize,
    folder: &Path,
    needs: Needs,
    spaces: Option<&Spaces>,
    options: &Options,
) -> Result<Place> {
    let mut place = Place::default();
    if let Some(spaces) = spaces {
        place = Place { address: Spaces::address(at), launcher: spaces.launcher(at)? };
    }
    let mut variables = Vec::new();
    if needs.clocks {
        let file = clock_file(folder, at);
        std::fs::write(&file, "+0s\n").context("set a clock")?;
        variables.push(format!("LD_PRELOAD={FAKETIME}"));
        variables.push(format!("FAKETIME_TIMESTAMP_FILE={}", file.display()));
        variables.push("FAKETIME_NO_CACHE=1".to_owned());
        variables.push("FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned());
    }
    if let Some(mutant) = &options.mutant {
        variables.push(format!("STEEPLE_MUTANT={mutant}"));
    }
    if !variables.is_empty() {
        place.launcher.push("env".to_owned());
        place.launcher.extend(variables);
    }
    Ok(place)
}

//! One of the two trust domains: its replicas, its agent, the name of its bundle endpoints, and what
//! its operators type.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_testkit::cluster::{Member, Place};
use steeple_testkit::process::wait_for;
use steeple_testkit::trust::look;
use steeple_testkit::{Agent, Cluster, ClusterSpec, Machines, Process};

use super::gate::Gate;
use super::{AGENT_TTL, CA_TTL, HINT, MAX_STALENESS, MEMBERS, MINUTE, SVID_TTL, WHOLE_MAX};
use crate::agents::crew;
use crate::agents::workload;
use crate::net::Spaces;
use crate::run::{remove_data, wait_until_one};
use crate::watch::Eyes;

/// Where bundle endpoints listen: each has a machine of its own.
const ENDPOINT_PORT: u16 = 8_443;

/// Machines of both sides: their members, their agents, the names of their endpoints.
pub(super) const NODES: usize = 2 * (MEMBERS + 2);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Foo,
    Bar,
}

impl Which {
    pub(super) const BOTH: [Self; 2] = [Self::Foo, Self::Bar];

    /// The name of the trust domain.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Foo => "foo.example.com",
            Self::Bar => "bar.example.com",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Foo => Self::Bar,
            Self::Bar => Self::Foo,
        }
    }

    /// Its workload's id.
    pub(super) fn workload(self) -> String {
        format!("spiffe://{}/workload", self.name())
    }

    /// The machine of a member.
    pub(super) fn node(self, member: usize) -> usize {
        match self {
            Self::Foo => member,
            Self::Bar => MEMBERS + member,
        }
    }

    /// The machine of its agent.
    fn agent(self) -> usize {
        2 * MEMBERS + usize::from(self == Self::Bar)
    }

    /// The machine that has the name of its endpoints.
    pub(super) fn gate(self) -> usize {
        2 * MEMBERS + 2 + usize::from(self == Self::Bar)
    }
}

/// A trust domain.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) which: Which,
    pub(super) cluster: Cluster,
    pub(super) eyes: Eyes,
    agent: Option<Process>,
    gate: Gate,
    folder: PathBuf,
}

impl Side {
    /// Starts the replicas and waits until they sign.
    pub(super) async fn start(
        which: Which,
        folder: &Path,
        spaces: &Spaces,
        machines: &Machines,
    ) -> Result<Self> {
        let folder = folder.join(which.name());
        let mut cluster = Cluster::prepare(&folder, &spec(which, &folder, spaces, machines)?)?;
        let mut endpoints = Vec::new();
        for member in 0..MEMBERS {
            let address = Spaces::address(which.node(member));
            endpoints.push(SocketAddr::from((address, ENDPOINT_PORT)));
            let hint = HINT.as_secs();
            cluster.member(member)?.add_server_lines(&format!(
                "  federation {{\n    bundle_endpoint {{\n      address = \"{address}\"\n      port \
                 = {ENDPOINT_PORT}\n      refresh_hint = \"{hint}s\"\n      profile \
                 \"https_spiffe\" {{}}\n    }}\n  }}\n"
            ))?;
            cluster.start_member(member)?;
        }
        let at = which.gate();
        let gate = Gate::open(spaces.path(at)?, Spaces::address(at), endpoints).await?;
        let sockets: Vec<PathBuf> = cluster.members().iter().map(Member::socket).collect();
        let eyes = Eyes::open(&sockets);
        wait_until_one(&eyes, WHOLE_MAX, true).await.context("the cluster does not form")?;
        for socket in &sockets {
            wait_for("the first authorities", WHOLE_MAX, async || {
                let unanswered = look(socket, which.name()).await.unanswered();
                ensure!(unanswered == 0, "{unanswered} calls without an answer");
                Ok(())
            })
            .await?;
        }
        Ok(Self { which, cluster, eyes, agent: None, gate, folder })
    }

    /// Runs a command that must succeed at a member; its output.
    fn typed(&self, member: usize, words: &[&str]) -> Result<String> {
        let member = self.cluster.member(member)?;
        let output = tokio::task::block_in_place(|| member.cli(words))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", words.join(" "), error.trim());
        String::from_utf8(output.stdout).context("read what the command said")
    }

    /// Begins a relationship, on the roots that the other side has now.
    pub(super) fn relate(&self, other: &Self) -> Result<()> {
        let roots = self.folder.join("roots-of-the-other.pem");
        std::fs::write(&roots, other.typed(0, &["bundle", "show"])?).context("write the roots")?;
        let url = format!("https://{}", other.gate.address);
        let id = format!("spiffe://{}/spire/server", other.which.name());
        let roots = roots.display().to_string();
        let name = other.which.name();
        let words = ["federation", "create", "-trustDomain", name, "-bundleEndpointURL", &url];
        let profile = ["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", &id];
        let words = [&words[..], &profile, &["-trustDomainBundlePath", &roots]].concat();
        self.typed(0, &words).map(drop)
    }

    /// Makes the entries of the agent and of its workload, which federates with the other side.
    pub(super) fn register(&self) -> Result<()> {
        let node = format!("spiffe://{}/node", self.which.name());
        let selector = format!("x509pop:subject:cn:{}", self.which.name());
        self.typed(1, &["entry", "create", "-node", "-spiffeID", &node, "-selector", &selector])?;
        let (id, other) = (self.which.workload(), self.which.other().name());
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        let words = ["entry", "create", "-parentID", &node, "-spiffeID", &id];
        let words = [&words[..], &["-selector", &selector, "-federatesWith", other]].concat();
        self.typed(2, &words).map(drop)
    }

    /// Starts the agent and waits until it serves its workload.
    pub(super) async fn attest(&mut self, spaces: &Spaces, machines: &Machines) -> Result<()> {
        let folder = self.folder.join("agent");
        let bundle = self.typed(0, &["bundle", "show"])?;
        let address = |member: &Member| format!("{}:{}", member.api_address, member.api_port);
        let servers: Vec<String> = self.cluster.members().iter().map(address).collect();
        Agent::configure_in(&folder, self.which.name(), &servers, bundle.as_bytes(), "")?;
        machines.equip(&folder, self.which.name())?;
        let launcher = spaces.launcher(self.which.agent())?;
        self.agent = Some(crew::start(self.which.name(), &folder, &launcher, None)?);
        wait_for("the agent's workload", WHOLE_MAX, async || {
            let given = workload::fetch(&self.agent_socket()).await?.len();
            ensure!(given == 1, "{given} identities");
            Ok(())
        })
        .await
    }

    /// Where the agent serves workloads.
    pub(super) fn agent_socket(&self) -> PathBuf {
        self.folder.join("agent").join("api.sock")
    }

    /// What is wrong with the agent: it must not end.
    pub(super) fn wrong(&mut self) -> Option<String> {
        let (which, agent) = (self.which, self.agent.as_mut()?);
        let ended = !agent.is_running();
        ended.then(|| format!("the agent of {} has ended: {}", which.name(), agent.log_tail(3)))
    }

    /// One command that mends what is too old to believe anybody: the bundle of the other side.
    pub(super) fn set_bundle_of(&self, other: &Self) -> Result<()> {
        let file = self.folder.join("bundle-of-the-other.json");
        let leads = other.eyes_on_anyone()?;
        let document = other.typed(leads, &["bundle", "show", "-format", "spiffe"])?;
        std::fs::write(&file, document).context("write the bundle")?;
        let (name, file) = (other.which.name(), file.display().to_string());
        let words = ["bundle", "set", "-id", name, "-path", &file, "-format", "spiffe"];
        self.typed(self.eyes_on_anyone()?, &words).map(drop)
    }

    fn eyes_on_anyone(&self) -> Result<usize> {
        let running = self.cluster.members().iter().find(|member| member.is_started());
        Ok(running.context("nobody runs")?.index)
    }

    /// How often a line stands in the logs of all members.
    pub(super) fn said(&self, words: &str, more: &str) -> Result<usize> {
        let mut count = 0;
        for member in self.cluster.members() {
            let log = std::fs::read_to_string(member.log()).context("read a member's log")?;
            let told = log.lines().filter(|line| line.contains(words) && line.contains(more));
            count += told.count();
        }
        Ok(count)
    }

    /// Ends everything and leaves the logs.
    pub(super) fn remove_data(&mut self) -> Result<()> {
        self.agent = None;
        remove_data(&mut self.cluster, MEMBERS)
    }
}

fn spec(which: Which, folder: &Path, spaces: &Spaces, machines: &Machines) -> Result<ClusterSpec> {
    std::fs::create_dir_all(folder).context("create a side's folder")?;
    let place = |member| -> Result<Place> {
        let at = which.node(member);
        Ok(Place { address: Spaces::address(at), launcher: spaces.launcher(at)? })
    };
    let seconds = |time: Duration| time.as_secs();
    let (ca, svid, agent) = (seconds(CA_TTL), seconds(SVID_TTL), seconds(AGENT_TTL));
    Ok(ClusterSpec {
        members: MEMBERS,
        trust_domain: which.name(),
        places: (0..MEMBERS).map(place).collect::<Result<_>>()?,
        log_level: "INFO",
        server_lines: format!(
            "  ca_ttl = \"{ca}s\"\n  default_x509_svid_ttl = \"{svid}s\"\n  default_jwt_svid_ttl = \
             \"{svid}s\"\n  agent_ttl = \"{agent}s\"\n"
        ),
        cluster_lines: format!(
            "  max_staleness = \"{}s\"\n  renew_only_delay = \"0s\"\n",
            seconds(MAX_STALENESS)
        ),
        plugin_lines: machines.plugin(folder)?,
        refresh_minute: Some(MINUTE),
        ..ClusterSpec::default()
    })
}

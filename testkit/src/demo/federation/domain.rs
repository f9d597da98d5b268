//! One of the two trust domains: its replicas, the one name of their bundle endpoints, its agent
//! and its workload, and what its operators type.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::process::{binary, wait_for};
use steeple_testkit::{Agent, Balancer, Cluster, ClusterSpec, Process, ports};

use super::stages::Pace;

/// How long forming, electing and starting again may take.
const SOON: Duration = Duration::from_secs(30);

/// Until when a prepared authority signs by the clock: half a minute for its commit, two for peers,
/// one of whose fetches may fail.
const KNOWN_WITHIN: Duration = Duration::from_secs(240);

/// Workloads' SVIDs live so long, so that those of a new authority are seen soon.
const SVID_TTL: &str = "20";

/// A trust domain.
pub(super) struct Domain {
    pub(super) cluster: Cluster,
    pub(super) agent: Agent,
    /// Where the other side fetches the bundle.
    pub(super) endpoint: Balancer,
    folder: PathBuf,
    entry: Option<String>,
    pub(super) pace: Pace,
}

impl Domain {
    /// Starts three replicas and an agent.
    pub(super) async fn start(
        folder: &Path,
        trust_domain: &'static str,
        pace: Pace,
    ) -> Result<Self> {
        let spec =
            ClusterSpec { trust_domain, refresh_minute: pace.minute(), ..ClusterSpec::default() };
        let folder = folder.join(trust_domain);
        let mut cluster = Cluster::prepare(&folder, &spec)?;
        let ports: [u16; 3] = ports::lease()?;
        for (index, port) in ports.into_iter().enumerate() {
            let hint = pace.refresh_hint();
            cluster.member(index)?.add_server_lines(&format!(
                "  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      \
                 port = {port}\n      refresh_hint = \"{hint}\"\n      profile \"https_spiffe\" \
                 {{}}\n    }}\n  }}\n"
            ))?;
            cluster.start_member(index)?;
        }
        cluster.wait_ready(SOON).await?;
        let endpoint = Balancer::start(&ports).await?;
        let node = format!("spiffe://{trust_domain}/node");
        let token = crate::demo::token(&cluster, 0, Some(&node))?;
        let agent = Agent::start(&folder.join("agent"), &cluster, &[1, 2, 0], &token, "").await?;
        Ok(Self { cluster, agent, endpoint, folder, entry: None, pace })
    }

    pub(super) fn name(&self) -> &'static str {
        self.cluster.trust_domain()
    }

    /// Its workload's id.
    pub(super) fn workload(&self) -> String {
        format!("spiffe://{}/workload", self.name())
    }

    /// Runs a command that must succeed at a member; its output.
    pub(super) fn typed(&self, member: usize, words: &[&str]) -> Result<String> {
        let output = self.cluster.member(member)?.cli(words)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {error}", words.join(" "));
        String::from_utf8(output.stdout).context("read what the command said")
    }

    /// Begins a relationship, on the roots that the other side has now.
    pub(super) fn relate(&self, member: usize, other: &Self) -> Result<()> {
        let roots = self.folder.join("roots-of-the-other.pem");
        fs::write(&roots, other.typed(0, &["bundle", "show"])?).context("write the roots")?;
        let url = format!("https://127.0.0.1:{}", other.endpoint.port());
        let id = format!("spiffe://{}/spire/server", other.name());
        let of_roots = roots.display().to_string();
        let words = ["federation", "create", "-trustDomain", other.name(), "-bundleEndpointURL"];
        let profile = ["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", &id];
        let words = [&words[..], &[&url], &profile, &["-trustDomainBundlePath", &of_roots]];
        self.typed(member, &words.concat()).map(drop)
    }

    /// Ends a relationship and forgets the bundle, wherever an entry names it.
    pub(super) fn part(&self, member: usize, other: &Self) -> Result<()> {
        self.typed(member, &["federation", "delete", "-id", other.name()])?;
        let delete = ["bundle", "delete", "-id", other.name(), "-mode", "dissociate"];
        self.typed(member, &delete).map(drop)
    }

    /// Makes the workload's entry, or the same again, federated with the other side.
    pub(super) fn register(&mut self, member: usize, other: &Self) -> Result<()> {
        let (node, id) = (format!("spiffe://{}/node", self.name()), self.workload());
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        let words = ["-parentID", &node, "-spiffeID", &id, "-selector", &selector];
        let words = [&words[..], &["-x509SVIDTTL", SVID_TTL, "-federatesWith", other.name()]];
        let words = words.concat();
        let member = self.cluster.member(member)?;
        let made = match &self.entry {
            None => member.cli_json(&[&["entry", "create"][..], &words].concat())?,
            Some(entry) => {
                let update = ["entry", "update", "-entryID", entry];
                member.cli_json(&[&update[..], &words].concat())?
            }
        };
        let entry = made.pointer("/results/0/entry/id").and_then(Value::as_str);
        self.entry = Some(entry.with_context(|| format!("no entry in {made}"))?.to_owned());
        Ok(())
    }

    /// Waits until every replica that runs holds the bundle that the other side has now, or a later
    /// one.
    pub(super) async fn follows(&self, other: &Self) -> Result<()> {
        let running = other.cluster.members().iter().find(|member| member.is_started());
        let running = running.context("nobody runs")?.index;
        let shown = other.typed(running, &["bundle", "show", "-format", "spiffe"])?;
        let shown: Value = serde_json::from_str(&shown).context("read the bundle")?;
        let wanted = shown.get("spiffe_sequence").and_then(Value::as_u64);
        let wanted = wanted.context("the bundle has no sequence number")?;
        let what = format!("the bundle of {} everywhere in {}", other.name(), self.name());
        wait_for(&what, self.pace.fetched_within(), async || {
            for member in self.cluster.members().iter().filter(|member| member.is_started()) {
                let bundles = member.status().await?.federated_bundles;
                let held = bundles.iter().find(|one| one.trust_domain == other.name());
                let held = held.map_or(0, |one| one.sequence_number);
                ensure!(held >= wanted, "replica {}: {held} of {wanted}", member.index + 1);
            }
            Ok(())
        })
        .await
    }

    /// Prepares the next X.509 authority; its id.
    pub(super) fn prepare(&self, member: usize) -> Result<String> {
        let words = ["localauthority", "x509", "prepare"];
        let made = self.cluster.member(member)?.cli_json(&words)?;
        let id = made.pointer("/prepared_authority/authority_id").and_then(Value::as_str);
        Ok(id.with_context(|| format!("no authority in {made}"))?.to_owned())
    }

    /// Waits until the workload here is told of an authority, its own trust domain's or another's.
    pub(super) async fn is_told_of(&self, authority: &str) -> Result<()> {
        wait_for("the new authority at the workload", SOON, async || {
            let client = WorkloadApiClient::connect_to(&self.agent.endpoint()).await?;
            let bundles = client.fetch_x509_bundles().await?;
            let mut roots = bundles.iter().flat_map(|(_, bundle)| bundle.authorities().iter());
            let known = roots.any(|root| {
                let facts = certificate_facts(root.as_ref());
                facts.is_ok_and(|facts| hex(&facts.subject_key_id) == authority)
            });
            ensure!(known, "it is not told");
            Ok(())
        })
        .await
    }

    /// Lets a prepared authority sign: when the evidence is complete, or at once.
    pub(super) async fn activate(&self, member: usize, authority: &str) -> Result<()> {
        if self.pace == Pace::Haste {
            let words = ["localauthority", "x509", "activate", "-authorityID", authority, "-force"];
            return self.typed(member, &words).map(drop);
        }
        let mut rotate = Command::new(binary("spire-server")?);
        rotate.args(["cluster", "rotate", "x509", "-wait", "-socketPath"]);
        rotate.arg(self.cluster.member(member)?.socket());
        let log = self.folder.join("rotate.log");
        let mut rotate = Process::spawn("cluster rotate", &mut rotate, &log)?;
        let ended = rotate.wait(KNOWN_WITHIN).await;
        let ended = ended.with_context(|| rotate.log_tail(5))?;
        ensure!(ended.success(), "cluster rotate: {}", rotate.log_tail(5));
        let shown = self.cluster.member(member)?.cli_json(&["localauthority", "x509", "show"])?;
        let active = shown.pointer("/active/authority_id").and_then(Value::as_str);
        ensure!(active == Some(authority), "{authority} does not sign: {shown}");
        Ok(())
    }

    /// Kills the leader, and waits for the next; both.
    pub(super) async fn lose_leader(&mut self) -> Result<[usize; 2]> {
        let leader = self.cluster.leader(SOON).await?;
        self.cluster.kill_member(leader)?;
        Ok([leader, self.cluster.leader(SOON).await?])
    }

    /// Starts a killed replica again, and waits until it serves.
    pub(super) async fn bring_back(&mut self, member: usize) -> Result<()> {
        self.cluster.start_member(member)?;
        self.cluster.wait_ready(SOON).await
    }
}

/// Lower-case hex, as authorities are named.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

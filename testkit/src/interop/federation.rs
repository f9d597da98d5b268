//! The walk through two trust domains of `spec/seeds.md` 2.4, as its author types it, with
//! go-spiffe programs in the place of ghostunnel: a web server in foo and a client in bar.
//!
//! Both federated: the page comes. One of them not, or neither: no connection, and who refuses
//! says why. The bundles are set by hand. Owns the two trust domains and the steps of the walk with
//! ghostunnel too.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::process::{log_tail, wait_for};
use steeple_testkit::{Agent, Cluster, ClusterSpec, Process, ports};

/// How long until a change of entries shows at the workloads: go-spiffe asks again after up to 30 s
/// where it had no identity for a moment.
pub(super) const WITHIN: Duration = Duration::from_secs(90);

pub(super) const FOO: &str = "foo.example.com";
pub(super) const BAR: &str = "bar.example.com";

pub(super) const SERVER: &str = "spiffe://foo.example.com/http-server";
pub(super) const CLIENT: &str = "spiffe://bar.example.com/client";

/// What the page has that the client asks for.
pub(super) const TITLE: &str = "<title>Directory listing for /</title>";

/// One trust domain, its agent and the entry of its workload.
pub(super) struct Domain {
    cluster: Cluster,
    pub(super) agent: Agent,
    /// What of the workload's entry stays: its id and its names.
    workload: String,
    peer: &'static str,
    entry: Option<String>,
}

impl Domain {
    async fn start(
        folder: &Path,
        trust_domain: &'static str,
        peer: &'static str,
        workload: String,
    ) -> Result<Self> {
        let spec = ClusterSpec { trust_domain, ..ClusterSpec::default() };
        let cluster = Cluster::start(&folder.join(trust_domain), &spec).await?;
        let alias = format!("spiffe://{trust_domain}/spire-agent");
        let token = crate::demo::token(&cluster, 0, Some(&alias))?;
        let place = folder.join(format!("agent-{trust_domain}"));
        let agent = Agent::start(&place, &cluster, &[1, 2, 0], &token, "").await?;
        Ok(Self { cluster, agent, workload, peer, entry: None })
    }

    /// Runs a command that must succeed at a member; its output.
    fn typed(&self, member: usize, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = self.cluster.member(member)?.cli(&words)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {error}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Steps 4 and 5: takes the peer's bundle.
    fn trust(&self, peer: &Self, file: &Path) -> Result<()> {
        fs::write(file, peer.typed(2, "bundle show")?).context("write the peer's roots")?;
        let (name, file) = (self.peer, file.display());
        let said = self.typed(0, &format!("bundle set --id spiffe://{name} --path {file}"))?;
        ensure!(said == "bundle set.\n", "{said}");
        let listed = self.typed(1, "experimental bundle list")?;
        let rule = "*".repeat(40);
        let head = format!("{rule}\n* spiffe://{name}\n{rule}\n{{\n");
        ensure!(listed.starts_with(&head), "{listed}");
        Ok(())
    }

    /// Steps 8 and 11: makes the workload's entry anew, with `--federatesWith` or without.
    pub(super) fn register(&mut self, federated: bool) -> Result<()> {
        if let Some(entry) = self.entry.take() {
            self.typed(0, &format!("entry delete -entryID {entry}"))?;
        }
        let (own, peer, workload) = (self.cluster.trust_domain(), self.peer, &self.workload);
        let with =
            if federated { format!("--federatesWith spiffe://{peer}") } else { String::new() };
        let uid = nix::unistd::getuid();
        let created = self.typed(
            2,
            &format!(
                "entry create --parentID spiffe://{own}/spire-agent {workload} --selector unix:uid:{uid} {with}"
            ),
        )?;
        let id = created.lines().find(|line| line.starts_with("Entry ID         :"));
        let id = id.and_then(|line| line.split_whitespace().nth(3)).context("no entry id")?;
        self.entry = Some(id.to_owned());
        let shown = self.typed(1, "entry show")?;
        ensure!(shown.starts_with("Found 2 entries\n"), "{shown}");
        ensure!(shown.contains("FederatesWith") == federated, "{shown}");
        Ok(())
    }

    /// One end of the pair.
    fn end(&self, program: &str, words: [&str; 3]) -> Command {
        let mut command = Command::new(program);
        command.args(words);
        let socket = self.agent.socket();
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
        command
    }
}

/// Who refuses, if anybody does.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Page,
    ClientRefuses,
    ServerRefuses,
}

/// Whether foo's entry federates, whether bar's does, and what the client meets then.
pub(super) const STEPS: [(bool, bool, Outcome); 5] = [
    (true, true, Outcome::Page),
    (true, false, Outcome::ClientRefuses),
    (false, false, Outcome::ClientRefuses),
    (false, true, Outcome::ServerRefuses),
    (true, true, Outcome::Page),
];

/// What an end says that lacks the roots of the other's trust domain.
pub(super) fn no_roots(of: &str) -> String {
    format!("no X.509 bundle for trust domain {of:?}")
}

/// Steps 1 to 8: foo and bar, which hold each other's bundle, and the entries of both workloads.
pub(super) async fn two_domains(folder: &Path) -> Result<[Domain; 2]> {
    let dns = "--dns http-server --dns http-server.foo.svc.cluster.local";
    let mut own = Domain::start(folder, FOO, BAR, format!("--spiffeID {SERVER} {dns}")).await?;
    let mut bar = Domain::start(folder, BAR, FOO, format!("--spiffeID {CLIENT}")).await?;
    own.trust(&bar, &folder.join("bar.pem"))?;
    bar.trust(&own, &folder.join("foo.pem"))?;
    own.register(true)?;
    bar.register(true)?;
    Ok([own, bar])
}

/// Walks.
pub(super) async fn walk(folder: &Path, program: &str) -> Result<()> {
    let [mut own, mut bar] = two_domains(folder).await?;

    let [port] = ports::lease()?;
    let address = format!("127.0.0.1:{port}");
    let log = folder.join("http-server.log");
    let mut command = own.end(program, ["server", &address, CLIENT]);
    let mut process = Process::spawn("http-server", &mut command, &log)?;
    for (of_foo, of_bar, outcome) in STEPS {
        own.register(of_foo)?;
        bar.register(of_bar)?;
        let what = format!("foo federated: {of_foo}, bar federated: {of_bar}");
        let met = wait_for(&what, WITHIN, async || {
            ensure!(process.is_running(), "the server ended");
            meets(&bar, program, &address, &log, outcome)
        });
        met.await.with_context(|| log_tail(&log, 20))?;
    }
    Ok(())
}

/// Whether the client and the server meet as they should now.
fn meets(bar: &Domain, program: &str, address: &str, log: &Path, outcome: Outcome) -> Result<()> {
    let before = fs::read_to_string(log).context("read the server's log")?.len();
    let output =
        bar.end(program, ["client", address, SERVER]).output().context("run the client")?;
    let (said, error) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    let logged = fs::read_to_string(log).context("read the server's log")?;
    let logged = logged.get(before..).unwrap_or_default();
    match outcome {
        Outcome::Page => {
            ensure!(output.status.success(), "{error}");
            ensure!(said.contains(TITLE), "{said}");
        }
        Outcome::ClientRefuses => {
            ensure!(!output.status.success(), "the page came: {said}");
            ensure!(error.contains(&no_roots(FOO)), "{error}");
            ensure!(logged.contains("remote error: tls: "), "the server logged {logged:?}");
        }
        Outcome::ServerRefuses => {
            ensure!(!output.status.success(), "the page came: {said}");
            ensure!(error.contains("remote error: tls: "), "{error}");
            ensure!(logged.contains(&no_roots(BAR)), "the server logged {logged:?}");
        }
    }
    Ok(())
}

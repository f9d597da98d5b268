//! The demo's stages, in order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spiffe::WorkloadApiClient;
use steeple_testkit::client::{self, AttestedClient};
use steeple_testkit::load::{self, Attempts, Report};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Agent, Cluster, ClusterSpec};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::operations::Targets;
use super::story::Story;
use super::workload;

/// One operation of each kind every so often.
const EVERY: Duration = Duration::from_millis(50);

/// How long the four clients work at each stage: spans of load, nothing is waited for.
const UNDISTURBED: Duration = Duration::from_secs(3);
const ONE_DOWN: Duration = Duration::from_secs(4);
const ALL_BACK: Duration = Duration::from_secs(2);

/// Entry writes may pause this long when the leader dies.
const WRITE_GAP_MAX: Duration = Duration::from_secs(2);

/// Renewals that the last replica must give without a quorum.
const RENEWALS_MIN: u64 = 20;

/// What the person asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Leave everything running at the end.
    pub(crate) keep: bool,
}

/// The whole demo; an error says what went wrong.
#[expect(clippy::print_stdout, reason = "the story is the program's output")]
pub(crate) async fn demo(options: Options) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steeple-demo-").tempdir()?;
    let outcome = stages(folder.path(), options).await;
    if outcome.is_err() {
        println!("logs are kept in {}", folder.keep().display());
    }
    outcome?;
    println!("demo: ok");
    Ok(())
}

async fn stages(folder: &Path, options: Options) -> Result<()> {
    let story = Story::begin();
    let mut cluster = form(&story, folder).await?;
    let mut agent = attest(&story, folder, &cluster).await?;
    let endpoint = agent.endpoint();
    verify(&story, &endpoint).await?;
    let targets = prepare_load(&story, &cluster, &endpoint).await?;
    let reports = kill_leader(&story, &mut cluster, &targets).await?;
    let renewals = stop_two(&story, &mut cluster, &targets).await?;
    heal(&story, &cluster, &targets).await?;
    ensure!(agent.process().is_running(), "the agent ended:\n{}", agent.process().log_tail(20));
    conclude(&story, &reports, renewals)?;
    if options.keep {
        keep(&cluster, &agent).await?;
    }
    Ok(())
}

async fn form(story: &Story, folder: &Path) -> Result<Cluster> {
    story.tell(
        "starting three spire-server processes, each with an empty folder and the same cluster key",
    );
    let spec = ClusterSpec {
        // The demo has no half minute to wait for agents to find another way: there is none.
        cluster_lines: "  renew_only_delay = \"1s\"\n".to_owned(),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(folder, &spec).await?;
    let leader = cluster.leader(Duration::from_secs(10)).await?;
    let status = cluster.member(leader)?.status().await?;
    let voters = status.members.len();
    ensure!(voters == 3, "{voters} members instead of three");
    story.tell(format!(
        "cluster {} formed: 3 voters, replica {} leads",
        status.cluster_id,
        leader + 1
    ));
    Ok(cluster)
}

async fn attest(story: &Story, folder: &Path, cluster: &Cluster) -> Result<Agent> {
    let token = token(cluster, 0, Some("spiffe://example.org/demo-node"))?;
    story.tell("replica 1: spire-server token generate -spiffeID spiffe://example.org/demo-node");
    create_entry(
        cluster,
        1,
        "spiffe://example.org/demo-node",
        "spiffe://example.org/workload",
        &own_uid(),
    )?;
    story.tell("replica 2: spire-server entry create -spiffeID spiffe://example.org/workload");
    let agent = Agent::start(&folder.join("agent"), cluster, &[2], &token, "").await?;
    drop(agent);
    story.tell("replica 3: the agent attested with the token of replica 1");
    // From here on the agent knows all three.
    let restarted = Agent::resume(&folder.join("agent"), cluster, &[2, 0, 1]).await?;
    story.tell("the agent runs, knows all three replicas and serves the Workload API");
    Ok(restarted)
}

async fn verify(story: &Story, endpoint: &str) -> Result<()> {
    let started = Instant::now();
    let id = workload::x509(endpoint).await?;
    ensure!(id == "spiffe://example.org/workload", "the workload got {id}");
    story.tell(format!(
        "the `spiffe` crate fetched {id} and shook hands with itself by mutual TLS ({} ms)",
        started.elapsed().as_millis()
    ));
    let client = WorkloadApiClient::connect_to(endpoint).await?;
    let subject = workload::jwt(&client, "demo").await?;
    ensure!(subject == id, "the token names {subject}");
    story.tell("its JWT-SVID verifies against the fetched bundle");
    Ok(())
}

async fn prepare_load(story: &Story, cluster: &Cluster, endpoint: &str) -> Result<Targets> {
    let token = token(cluster, 1, None)?;
    let ports: Vec<u16> = cluster.members().iter().map(|member| member.api_port).collect();
    let attested = wait_for("the load client to attest", Duration::from_secs(10), async || {
        AttestedClient::attest(&ports, &token).await
    })
    .await?;
    let entry_id =
        create_entry(cluster, 2, &attested.id.to_string(), "spiffe://example.org/load", "1")?;
    story.tell(format!("a load client attested as {}", attested.id));
    let admin: Vec<Channel> =
        cluster.members().iter().map(|member| client::unix_channel(&member.socket())).collect();
    Ok(Targets {
        issuers: attested.channels().to_vec(),
        entry_id,
        endpoint: endpoint.to_owned(),
        admin,
    })
}

async fn kill_leader(
    story: &Story,
    cluster: &mut Cluster,
    targets: &Targets,
) -> Result<Vec<Report>> {
    let (stop, stopped) = watch::channel(false);
    let t = targets.clone();
    let issue = tokio::task::spawn_local(load::run(
        "BatchNewX509SVID",
        EVERY,
        stopped.clone(),
        move |n, d, a| t.clone().issue(n, d, a),
    ));
    let t = targets.clone();
    let jwt = tokio::task::spawn_local(load::run(
        "JWT, new audience",
        EVERY,
        stopped.clone(),
        move |n, d, a| t.clone().jwt(n, d, a),
    ));
    let t = targets.clone();
    let fetch = tokio::task::spawn_local(load::run(
        "Workload API fetch",
        EVERY,
        stopped.clone(),
        move |n, d, a| t.clone().fetch(n, d, a),
    ));
    let t = targets.clone();
    let entry = tokio::task::spawn_local(load::run(
        "entry create, delete",
        EVERY,
        stopped,
        move |n, d, a| t.clone().entry(n, d, a),
    ));
    story.tell("four clients work, one operation each every 50 ms");
    tokio::time::sleep(UNDISTURBED).await;
    let leader = cluster.leader(Duration::from_secs(5)).await?;
    cluster.kill_member(leader)?;
    let killed = Instant::now();
    story.tell(format!("replica {} (the leader) killed with SIGKILL", leader + 1));
    let next = cluster.leader(Duration::from_secs(10)).await?;
    story.tell(format!("replica {} leads after {} ms", next + 1, killed.elapsed().as_millis()));
    tokio::time::sleep(ONE_DOWN).await;
    cluster.start_member(leader)?;
    cluster.wait_ready(Duration::from_secs(20)).await?;
    story.tell(format!("replica {} restarted and ready again", leader + 1));
    tokio::time::sleep(ALL_BACK).await;
    stop.send(true).context("stop the load")?;
    let reports = vec![issue.await?, jwt.await?, fetch.await?, entry.await?];
    story.tell("the four clients have stopped");
    Ok(reports)
}

async fn stop_two(story: &Story, cluster: &mut Cluster, targets: &Targets) -> Result<u64> {
    for index in [0, 1] {
        cluster.kill_member(index)?;
    }
    story.tell("replicas 1 and 2 killed: replica 3 has no quorum");
    let alone = [targets.issuers.get(2).context("replica 3")?.clone()];
    let mut renewals = 0;
    let until = Instant::now() + Duration::from_secs(20);
    while renewals < RENEWALS_MIN {
        if Instant::now() > until {
            bail!("replica 3 gave {renewals} of {RENEWALS_MIN} renewals within 20 s");
        }
        let targets = targets.clone();
        let only =
            targets.on(&alone).issue(0, Instant::now() + load::DEADLINE, Attempts::default()).await;
        renewals += u64::from(only.is_ok());
    }
    story.tell(format!(
        "replica 3 renewed {renewals} SVIDs, each for a new key, from its last confirmed state"
    ));
    let refused = cluster.member(2)?.cli(&[
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/x",
        "-spiffeID",
        "spiffe://example.org/y",
        "-selector",
        "unix:uid:1",
    ])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned()
        + &String::from_utf8_lossy(&refused.stdout);
    ensure!(!refused.status.success(), "a write succeeded without a quorum");
    ensure!(
        text.contains("Unavailable") && text.contains("voters reachable"),
        "the refusal names no quorum: {text}"
    );
    story.tell(format!("replica 3 refuses writes: {}", text.trim()));
    for index in [0, 1] {
        cluster.start_member(index)?;
    }
    let returned = Instant::now();
    cluster.wait_ready(Duration::from_secs(20)).await?;
    cluster.leader(Duration::from_secs(10)).await?;
    story.tell(format!(
        "replicas 1 and 2 are back; there is a leader after {} ms",
        returned.elapsed().as_millis()
    ));
    Ok(renewals)
}

async fn heal(story: &Story, cluster: &Cluster, targets: &Targets) -> Result<()> {
    let deadline = || Instant::now() + load::DEADLINE;
    // Numbers that the load has not used.
    for number in [1_000_000, 1_000_001] {
        targets
            .clone()
            .entry(number, deadline(), Attempts::default())
            .await
            .context("write after healing")?;
    }
    for index in 0..3 {
        targets
            .clone()
            .issue(index, deadline(), Attempts::default())
            .await
            .context("issue after healing")?;
    }
    targets
        .clone()
        .fetch(0, deadline(), Attempts::default())
        .await
        .context("fetch after healing")?;
    let shown: Vec<String> = cluster
        .members()
        .iter()
        .map(|member| {
            member
                .cli(&["entry", "count"])
                .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        })
        .collect::<Result<_>>()?;
    ensure!(shown.windows(2).all(|pair| pair.first() == pair.last()), "replicas differ: {shown:?}");
    story.tell(format!(
        "healed: writes and issuance work everywhere; every replica says \"{}\"",
        shown.join("\", \"")
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is the program's output")]
fn conclude(story: &Story, reports: &[Report], renewals: u64) -> Result<()> {
    story.tell("what came of the four clients' work:");
    println!("\n{}", load::table(reports));
    println!("renewals without a quorum: {renewals}\n");
    for report in reports {
        if report.failed > 0 {
            let text = report.first_failure.as_deref().unwrap_or("no text");
            bail!(
                "{}: {} of {} failed, first: {text}",
                report.kind,
                report.failed,
                report.scheduled
            );
        }
        ensure!(report.ok > 100, "{}: only {} operations", report.kind, report.ok);
        ensure!(
            report.longest_gap < WRITE_GAP_MAX,
            "{}: a gap of {:?}",
            report.kind,
            report.longest_gap
        );
    }
    Ok(())
}

/// Generates a token on a member.
pub(crate) fn token(cluster: &Cluster, index: usize, spiffe_id: Option<&str>) -> Result<String> {
    let mut args = vec!["token", "generate"];
    args.extend(spiffe_id.iter().flat_map(|id| ["-spiffeID", id]));
    let json = cluster.member(index)?.cli_json(&args)?;
    Ok(json
        .get("value")
        .and_then(|value| value.as_str())
        .context("no value in the token's JSON")?
        .to_owned())
}

/// Creates an entry on a member, for processes of a user, and returns its id.
fn create_entry(
    cluster: &Cluster,
    index: usize,
    parent: &str,
    id: &str,
    uid: &str,
) -> Result<String> {
    let selector = format!("unix:uid:{uid}");
    let args = ["entry", "create", "-parentID", parent, "-spiffeID", id, "-selector", &selector];
    let json = cluster.member(index)?.cli_json(&args)?;
    let entry = json.pointer("/results/0/entry/id").and_then(|value| value.as_str());
    Ok(entry.context("no id in the entry's JSON")?.to_owned())
}

fn own_uid() -> String {
    nix::unistd::getuid().to_string()
}

/// A cluster and an agent that stay up until the person ends them.
#[expect(clippy::print_stdout, reason = "the commands to try are the program's output")]
pub(crate) async fn cluster(members: usize) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steeple-cluster-").tempdir()?;
    let spec = ClusterSpec { members, ..ClusterSpec::default() };
    let cluster = Cluster::start(folder.path(), &spec).await?;
    let token = token(&cluster, 0, Some("spiffe://example.org/demo-node"))?;
    create_entry(
        &cluster,
        0,
        "spiffe://example.org/demo-node",
        "spiffe://example.org/workload",
        &own_uid(),
    )?;
    let order: Vec<usize> = (0..members).collect();
    let agent = Agent::start(&folder.path().join("agent"), &cluster, &order, &token, "").await?;
    println!("everything is in {}", folder.path().display());
    keep(&cluster, &agent).await
}

#[expect(clippy::print_stdout, reason = "the commands to try are the program's output")]
async fn keep(cluster: &Cluster, agent: &Agent) -> Result<()> {
    let server = steeple_testkit::process::binary("spire-server")?;
    let agent_binary = steeple_testkit::process::binary("spire-agent")?;
    println!("\nrunning; try, in another terminal:");
    for member in cluster.members() {
        println!("  {} cluster status -socketPath {}", server.display(), member.socket().display());
    }
    println!(
        "  {} api fetch x509 -socketPath {}",
        agent_binary.display(),
        agent.socket().display()
    );
    println!("Ctrl-C ends it.");
    steeple_testkit::process::stop_signal().await
}

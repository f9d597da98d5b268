//! Lanes of foreign clients, each against a cluster and an agent of its own.
//!
//! A client program is given the Workload API's address and what to expect by environment, and must:
//! fetch X.509 and JWT, validate, watch through a rotation, and exit 0. SVIDs live a few seconds
//! here so that a rotation comes soon.

mod federation;
mod ghostunnel;
mod stock;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spiffe::{WorkloadApiClient, X509Source};
use steeple_testkit::{Agent, Cluster, ClusterSpec, Process};

/// The identity that the client's process gets.
const WORKLOAD: &str = "spiffe://example.org/workload";

/// How long a client may take.
const WITHIN: Duration = Duration::from_secs(90);

/// Runs a lane.
#[expect(clippy::print_stdout, reason = "a lane says what it did")]
pub(crate) async fn run(lane: &str, rest: &[String]) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steeple-interop-").tempdir()?;
    let outcome = match (lane, rest) {
        ("rust", []) => rust(folder.path()).await,
        ("go", [program, pair]) => go(folder.path(), program, pair).await,
        ("python", [python, script]) => foreign(folder.path(), &[python, script]).await,
        ("stock", [binaries]) => stock::run(folder.path(), Path::new(binaries)).await,
        ("ghostunnel", [program]) => ghostunnel::walk(folder.path(), Path::new(program)).await,
        ("federated", [binaries]) => stock::federated(folder.path(), Path::new(binaries)).await,
        ("nested", [binaries]) => stock::nested(folder.path(), Path::new(binaries)).await,
        _ => bail!("unknown lane {lane} {rest:?}"),
    };
    if outcome.is_err() {
        println!("logs are kept in {}", folder.keep().display());
    }
    outcome?;
    println!("interop {lane}: ok");
    Ok(())
}

/// A cluster of three and an agent whose workload SVIDs live 20 s.
async fn stage(folder: &Path) -> Result<(Cluster, Agent)> {
    let cluster = Cluster::start(folder, &ClusterSpec::default()).await?;
    let token = crate::demo::token(&cluster, 0, Some("spiffe://example.org/node"))?;
    let selector = format!("unix:uid:{}", nix::unistd::getuid());
    cluster.member(1)?.cli_json(&[
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/node",
        "-spiffeID",
        WORKLOAD,
        "-selector",
        &selector,
        "-x509SVIDTTL",
        "20",
    ])?;
    let agent = Agent::start(&folder.join("agent"), &cluster, &[2, 0, 1], &token, "").await?;
    Ok((cluster, agent))
}

/// A workload of one trust domain, then two of two.
async fn go(folder: &Path, program: &str, pair: &str) -> Result<()> {
    foreign(&folder.join("one"), &[program]).await?;
    federation::walk(&folder.join("two"), pair).await
}

async fn foreign(folder: &Path, words: &[&str]) -> Result<()> {
    let (_cluster, agent) = stage(folder).await?;
    let (program, args) = words.split_first().context("a client program")?;
    let mut command = Command::new(program);
    command.args(args);
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", agent.socket().display()));
    command.env("STEEPLE_EXPECT_ID", WORKLOAD);
    let mut process = Process::spawn("client", &mut command, &folder.join("client.log"))?;
    let status = process.wait(WITHIN).await;
    let status = status.with_context(|| format!("client said:\n{}", process.log_tail(40)))?;
    ensure!(status.success(), "client ended with {status}:\n{}", process.log_tail(40));
    Ok(())
}

/// The `spiffe` crate: X.509 and JWT, fetch, validate, watch through a rotation.
async fn rust(folder: &Path) -> Result<()> {
    let (_cluster, agent) = stage(folder).await?;
    let endpoint = agent.endpoint();
    ensure!(crate::demo::x509(&endpoint).await? == WORKLOAD, "another identity");
    let client = WorkloadApiClient::connect_to(&endpoint).await?;
    ensure!(crate::demo::jwt(&client, "interop").await? == WORKLOAD, "another subject");
    let token = client.fetch_jwt_token(["interop"], None).await?;
    client.validate_jwt_token("interop", &token).await.context("validate through the agent")?;
    ensure!(
        client.validate_jwt_token("other", &token).await.is_err(),
        "a wrong audience was accepted"
    );
    let source = X509Source::builder().endpoint(&endpoint).build().await?;
    let first = source.svid()?.leaf().as_bytes().to_vec();
    let mut updates = source.updated();
    let rotated = async {
        loop {
            updates.changed().await?;
            if source.svid()?.leaf().as_bytes() != first {
                return Ok::<_, anyhow::Error>(());
            }
        }
    };
    tokio::time::timeout(WITHIN, rotated).await.context("no rotation was seen")?
}

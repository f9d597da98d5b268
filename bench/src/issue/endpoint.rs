//! The bundle endpoint of one replica, beside a server that sends the same bytes.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use rustls::ClientConfig;
use serde_json::Value;
use steeple_spiffe_core::KeyType;
use steeple_spiffe_core::tls::insecure_bootstrap_client_config;
use steeple_testkit::Cluster;
use steeple_testkit::client::server_id;
use steeple_testkit::ports;

use super::echo::{Answers, Echo};
use super::plan::Plan;
use super::replicas::{Replicas, spec};
use super::table::{self, ECHO, OURS};
use super::tls_client::Connection;
use crate::closed_loop::{self, Caller, Pids, Round};
use crate::report::{Report, Row};

/// How long starts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How callers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each has a connection that stays open.
    Kept,
    /// Each request has a connection of its own.
    New,
}

const WAYS: [Way; 2] = [Way::Kept, Way::New];

impl Way {
    fn callers(self) -> usize {
        match self {
            Self::Kept => 16,
            Self::New => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "GET /, 16 kept connections",
            Self::New => "GET /, 8 callers, a connection each",
        }
    }
}

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line("## bundle_endpoint: profile https_spiffe\n");
    let (mut replicas, port) = start().await?;
    let tls = tls()?;
    let document = Connection::open(port, &tls).await?.ask(get()?).await?;
    let read: Value = serde_json::from_slice(&document).context("read the document")?;
    ensure!(read.get("keys").is_some(), "no bundle: {read}");
    let echo = Echo::start(Answers::Document(&document)).await?;
    report.line(&format!(
        "- steeple: one of three replicas, log level warn; HTTP/1.1 over TLS 1.3, no certificate asked for, a document of {} bytes",
        document.len()
    ));
    report
        .line("- echo: a process of ours that sends the same document by hyper over the same TLS");
    report.line("- the CPU of all three replicas counts; callers share the machine\n");
    let row = |system| Row { system, rounds: Vec::new() };
    let mut tables = WAYS.map(|_| [row(OURS), row(ECHO)]);
    for _ in 0..plan.rounds {
        for (way, [ours, echoes]) in WAYS.iter().zip(&mut tables) {
            let (all, called) = (replicas.pids()?, [replicas.called_pid()?]);
            let pids = Pids { all: &all, called: &called };
            ours.rounds.push(round(*way, port, &tls, plan.slice, pids).await?);
            let pids = [echo.pid()];
            let pids = Pids::whole(&pids);
            echoes.rounds.push(round(*way, echo.port(), &tls, plan.slice, pids).await?);
        }
    }
    table::head(report);
    for (way, rows) in WAYS.iter().zip(&tables) {
        table::rows(report, way.name(), rows);
    }
    report.line("");
    Ok(())
}

/// A cluster whose members all have an endpoint, and the port of the one that is called.
async fn start() -> Result<(Replicas, u16)> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::prepare(folder.path(), &spec(KeyType::EcP256))?;
    let ports: [u16; 3] = ports::lease()?;
    for (member, port) in cluster.members().iter().zip(ports) {
        let text = fs::read_to_string(member.config()).context("read server.conf")?;
        let endpoint = format!(
            "server {{\n  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      \
             port = {port}\n      profile \"https_spiffe\" {{}}\n    }}\n  }}\n"
        );
        let text = text.replacen("server {\n", &endpoint, 1);
        fs::write(member.config(), text).context("write server.conf")?;
    }
    for member in 0..cluster.members().len() {
        cluster.start_member(member)?;
    }
    cluster.wait_ready(PATIENCE).await?;
    let replicas = Replicas::of(cluster, folder).await?;
    let port = *ports.get(replicas.called).context("a port")?;
    Ok((replicas, port))
}

/// A client that knows servers by their name alone, since what it costs is the same; HTTP/1.1.
fn tls() -> Result<Arc<ClientConfig>> {
    let mut config = (*insecure_bootstrap_client_config(server_id()?)?).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn get() -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().uri("/").header("host", "localhost");
    request.body(Full::default()).context("build a request")
}

async fn round(
    way: Way,
    port: u16,
    tls: &Arc<ClientConfig>,
    slice: Duration,
    pids: Pids<'_>,
) -> Result<Round> {
    let fetcher = || Fetcher { way, port, tls: Arc::clone(tls), kept: None };
    let callers = std::iter::repeat_with(fetcher).take(way.callers()).collect();
    closed_loop::run(callers, 1, slice, pids).await
}

/// A caller of an endpoint.
struct Fetcher {
    way: Way,
    port: u16,
    tls: Arc<ClientConfig>,
    kept: Option<Connection>,
}

impl Caller for Fetcher {
    async fn call(&mut self) -> Result<()> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.port, &self.tls).await?,
        };
        let document = connection.ask(get()?).await?;
        ensure!(!document.is_empty(), "an empty answer");
        if self.way == Way::Kept {
            self.kept = Some(connection);
        }
        Ok(())
    }
}

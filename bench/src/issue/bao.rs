//! OpenBao's PKI engine, of the program that `STEEPLE_BAO` names (or `bao` on PATH), asked by its
//! HTTP API over TLS for one certificate a call.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use rustls::ClientConfig;
use serde_json::{Value, json};
use steeple_spiffe_core::pem;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{WebTrust, web_client_config};
use steeple_testkit::client::request_key;
use steeple_testkit::ports;
use steeple_testkit::process::{Process, wait_for};
use tempfile::TempDir;

use super::tls_client::Connection;
use crate::closed_loop::{self, Caller, Pids, Round};

const PATIENCE: Duration = Duration::from_secs(60);

/// Who may do anything. In memory, for a benchmark.
const ROOT_TOKEN: &str = "root";

/// Connections, each with one call under way.
const CONNECTIONS: usize = 32;

/// A server in memory with a root on P-256.
#[derive(Debug)]
pub(crate) struct Bao {
    process: Process,
    port: u16,
    tls: Arc<ClientConfig>,
    request: Bytes,
    /// What is printed of its settings.
    pub(crate) settings: String,
    _folder: TempDir,
}

impl Bao {
    /// Starts one, with a role that signs what it is asked for and keeps nothing of it.
    pub(crate) async fn start() -> Result<Self> {
        let program = std::env::var_os("STEEPLE_BAO").map_or_else(|| "bao".into(), PathBuf::from);
        let version = Command::new(&program).arg("version").output();
        let version =
            version.context("no bao on PATH, and STEEPLE_BAO names none: cargo xtask setup")?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let folder = tempfile::tempdir().context("create a folder")?;
        let [port] = ports::lease()?;
        let process = spawn(&program, port, folder.path())?;
        // Who answers on this port is the process that was just started.
        let tls = web_client_config(&WebTrust::Nobody, None, Arc::new(SystemClock))?;
        let settings = format!(
            "OpenBao: {version}, development server (storage in memory, no audit), PKI with a root on P-256, role with no_store, over TLS on {CONNECTIONS} kept connections, one certificate a call whatever our batches"
        );
        let request = request()?;
        let mut bao =
            Self { process, port, tls: Arc::new(tls), request, settings, _folder: folder };
        bao.wait_healthy().await?;
        bao.prepare().await?;
        Ok(bao)
    }

    /// One round of callers that sign.
    pub(crate) async fn round(&self, slice: Duration) -> Result<Round> {
        let mut callers = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = Connection::open(self.port, &self.tls).await?;
            callers.push(Signed { connection, request: self.request.clone() });
        }
        closed_loop::run(callers, 1, slice, Pids::whole(&[self.process.pid()])).await
    }

    async fn wait_healthy(&mut self) -> Result<()> {
        let (port, tls) = (self.port, Arc::clone(&self.tls));
        let process = &mut self.process;
        wait_for("OpenBao", PATIENCE, async || {
            ensure!(process.is_running(), "it ended: {}", process.log_tail(10));
            let mut connection = Connection::open(port, &tls).await?;
            connection.ask(call(&Method::GET, "sys/health", Bytes::new())?).await.map(drop)
        })
        .await
    }

    async fn prepare(&self) -> Result<()> {
        let role = json!({
            "allow_any_name": true, "enforce_hostnames": false, "require_cn": false,
            "allowed_uri_sans": "spiffe://*", "use_csr_common_name": false, "use_csr_sans": false,
            "key_type": "any", "no_store": true, "generate_lease": false, "max_ttl": "24h",
        });
        let steps = [
            ("sys/mounts/pki", json!({ "type": "pki" })),
            ("sys/mounts/pki/tune", json!({ "max_lease_ttl": "87600h" })),
            (
                "pki/root/generate/internal",
                json!({ "common_name": "Root", "ttl": "87600h", "key_type": "ec", "key_bits": 256 }),
            ),
            ("pki/roles/bench", role),
        ];
        for (path, body) in steps {
            let mut connection = Connection::open(self.port, &self.tls).await?;
            let request = call(&Method::POST, path, body.to_string().into())?;
            connection.ask(request).await.with_context(|| path.to_owned())?;
        }
        // The answer is looked at once here, and in no call that counts.
        let mut connection = Connection::open(self.port, &self.tls).await?;
        let answer = connection.ask(sign(&self.request)?).await.context("sign")?;
        let answer: Value = serde_json::from_slice(&answer).context("read the answer")?;
        let certificate = answer.pointer("/data/certificate").and_then(Value::as_str);
        ensure!(certificate.is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")), "{answer}");
        Ok(())
    }
}

fn spawn(program: &Path, port: u16, folder: &Path) -> Result<Process> {
    let mut server = Command::new(program);
    server
        .args(["server", "-dev", "-dev-tls", "-dev-no-store-token", "-log-level=warn"])
        .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
        .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
        .arg(format!("-dev-tls-cert-dir={}", folder.display()));
    Process::spawn("bao", &mut server, &folder.join("log"))
}

/// What is asked for: a certificate for a key on P-256, with a SPIFFE id.
fn request() -> Result<Bytes> {
    let (_key, csr) = request_key()?;
    let wanted = json!({
        "csr": pem::encode_request(&csr),
        "uri_sans": "spiffe://example.org/ns/bench/sa/workload",
        "ttl": "1h",
    });
    Ok(wanted.to_string().into())
}

fn call(method: &Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .header("host", "localhost")
        .header("x-vault-token", ROOT_TOKEN)
        .header("content-type", "application/json");
    request.body(Full::new(body)).context("build a request")
}

fn sign(body: &Bytes) -> Result<Request<Full<Bytes>>> {
    call(&Method::POST, "pki/sign/bench", body.clone())
}

/// A caller on a connection of its own.
struct Signed {
    connection: Connection,
    request: Bytes,
}

impl Caller for Signed {
    async fn call(&mut self) -> Result<()> {
        self.connection.ask(sign(&self.request)?).await.map(drop)
    }
}

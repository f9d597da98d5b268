//! Pebble: the small ACME server of those who run Let's Encrypt, on loopback, with its own DNS.
//!
//! Owns how its two programs are had (built by Go from their module, once, into the cache folder),
//! their files and their ports. It trusts nobody and is trusted by whoever is given its roots.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{WebTrust, web_client_config};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ports;
use crate::process::{Process, log_tail, wait_for};

/// Another version is another program.
const VERSION: &str = "v2.10.1";

const MODULE: &str = "github.com/letsencrypt/pebble/v2/cmd";

/// A minute of CPU at most has passed by then, and both listen.
const START_TIME: Duration = Duration::from_secs(20);

/// How it is to behave.
#[derive(Clone, Copy, Debug)]
pub struct PebbleSpec {
    /// The port at which it looks for the answers to TLS-ALPN-01 challenges.
    pub tls_port: u16,
    /// How long its certificates last.
    pub validity: Duration,
}

/// A running server.
#[derive(Debug)]
pub struct Pebble {
    dns: Process,
    server: Process,
    folder: PathBuf,
    port: u16,
    management_port: u16,
    dns_management_port: u16,
    root: Vec<u8>,
}

impl Pebble {
    /// Starts it. Every name leads to 127.0.0.1 until [`Self::resolve_to`] says otherwise.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub async fn start(programs: &Path, folder: &Path, spec: &PebbleSpec) -> Result<Self> {
        let folder = folder.join("pebble");
        fs::create_dir_all(&folder).context("create Pebble's folder")?;
        let root = write_files(&folder)?;
        let [port, management_port, dns_port, dns_management_port] = ports::lease()?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(programs.join("pebble-challtestsrv"));
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
        command.args(["-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]);
        command.arg("-dnsserver").arg(local(dns_port));
        command.arg("-management").arg(local(dns_management_port));
        let dns = Process::spawn("pebble-challtestsrv", &mut command, &folder.join("dns.log"))?;
        let config = json!({"pebble": {
            "listenAddress": local(port),
            "managementListenAddress": local(management_port),
            "certificate": folder.join("server.pem"),
            "privateKey": folder.join("server-key.pem"),
            "httpPort": 1,
            "tlsPort": spec.tls_port,
            "keyAlgorithm": "ecdsa",
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {
                "description": "short", "validityPeriod": spec.validity.as_secs(),
            }},
        }});
        fs::write(folder.join("config.json"), config.to_string()).context("write its config")?;
        let mut command = Command::new(programs.join("pebble"));
        command.arg("-config").arg(folder.join("config.json"));
        command.arg("-dnsserver").arg(local(dns_port));
        // It looks at once and every time: it makes tests slow and lucky otherwise.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let server = Process::spawn("pebble", &mut command, &folder.join("pebble.log"))?;
        let pebble = Self { dns, server, folder, port, management_port, dns_management_port, root };
        let started = wait_for("Pebble", START_TIME, async || {
            pebble.issuing_root().await?;
            TcpStream::connect(("127.0.0.1", dns_management_port)).await?;
            Ok(())
        });
        started.await.with_context(|| pebble.words())?;
        Ok(pebble)
    }

    /// `directory_url`.
    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// What the server's own certificate chains to, in DER.
    pub fn server_root(&self) -> &[u8] {
        &self.root
    }

    /// The same as a file, for `SSL_CERT_FILE`.
    pub fn server_root_file(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    /// What the certificates that it makes chain to, in DER. Another one after each start.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn issuing_root(&self) -> Result<Vec<u8>> {
        let trust = WebTrust::Roots(vec![self.root.clone()]);
        let config = web_client_config(&trust, None, Arc::new(SystemClock))?;
        let stream = TcpStream::connect(("127.0.0.1", self.management_port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("127.0.0.1".try_into()?, stream).await?;
        let body = call(stream, "GET", "/roots/0", "").await?;
        Ok(CertificateDer::from_pem_slice(body.as_bytes())?.to_vec())
    }

    /// The leaf that is presented at an address under a name, if it chains to what this server
    /// makes, is good for the name, and has not ended.
    ///
    /// # Errors
    ///
    /// What a client would say.
    pub async fn leaf_at(&self, address: Ipv4Addr, port: u16, name: &str) -> Result<Vec<u8>> {
        let trust = WebTrust::Roots(vec![self.issuing_root().await?]);
        let config = web_client_config(&trust, None, Arc::new(SystemClock))?;
        let stream = TcpStream::connect((address, port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name.to_owned().try_into()?, stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok(leaf.context("no certificate")?.to_vec())
    }

    /// Has every name lead to an address.
    ///
    /// # Errors
    ///
    /// Its DNS does not answer.
    pub async fn resolve_to(&self, address: Ipv4Addr) -> Result<()> {
        let stream = TcpStream::connect(("127.0.0.1", self.dns_management_port)).await?;
        let body = json!({"ip": address.to_string()}).to_string();
        call(stream, "POST", "/set-default-ipv4", &body).await.map(drop)
    }

    /// The last words of both, for error texts.
    pub fn words(&self) -> String {
        format!("{}\n{}", log_tail(self.dns.log(), 5), log_tail(self.server.log(), 30))
    }

    /// Everything that the server has said.
    ///
    /// # Errors
    ///
    /// Its log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.server.log()).context("read Pebble's log")
    }
}

/// One call, whole.
async fn call(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).context("an answer in text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{method} {path}: {head}");
    }
    Ok(body.to_owned())
}

/// Its certificate and key: self-signed, so that it is its own root.
fn write_files(folder: &Path) -> Result<Vec<u8>> {
    let key = KeyPair::generate().context("make Pebble's key")?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let certificate = params?.self_signed(&key).context("make Pebble's certificate")?;
    fs::write(folder.join("server.pem"), certificate.pem())?;
    fs::write(folder.join("server-key.pem"), key.serialize_pem())?;
    Ok(certificate.der().to_vec())
}

/// The folder with both programs; builds them if they are not there yet. Blocks for a minute then.
///
/// # Errors
///
/// What this machine lacks to build them: a reason to skip.
pub fn install() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = base.or_else(home).unwrap_or_else(std::env::temp_dir);
    let folder = base.join("steeple/tools").join(format!("pebble-{VERSION}"));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    // One builds, the others wait; the lock goes with the process.
    let lock = File::create(folder.join("lock")).context("lock Pebble's folder")?;
    lock.lock().context("lock Pebble's folder")?;
    for name in ["pebble", "pebble-challtestsrv"] {
        if folder.join(name).is_file() {
            continue;
        }
        let package = format!("{MODULE}/{name}@{VERSION}");
        let mut go = Command::new("go");
        let built = go.arg("install").arg(&package).env("GOBIN", &folder).output();
        let built = built.context("cannot start go")?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            bail!("go install {package}: {}", said.lines().last().unwrap_or_default());
        }
    }
    Ok(folder)
}

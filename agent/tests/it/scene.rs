//! An agent process on a folder of its own, and clients on its socket.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use steeple_api::pb;
use steeple_api::pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_spiffe_core::pem;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::fake_server::FakeServer;

/// Nothing here takes longer unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Scene {
    pub(crate) server: FakeServer,
    folder: TempDir,
}

/// What differs between scenes.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<SocketAddr>,
    /// Lines of the `agent` block.
    pub(crate) agent: &'static str,
    /// Keys that don't survive a restart.
    pub(crate) memory_keys: bool,
    /// The trust bundle is written under another name.
    pub(crate) bundle_comes_later: bool,
    /// Polls; otherwise only pushes and workloads cause syncs.
    pub(crate) polls: bool,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { server: FakeServer::new(), folder: tempfile::tempdir().expect("folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("public/api.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub(crate) fn write_config(&self, settings: &Settings) -> PathBuf {
        let bundle = self.server.authority.bundle();
        let roots = bundle.x509_authorities.into_iter().map(|root| root.certificate_der);
        let roots: Vec<Vec<u8>> = roots.collect();
        let name = if settings.bundle_comes_later { "later.pem" } else { "bundle.pem" };
        fs::write(self.path(name), pem::encode_certificates(&roots)).expect("write");
        let servers: Vec<String> = settings.servers.iter().map(|s| format!("{s:?}")).collect();
        let servers: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        let folder = self.folder.path().display();
        let mut text = String::new();
        writeln!(
            text,
            "agent {{
                trust_domain = \"example.org\"
                data_dir = \"{folder}/data\"
                socket_path = \"{folder}/public/api.sock\"
                log_file = \"{folder}/agent.log\"
                log_level = \"DEBUG\"
                server_addresses = [{}]
                trust_bundle_path = \"{folder}/bundle.pem\"
                experimental {{ sync_interval = \"{}\" }}
                {}
            }}",
            servers.join(", "),
            if settings.polls { "200ms" } else { "1h" },
            settings.agent,
        )
        .expect("write");
        let keys = if settings.memory_keys {
            "KeyManager \"memory\" {}".to_owned()
        } else {
            format!("KeyManager \"disk\" {{ plugin_data {{ directory = \"{folder}/data\" }} }}")
        };
        writeln!(
            text,
            "plugins {{
                {keys}
                NodeAttestor \"join_token\" {{ plugin_data {{}} }}
                WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
            }}"
        )
        .expect("write");
        let path = self.path("agent.conf");
        fs::write(&path, text).expect("write");
        path
    }

    /// Starts the agent.
    pub(crate) fn start(&self, settings: &Settings, flags: &[&str]) -> Agent<'_> {
        let config = self.write_config(settings);
        let child = Command::new(env!("CARGO_BIN_EXE_spire-agent"))
            .arg("run")
            .arg("-config")
            .arg(config)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        Agent { scene: self, child }
    }

    /// Starts the agent with its token and waits until it serves.
    pub(crate) async fn serving(&self, settings: &Settings) -> Agent<'_> {
        let agent = self.start(settings, &["-joinToken", "token"]);
        agent.wait_until_serving().await;
        agent
    }
}

/// The process; killed when dropped.
pub(crate) struct Agent<'a> {
    scene: &'a Scene,
    child: Child,
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            self.tell_log("the log");
        }
    }
}

impl Agent<'_> {
    fn tell_log(&self, why: &str) {
        let text = format!("{why}:\n{}\n", self.scene.log());
        let _unread = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }

    pub(crate) async fn wait_until_serving(&self) {
        eventually("the agent serves", || self.scene.log().contains("Starting agent APIs")).await;
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent did not end\n{}", self.scene.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id()).expect("pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
    }

    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.exit().await;
        if !status.success() {
            self.tell_log(&status.to_string());
        }
        status
    }

    pub(crate) async fn channel(&self) -> Channel {
        let path = self.scene.socket();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.expect("connect")
    }

    pub(crate) async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    pub(crate) async fn x509_stream(
        &self,
    ) -> Result<Streaming<pb::workload::X509svidResponse>, Status> {
        let request = with_header(pb::workload::X509svidRequest {});
        let call = async { self.client().await.fetch_x509svid(request).await };
        Ok(within(call).await?.into_inner())
    }

    /// The first message of a new stream.
    pub(crate) async fn x509(&self) -> Result<pb::workload::X509svidResponse, Status> {
        let mut stream = self.x509_stream().await?;
        next(&mut stream).await
    }
}

pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    Ok(within(stream.message()).await?.expect("the stream goes on"))
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("value"));
    request
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("an answer in time")
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn ids(response: &pb::workload::X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

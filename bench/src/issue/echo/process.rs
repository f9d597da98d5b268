//! An echo as the benchmark sees it: a process and its port.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use steeple_spiffe_core::tls::insecure_bootstrap_client_config;
use steeple_testkit::client::{server_id, tls_channel};
use steeple_testkit::ports;
use steeple_testkit::process::{Process, wait_for};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::issue::agents::Samples;

const PATIENCE: Duration = Duration::from_secs(20);

/// What an echo answers with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answers<'a> {
    /// Results of the SVID service, over gRPC.
    Svids(&'a Samples),
    /// A document, over HTTP/1.1.
    Document(&'a [u8]),
}

/// A running echo.
#[derive(Debug)]
pub(crate) struct Echo {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Echo {
    /// Starts one of this very program, and waits until it listens.
    pub(crate) async fn start(answers: Answers<'_>) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let [port] = ports::lease()?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("echo");
        let files = match answers {
            Answers::Svids(samples) => {
                command.arg("svids");
                vec![("x509", samples.x509.as_slice()), ("jwt", samples.jwt.as_slice())]
            }
            Answers::Document(document) => {
                command.arg("document");
                vec![("document", document)]
            }
        };
        command.arg(port.to_string());
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::write(&path, bytes).context("write an answer of the echo")?;
            command.arg(path);
        }
        let process = Process::spawn("echo", &mut command, &folder.path().join("log"))?;
        let mut echo = Self { process, port, _folder: folder };
        wait_for("the echo", PATIENCE, async || {
            if !echo.process.is_running() {
                bail!("it ended: {}", echo.process.log_tail(5));
            }
            TcpStream::connect(("127.0.0.1", port)).await.map(drop).context("connect")
        })
        .await?;
        Ok(echo)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections of their own to the SVID service.
    pub(crate) fn channels(&self, count: usize) -> Result<Vec<Channel>> {
        let config = insecure_bootstrap_client_config(server_id()?)?;
        Ok((0..count).map(|_| tls_channel(self.port, config.clone())).collect())
    }
}

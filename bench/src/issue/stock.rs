//! A stock SPIRE server, of the folder that `STEEPLE_STOCK_BIN` names: the same calls by the same
//! agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_spiffe_core::KeyType;
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::ports;
use steeple_testkit::process::{Process, wait_for};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on sqlite.
#[derive(Debug)]
pub(crate) struct Stock {
    process: Process,
    port: u16,
    /// What is printed of its settings.
    pub(crate) settings: String,
    folder: TempDir,
}

impl Stock {
    /// Starts one with authorities of a key type.
    pub(crate) async fn start(key_type: KeyType) -> Result<Self> {
        let named = std::env::var_os("STEEPLE_STOCK_BIN").map(PathBuf::from);
        let binaries =
            named.context("STEEPLE_STOCK_BIN is not set (a folder with a stock spire-server)")?;
        let program = binaries.join("spire-server");
        ensure!(program.is_file(), "STEEPLE_STOCK_BIN has no spire-server");
        let settings = format!(
            "SPIRE: spire-server {}, one server on sqlite, log level warn, rate limits off, keys in memory, {key_type}",
            version(&program)?
        );
        let folder = tempfile::tempdir().context("create a folder")?;
        let [port] = ports::lease()?;
        let path = folder.path().join("server.conf");
        fs::create_dir_all(folder.path().join("data")).context("create the data folder")?;
        fs::write(&path, config(folder.path(), port, key_type)).context("write server.conf")?;
        let mut command = Command::new(&program);
        command.args(["run", "-config"]).arg(&path);
        let log = folder.path().join("server.log");
        let process = Process::spawn("stock spire-server", &mut command, &log)?;
        let mut stock = Self { process, port, settings, folder };
        let socket = stock.socket();
        let process = &mut stock.process;
        wait_for("the stock server", PATIENCE, async || {
            ensure!(process.is_running(), "it ended: {}", process.log_tail(10));
            UnixStream::connect(&socket).await.context("connect to its socket")?;
            TcpStream::connect(("127.0.0.1", port)).await.map(drop).context("connect to its port")
        })
        .await?;
        Ok(stock)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }
}

/// SPIRE writes its version to standard error.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.context("ask the stock server for its version")?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

fn config(folder: &Path, port: u16, key_type: KeyType) -> String {
    format!(
        "server {{\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{port}\"\n  socket_path = \"{socket}\"\n  \
         trust_domain = \"{TRUST_DOMAIN}\"\n  data_dir = \"{data}\"\n  log_level = \"WARN\"\n  \
         ca_key_type = \"{key_type}\"\n  ratelimit {{\n    attestation = false\n    signing = false\n  }}\n}}\n\
         plugins {{\n  DataStore \"sql\" {{ plugin_data {{\n    database_type = \"sqlite3\"\n    \
         connection_string = \"{data}/datastore.sqlite3\"\n  }} }}\n  \
         NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n  KeyManager \"memory\" {{ plugin_data {{}} }}\n}}\n",
        socket = folder.join("api.sock").display(),
        data = folder.join("data").display(),
    )
}

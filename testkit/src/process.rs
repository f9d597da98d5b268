//! A child process with its log in a file, addressed by process id and nothing else.
//!
//! Owns starting, signalling and reaping. A process that is dropped is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// How often conditions are looked at while waiting.
const POLL: Duration = Duration::from_millis(20);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both outputs appended to a log file.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open log {}", log.display()))?;
        let err = out.try_clone().context("clone the log handle")?;
        let child =
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().with_context(|| {
                format!("start {name} ({})", command.get_program().to_string_lossy())
            })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("process id")?);
        kill(pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// SIGKILL, and reaps.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("reap {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits for the end; killed when the time is over.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match self.wait(within).await {
            Ok(status) => Ok(status),
            Err(error) => {
                self.kill()?;
                Err(error)
            }
        }
    }

    /// Waits for the end of the process.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().context("look at the process")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {within:?}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last lines of the log, for error texts.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // Nothing can be done about a failure here; the child is gone or not ours any more.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The last lines of a log, for error texts; nothing where it cannot be read.
pub fn log_tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let start = all.len().saturating_sub(lines);
    all.get(start..).unwrap_or_default().join("\n")
}

/// Waits for a condition. The probe says why it does not hold yet; that text ends up in the error.
pub async fn wait_for<T, F>(what: &str, within: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let deadline = Instant::now() + within;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {within:?} for {what}")));
            }
            Err(_not_yet) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits for SIGINT or SIGTERM. A program that ends by it drops its children, which kills them.
pub async fn stop_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("listen for SIGTERM")?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.context("listen for SIGINT"),
        _received = terminate.recv() => Ok(()),
    }
}

/// The folder of the products: `STEEPLE_BIN`, or the folder of the running program (and the one
/// above, since test binaries lie in `deps`).
pub fn binary(name: &str) -> Result<PathBuf> {
    let named = std::env::var_os("STEEPLE_BIN").map(PathBuf::from);
    let own = std::env::current_exe().context("find the running program")?;
    let folders = named.into_iter().chain(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    for folder in folders {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "{name} is not built: run `cargo build --profile ci -p steeple-server -p steeple-agent`, or set STEEPLE_BIN"
    )
}

//! A `spire-server` child process in a folder of its own, on ports of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use steeple_testkit::ports;
use tempfile::TempDir;

/// Everything that is waited for is there by then, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at while waiting.
const POLL: Duration = Duration::from_millis(10);

const BINARY: &str = env!("CARGO_BIN_EXE_spire-server");

/// Runs a command to its end.
pub(crate) fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).stdin(Stdio::null()).output().expect("the binary starts")
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a configuration of one member.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) api_port: u16,
    health_port: u16,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { folder, api_port: free_port(), health_port: free_port() };
        place.write_config("");
        place
    }

    /// Writes the configuration, with more lines at its end.
    pub(crate) fn write_config(&self, rest: &str) {
        let folder = self.folder.path().display();
        let (api, health) = (self.api_port, self.health_port);
        let text = format!(
            "server {{ trust_domain = \"example.org\" bind_address = \"127.0.0.1\" bind_port = {api}\n\
             data_dir = \"{folder}/data\" socket_path = \"{folder}/api.sock\" }}\n\
             plugins {{ NodeAttestor \"join_token\" {{}} }}\n\
             health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \"{health}\" }}\n{rest}\n"
        );
        fs::write(self.config(), text).expect("written");
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("server.conf")
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.path().join("api.sock").display().to_string()
    }

    /// Starts and ends by itself, with an error.
    pub(crate) fn fail(&self) -> String {
        let config = self.config().display().to_string();
        let output = run(&["run", "-config", &config]);
        assert!(!output.status.success(), "{output:?}");
        stderr(&output)
    }

    pub(crate) fn start(&self) -> Running {
        let child = Command::new(BINARY)
            .args(["run", "-config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        Running { child }
    }

    /// Status and body of a probe; `None` while nothing listens.
    pub(crate) fn probe(&self, path: &str) -> Option<(u16, String)> {
        get(self.health_port, path)
    }

    /// Waits until a probe answers with a status, and returns its body.
    pub(crate) fn wait_for(&self, path: &str, status: u16) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let last = self.probe(path);
            if let Some((_, body)) = last.as_ref().filter(|(found, _)| *found == status) {
                return body.clone();
            }
            assert!(Instant::now() < deadline, "{path} never answered {status}: {last:?}");
            pause();
        }
    }
}

/// A running child; killed when dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Sends SIGTERM and waits for the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server did not stop");
            pause();
        }
    }

    /// Kills without warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Between two looks at a condition, so that the processes that it depends on get the processor.
#[expect(clippy::disallowed_methods, reason = "the only way to wait for another process")]
pub(crate) fn pause() {
    std::thread::sleep(POLL);
}

/// Status and body of an HTTP request; `None` while nothing listens.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}

pub(crate) fn free_port() -> u16 {
    let [port] = ports::lease().expect("a port");
    port
}

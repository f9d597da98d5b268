//! The two workloads, go-spiffe programs, and what came of each handshake.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Process, ports};

use super::domain::Domain;

/// How long until what is waited for shows in a handshake: an agent's renewal, for instance.
const WITHIN: Duration = Duration::from_secs(60);

/// A handshake as the client saw it.
#[derive(Clone, Debug)]
struct Handshake {
    ok: bool,
    ms: u64,
    /// Key ids of the authorities that signed the client's certificate and the server's.
    signers: [String; 2],
    error: String,
}

/// A web server of one trust domain and a client of the other that asks it again and again.
pub(super) struct Handshakes {
    server: Process,
    client: Process,
    lines: BufReader<File>,
    /// The beginning of a line that is being written.
    begun: String,
    seen: Vec<Handshake>,
}

/// What came of some handshakes.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) ok: usize,
    pub(super) refused: usize,
    pub(super) slowest_ms: u64,
    /// The first refusal's text.
    pub(super) refusal: Option<String>,
}

impl Handshakes {
    /// Starts both ends. `program` is the pair of go-spiffe programs.
    pub(super) fn start(
        folder: &Path,
        program: &Path,
        serving: &Domain,
        asking: &Domain,
    ) -> Result<Self> {
        let [port] = ports::lease()?;
        let address = format!("127.0.0.1:{port}");
        let end = |name: &str, domain: &Domain, peer: &Domain| {
            let mut command = Command::new(program);
            command.args([name, &address, &peer.workload()]);
            let socket = domain.agent.socket();
            command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
            Process::spawn(name, &mut command, &folder.join(format!("{name}.log")))
        };
        let server = end("server", serving, asking)?;
        let client = end("load", asking, serving)?;
        let lines = File::open(client.log()).context("open the client's words")?;
        let (lines, begun) = (BufReader::new(lines), String::new());
        Ok(Self { server, client, lines, begun, seen: Vec::new() })
    }

    /// Reads what has happened; returns how many handshakes there have been.
    pub(super) fn count(&mut self) -> Result<usize> {
        while self.lines.read_line(&mut self.begun).context("read the client's words")? > 0 {
            if !self.begun.ends_with('\n') {
                break;
            }
            let line = std::mem::take(&mut self.begun);
            self.seen.push(read(&line).with_context(|| format!("the client said {line:?}"))?);
        }
        for process in [&mut self.server, &mut self.client] {
            ensure!(process.is_running(), "a workload ended:\n{}", process.log_tail(20));
        }
        Ok(self.seen.len())
    }

    /// Waits for the first good handshake from a number on (or the first refusal); returns its
    /// number.
    pub(super) async fn until(&mut self, ok: bool, from: usize) -> Result<usize> {
        let what = if ok { "a good handshake" } else { "a refusal" };
        wait_for(what, WITHIN, async || {
            self.count()?;
            let seen = self.seen.get(from..).unwrap_or_default();
            let found = seen.iter().position(|one| one.ok == ok);
            found.map(|at| from + at).with_context(|| last_words(seen))
        })
        .await
    }

    /// Waits for so many handshakes more; returns how many there have been.
    pub(super) async fn more(&mut self, number: usize) -> Result<usize> {
        let wanted = self.count()? + number;
        wait_for("more handshakes", WITHIN, async || {
            let count = self.count()?;
            ensure!(count >= wanted, "{count} of {wanted}");
            Ok(count)
        })
        .await
    }

    /// Waits for a handshake whose ends were signed by these authorities: the client's, the
    /// server's.
    pub(super) async fn signed_by(&mut self, signers: [&str; 2]) -> Result<()> {
        let from = self.count()?;
        wait_for("SVIDs of the new authorities", WITHIN, async || {
            self.count()?;
            let seen = self.seen.get(from..).unwrap_or_default();
            let found = seen.iter().any(|one| one.ok && one.signers == signers);
            ensure!(found, last_words(seen));
            Ok(())
        })
        .await
    }

    /// What came of the handshakes with these numbers.
    pub(super) fn counts(&self, numbers: Range<usize>) -> Counts {
        let seen = self.seen.get(numbers).unwrap_or_default();
        let ok = seen.iter().filter(|one| one.ok).count();
        Counts {
            ok,
            refused: seen.len() - ok,
            slowest_ms: seen.iter().map(|one| one.ms).max().unwrap_or_default(),
            refusal: seen.iter().find(|one| !one.ok).map(|one| one.error.clone()),
        }
    }
}

fn last_words(seen: &[Handshake]) -> String {
    seen.last().map_or_else(|| "no handshake".to_owned(), |last| format!("the last was {last:?}"))
}

fn read(line: &str) -> Result<Handshake> {
    let line: Value = serde_json::from_str(line)?;
    let text = |name| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Handshake {
        ok: line.get("ok").and_then(Value::as_bool).context("no outcome")?,
        ms: line.get("ms").and_then(Value::as_u64).context("no time")?,
        signers: [text("client"), text("server")],
        error: text("error"),
    })
}

//! Figures side by side with their limits and peers in one run, as ratios. Never a timed test.
//!
//! `issue`: what issuance costs beside the cryptography alone, a Go program that does SPIRE's,
//! OpenBao and SPIRE; rotation of many SVIDs; the bundle endpoint.
//! `store`: writes, reads, failover and size of three replicas beside etcd and PostgreSQL.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "figures go to the terminal")]

mod closed_loop;
mod floor;
mod issue;
mod machine;
mod report;
mod spread;
mod store;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use steeple_testkit::process::stop_signal;

/// The server's, so that the echo and the limits that it is measured beside allocate as it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
steeple-bench issue [x509] [p384] [rsa2048] [jwt] [rotation] [endpoint] [refreshes]
steeple-bench store [writes] [reads] [failover] [scale]
    [--quick | --smoke] [--large (store)] [--results FILE]

Without a part: all of them. Without a benchmark: a quick x509 and writes. What is compared and why is in
bench/BUDGETS.md. Peers that are not there are missing from the tables and said so:
  STEEPLE_BIN        folder of our programs, built for release
  STEEPLE_ETCD       etcd's program
  STEEPLE_GO_FLOOR   the Go program that does SPIRE's cryptography (interop/go-floor)
  STEEPLE_BAO        OpenBao's program; else the bao on PATH
  STEEPLE_STOCK_BIN  folder of a stock spire-server
`cargo xtask bench` builds and names all but the last.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words.iter().any(|word| matches!(*word, "-h" | "-help" | "--help" | "help")) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match main_with(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steeple-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn main_with(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        // What is dropped on the way out ends the servers that were started.
        tokio::select! {
            biased;
            done = run(words) => done,
            stopped = stop_signal() => {
                stopped?;
                bail!("stopped by a signal")
            }
        }
    })
}

async fn run(words: &[&str]) -> Result<()> {
    match words {
        [] => {
            issue::run(&["x509", "--quick"]).await?;
            store::run(&["writes", "--quick"]).await
        }
        ["issue", words @ ..] => issue::run(words).await,
        ["store", words @ ..] => store::run(words).await,
        // What the benchmark of issuance starts of itself as a process of its own.
        ["echo", words @ ..] => issue::serve_echo(words).await,
        other => bail!("unknown benchmark {other:?}: issue or store; see --help"),
    }
}

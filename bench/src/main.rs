//! Figures side by side with their limits and peers in one run, as ratios. Never a timed test.
//!
//! `issue`: what issuance costs beside the cryptography alone, a Go program that does SPIRE's,
//! OpenBao and SPIRE; rotation of many SVIDs; the bundle endpoint.
//! `store`: writes, reads, failover and size of three replicas beside etcd and PostgreSQL.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "figures go to the terminal")]

mod closed_loop;
mod floor;
mod issue;
mod machine;
mod report;
mod spread;
mod store;

use anyhow::{Context, Result, bail};
use steeple_testkit::process::stop_signal;

/// The server's, so that the echo and the limits that it is measured beside allocate as it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    runtime.block_on(async {
        // What is dropped on the way out ends the servers that were started.
        tokio::select! {
            biased;
            done = run(&words) => done,
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
        other => bail!("unknown benchmark {other:?}: issue or store"),
    }
}

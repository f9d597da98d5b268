//! Figures side by side with their limits and peers in one run, as ratios. Never a timed test.
//!
//! `issue`: BatchNewX509SVID through a real replica against what the cryptography alone costs here.
//! `store`: writes, reads, failover and size of three replicas beside etcd and PostgreSQL.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "figures go to the terminal")]

mod floor;
mod issue;
mod machine;
mod spread;
mod store;

use anyhow::{Context, Result, bail};
use steeple_testkit::process::stop_signal;

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
            issue().await?;
            store::run(&["writes", "--quick"]).await
        }
        ["issue"] => issue().await,
        ["store", words @ ..] => store::run(words).await,
        other => bail!("unknown benchmark {other:?}: issue or store"),
    }
}

async fn issue() -> Result<()> {
    println!("{}\n", machine::describe());
    issue::run().await
}

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

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["issue"] => {
            println!("{}\n", machine::describe());
            runtime.block_on(issue::run())
        }
        ["store", words @ ..] => runtime.block_on(store::run(words)),
        other => bail!("unknown benchmark {other:?}: issue or store"),
    }
}

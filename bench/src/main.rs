//! First numbers, side by side with their limit in one run, as ratios.
//!
//! `issue`: BatchNewX509SVID through a real replica against what the cryptography alone costs here.
//! `entry`: entry creation on three replicas against this disk's fdatasync. Never a timed test.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "figures go to the terminal")]

mod entry;
mod floor;
mod issue;
mod machine;
mod spread;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    println!("{}\n", machine::describe());
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["all"] => {
            runtime.block_on(issue::run())?;
            runtime.block_on(entry::run())
        }
        ["issue"] => runtime.block_on(issue::run()),
        ["entry"] => runtime.block_on(entry::run()),
        other => bail!("unknown benchmark {other:?}: issue, entry or all"),
    }
}

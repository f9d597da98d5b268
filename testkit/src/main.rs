//! `steeple-testkit`: the demo, a local cluster, and the lanes of foreign clients. `cargo xtask`
//! builds and calls it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its terminal"
)]

mod demo;
mod interop;

use std::process::ExitCode;

use anyhow::{Context, Result};

const USAGE: &str = "\
usage: steeple-testkit demo [--keep] | cluster [--members N] | interop LANE [ARGS]
STEEPLE_BIN names the folder with spire-server and spire-agent.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = words.first().copied().unwrap_or("");
    let outcome = run(&words);
    match (command, outcome) {
        (_, Ok(true)) => ExitCode::SUCCESS,
        (_, Ok(false)) => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
        ("demo", Err(error)) => {
            println!("demo: FAILED: {error:#}");
            ExitCode::FAILURE
        }
        (_, Err(error)) => {
            eprintln!("{command}: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; false = it is unknown.
fn run(words: &[&str]) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let local = tokio::task::LocalSet::new();
    match words {
        ["demo", rest @ ..] => {
            local
                .block_on(&runtime, demo::demo(demo::Options { keep: rest.contains(&"--keep") }))?;
        }
        ["cluster", rest @ ..] => {
            let members = match rest {
                [] => 3,
                ["--members", number] => number.parse().context("--members takes a number")?,
                _ => return Ok(false),
            };
            local.block_on(&runtime, demo::cluster(members))?;
        }
        ["interop", lane, rest @ ..] => local.block_on(&runtime, interop::run(lane, rest))?,
        _ => return Ok(false),
    }
    Ok(true)
}

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

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use steeple_testkit::process::stop_signal;

const USAGE: &str = "\
usage: steeple-testkit demo [--keep]            the main job: three replicas, a leader killed
       steeple-testkit demo --federation [--quick] --pair PROGRAM
                                                two trust domains; PROGRAM is interop/go-spiffe/pair
       steeple-testkit cluster [--members N]    a local cluster and an agent, until Ctrl-C
       steeple-testkit interop LANE [ARGS]      a lane with foreign clients
STEEPLE_BIN names the folder with spire-server and spire-agent; logs are below TMPDIR.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = words.first().copied().unwrap_or("");
    let outcome = run(&words);
    match (command, outcome) {
        ("-h" | "--help" | "help", _) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
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
    let run = |work: Pin<Box<dyn Future<Output = Result<()>>>>| {
        local.block_on(&runtime, until_stopped(work)).map(|()| true)
    };
    let federation = |pair: &str, pace| {
        let pair = PathBuf::from(pair);
        run(Box::pin(async move { demo::federation_demo(&pair, pace).await }))
    };
    match words {
        ["demo"] => run(Box::pin(demo::demo(demo::Options { keep: false }))),
        ["demo", "--keep"] => run(Box::pin(demo::demo(demo::Options { keep: true }))),
        ["demo", "--federation", "--pair", pair] => federation(pair, demo::Pace::Schedule),
        ["demo", "--federation", "--quick", "--pair", pair] => federation(pair, demo::Pace::Haste),
        ["cluster"] => run(Box::pin(demo::cluster(3))),
        ["cluster", "--members", number] => {
            let members = number.parse().context("--members takes a number")?;
            run(Box::pin(demo::cluster(members)))
        }
        ["interop", lane, rest @ ..] => {
            let (lane, rest) = ((*lane).to_owned(), owned(rest));
            run(Box::pin(async move { interop::run(&lane, &rest).await }))
        }
        _ => Ok(false),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Work that ends early on SIGINT or SIGTERM: what it started is dropped, and so killed.
async fn until_stopped(work: Pin<Box<dyn Future<Output = Result<()>>>>) -> Result<()> {
    tokio::select! {
        // Work that waits for the signal itself ends well.
        biased;
        outcome = work => outcome,
        stopped = stop_signal() => {
            stopped?;
            bail!("stopped by a signal")
        }
    }
}

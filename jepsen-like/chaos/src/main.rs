//! `steeple-chaos`: real server processes under real faults, every call recorded, judged by the
//! checker.
//!
//! ```text
//! seed ─► plan of faults ──► nemesis ──► world: processes, disks, namespaces on a switch of ours
//!              clients ── calls, retries ──► members
//!                 └──► history.jsonl ──► checker ──► verdict.json, timeline.html
//! ```
//!
//! Knows the products only as executables and by their API. Exit code 0 means that every run passed.

#![forbid(unsafe_code)]

mod agents;
mod clients;
mod damage;
mod disk;
mod federation;
mod figures;
mod issuers;
mod journal;
mod neighbour;
mod nemesis;
mod net;
mod options;
mod plan;
mod planned;
mod rebuild;
mod record;
mod releases;
mod report;
mod restore;
mod rotations;
mod run;
mod slice;
mod suspend;
mod system;
mod timeline;
mod wanted;
mod watch;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::options::Options;
use crate::wanted::Wanted;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing better can be done about a closed stderr.
            writeln!(std::io::stderr(), "steeple-chaos: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn dispatch(words: &[String]) -> Result<bool> {
    let (command, rest) = match words.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (first.as_str(), rest),
        Some(_) | None => ("run", words),
    };
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().context("start the runtime")
    };
    match command {
        "run" => {
            let options = Options::parse(rest)?;
            runtime()?.block_on(until_interrupted(slice::run_all(&options)))
        }
        "quick" => {
            let options = Options::parse(rest)?;
            runtime()?.block_on(until_interrupted(slice::quick(&options)))
        }
        "rotations" => {
            let wanted = Wanted::parse(rest)?;
            runtime()?.block_on(until_interrupted(rotations::run(&wanted)))
        }
        "federation" => {
            let wanted = Wanted::parse(rest)?;
            runtime()?.block_on(until_interrupted(federation::run(&wanted)))
        }
        "merge" => slice::merge(rest),
        "figures" => figures::print(rest),
        other => anyhow::bail!("no command {other:?}\n{}", options::USAGE),
    }
}

/// Gives up at SIGINT or SIGTERM; what the run has made is then dropped, which ends and removes it.
async fn until_interrupted(work: impl Future<Output = Result<bool>>) -> Result<bool> {
    tokio::select! {
        outcome = work => outcome,
        stopped = steeple_testkit::process::stop_signal() => {
            stopped?;
            anyhow::bail!("interrupted")
        }
    }
}

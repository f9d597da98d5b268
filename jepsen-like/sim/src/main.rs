//! `steeple-sim`: seeded, deterministic simulation of whole clusters of the real registry.
//!
//! Owns the command line; a run is `run`'s. See `jepsen-like/README.md`.

mod authorities;
mod client;
mod clock;
mod cluster_keys;
mod disk;
mod echoes;
mod entropy;
mod history;
mod instants;
mod kept;
mod member;
mod mutants;
mod nemesis;
mod net;
mod options;
mod promises;
mod reference;
mod report;
mod roots;
mod rows;
mod run;
mod slice;
mod sums;
mod trace;
mod view;
mod workload;
mod world;

use std::process::ExitCode;

use slice::Arguments;

fn main() -> ExitCode {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr);
    // Without RUST_LOG nothing is logged, and logging costs nothing.
    if std::env::var_os("RUST_LOG").is_some() {
        subscriber.try_init().ok();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, files)) if command == "merge" => sums::merge(files),
        Some((command, rest)) if command == "mutants" => {
            Arguments::parse_hunt(rest).and_then(|arguments| mutants::run(&arguments))
        }
        Some((command, rest)) if command == "one" => {
            Arguments::parse(rest).and_then(|arguments| slice::one_seed(&arguments))
        }
        Some(_) | None => Arguments::parse(&arguments).and_then(|arguments| slice::run(&arguments)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            steeple_checker::results::say(&format!("steeple-sim: {error:#}"));
            ExitCode::from(2)
        }
    }
}

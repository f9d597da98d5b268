//! Repository automation: everything a person or CI runs is `cargo xtask <command>`.
//!
//! Owns setup of a bare machine, the test and interop lanes, the lints that are ours (`tidy`), and
//! starting the programs of testkit. Holds no product logic: the demo, its load clients and the
//! local cluster are a program in testkit, which this crate builds and runs.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its terminal"
)]

mod build;
mod ci;
mod failures;
mod interop;
mod lanes;
mod peers;
mod setup;
mod tally;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup      install what this machine lacks (asks apt and pip; idempotent)
  demo       three replicas, an agent, a workload with its SVID, a leader killed
             [--keep: leave it running]
             --federation [--quick]: two trust domains, handshakes between them
  cluster    a local cluster that stays up for playing [--members N]
  test       every test: unit, store, cluster, demo, foreign clients
  interop    foreign clients only [go|python|rust|stock|ghostunnel ...]
  tidy       import table, headers, file lengths, forbidden words
  ci         what .ci/run runs: test, then lints and docs
  lint       the lints and docs of ci alone
  sim        whole clusters in simulation [--seeds N|A..B] [--ticks 20000]
             [--results FILE] [--mutant NAME]; sim mutants; sim merge FILE...
  chaos      real processes under real faults [--seed N|--seeds A..B] [--seconds 60]
             [--nemesis LIST] [--results FILE] [--out FOLDER]; chaos quick; chaos merge|figures FILE...;
             chaos rotations|federation [--rotations 100] [--seed N]
  bench      figures beside limits and peers, as ratios:
             issue [x509|p384|rsa2048|jwt|rotation|endpoint ...] [--quick] [--results FILE]
             store [writes|reads|failover|scale ...] [--quick] [--large] [--results FILE]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let result =
        build::take_target(&build::target(), &build::root()).and_then(|()| match command {
            "setup" => setup::run(),
            "demo" => lanes::demo(rest),
            "cluster" => lanes::cluster(rest),
            "test" => ci::test(),
            "interop" => interop::run(rest),
            "tidy" => tidy::run(),
            "ci" => ci::ci(),
            "lint" => ci::lint_alone(),
            "sim" => lanes::sim(rest),
            "chaos" => lanes::chaos(rest),
            "bench" => lanes::bench(rest),
            "help" | "-h" | "--help" => {
                println!("{USAGE}");
                Ok(ExitCode::SUCCESS)
            }
            other => {
                eprintln!("xtask: no command {other:?}\n\n{USAGE}");
                Ok(ExitCode::from(2))
            }
        });
    result.unwrap_or_else(|error| {
        eprintln!("xtask {command}: {error:#}");
        ExitCode::FAILURE
    })
}

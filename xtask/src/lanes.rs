//! Lanes that build the products and hand over to a program: demo, local cluster, benchmarks.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::build::{self, binaries, check, step};
use crate::setup;

/// `cargo xtask demo`: the main job, as a story with times.
pub(crate) fn demo(args: &[String]) -> Result<ExitCode> {
    testkit("demo", args)
}

/// `cargo xtask cluster`: a cluster that stays up.
pub(crate) fn cluster(args: &[String]) -> Result<ExitCode> {
    testkit("cluster", args)
}

fn testkit(command: &str, args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    build::products()?;
    let status = program(command).args(args).status().context("start the test kit")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// testkit's program, told where the binaries are.
pub(crate) fn program(command: &str) -> Command {
    let mut child = Command::new(binaries().join("steeple-testkit"));
    child.arg(command).env("STEEPLE_BIN", binaries());
    child
}

/// `cargo xtask sim`: whole clusters in simulation, without RocksDB; with the deliberate bugs if one
/// is named.
pub(crate) fn sim(args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    step("building the simulation");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--profile", build::PROFILE, "-p", "steeple-sim"]);
    if args.iter().any(|arg| arg == "--mutant") {
        command.args(["--features", "mutants"]);
    }
    check(&mut command)?;
    let status = Command::new(binaries().join("steeple-sim"))
        .args(args)
        .current_dir(build::root())
        .status()
        .context("start the simulation")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask bench`: release builds, never a timed test.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    step("building with profile release (not shared with the tests)");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--release", "--bins"]);
    check(command.args(["-p", "steeple-server", "-p", "steeple-agent", "-p", "steeple-bench"]))?;
    let release = build::target().join("release");
    let status = Command::new(release.join("steeple-bench"))
        .args(args)
        .env("STEEPLE_BIN", &release)
        .current_dir(build::root())
        .status()
        .context("start the benchmark")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

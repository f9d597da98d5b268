//! Lanes that build the products and hand over to a program: demo, local cluster, benchmarks.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, binaries, check, step};
use crate::{interop, peers, setup};

/// `cargo xtask demo`: the main job, as a story with times; or that of two trust domains.
pub(crate) fn demo(args: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let quick = match words.as_slice() {
        ["--federation"] => false,
        ["--federation", "--quick"] | ["--quick", "--federation"] => true,
        _ => return testkit("demo", args),
    };
    let Some(mut program) = federation_demo(quick)? else {
        bail!("the workloads are go-spiffe programs, and there is no go on PATH");
    };
    setup::ensure()?;
    build::products()?;
    let status = program.status().context("start the test kit")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The demo of two trust domains; `None` where there is no Go to build their workloads by.
pub(crate) fn federation_demo(quick: bool) -> Result<Option<Command>> {
    if build::find_program("go").is_none() {
        return Ok(None);
    }
    let pair = interop::go_spiffe_pair()?;
    let mut program = program("demo");
    program.arg("--federation").args(quick.then_some("--quick")).args(["--pair", &pair]);
    Ok(Some(program))
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

/// `cargo xtask sim`: whole clusters in simulation, without RocksDB.
pub(crate) fn sim(args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    let status = simulation()?.args(args).status().context("start the simulation")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the simulation, with the deliberate bugs in it (none is on unless it is named), and returns
/// its program. A profile of its own: it runs for minutes and hours.
pub(crate) fn simulation() -> Result<Command> {
    step("building the simulation with profile sim (the first time five minutes on two cores)");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--profile", "sim", "-p", "steeple-sim"]);
    check(command.args(["--features", "mutants"]))?;
    println!("--- built in {} s", build::seconds_of_step());
    let mut program = Command::new(build::target().join("sim").join("steeple-sim"));
    program.current_dir(build::root());
    Ok(program)
}

/// `cargo xtask chaos`: real processes under real faults, with a deliberate bug in the server if one is
/// named.
pub(crate) fn chaos(args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    build::products()?;
    let mut program = chaos_program();
    if args.iter().any(|arg| arg == "--mutant") {
        program.env("STEEPLE_BIN", mutant_server()?);
    }
    let status = program.args(args).status().context("start the chaos runs")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds a server with the deliberate bugs in it, beside the one without: the folder of its program.
fn mutant_server() -> Result<PathBuf> {
    step("building a server with deliberate bugs");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--profile", build::PROFILE, "-p", "steeple-server"]);
    check(command.args(["--features", "mutants"]))?;
    let folder = binaries().join("mutants");
    std::fs::create_dir_all(&folder).context("create a folder for the server")?;
    for program in ["spire-server", "spire-agent"] {
        std::fs::copy(binaries().join(program), folder.join(program))
            .with_context(|| format!("put {program} aside"))?;
    }
    Ok(folder)
}

/// The program of the chaos runs, told where the binaries are.
pub(crate) fn chaos_program() -> Command {
    let mut child = Command::new(binaries().join("steeple-chaos"));
    child.env("STEEPLE_BIN", binaries());
    child
}

/// `cargo xtask bench`: release builds, never a timed test.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    let wants = |kind: &str| args.first().is_none_or(|word| word == kind);
    let etcd = if wants("store") { peers::ensure() } else { None };
    step("building with profile release (not shared with the tests)");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--release", "--bins"]);
    check(command.args(["-p", "steeple-server", "-p", "steeple-agent", "-p", "steeple-bench"]))?;
    let mut program = bench_program(&build::target().join("release"), etcd.as_deref());
    if wants("issue") {
        tell_of_peers(&mut program);
    }
    let status = program.args(args).status().context("start the benchmark")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The benchmark's program among the products in a folder, told of the peer that was built.
fn bench_program(folder: &Path, etcd: Option<&Path>) -> Command {
    let mut command = Command::new(folder.join("steeple-bench"));
    command.env("STEEPLE_BIN", folder).current_dir(build::root());
    if let Some(etcd) = etcd {
        command.env("STEEPLE_ETCD", etcd);
    }
    command
}

/// Names the peers of issuance that are there.
fn tell_of_peers(program: &mut Command) {
    for (name, peer) in peers::of_issuance() {
        if let Some(peer) = peer {
            program.env(name, peer);
        }
    }
}

/// The benchmarks at their smallest, each with its lane's name, with the tests' products and the
/// peers that are there: whether every program starts and every row has a figure, and nothing about
/// the figures.
pub(crate) fn bench_smokes() -> [(&'static str, Command); 2] {
    let mut store = bench_program(&binaries(), peers::etcd_if_built().as_deref());
    store.args(["store", "--smoke"]);
    let mut issue = bench_program(&binaries(), None);
    tell_of_peers(&mut issue);
    issue.args(["issue", "--smoke"]);
    [("bench-smoke", store), ("bench-issue-smoke", issue)]
}

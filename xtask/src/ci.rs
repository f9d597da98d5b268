//! The test command of the README and what CI adds to it: lints, bans, docs.
//!
//! Owns the order of lanes and the closing line. Every lane runs even if an earlier one failed, so
//! that one run tells everything.

use std::num::NonZero;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build::{PROFILE, cargo, check, line_of, products, step};
use crate::failures::{self, Failed};
use crate::interop;
use crate::lanes::program;
use crate::setup;
use crate::tally::{self, Tally};
use crate::tidy;

/// `cargo xtask test`.
pub(crate) fn test() -> Result<ExitCode> {
    tally::reset()?;
    setup::ensure()?;
    products()?;
    nextest()?;
    doctests()?;
    step("demo: three replicas, an agent, a workload, a leader killed");
    let demo = program("demo").status().context("start the demo")?;
    tally::add("demo", Tally::one(demo.success()))?;
    step("demo: two trust domains, leaders killed, authorities replaced, a cut, an end, a return");
    federation_demo()?;
    step("chaos: short runs under kills, pauses, power cuts and partitions");
    let mut quick = crate::lanes::chaos_program();
    counted("chaos", quick.arg("quick").env("STEEPLE_SKIPS", tally::skips_file()))?;
    interop::lanes(&[])?;
    step("bench: smokes, whose figures mean nothing");
    for (lane, mut smoke) in crate::lanes::bench_smokes() {
        one(lane, &mut smoke)?;
    }
    close()
}

fn federation_demo() -> Result<()> {
    const LANE: &str = "demo-federation";
    match crate::lanes::federation_demo(true)? {
        Some(mut program) => one(LANE, &mut program),
        None => tally::skip(LANE, "no go on PATH"),
    }
}

/// Seeds of the simulation that CI runs, each of 20,000 ticks: enough that every fault and every
/// command must have happened.
const SEEDS: &str = "80";

/// `cargo xtask ci`: the test command, as a reader of the README would type it, a slice of simulation
/// with the deliberate bugs, then the lints.
pub(crate) fn ci() -> Result<ExitCode> {
    let mut readme = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    readme.args(["xtask", "test"]).current_dir(crate::build::root());
    let tested = readme.status().context("start cargo xtask test")?;
    if !tested.success() {
        println!("cargo xtask test failed; the rest runs all the same");
        // It may have ended before it counted anything, when the workspace does not compile.
        tally::add("test", Tally::one(false))?;
    }
    simulate()?;
    lints()?;
    close()
}

/// A slice of simulation, and every deliberate bug until it is found.
fn simulate() -> Result<()> {
    let mut program = match crate::lanes::simulation() {
        Ok(program) => program,
        Err(error) => {
            println!("the simulation was not built: {error:#}");
            return tally::add("sim", Tally::one(false));
        }
    };
    step("simulation: whole clusters under faults");
    counted("sim", program.args(["--seeds", SEEDS]))?;
    step("simulation: every deliberate bug must be found");
    let mut program = Command::new(program.get_program());
    counted("mutants", program.arg("mutants"))
}

/// Runs a program and adds the counts of its last line, `<lane>: N passed, N failed`.
fn counted(lane: &str, command: &mut Command) -> Result<()> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("start {}", line_of(command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let last = text.lines().last().and_then(|last| last.strip_prefix(&format!("{lane}: ")));
    let mut tally = last.and_then(counts).unwrap_or(Tally::one(false));
    if !output.status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    tally::add(lane, tally)
}

/// `cargo xtask lint`.
pub(crate) fn lint_alone() -> Result<ExitCode> {
    tally::reset()?;
    setup::ensure()?;
    lints()?;
    close()
}

fn close() -> Result<ExitCode> {
    let sum = tally::total()?;
    print!("{}", tally::told()?);
    println!("steeple: {} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    Ok(if sum.failed == 0 && sum.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn nextest() -> Result<()> {
    step("tests (cargo nextest)");
    let output = run_nextest(&["--no-fail-fast"], test_threads())?;
    let tally = nextest_summary(&output);
    let failed = failures::of_nextest(&output);
    let again = if failures::are_few(&failed) { once_more(&failed)? } else { None };
    let tally = tally.unwrap_or(Tally { passed: 0, failed: 1, skipped: 0 });
    let (tally, told) = failures::settle(tally, &failed, again.as_deref());
    tally::tell_at_end(&told)?;
    tally::add("nextest", tally)?;

    step("raft-store without RocksDB, as simulation builds it");
    let mut command = cargo();
    command.args([
        "check",
        "--locked",
        "--profile",
        PROFILE,
        "-p",
        "steeple-raft-store",
        "--no-default-features",
    ]);
    one("raft-store-without-rocks", &mut command)
}

/// Runs failed tests once more, one at a time: on a loaded machine a deadline may have passed that holds
/// otherwise. Which failed again; `None`: they did not all run.
fn once_more(failed: &[Failed]) -> Result<Option<Vec<Failed>>> {
    step("tests that failed, once more and alone");
    let filters: Vec<_> = failed.iter().map(Failed::filter).collect();
    let output = run_nextest(&["--no-fail-fast", "-E", &filters.join(" or ")], 1)?;
    let ran = nextest_summary(&output).map(|tally| tally.passed + tally.failed);
    let all_ran = ran.is_some_and(|ran| usize::try_from(ran) == Ok(failed.len()));
    Ok(all_ran.then(|| failures::of_nextest(&output)))
}

/// Runs nextest over the workspace; its report.
fn run_nextest(args: &[&str], threads: usize) -> Result<String> {
    let mut command = cargo();
    command.args(["nextest", "run", "--locked", "--cargo-profile", PROFILE, "--workspace"]);
    command.args(args).args(["--test-threads", &threads.to_string()]);
    command.env("STEEPLE_BIN", crate::build::binaries()).env("STEEPLE_SKIPS", tally::skips_file());
    // Where a panic came from is enough: a stack in each error that it prints hides what it says.
    command.env("RUST_LIB_BACKTRACE", "0");
    command.stderr(Stdio::piped());
    tee_stderr(&mut command)
}

/// How many tests run at a time: one more than there are cores, as those with processes of their own
/// wait most of their time.
fn test_threads() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get) + 1
}

/// Reads `Summary [ 1.2s] 10 tests run: 9 passed (1 slow), 1 failed, 2 skipped`.
fn nextest_summary(output: &str) -> Option<Tally> {
    let line =
        output.lines().rev().find(|line| line.contains("Summary [") && line.contains("run:"))?;
    counts(line.split("run:").nth(1)?)
}

/// Reads `9 passed (1 slow), 1 failed, 2 skipped`.
fn counts(text: &str) -> Option<Tally> {
    let mut tally = Tally::default();
    for part in text.split(',') {
        let mut words = part.split_whitespace();
        let count = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match words.next() {
            Some("passed") => tally.passed += count,
            Some("failed" | "exec" | "timed") => tally.failed += count,
            Some("skipped") => tally.skipped += count,
            _ => {}
        }
    }
    Some(tally)
}

/// Runs a command, shows its standard error as it comes and returns it.
fn tee_stderr(command: &mut Command) -> Result<String> {
    use std::io::{BufRead as _, BufReader};
    let line = line_of(command);
    let mut child = command.spawn().with_context(|| format!("start {line}"))?;
    let pipe = child.stderr.take().context("take standard error")?;
    let mut output = String::new();
    for text in BufReader::new(pipe).lines() {
        let text = text.unwrap_or_default();
        eprintln!("{text}");
        output.push_str(&text);
        output.push('\n');
    }
    child.wait().with_context(|| format!("wait for {line}"))?;
    Ok(output)
}

fn doctests() -> Result<()> {
    step("documentation tests");
    let mut command = cargo();
    command.args(["test", "--locked", "--profile", PROFILE, "--workspace", "--doc"]);
    one("doctests", &mut command)
}

fn lints() -> Result<()> {
    step("rustfmt");
    one("fmt", cargo().args(["fmt", "--all", "--check"]))?;
    step("clippy, warnings denied");
    one(
        "clippy",
        cargo()
            .args(["clippy", "--locked", "--profile", PROFILE, "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )?;
    step("tidy");
    tally::add("tidy", tidy::tally()?)?;
    step(
        "cargo deny: bans, licences, sources (advisories are not checked here: no database offline)",
    );
    one("deny", cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    step("agent without RocksDB");
    agent_has_no_rocksdb()?;
    step("documentation, warnings denied");
    one(
        "docs",
        cargo()
            .args([
                "doc",
                "--locked",
                "--profile",
                PROFILE,
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn agent_has_no_rocksdb() -> Result<()> {
    let tree =
        cargo().args(["tree", "--locked", "-p", "steeple-agent", "-e", "normal"]).output()?;
    let text = String::from_utf8_lossy(&tree.stdout);
    let clean = tree.status.success() && !text.contains("rocksdb") && !text.contains("openraft");
    tally::add("agent-tree", Tally::one(clean))
}

fn one(lane: &str, command: &mut Command) -> Result<()> {
    let outcome = check(command);
    if let Err(error) = &outcome {
        println!("{lane} failed: {error:#}");
    }
    tally::add(lane, Tally::one(outcome.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::{counts, nextest_summary};

    #[test]
    fn summary_of_nextest_is_read() {
        let text = "   Summary [  12.3s] 14 tests run: 12 passed (1 slow), 1 failed, 1 timed out, 3 skipped\n";
        let tally = nextest_summary(text).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (12, 2, 3));
    }

    #[test]
    fn counts_of_the_simulation_are_read() {
        let tally = counts("79 passed, 1 failed").unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (79, 1, 0));
    }

    #[test]
    fn text_without_a_summary_gives_nothing() {
        assert!(nextest_summary("error: could not compile").is_none());
    }
}

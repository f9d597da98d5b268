//! Counts of what passed, failed and was skipped, gathered over lanes and processes.
//!
//! Owns the counts file (one lane a line), what is to be told at the end, and the list of expected skips.
//! A skip that is not listed in `.ci/expected-skips` is a failure: nothing is skipped silently.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::{root, seconds_of_step, target};

/// Passed, failed and skipped, of one lane or of all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn one(ok: bool) -> Self {
        Self { passed: u64::from(ok), failed: u64::from(!ok), skipped: 0 }
    }
}

fn counts_file() -> PathBuf {
    of_this_checkout("steeple-counts")
}

/// A file beside what is compiled, which several checkouts may share, that is this one's alone.
fn of_this_checkout(name: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    root().hash(&mut hasher);
    target().join(format!("{name}-{:016x}", hasher.finish()))
}

/// Where tests write a line `lane<TAB>reason` when they must skip (`STEEPLE_SKIPS`).
pub(crate) fn skips_file() -> PathBuf {
    of_this_checkout("steeple-skips")
}

/// What the last lines of the run are to say.
fn told_file() -> PathBuf {
    of_this_checkout("steeple-told")
}

/// Forgets earlier runs.
pub(crate) fn reset() -> Result<()> {
    fs::create_dir_all(target()).context("create the target folder")?;
    fs::write(counts_file(), "").context("reset counts")?;
    fs::write(told_file(), "").context("reset what is to be told")?;
    fs::write(skips_file(), "").context("reset skips")
}

/// Adds a lane's counts.
pub(crate) fn add(lane: &str, tally: Tally) -> Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(counts_file())?;
    writeln!(file, "{lane}\t{}\t{}\t{}", tally.passed, tally.failed, tally.skipped)?;
    println!(
        "--- {lane}: {} passed, {} failed, {} skipped, in {} s",
        tally.passed,
        tally.failed,
        tally.skipped,
        seconds_of_step()
    );
    Ok(())
}

/// Keeps lines for the end of the run.
pub(crate) fn tell_at_end(lines: &[String]) -> Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(told_file())?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// The lines that were kept for the end of the run, and a line for each lane that failed.
pub(crate) fn told() -> Result<String> {
    let mut text = fs::read_to_string(told_file()).unwrap_or_default();
    for line in fs::read_to_string(counts_file()).context("read counts")?.lines() {
        let mut words = line.split('\t');
        let lane = words.next().unwrap_or_default();
        let failed = words.nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        if failed > 0 {
            text.push_str(&format!("failed: {failed} of lane {lane}\n"));
        }
    }
    Ok(text)
}

/// Records a skipped lane, as a test would.
pub(crate) fn skip(lane: &str, reason: &str) -> Result<()> {
    println!("SKIPPED {lane}: {reason}");
    let mut file = fs::OpenOptions::new().create(true).append(true).open(skips_file())?;
    writeln!(file, "{lane}\t{reason}")?;
    Ok(())
}

/// All lanes together; every recorded skip counts, and one that is not expected is a failure too.
pub(crate) fn total() -> Result<Tally> {
    let mut sum = Tally::default();
    for line in fs::read_to_string(counts_file()).context("read counts")?.lines() {
        let mut numbers = line.split('\t').skip(1).map(|word| word.parse::<u64>().unwrap_or(0));
        sum.passed += numbers.next().unwrap_or(0);
        sum.failed += numbers.next().unwrap_or(0);
        sum.skipped += numbers.next().unwrap_or(0);
    }
    let expected = expected_skips()?;
    for line in fs::read_to_string(skips_file()).unwrap_or_default().lines() {
        sum.skipped += 1;
        let lane = line.split('\t').next().unwrap_or(line);
        if expected.iter().any(|known| known == lane) {
            println!("skipped as expected: {line}");
        } else {
            println!("UNEXPECTED SKIP: {line} (list it in .ci/expected-skips or mend it)");
            sum.failed += 1;
        }
    }
    Ok(sum)
}

fn expected_skips() -> Result<Vec<String>> {
    let text =
        fs::read_to_string(root().join(".ci/expected-skips")).context("read .ci/expected-skips")?;
    let lanes = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Ok(lanes.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect())
}

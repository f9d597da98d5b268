//! `mutants`: every deliberate bug must be found, and nothing may be found without one.
//!
//! Owns the table of which check found which bug, in which seed. The bugs are the registry's
//! (`raft-store/src/mutants.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use steeple_checker::results::say;
use steeple_spiffe_core::time::{Clock, SystemClock};

use crate::report::Line;
use crate::slice::{Arguments, in_child};

/// So many more seeds than one are run without a mutant, even if all were caught in the first.
const WITHOUT_MIN: u64 = 7;

/// Runs each mutant until it is caught or the seeds are used up, then the same seeds without any.
/// True if all were caught, and nothing else.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let names = match &arguments.mutant {
        Some(name) => vec![name.clone()],
        None => names(),
    };
    if names.is_empty() {
        bail!("there are no mutants: build with the feature \"mutants\"");
    }
    let mut found = parallel(arguments.jobs, &names, |name| hunt(arguments, name));
    found.sort_by_key(|hunt| names.iter().position(|name| *name == hunt.name));
    say("| mutant | first caught in seed | by | after |\n|---|---|---|---|");
    for hunt in &found {
        say(&hunt.row());
    }
    let used = found.iter().filter_map(|hunt| hunt.caught.as_ref()).map(|line| line.seed).max();
    let first = arguments.seeds.start;
    let seeds: Vec<u64> = (first..=used.unwrap_or(first).max(first + WITHOUT_MIN)).collect();
    let without = arguments.with_mutant(None);
    let sound = parallel(arguments.jobs, &seeds, |seed| in_child(&without, *seed, false));
    let failed: Vec<&Line> = sound.iter().filter(|line| line.verdict != "pass").collect();
    for line in &failed {
        say(&format!(
            "without a mutant, seed {}: {} ({})\n  {}\n  again: {}",
            line.seed,
            line.verdict,
            line.check,
            line.text,
            without.replay(line.seed)
        ));
    }
    let survivors = found.iter().filter(|hunt| hunt.caught.is_none()).count();
    say(&format!(
        "without a mutant: {} seeds passed, {} did not",
        sound.len() - failed.len(),
        failed.len()
    ));
    let missed = survivors + failed.len();
    say(&format!("mutants: {} passed, {missed} failed", found.len() - survivors));
    Ok(missed == 0)
}

/// What became of a mutant.
struct Hunt {
    name: String,
    caught: Option<Line>,
    seeds: u64,
    took: Duration,
}

impl Hunt {
    fn row(&self) -> String {
        let took = self.took.as_secs_f64();
        match &self.caught {
            Some(line) => {
                format!("| `{}` | {} | `{}` | {took:.1} s |", self.name, line.seed, line.check)
            }
            None => {
                format!("| `{}` | SURVIVED {} seeds | | {took:.1} s |", self.name, self.seeds)
            }
        }
    }
}

fn hunt(arguments: &Arguments, name: &str) -> Hunt {
    let began = SystemClock.boot_time();
    let with = arguments.with_mutant(Some(name));
    let mut seeds = 0;
    let caught = arguments.seeds.clone().find_map(|seed| {
        seeds += 1;
        let line = in_child(&with, seed, false);
        // A run that broke shows nothing.
        (line.verdict == "violation").then_some(line)
    });
    let took = SystemClock.boot_time().saturating_sub(began);
    Hunt { name: name.to_owned(), caught, seeds, took }
}

/// Does something with each item, some at a time.
fn parallel<T: Sync, R: Send>(jobs: usize, items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, out) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = each(item);
                    out.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                }
            });
        }
    });
    out.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The names of all mutants of this build.
#[cfg(feature = "mutants")]
fn names() -> Vec<String> {
    steeple_raft_store::testing::mutants().map(str::to_owned).collect()
}

/// The names of all mutants of this build.
#[cfg(not(feature = "mutants"))]
fn names() -> Vec<String> {
    Vec::new()
}

//! Results: an append-only file with a line of JSON a seed, and sums over such files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Line, Tally};

/// Writes a line for people.
pub(crate) fn say(text: &str) {
    // Nobody to tell if that fails.
    writeln!(std::io::stdout(), "{text}").ok();
}

/// Reads results. A torn last line, of a run that was killed as it wrote, is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        if let Ok(line) = serde_json::from_str(&line) {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Appends to results.
#[derive(Debug)]
pub(crate) struct Results {
    file: Option<File>,
}

impl Results {
    /// Opens the file, if one is named.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let file = match path {
            None => None,
            Some(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                let mut file = opened.with_context(|| format!("open {}", path.display()))?;
                if ends_torn(path)? {
                    file.write_all(b"\n").context("end a torn line")?;
                }
                Some(file)
            }
        };
        Ok(Self { file })
    }

    /// Appends a line.
    pub(crate) fn add(&mut self, line: &Line) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).context("encode a result")?;
        text.push('\n');
        file.write_all(text.as_bytes()).context("write a result")
    }
}

fn ends_torn(path: &Path) -> Result<bool> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.last().is_some_and(|last| *last != b'\n'))
}

/// Sums of many runs.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    seeds: BTreeSet<u64>,
    verdicts: BTreeMap<String, u64>,
    checks: BTreeMap<String, Vec<u64>>,
    ticks: u64,
    simulated_ms: u64,
    wall_ms: u64,
    tally: Tally,
}

impl Sums {
    /// Adds a run, once a seed.
    pub(crate) fn add(&mut self, line: &Line) {
        if !self.seeds.insert(line.seed) {
            return;
        }
        *self.verdicts.entry(line.verdict.clone()).or_default() += 1;
        if line.verdict != "pass" {
            self.checks.entry(line.check.clone()).or_default().push(line.seed);
        }
        self.ticks += line.ticks;
        self.simulated_ms += line.simulated_ms;
        self.wall_ms += line.wall_ms;
        self.tally.add(&line.tally);
    }

    /// Whether every run passed, and there was one.
    pub(crate) fn all_passed(&self) -> bool {
        !self.seeds.is_empty() && self.verdicts.keys().all(|verdict| verdict == "pass")
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let tally = &self.tally;
        let unknown = tally.unknown * 1000 / tally.calls().max(1);
        let mut text = format!(
            "seeds {} · ticks {} · {} s simulated · {} s of one core\n\
             verdicts {:?}\n\
             calls {} (ok {}, failed {}, unknown {} = {}.{} %) · requests decided and checked {} · \
             log entries compared {} · calls in checked histories {}, undecided {}\n\
             elections {} · feed subscriptions {} · longest healing {} ms\n\
             operations {:?}\n\
             faults {:?}, {} on the leader",
            self.seeds.len(),
            self.ticks,
            self.simulated_ms / 1000,
            self.wall_ms / 1000,
            self.verdicts,
            tally.calls(),
            tally.ok.values().sum::<u64>(),
            tally.failed,
            tally.unknown,
            unknown / 10,
            unknown % 10,
            tally.decided,
            tally.batches,
            tally.examined,
            tally.undecided,
            tally.elections,
            tally.subscriptions,
            tally.healed_ms,
            tally.ok,
            tally.faults,
            tally.hit_leader,
        );
        for (check, seeds) in &self.checks {
            text.push_str(&format!("\n{check}: seeds {seeds:?}"));
        }
        text
    }
}

/// `merge FILE…`: sums over result files. True if all passed.
pub(crate) fn merge(files: &[String]) -> Result<bool> {
    let mut sums = Sums::default();
    for file in files {
        for line in read(Path::new(file))? {
            sums.add(&line);
        }
    }
    say(&sums.table());
    Ok(sums.all_passed())
}

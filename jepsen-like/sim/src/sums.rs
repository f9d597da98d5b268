//! Sums over the results of many seeds.
//!
//! Owns what a slice of seeds must have exercised: one in which something never happened is no pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use steeple_checker::results::{self, say};

use crate::options::FaultKind;
use crate::report::{Line, Tally};
use crate::workload::NAMES;

/// From so many seeds on, a slice must have exercised everything.
const JUDGED_FROM: u64 = 25;

/// Of a hundred seeds so many may have something that nobody could tell.
const UNTOLD_PERCENT_MAX: u64 = 10;

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

    /// Whether every run passed, there was one, and nothing is missing.
    pub(crate) fn is_acceptable(&self) -> bool {
        let passed = self.verdicts.keys().all(|verdict| verdict == "pass");
        !self.seeds.is_empty() && passed && self.missing().is_empty()
    }

    /// How many runs passed, and how many did not; what is missing counts as one that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let passed = self.verdicts.get("pass").copied().unwrap_or(0);
        let failed = self.seeds.len() as u64 - passed;
        (passed, failed + u64::from(!self.missing().is_empty()))
    }

    /// What the runs have not exercised and should have. A few seeds cannot be held to it.
    fn missing(&self) -> Vec<String> {
        let seeds = self.seeds.len() as u64;
        if seeds < JUDGED_FROM {
            return Vec::new();
        }
        let tally = &self.tally;
        let mut missing = Vec::new();
        for (fault, _) in FaultKind::ALL {
            let name = format!("{fault:?}");
            if !tally.faults.contains_key(&name) {
                missing.push(format!("fault {name} never fired"));
            }
        }
        for name in NAMES.iter().filter(|name| !tally.ok.contains_key(**name)) {
            missing.push(format!("{name} was never answered"));
        }
        let numbers = [
            ("a leader after the first", tally.elections.saturating_sub(seeds)),
            ("a snapshot that was installed", tally.installed),
            ("a change of the membership", tally.memberships),
            ("a request that arrived twice", tally.duplicates),
            ("a fault on the leader", tally.hit_leader),
            ("an operation in a checked history", tally.examined),
        ];
        missing.extend(
            numbers.iter().filter(|(_, n)| *n == 0).map(|(what, _)| format!("not one: {what}")),
        );
        for (what, count) in [
            ("histories that were not checked", tally.unchecked),
            ("checks that could not tell", tally.undecided.saturating_sub(tally.unchecked)),
        ] {
            if count * 100 > seeds * UNTOLD_PERCENT_MAX {
                missing.push(format!("{what}: {count} in {seeds} seeds, too many"));
            }
        }
        missing
    }

    /// For people, as a table of Markdown.
    pub(crate) fn table(&self) -> String {
        let tally = &self.tally;
        let share = |part: u64, of: u64| {
            let tenths = part * 1000 / of.max(1);
            format!("{part} ({}.{} %)", tenths / 10, tenths % 10)
        };
        let seeds = self.seeds.len() as u64;
        let mut rows: Vec<(String, String)> = [
            ("seeds", seeds.to_string()),
            ("ticks", self.ticks.to_string()),
            ("simulated seconds", (self.simulated_ms / 1000).to_string()),
            ("seconds of one core", (self.wall_ms / 1000).to_string()),
            ("verdicts", format!("{:?}", self.verdicts)),
            ("calls", tally.calls().to_string()),
            ("… answered", tally.ok.values().sum::<u64>().to_string()),
            ("… surely without effect", tally.failed.to_string()),
            ("… of unknown outcome", share(tally.unknown, tally.calls())),
            ("operations in checked histories", tally.examined.to_string()),
            ("histories not checked", share(tally.unchecked, seeds)),
            ("checks that could not tell", share(tally.undecided, seeds)),
            ("requests decided and held against the log", tally.decided.to_string()),
            ("requests that arrived twice", tally.duplicates.to_string()),
            ("log entries compared", tally.batches.to_string()),
            ("whole states compared", tally.sums.to_string()),
            ("leaders", tally.elections.to_string()),
            ("memberships after the first", tally.memberships.to_string()),
            ("feed subscriptions", tally.subscriptions.to_string()),
            ("snapshots installed", tally.installed.to_string()),
            ("longest healing, ms", tally.healed_ms.to_string()),
        ]
        .into_iter()
        .map(|(what, value)| (what.to_owned(), value))
        .collect();
        rows.extend(tally.ok.iter().map(|(name, n)| (format!("answered: {name}"), n.to_string())));
        rows.extend(tally.faults.iter().map(|(name, n)| (format!("fault: {name}"), n.to_string())));
        rows.push(("faults on the leader".to_owned(), tally.hit_leader.to_string()));
        let mut text = "| what | how much |\n|---|---|".to_owned();
        for (what, value) in rows {
            text.push_str(&format!("\n| {what} | {value} |"));
        }
        for (check, seeds) in &self.checks {
            text.push_str(&format!("\n{check}: seeds {seeds:?}"));
        }
        let missing = self.missing();
        text.push_str(&match (seeds < JUDGED_FROM, missing.is_empty()) {
            (true, _) => format!("\ncoverage: not judged below {JUDGED_FROM} seeds"),
            (false, true) => "\ncoverage: met".to_owned(),
            (false, false) => format!("\nUNACCEPTABLE: {}", missing.join("; ")),
        });
        text
    }
}

/// `merge FILE…`: sums over result files. True if all passed.
pub(crate) fn merge(files: &[String]) -> Result<bool> {
    let mut sums = Sums::default();
    for file in files {
        for line in results::read(Path::new(file))? {
            sums.add(&line);
        }
    }
    say(&sums.table());
    Ok(sums.is_acceptable())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::report::{Report, Verdict};

    fn sums(seeds: u64, change: impl Fn(&mut Tally)) -> Sums {
        let mut sums = Sums::default();
        for seed in 0..seeds {
            let mut report = Report::new(&Options::of_seed(seed), 1);
            report.verdict = Verdict::Pass;
            let tally = &mut report.tally;
            tally.faults = FaultKind::ALL.iter().map(|(f, _)| (format!("{f:?}"), 1)).collect();
            tally.ok = NAMES.iter().map(|name| ((*name).to_owned(), 1)).collect();
            (tally.elections, tally.installed, tally.memberships) = (2, 1, 1);
            (tally.duplicates, tally.hit_leader, tally.examined) = (1, 1, 1);
            change(tally);
            sums.add(&report.line(None));
        }
        sums
    }

    #[test]
    fn a_slice_in_which_something_never_happened_is_unacceptable() {
        assert!(sums(25, |_| {}).is_acceptable());
        type Change = fn(&mut Tally);
        let cases: [(&str, Change); 6] = [
            ("fault Freeze never fired", |tally| tally.faults.retain(|name, _| name != "Freeze")),
            ("ban_agent was never answered", |tally| {
                tally.ok.retain(|name, _| name != "ban_agent")
            }),
            ("not one: a leader after the first", |tally| tally.elections = 1),
            ("not one: a snapshot that was installed", |tally| tally.installed = 0),
            ("not one: an operation in a checked history", |tally| tally.examined = 0),
            ("histories that were not checked: 25 in 25 seeds", |tally| tally.unchecked = 1),
        ];
        for (missing, change) in cases {
            let slice = sums(25, change);
            assert!(!slice.is_acceptable(), "{missing}");
            assert!(slice.table().contains(&format!("UNACCEPTABLE: {missing}")), "{missing}");
            assert_eq!(slice.counts(), (25, 1));
            assert!(sums(24, change).is_acceptable(), "few seeds are not held to it: {missing}");
        }
    }

    #[test]
    fn a_slice_with_a_failed_run_is_unacceptable() {
        let mut slice = sums(2, |_| {});
        let mut report = Report::new(&Options::of_seed(9), 1);
        report.verdict = Verdict::Harness("it broke".to_owned());
        slice.add(&report.line(None));
        assert!(!slice.is_acceptable());
        assert_eq!(slice.counts(), (2, 1));
        assert!(!Sums::default().is_acceptable(), "nothing ran");
    }
}

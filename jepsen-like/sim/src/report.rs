//! What is said of a run: one line of JSON a seed, for an append-only file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::End;
use crate::options::Options;
use crate::reference::Violation;

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Everything was as promised.
    Pass,
    /// Something was not.
    Violation(Violation),
    /// The simulation itself failed; never a pass.
    Harness(String),
}

impl Verdict {
    /// The word in results.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Violation(_) => "violation",
            Self::Harness(_) => "harness",
        }
    }

    /// Check and text.
    pub(crate) fn details(&self) -> (String, String) {
        match self {
            Self::Pass => Default::default(),
            Self::Violation(violation) => (violation.check.to_owned(), violation.text.clone()),
            Self::Harness(text) => ("harness".to_owned(), text.clone()),
        }
    }
}

/// Numbers of a run, or of many.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Calls that ended with an answer, by operation.
    pub(crate) ok: BTreeMap<String, u64>,
    /// Calls that surely had no effect.
    pub(crate) failed: u64,
    /// Calls of which nobody knows.
    pub(crate) unknown: u64,
    /// Requests that were decided and checked.
    pub(crate) decided: u64,
    /// Log entries that were seen and compared.
    pub(crate) batches: u64,
    /// Calls that the history checker looked at.
    #[serde(default)]
    pub(crate) examined: u64,
    /// Checks that could not tell.
    #[serde(default)]
    pub(crate) undecided: u64,
    /// Histories that the checker could not look at: an answer to a prune of agents was lost.
    #[serde(default)]
    pub(crate) unchecked: u64,
    /// Sums of whole states that were compared.
    #[serde(default)]
    pub(crate) sums: u64,
    /// Requests that arrived twice and were answered.
    #[serde(default)]
    pub(crate) duplicates: u64,
    /// Leaders.
    pub(crate) elections: u64,
    /// Memberships after the first.
    #[serde(default)]
    pub(crate) memberships: u64,
    /// Feed subscriptions: starts, snapshot installs, resumptions.
    pub(crate) subscriptions: u64,
    /// Of those, snapshots that took the place of all rows.
    #[serde(default)]
    pub(crate) installed: u64,
    /// Faults by name.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Faults that hit the leader.
    pub(crate) hit_leader: u64,
    /// The longest convergence, in simulated milliseconds.
    pub(crate) healed_ms: u64,
}

impl Tally {
    /// Counts the end of a call.
    pub(crate) fn count(&mut self, operation: &str, end: &End) {
        match end {
            End::Answered(..) => *self.ok.entry(operation.to_owned()).or_default() += 1,
            End::Failed(_) => self.failed += 1,
            End::Unknown(_) => self.unknown += 1,
        }
    }

    /// Calls of every outcome.
    pub(crate) fn calls(&self) -> u64 {
        self.ok.values().sum::<u64>() + self.failed + self.unknown
    }

    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, count) in &other.ok {
            *self.ok.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.decided += other.decided;
        self.batches += other.batches;
        self.examined += other.examined;
        self.undecided += other.undecided;
        self.unchecked += other.unchecked;
        self.sums += other.sums;
        self.duplicates += other.duplicates;
        self.memberships += other.memberships;
        self.installed += other.installed;
        self.elections += other.elections;
        self.subscriptions += other.subscriptions;
        self.hit_leader += other.hit_leader;
        self.healed_ms = self.healed_ms.max(other.healed_ms);
    }
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Which.
    pub(crate) seed: u64,
    /// Ticks under faults.
    pub(crate) ticks: u64,
    /// Founding members.
    pub(crate) members: u16,
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// The trace's hash.
    pub(crate) trace: u64,
    /// The trace's length.
    pub(crate) trace_lines: u64,
    /// Simulated time.
    pub(crate) simulated_ms: u64,
    /// Numbers.
    pub(crate) tally: Tally,
}

impl Report {
    /// Of a run that has not begun.
    pub(crate) fn new(options: &Options, ticks: u64) -> Self {
        Self {
            seed: options.seed,
            ticks,
            members: options.founders,
            verdict: Verdict::Harness("it did not begin".to_owned()),
            trace: 0,
            trace_lines: 0,
            simulated_ms: 0,
            tally: Tally::default(),
        }
    }

    /// The line of the results.
    pub(crate) fn line(&self, mutant: Option<&str>) -> Line {
        let (check, text) = self.verdict.details();
        Line {
            seed: self.seed,
            ticks: self.ticks,
            members: self.members,
            mutant: mutant.map(str::to_owned),
            verdict: self.verdict.word().to_owned(),
            check,
            text,
            trace: format!("{:016x}", self.trace),
            trace_lines: self.trace_lines,
            simulated_ms: self.simulated_ms,
            wall_ms: 0,
            tally: self.tally.clone(),
        }
    }
}

/// A line of the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) seed: u64,
    pub(crate) ticks: u64,
    pub(crate) members: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mutant: Option<String>,
    pub(crate) verdict: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) check: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) text: String,
    pub(crate) trace: String,
    pub(crate) trace_lines: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) wall_ms: u64,
    pub(crate) tally: Tally,
}

//! Coverage: a run that did not exercise what it had to is no pass.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::history::{Answer, FaultState, History, OperationKind};
use crate::verdict::{CheckReport, Verdict};

/// What a run must have exercised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requirements {
    /// Operations that need an ok outcome, beside those that were tried.
    pub operations: BTreeSet<OperationKind>,
    /// Whether each operation that was tried needs an ok outcome.
    pub tried_operations: bool,
    /// Largest share of calls with unknown outcome, in percent.
    pub unknown_percent_max: f64,
    /// Smallest share of writes that are ok before the first fault, in percent.
    pub ok_before_faults_percent_min: f64,
    /// Faults that must have been installed.
    pub faults: BTreeSet<String>,
    /// Of those, the ones that must have hit the leader once and spared it once.
    pub leader_and_follower: BTreeSet<String>,
    /// How often a mark must stand: `election`, `snapshot_install`.
    pub marks: BTreeMap<String, u64>,
    /// Whether every call after the mark `final_phase` must be ok.
    pub final_phase_ok: bool,
    /// How many things a check must have looked at, by its name.
    pub examined: BTreeMap<String, u64>,
}

impl Default for Requirements {
    fn default() -> Self {
        Self {
            operations: BTreeSet::new(),
            tried_operations: true,
            unknown_percent_max: 10.0,
            ok_before_faults_percent_min: 70.0,
            faults: BTreeSet::new(),
            leader_and_follower: BTreeSet::new(),
            marks: BTreeMap::new(),
            final_phase_ok: true,
            examined: BTreeMap::from([("witness".to_owned(), 1)]),
        }
    }
}

/// Compares a history with the requirements; `others` are the reports of the other checks.
pub fn coverage(
    history: &History,
    requirements: &Requirements,
    others: &[CheckReport],
) -> CheckReport {
    let mut missing = Vec::new();
    operations(history, requirements, &mut missing);
    faults(history, requirements, &mut missing);
    for (what, least) in &requirements.marks {
        let count = history.marks.iter().filter(|(_, mark)| mark.what == *what).count() as u64;
        if count < *least {
            missing.push(format!("{what}: {count} of {least}"));
        }
    }
    for (check, least) in &requirements.examined {
        let examined =
            others.iter().find(|report| report.check == check).map_or(0, |report| report.examined);
        if examined < *least {
            missing.push(format!("check {check} looked at {examined} of {least}"));
        }
    }
    let examined = history.calls.len() as u64;
    let verdict = if missing.is_empty() { Verdict::Pass } else { Verdict::Uncovered(missing) };
    CheckReport::new("coverage", examined, verdict)
}

fn operations(history: &History, requirements: &Requirements, missing: &mut Vec<String>) {
    let is_ok = |answer: &Answer| matches!(answer, Answer::Ok { .. });
    let mut needed = requirements.operations.clone();
    if requirements.tried_operations {
        needed.extend(history.calls.iter().map(|call| call.op.kind()));
    }
    for call in history.calls.iter().filter(|call| is_ok(&call.answer)) {
        needed.remove(&call.op.kind());
    }
    missing.extend(needed.iter().map(|kind| format!("{kind:?} was never ok")));

    let unknown = history.calls.iter().filter(|call| call.answer == Answer::Unknown).count();
    let share = percent(unknown, history.calls.len());
    if share.is_some_and(|share| share >= requirements.unknown_percent_max) {
        let max = requirements.unknown_percent_max;
        missing.push(format!("{unknown} calls are of unknown outcome, not below {max} %"));
    }
    let first_fault = history.faults.first().map_or(u64::MAX, |(line, _)| *line);
    let early: Vec<bool> = history
        .calls
        .iter()
        .filter(|call| call.op.is_write() && call.line() < first_fault)
        .map(|call| is_ok(&call.answer))
        .collect();
    let share = percent(early.iter().filter(|ok| **ok).count(), early.len());
    if share.is_some_and(|share| share < requirements.ok_before_faults_percent_min) {
        missing.push("too few writes are ok before the first fault".to_owned());
    }
    let last = history.marks.iter().rev().find(|(_, mark)| mark.what == "final_phase");
    if let (true, Some((line, _))) = (requirements.final_phase_ok, last) {
        let last_calls = history.calls.iter().filter(|call| call.invoked > *line);
        let failed = last_calls.filter(|call| !is_ok(&call.answer)).count();
        if failed > 0 {
            missing.push(format!("{failed} calls of the final phase are not ok"));
        }
    }
}

fn faults(history: &History, requirements: &Requirements, missing: &mut Vec<String>) {
    let mut installed: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for (line, fault) in &history.faults {
        match fault.state {
            FaultState::Installed => {
                let hit = installed.entry(&fault.fault).or_default();
                hit.0 |= fault.hit_leader;
                hit.1 |= !fault.hit_leader;
            }
            FaultState::Indeterminate => {
                missing.push(format!(
                    "line {line}: nobody knows whether {} was installed",
                    fault.fault
                ));
            }
            FaultState::Removed | FaultState::Skipped => {}
        }
    }
    for fault in requirements.faults.union(&requirements.leader_and_follower) {
        let hit = installed.get(fault.as_str());
        if hit.is_none() {
            missing.push(format!("fault {fault} was never installed"));
        } else if requirements.leader_and_follower.contains(fault) && hit != Some(&(true, true)) {
            missing.push(format!("fault {fault} did not hit both a leader and others"));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn percent(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

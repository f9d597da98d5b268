//! What a run has shown, and the word for it.
//!
//! Only a run in which nothing is wrong and nothing is missing passes. A broken promise is a
//! `VIOLATION`; a harness that failed, a fault that could not be installed, too little exercised or
//! something undecided is `UNACCEPTABLE`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use steeple_checker::{Report as Checked, Verdict};

use crate::agents::judge as agents;
use crate::agents::judge::{Figures, Story};
use crate::issuers::Issued;
use crate::journal::Entry;
use crate::nemesis::Noted;
use crate::options::Options;
use crate::record::Told;
use crate::restore::Restored;
use crate::suspend::Suspended;
use crate::watch::Seen;

/// The word for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Nothing is wrong, and it could have been.
    #[serde(rename = "pass")]
    Pass,
    /// The run proves nothing.
    #[serde(rename = "UNACCEPTABLE")]
    Unacceptable,
    /// A promise was broken.
    #[serde(rename = "VIOLATION")]
    Violation,
}

impl Word {
    /// As text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unacceptable => "UNACCEPTABLE",
            Self::Violation => "VIOLATION",
        }
    }
}

/// Everything known about a run when it is judged.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) members: usize,
    pub(crate) nemeses: String,
    pub(crate) replay: String,
    pub(crate) folder: PathBuf,
    /// What went wrong with the harness.
    pub(crate) harness: Vec<String>,
    /// What went wrong with the members, that no fault explains.
    pub(crate) unexplained: Vec<String>,
    pub(crate) told: Told,
    pub(crate) faults: Vec<Entry>,
    pub(crate) seen: Seen,
    /// None if it never healed, or nobody waited for it.
    pub(crate) heal_ms: Option<u64>,
    pub(crate) checked: Option<Checked>,
    /// What agents and workloads saw.
    pub(crate) story: Story,
    /// What issuers came to, if there were any.
    pub(crate) issued: Vec<Issued>,
    /// What restores and suspends have shown.
    pub(crate) noted: Noted,
}

/// A run in a line of the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) members: usize,
    pub(crate) nemeses: String,
    pub(crate) verdict: Word,
    /// Why it is no pass.
    pub(crate) why: Vec<String>,
    /// Calls that the checker looked at.
    pub(crate) operations: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) writes: u64,
    /// Faults that were installed, by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Of those, how many hit the leader.
    pub(crate) on_leader: BTreeMap<String, u64>,
    /// Of those, how many hit all members at once.
    pub(crate) on_all: BTreeMap<String, u64>,
    /// The longest time between two acknowledged writes.
    pub(crate) worst_gap_ms: u64,
    /// The longest of those during which faults left a majority of the members alone.
    pub(crate) worst_gap_with_majority_ms: u64,
    /// From the end of all faults until there was one cluster in one state.
    pub(crate) heal_ms: Option<u64>,
    pub(crate) elections: u64,
    /// Of agents and workloads; nothing in results from before there were any.
    #[serde(default)]
    pub(crate) agents: Figures,
    /// Issuance in runs of planned work.
    #[serde(default)]
    pub(crate) issued: Vec<Issued>,
    /// Restores; nothing in results from before there were any.
    #[serde(default)]
    pub(crate) restores: Vec<Restored>,
    /// Members that stood still while they were cut off.
    #[serde(default)]
    pub(crate) suspends: Vec<Suspended>,
    pub(crate) replay: String,
    pub(crate) folder: PathBuf,
}

impl Facts {
    /// Nothing is known yet.
    pub(crate) fn new(options: &Options, seed: u64, folder: PathBuf) -> Self {
        Self {
            seed,
            seconds: options.seconds,
            members: options.members,
            nemeses: options.nemesis_list(),
            replay: options.replay(seed),
            folder,
            harness: Vec::new(),
            unexplained: Vec::new(),
            told: Told::default(),
            faults: Vec::new(),
            seen: Seen::default(),
            heal_ms: None,
            checked: None,
            story: Story::default(),
            issued: Vec::new(),
            noted: Noted::default(),
        }
    }

    /// Looks for words in the members' logs that must never be there.
    pub(crate) fn read_logs(&mut self, members: usize) {
        for at in 0..members {
            let path = self.folder.join(format!("server-{at}")).join("server.log");
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            for bad in ["State hash mismatch", "panicked at"] {
                if let Some(line) = text.lines().find(|line| line.contains(bad)) {
                    self.unexplained.push(format!("m{at} says: {line}"));
                }
            }
        }
    }

    /// The longest time between two acknowledged writes while clients were at work; also the longest
    /// during which faults left a majority of the members alone. In nanoseconds.
    pub(crate) fn worst_gaps(&self) -> (u64, u64) {
        let mut worst = (0, 0);
        let marked = |what: &str| {
            let mut marks = self.told.marks.iter();
            marks.find(|(_, mark)| mark == what).map(|(at, _)| *at)
        };
        let load = marked(LOAD).unwrap_or(0)..=marked(FINAL_PHASE).unwrap_or(u64::MAX);
        let writes: Vec<u64> =
            self.told.writes_ns.iter().copied().filter(|at| load.contains(at)).collect();
        for (from, to) in writes.iter().zip(writes.iter().skip(1)) {
            let length = to.saturating_sub(*from);
            worst.0 = worst.0.max(length);
            if length > worst.1 && self.had_majority(*from, *to) {
                worst.1 = length;
            }
        }
        worst
    }

    fn had_majority(&self, from: u64, to: u64) -> bool {
        let near = self.faults.iter().filter(|fault| {
            let until = fault.until_ns.unwrap_or(u64::MAX);
            fault.from_ns <= to && until.saturating_add(COMES_BACK_NS) >= from
        });
        let hit: BTreeSet<usize> = near.flat_map(|fault| fault.members.iter().copied()).collect();
        hit.len() <= self.members.saturating_sub(1) / 2
    }
}

/// The marks from when on and until when clients are at work.
pub(crate) const LOAD: &str = "load";
pub(crate) const FINAL_PHASE: &str = "final_phase";

/// So long after a fault a member may still be on its way back: an unoptimised program opens its log.
const COMES_BACK_NS: u64 = 2_000_000_000;

/// Judges a run.
pub(crate) fn judge(facts: &Facts) -> Line {
    let mut violations = facts.unexplained.clone();
    violations.extend(agents::violations(&facts.story));
    violations.extend(facts.issued.iter().filter_map(Issued::wrong));
    let mut unacceptable = facts.harness.clone();
    unacceptable.extend(agents::missing(&facts.story, facts.seconds));
    unacceptable.extend(facts.told.strange.iter().map(|what| format!("a strange answer: {what}")));
    for report in facts.checked.iter().flat_map(|checked| &checked.checks) {
        match &report.verdict {
            Verdict::Pass => {}
            Verdict::Violation(violation) => {
                let lines = violation.evidence.iter();
                let lines: Vec<String> =
                    lines.map(|one| format!("line {}: {}", one.line, one.note)).collect();
                violations.push(format!(
                    "{}: {}; {}",
                    report.check,
                    violation.what,
                    lines.join("; ")
                ));
            }
            Verdict::Undecided(why) => unacceptable.push(format!("{}: {why}", report.check)),
            Verdict::Uncovered(missing) => {
                unacceptable.extend(missing.iter().map(|what| format!("not covered: {what}")));
            }
        }
    }
    if facts.checked.is_none() {
        unacceptable.push("the history was not checked".to_owned());
    }
    let verdict = match (violations.is_empty(), unacceptable.is_empty()) {
        (false, _) => Word::Violation,
        (true, false) => Word::Unacceptable,
        (true, true) => Word::Pass,
    };
    let count = |of: &dyn Fn(&Entry) -> bool| {
        let mut counts = BTreeMap::new();
        for entry in facts.faults.iter().filter(|entry| of(entry)) {
            *counts.entry(entry.nemesis.clone()).or_default() += 1;
        }
        counts
    };
    let told = &facts.told;
    let (gap, gap_with_majority) = facts.worst_gaps();
    Line {
        seed: facts.seed,
        seconds: facts.seconds,
        members: facts.members,
        nemeses: facts.nemeses.clone(),
        verdict,
        why: violations.into_iter().chain(unacceptable).collect(),
        operations: told.ok + told.failed + told.unknown,
        ok: told.ok,
        failed: told.failed,
        unknown: told.unknown,
        writes: told.writes_ns.len() as u64,
        faults: count(&|_| true),
        on_leader: count(&|entry| entry.hit_leader),
        on_all: count(&|entry| facts.members > 1 && entry.members.len() == facts.members),
        worst_gap_ms: gap / 1_000_000,
        worst_gap_with_majority_ms: gap_with_majority / 1_000_000,
        heal_ms: facts.heal_ms,
        elections: facts.seen.elections,
        agents: agents::figures(&facts.story, &facts.faults),
        issued: facts.issued.clone(),
        restores: facts.noted.restores.clone(),
        suspends: facts.noted.suspends.clone(),
        replay: facts.replay.clone(),
        folder: facts.folder.clone(),
    }
}

impl Line {
    /// The run in one line for people.
    pub(crate) fn sentence(&self) -> String {
        let faults: u64 = self.faults.values().sum();
        let heal = self.heal_ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
        format!(
            "{}: {} operations checked, {faults} faults installed, worst write gap {} ms ({} ms with a \
             majority), healed in {heal}{}; again: {}",
            self.verdict.text(),
            self.operations,
            self.worst_gap_ms,
            self.worst_gap_with_majority_ms,
            self.agents.words(),
            self.replay
        )
    }
}

#[cfg(test)]
mod tests {
    use steeple_checker::{CheckReport, Violation};

    use super::*;

    fn facts(verdict: Verdict) -> Facts {
        let options = Options::parse(&[]).unwrap();
        let mut facts = Facts::new(&options, 1, PathBuf::new());
        let checks = vec![CheckReport::new("witness", 1, verdict)];
        facts.checked = Some(Checked { checks });
        facts
    }

    #[test]
    fn only_a_run_with_nothing_wrong_and_nothing_missing_passes() {
        let pass = || facts(Verdict::Pass);
        type Change = fn(&mut Facts);
        let cases: [(&str, Change, Word); 9] = [
            ("nothing", |_| {}, Word::Pass),
            ("the harness failed", |f| f.harness.push("x".to_owned()), Word::Unacceptable),
            ("a strange answer", |f| f.told.strange.push("x".to_owned()), Word::Unacceptable),
            ("never checked", |f| f.checked = None, Word::Unacceptable),
            ("an agent ended", |f| f.story.wrong.push("x".to_owned()), Word::Violation),
            (
                "an issuer's call failed",
                |f| f.issued.push(Issued { failed: 1, ..Issued::default() }),
                Word::Violation,
            ),
            ("workloads saw nothing", |f| f.story.agents = 1, Word::Unacceptable),
            ("a process ended", |f| f.unexplained.push("x".to_owned()), Word::Violation),
            (
                "a process ended, and the harness failed",
                |f| {
                    f.unexplained.push("x".to_owned());
                    f.harness.push("x".to_owned());
                },
                Word::Violation,
            ),
        ];
        for (what, change, word) in cases {
            let mut facts = pass();
            change(&mut facts);
            assert_eq!(judge(&facts).verdict, word, "{what}");
        }
        let violation = Verdict::Violation(Violation::new("lost").with(3, "here"));
        assert_eq!(judge(&facts(violation)).verdict, Word::Violation);
        let undecided = Verdict::Undecided("too long".to_owned());
        assert_eq!(judge(&facts(undecided)).verdict, Word::Unacceptable);
        let uncovered = Verdict::Uncovered(vec!["no fault".to_owned()]);
        assert_eq!(judge(&facts(uncovered)).verdict, Word::Unacceptable);
    }

    #[test]
    fn gaps_are_between_neighbours_and_those_without_a_majority_are_kept_apart() {
        let mut facts = facts(Verdict::Pass);
        let ms = |number: u64| number * 1_000_000;
        facts.told.writes_ns = vec![ms(1_000), ms(9_000), ms(20_000), ms(23_000)];
        let fault = |members: &[usize], from, until| Entry {
            number: 0,
            nemesis: "kill".to_owned(),
            how: String::new(),
            members: members.to_vec(),
            hit_leader: false,
            from_ns: ms(from),
            until_ns: Some(ms(until)),
        };
        facts.faults = vec![fault(&[0, 1], 10_000, 12_000), fault(&[2], 20_500, 21_000)];
        assert_eq!(facts.worst_gaps(), (ms(11_000), ms(8_000)));
        facts.told.marks = vec![(ms(5_000), LOAD.to_owned()), (ms(22_000), FINAL_PHASE.to_owned())];
        assert_eq!(facts.worst_gaps(), (ms(11_000), 0), "nobody writes before and after");
        facts.told.marks.clear();
        facts.faults.push(fault(&[1, 2], 2_000, 3_000));
        assert_eq!(facts.worst_gaps(), (ms(11_000), ms(3_000)));
        assert_eq!(judge(&facts).worst_gap_ms, 11_000);
    }
}

//! What a check says. Only [`Verdict::Pass`] is a pass.

use std::fmt;

use serde::Serialize;

/// What a check says of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What it looks for is not there, and it could look.
    Pass,
    /// The cluster broke a promise.
    Violation(Violation),
    /// It could not be told within the bounds.
    Undecided(String),
    /// The run did not exercise what it had to.
    Uncovered(Vec<String>),
}

impl Verdict {
    /// Whether it is a pass.
    pub fn is_pass(&self) -> bool {
        *self == Self::Pass
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Violation(_) => "VIOLATION",
            Self::Undecided(_) => "UNDECIDED",
            Self::Uncovered(_) => "UNCOVERED",
        }
    }

    /// The worse comes later.
    fn rank(&self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Uncovered(_) => 1,
            Self::Undecided(_) => 2,
            Self::Violation(_) => 3,
        }
    }
}

/// A broken promise with the lines that show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What was broken.
    pub what: String,
    /// The lines that show it, and no more.
    pub evidence: Vec<Evidence>,
}

/// A line that shows something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The line of the history.
    pub line: u64,
    /// What it shows.
    pub note: String,
}

impl Violation {
    /// A violation.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), evidence: Vec::new() }
    }

    /// Adds a line.
    #[must_use]
    pub fn with(mut self, line: u64, note: impl Into<String>) -> Self {
        self.evidence.push(Evidence { line, note: note.into() });
        self
    }
}

impl From<Result<(), Violation>> for Verdict {
    fn from(result: Result<(), Violation>) -> Self {
        result.map_or_else(Self::Violation, |()| Self::Pass)
    }
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub check: &'static str,
    /// How many things it looked at.
    pub examined: u64,
    /// What it says.
    pub verdict: Verdict,
    /// Facts worth a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CheckReport {
    /// A report without notes.
    pub fn new(check: &'static str, examined: u64, verdict: impl Into<Verdict>) -> Self {
        Self { check, examined, verdict: verdict.into(), notes: Vec::new() }
    }
}

/// What all checks say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One a check.
    pub checks: Vec<CheckReport>,
}

impl Report {
    /// The worst verdict. A report without checks is no pass.
    pub fn overall(&self) -> Verdict {
        let worst = self.checks.iter().map(|report| &report.verdict).max_by_key(|v| v.rank());
        worst.cloned().unwrap_or_else(|| Verdict::Uncovered(vec!["nothing was checked".to_owned()]))
    }

    /// What the check of this name says.
    pub fn verdict_of(&self, check: &str) -> Option<&Verdict> {
        self.checks.iter().find(|report| report.check == check).map(|report| &report.verdict)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.checks {
            writeln!(
                f,
                "{:<12} {:<10} {} examined",
                report.check,
                report.verdict.word(),
                report.examined
            )?;
            for note in &report.notes {
                writeln!(f, "    {note}")?;
            }
            match &report.verdict {
                Verdict::Pass => {}
                Verdict::Violation(violation) => {
                    writeln!(f, "    {}", violation.what)?;
                    for evidence in &violation.evidence {
                        writeln!(f, "    line {}: {}", evidence.line, evidence.note)?;
                    }
                }
                Verdict::Undecided(why) => writeln!(f, "    {why}")?,
                Verdict::Uncovered(missing) => {
                    for what in missing {
                        writeln!(f, "    {what}")?;
                    }
                }
            }
        }
        write!(f, "verdict: {}", self.overall().word())
    }
}

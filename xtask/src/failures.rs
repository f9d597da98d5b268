//! What failed, by name and with its reason, for the last lines of a run.
//!
//! Owns the reading of nextest's final report, and what a second try of a test changes. Pure: whoever has
//! the last page of a long run alone must see what to mend.

use crate::tally::Tally;

/// So many tests may fail and be run once more, alone. More have a cause in common.
const AGAIN_MAX: usize = 3;

/// So many lines of a reason are told.
const REASON_LINES_MAX: usize = 12;

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// How it ended, in nextest's word: `FAIL`, `TIMEOUT`, `SIGABRT`.
    pub(crate) ending: String,
    /// nextest's name of the test program: `steeple-testkit::it`.
    pub(crate) binary: String,
    /// The test within it.
    pub(crate) test: String,
    /// Its panic or error.
    pub(crate) reason: Vec<String>,
}

impl Failed {
    /// As nextest selects it.
    pub(crate) fn filter(&self) -> String {
        format!("(binary_id(={}) and test(={}))", self.binary, self.test)
    }

    fn is(&self, other: &Self) -> bool {
        self.binary == other.binary && self.test == other.test
    }

    fn lines(&self, what: &str) -> Vec<String> {
        let first = format!("{what}: {} {} ({})", self.binary, self.test, self.ending);
        let reason = self.reason.iter().map(|line| format!("    {line}"));
        std::iter::once(first).chain(reason).collect()
    }
}

/// Those that nextest's report names behind its summary.
pub(crate) fn of_nextest(output: &str) -> Vec<Failed> {
    let lines: Vec<&str> = output.lines().collect();
    let is_summary = |line: &&str| line.contains("Summary [") && line.contains("run:");
    let Some(summary) = lines.iter().rposition(is_summary) else { return Vec::new() };
    let mut failed = Vec::new();
    let mut said: Vec<&str> = Vec::new();
    // Backwards: what a test has said stands behind its name.
    for line in lines.into_iter().skip(summary + 1).rev() {
        match named(line) {
            Some((ending, binary, test)) => {
                said.reverse();
                let (ending, binary, test) = (ending.into(), binary.into(), test.into());
                failed.push(Failed { ending, binary, test, reason: reason(&said) });
                said.clear();
            }
            None => said.push(line),
        }
    }
    failed.reverse();
    failed
}

/// Reads `        FAIL [   0.155s] (4/5) steeple-testkit::it upstream::name`.
fn named(line: &str) -> Option<(&str, &str, &str)> {
    let (ending, rest) = line.split_once(" [")?;
    let ending = ending.trim();
    let is_ending = !ending.is_empty() && ending.bytes().all(|byte| byte.is_ascii_uppercase());
    let (took, rest) = rest.split_once("s] (")?;
    let (_count, name) = rest.split_once(") ")?;
    let (binary, test) = name.split_once(' ')?;
    let is_number = took.trim().parse::<f64>().is_ok();
    (is_ending && is_number).then_some((ending, binary, test.trim()))
}

/// The panic, or the error that the test returned, or else how nextest says it ended.
fn reason(said: &[&str]) -> Vec<String> {
    let from = |text: &str| said.iter().position(|line| line.contains(text));
    let panicked = from(" panicked at ").or_else(|| from("    Error: "));
    let start = panicked.or_else(|| from("    (test ")).unwrap_or(said.len());
    let lines = said.iter().skip(start).map(|line| line.trim());
    let ends = |line: &&str| !line.starts_with("stack backtrace:") && !line.starts_with("note: ");
    let told = lines.take_while(ends).filter(|line| !line.is_empty());
    told.take(REASON_LINES_MAX).map(str::to_owned).collect()
}

/// Whether these are few enough to be run once more, alone.
pub(crate) fn are_few(failed: &[Failed]) -> bool {
    !failed.is_empty() && failed.len() <= AGAIN_MAX
}

/// What counts, and what the end of the run tells of it: those that passed alone (not among `again`) count
/// as passed and are named as flaky. `again` is `None` where they were not run once more.
pub(crate) fn settle(
    mut tally: Tally,
    failed: &[Failed],
    again: Option<&[Failed]>,
) -> (Tally, Vec<String>) {
    let mut told = Vec::new();
    for one in failed {
        let passed_alone = again.is_some_and(|again| !again.iter().any(|other| other.is(one)));
        if passed_alone {
            tally.failed = tally.failed.saturating_sub(1);
            tally.passed += 1;
        }
        let what = if passed_alone { "flaky, passed alone; to be mended" } else { "failed" };
        told.extend(one.lines(what));
    }
    (tally, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
        FAIL [   0.155s] (4/5) steeple-x tests::shown_at_once
  stderr ───
    thread 'tests::bad' (1) panicked at src/early.rs:6:59:
────────────
     Summary [   2.013s] 5 tests run: 1 passed, 3 failed, 1 timed out, 0 skipped
     SIGABRT [   0.008s] (1/5) steeple-x tests::ends
  stdout ───

    running 1 test

    (test aborted with signal 6: SIGABRT)

        FAIL [   0.016s] (3/5) steeple-testkit::it says
  stdout ───

    running 1 test
    test says ... FAILED

  stderr ───
    Error: \"no such thing\"

        FAIL [ 121.155s] ( 4/5) steeple-testkit::it upstream::bad
  stdout ───
    out one
  stderr ───
    err one

    thread 'upstream::bad' (7808) panicked at src/lib.rs:6:59:
    assertion `left == right` failed: numbers
      left: 1
     right: 2
    stack backtrace:
       0: __rustc::rust_begin_unwind
    note: Some details are omitted

     TIMEOUT [   2.003s] (5/5) steeple-x tests::hangs
  stdout ───
    (test timed out)

error: test run failed
";

    #[test]
    fn names_and_reasons_are_read_from_the_final_report() {
        let failed = of_nextest(REPORT);
        let read: Vec<_> = failed
            .iter()
            .map(|one| (one.ending.as_str(), one.binary.as_str(), one.test.as_str()))
            .collect();
        assert_eq!(
            read,
            [
                ("SIGABRT", "steeple-x", "tests::ends"),
                ("FAIL", "steeple-testkit::it", "says"),
                ("FAIL", "steeple-testkit::it", "upstream::bad"),
                ("TIMEOUT", "steeple-x", "tests::hangs"),
            ]
        );
        let reasons: Vec<_> = failed.iter().map(|one| one.reason.join(" | ")).collect();
        assert_eq!(
            reasons,
            [
                "(test aborted with signal 6: SIGABRT)",
                "Error: \"no such thing\"",
                "thread 'upstream::bad' (7808) panicked at src/lib.rs:6:59: | assertion `left == right` \
                 failed: numbers | left: 1 | right: 2",
                "(test timed out) | error: test run failed",
            ]
        );
        assert_eq!(
            failed[2].filter(),
            "(binary_id(=steeple-testkit::it) and test(=upstream::bad))"
        );
        assert!(!are_few(&failed), "four have a cause in common");
        assert!(are_few(&failed[..3]) && !are_few(&[]));
    }

    #[test]
    fn what_passes_alone_is_flaky_and_what_fails_again_or_was_not_run_again_has_failed() {
        let failed = of_nextest(REPORT);
        let (ends, says) = (&failed[..1], &failed[..2]);
        let tally = Tally { passed: 7, failed: 2, skipped: 0 };
        let flaky = "flaky, passed alone; to be mended: steeple-testkit::it says (FAIL)";
        let ended = "failed: steeple-x tests::ends (SIGABRT)";
        for (again, passed, first) in [
            (Some(ends), 8, [ended, flaky]),
            (Some(says), 7, [ended, "failed: steeple-testkit::it says (FAIL)"]),
            (None, 7, [ended, "failed: steeple-testkit::it says (FAIL)"]),
        ] {
            let (settled, told) = settle(tally, says, again);
            assert_eq!((settled.passed, settled.failed), (passed, 9 - passed));
            let reasons =
                ["    (test aborted with signal 6: SIGABRT)", "    Error: \"no such thing\""];
            assert_eq!(told, [first[0], reasons[0], first[1], reasons[1]]);
        }
    }

    #[test]
    fn a_run_without_a_summary_or_without_failures_names_nothing() {
        assert_eq!(of_nextest("error: could not compile"), []);
        assert_eq!(of_nextest("   Summary [ 1.0s] 5 tests run: 5 passed, 0 skipped\n"), []);
    }
}

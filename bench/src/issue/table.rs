//! What an operation costs with each system, and what was promised of ours beside it.

use crate::closed_loop::Round;
use crate::report::{Report, Row};
use crate::spread::Spread;

/// Names of systems, as tables and promises have them.
pub(crate) const OURS: &str = "steeple";
pub(crate) const LIMIT: &str = "limit";
pub(crate) const ECHO: &str = "echo";
pub(crate) const GO: &str = "Go's cryptography";
pub(crate) const BAO: &str = "OpenBao";
pub(crate) const SPIRE: &str = "SPIRE";

/// The bound of a promise.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// No less than so much.
    AtLeast(f64),
    /// No more than so much.
    AtMost(f64),
}

/// What is promised: the CPU time for an operation of some systems together, divided by that of
/// others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) text: &'static str,
    pub(crate) over: &'static [&'static str],
    pub(crate) under: &'static [&'static str],
    pub(crate) bound: Bound,
}

/// A promise beside what was measured; without a figure where a peer is absent.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) work: String,
    pub(crate) text: String,
    pub(crate) bound: Bound,
    pub(crate) measured: Option<Spread>,
    /// Behind each figure.
    pub(crate) unit: &'static str,
}

/// The head of a table of costs.
pub(crate) fn head(report: &mut Report) {
    report.smoke_note();
    report.line("| work | system | CPU µs an operation | of the process that is called | a second | p50 ms | p99 ms | caller's CPU µs | its CPU ÷ ours |");
    report.line("|---|---|--:|--:|--:|--:|--:|--:|--:|");
}

/// The rows of one piece of work, the first being ours.
pub(crate) fn rows(report: &mut Report, work: &str, rows: &[Row]) {
    if rows.is_empty() {
        report.miss(work.to_owned());
    }
    for row in rows {
        let of = |figure: fn(&Round) -> f64| Spread::of(row.rounds.iter().map(figure).collect());
        let rate = of(|round| round.rate);
        if row.rounds.is_empty() || rate.min <= 0.0 {
            report.miss(format!("{work}, {}", row.system));
        }
        let called = of(|round| round.p50_ms).max > 0.0;
        let if_called = |text: String| if called { text } else { "-".to_owned() };
        let ratio = match ratio(rows, &[row.system], &[OURS]) {
            Some(ratio) if row.system != OURS => ratio.ratio(),
            Some(_) | None => "-".to_owned(),
        };
        report.line(&format!(
            "| {work} | {} | {} | {} | {} | {} | {} | {} | {ratio} |",
            row.system,
            of(|round| round.cpu_us).whole(),
            if_called(of(|round| round.called_cpu_us).whole()),
            rate.whole(),
            if_called(format!("{:.2}", of(|round| round.p50_ms).median)),
            if_called(format!("{:.2}", of(|round| round.p99_ms).median)),
            if_called(format!("{:.0}", of(|round| round.caller_cpu_us).median)),
        ));
    }
}

/// Looks at a promise.
pub(crate) fn judge(work: &str, promise: &Promise, rows: &[Row]) -> Verdict {
    Verdict {
        work: work.to_owned(),
        text: promise.text.to_owned(),
        bound: promise.bound,
        measured: ratio(rows, promise.over, promise.under),
        unit: "x",
    }
}

/// The promises of a part.
pub(crate) fn verdicts(report: &mut Report, verdicts: &[Verdict]) {
    report.line("");
    report.line("| work | goal | bound | measured | verdict |");
    report.line("|---|---|--:|--:|---|");
    for verdict in verdicts {
        let Verdict { work, text, bound, measured, unit } = verdict;
        let (bound_text, met) = match (*bound, measured) {
            (Bound::AtLeast(bound), measured) => {
                (format!("≥ {bound} {unit}"), measured.map(|seen| seen.median >= bound))
            }
            (Bound::AtMost(bound), measured) => {
                (format!("≤ {bound} {unit}"), measured.map(|seen| seen.median <= bound))
            }
        };
        let said = match met {
            None => "not measured: the peer is absent",
            Some(_) if report.is_smoke() => "not judged: a smoke",
            Some(true) => "met",
            Some(false) => "missed",
        };
        let measured = measured.map_or_else(
            || "-".to_owned(),
            |seen| format!("{:.2} {unit} ({:.2}–{:.2})", seen.median, seen.min, seen.max),
        );
        report.line(&format!("| {work} | {text} | {bound_text} | {measured} | {said} |"));
    }
}

/// The ratio of neighbouring rounds; `None` where one of the systems is not there.
fn ratio(rows: &[Row], over: &[&str], under: &[&str]) -> Option<Spread> {
    let (over, under) = (together(rows, over)?, together(rows, under)?);
    Some(Spread::of(over.iter().zip(&under).map(|(over, under)| over / under).collect()))
}

/// CPU time of some systems together, round by round.
fn together(rows: &[Row], systems: &[&str]) -> Option<Vec<f64>> {
    let mut sums: Vec<f64> = Vec::new();
    for (index, system) in systems.iter().enumerate() {
        let row = rows.iter().find(|row| row.system == *system)?;
        let costs = row.rounds.iter().map(|round| round.cpu_us);
        sums = match index {
            0 => costs.collect(),
            _ => sums.iter().zip(costs).map(|(sum, cost)| sum + cost).collect(),
        };
    }
    (!sums.is_empty()).then_some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(system: &'static str, costs: &[f64]) -> Row {
        Row { system, rounds: costs.iter().map(|cost| Round::of_cpu(*cost)).collect() }
    }

    #[test]
    fn a_promise_compares_neighbouring_rounds_and_adds_what_belongs_together() {
        let rows =
            [row(OURS, &[12.0, 30.0, 11.0]), row(LIMIT, &[8.0, 20.0, 8.0]), row(ECHO, &[2.0; 3])];
        let spread = ratio(&rows, &[OURS], &[LIMIT, ECHO]).unwrap();
        assert_eq!((spread.min, spread.median), (1.1, 1.2));
        assert!((spread.max - 30.0 / 22.0).abs() < 1e-9);
        let spread = ratio(&rows, &[LIMIT], &[OURS]).unwrap();
        assert_eq!(spread.median, 20.0 / 30.0);
    }

    #[test]
    fn an_absent_peer_gives_no_figure_and_is_no_missing_row() {
        let rows = [row(OURS, &[10.0]), row(LIMIT, &[8.0])];
        let mut report = Report::new(false, None);
        super::rows(&mut report, "work", &rows);
        let promise = Promise {
            text: "SPIRE ÷ ours",
            over: &[SPIRE],
            under: &[OURS],
            bound: Bound::AtLeast(3.0),
        };
        let verdict = judge("work", &promise, &rows);
        assert!(verdict.measured.is_none());
        verdicts(&mut report, &[verdict]);
        assert!(report.is_whole(), "{:?}", report.missing());
        assert!(report.text().contains("not measured: the peer is absent"), "{}", report.text());
    }

    #[test]
    fn a_bound_is_met_by_the_median_and_never_judged_in_a_smoke() {
        type Case = (Bound, [f64; 3], bool, &'static str);
        let cases: [Case; 5] = [
            (Bound::AtLeast(0.85), [8.0, 8.5, 9.0], false, "| met |"),
            (Bound::AtLeast(0.85), [8.0, 8.4, 9.0], false, "| missed |"),
            (Bound::AtMost(0.85), [8.0, 8.4, 9.0], false, "| met |"),
            (Bound::AtMost(0.80), [8.0, 8.4, 9.0], false, "| missed |"),
            (Bound::AtMost(0.80), [8.0, 8.4, 9.0], true, "| not judged: a smoke |"),
        ];
        for (bound, limits, smoke, expected) in cases {
            let rows = [row(OURS, &[10.0; 3]), row(LIMIT, &limits)];
            let promise = Promise { text: "limit ÷ ours", over: &[LIMIT], under: &[OURS], bound };
            let mut report = Report::new(smoke, None);
            verdicts(&mut report, &[judge("work", &promise, &rows)]);
            assert!(report.text().contains(expected), "{bound:?} {limits:?}: {}", report.text());
        }
    }

    #[test]
    fn a_system_without_rounds_is_a_missing_row() {
        let mut report = Report::new(true, None);
        rows(&mut report, "work", &[row(OURS, &[10.0]), row(LIMIT, &[])]);
        assert_eq!(report.missing(), ["work, limit"]);
    }
}

//! What agents and workloads saw in many runs, in one table.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use steeple_checker::results::{self, say};

use crate::agents::judge::Figures;
use crate::issuers::Issued;
use crate::report::Line;
use crate::restore::Restored;
use crate::suspend::Suspended;

/// Prints the table of result files. True if no call failed, and there were any.
pub(crate) fn print(files: &[String]) -> Result<bool> {
    let mut lines = Vec::new();
    for path in files {
        lines.extend(results::read::<Line>(Path::new(path))?);
    }
    say(&table(&lines));
    let with: Vec<&Figures> = with_agents(&lines).map(|line| &line.agents).collect();
    Ok(!with.is_empty() && with.iter().all(|figures| figures.failures == 0))
}

fn with_agents(lines: &[Line]) -> impl Iterator<Item = &Line> {
    lines.iter().filter(|line| line.agents.agents > 0)
}

fn table(lines: &[Line]) -> String {
    let sum =
        |of: fn(&Figures) -> u64| with_agents(lines).map(|line| of(&line.agents)).sum::<u64>();
    let most = |of: fn(&Figures) -> u64| {
        with_agents(lines).map(|line| of(&line.agents)).max().unwrap_or(0)
    };
    let hours = with_agents(lines).map(|line| line.seconds * line.agents.workloads).sum::<u64>();
    let rows = [
        ("runs with agents", with_agents(lines).count() as u64),
        (
            "… one of them a stock agent",
            with_agents(lines).filter(|line| line.agents.stock > 0).count() as u64,
        ),
        ("seconds of faults, times workloads", hours),
        ("tokens fetched", sum(|figures| figures.tokens)),
        ("newcomers served", sum(|figures| figures.newcomers)),
        ("X.509-SVIDs renewed", sum(|figures| figures.renewals)),
        ("… while the leader was hit, or within 5 s after", sum(|f| f.renewals_near_leader_faults)),
        ("Workload API calls that failed, streams that ended", sum(|figures| figures.failures)),
        ("slowest answer, ms", most(|figures| figures.slowest_answer_ms)),
        ("connections of agents to members", sum(|figures| figures.connections)),
        ("most that one member got in a second", most(|figures| figures.most_connections_in_1_s)),
    ];
    let mut text = "| agents and workloads | how much |\n|---|---|".to_owned();
    for (what, value) in rows {
        text.push_str(&format!("\n| {what} | {value} |"));
    }
    let mut kinds: BTreeMap<&str, Vec<&Issued>> = BTreeMap::new();
    for issued in lines.iter().flat_map(|line| &line.issued) {
        kinds.entry(&issued.kind).or_default().push(issued);
    }
    for (kind, all) in kinds {
        let sum = |of: fn(&Issued) -> u64| all.iter().map(|one| of(one)).sum::<u64>();
        let most = |of: fn(&Issued) -> u64| all.iter().map(|one| of(one)).max().unwrap_or(0);
        text.push_str(&format!(
            "\n| {kind} in runs of planned work | {} calls, {} failed, {} attempts; longest gap {} ms, \
             slowest {} ms |",
            sum(|one| one.calls),
            sum(|one| one.failed),
            sum(|one| one.attempts),
            most(|one| one.longest_gap_ms),
            most(|one| one.slowest_ms),
        ));
    }
    text.push_str(&of_faults(lines));
    text
}

/// Rows of faults that have figures of their own.
fn of_faults(lines: &[Line]) -> String {
    let restores: Vec<_> = lines.iter().flat_map(|line| &line.restores).collect();
    let suspends: Vec<_> = lines.iter().flat_map(|line| &line.suspends).collect();
    let mut text = String::new();
    if !restores.is_empty() {
        let most = |of: fn(&Restored) -> u64| restores.iter().map(|one| of(one)).max().unwrap_or(0);
        text.push_str(&format!(
            "\n| restores | {}; {} writes lost by right; answering again after at most {} ms; \
             {} late members ended, after at most {} ms; whole after at most {} ms |",
            restores.len(),
            restores.iter().map(|one| one.lost).sum::<u64>(),
            most(|one| one.back_ms),
            restores.iter().filter(|one| one.fenced_ms.is_some()).count(),
            most(|one| one.fenced_ms.unwrap_or(0)),
            most(|one| one.whole_ms),
        ));
    }
    if !suspends.is_empty() {
        let sum = |of: fn(&Suspended) -> u64| suspends.iter().map(|one| of(one)).sum::<u64>();
        let most =
            |of: fn(&Suspended) -> u64| suspends.iter().map(|one| of(one)).max().unwrap_or(0);
        text.push_str(&format!(
            "\n| suspends | {}; {} renewed from while they were young enough, first after at most \
             {} ms; still for at most {} ms; then {} answers that say \"unavailable\", {} SVIDs of a \
             state too old |",
            suspends.len(),
            suspends.iter().filter(|one| one.renewed > 0).count(),
            most(|one| one.first_renewed_ms),
            most(|one| one.still_ms),
            sum(|one| one.unavailable),
            sum(|one| one.too_old),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::options::Options;
    use crate::report::{Facts, judge};

    #[test]
    fn runs_are_summed_and_those_without_agents_are_left_out() {
        let line = judge(&Facts::new(&Options::parse(&[]).unwrap(), 1, PathBuf::new()));
        let figures = |tokens, slowest_answer_ms| Figures {
            agents: 2,
            tokens,
            slowest_answer_ms,
            ..Figures::default()
        };
        let issued = |calls| Issued {
            kind: "Mint".to_owned(),
            calls,
            slowest_ms: 10 * calls,
            ..Issued::default()
        };
        let lines = [
            Line { agents: figures(3, 70), ..line.clone() },
            Line { agents: figures(4, 50), issued: vec![issued(5), issued(6)], ..line.clone() },
            line,
        ];
        let table = table(&lines);
        for row in [
            "runs with agents | 2",
            "tokens fetched | 7",
            "slowest answer, ms | 70",
            "| 11 calls, 0 failed",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
        assert!(!table.contains("restores") && !table.contains("suspends"), "{table}");
    }

    #[test]
    fn restores_and_suspends_have_rows_of_their_own() {
        let line = judge(&Facts::new(&Options::parse(&[]).unwrap(), 1, PathBuf::new()));
        let restored = |back_ms, fenced_ms| Restored { back_ms, fenced_ms, lost: 6, whole_ms: 9 };
        let suspended = Suspended { renewed: 1, unavailable: 7, ..Suspended::default() };
        let lines = [
            Line { restores: vec![restored(4, Some(12)), restored(5, None)], ..line.clone() },
            Line { suspends: vec![suspended, Suspended::default()], ..line },
        ];
        let table = table(&lines);
        for text in [
            "| restores | 2; 12 writes lost by right; answering again after at most 5 ms; 1 late",
            "| suspends | 2; 1 renewed",
            "7 answers",
        ] {
            assert!(table.contains(text), "{text}: {table}");
        }
    }
}

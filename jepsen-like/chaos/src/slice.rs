//! Many runs one after the other: their results, one table, and the quick ones of CI.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use steeple_checker::results::{append, read, say};
use steeple_testkit::skip;

use crate::federation;
use crate::options::{Nemesis, Options};
use crate::report::{Line, Word};
use crate::rotations;
use crate::run;
use crate::wanted::Wanted;
use crate::world::lacks;

/// Runs all seeds that the results do not have yet. True if all passed.
pub(crate) async fn run_all(options: &Options) -> Result<bool> {
    let mut lines = Vec::new();
    for line in options.results.as_deref().map_or(Ok(Vec::new()), read::<Line>)? {
        let same = (&line.nemeses, line.seconds) == (&options.nemesis_list(), options.seconds);
        if same && line.members == options.members && options.seeds.contains(&line.seed) {
            lines.push(line);
        }
    }
    let mut last = None;
    for seed in options.seeds.clone() {
        if lines.iter().any(|line| line.seed == seed) {
            continue;
        }
        say(&format!("seed {seed}: {} s of {}", options.seconds, options.nemesis_list()));
        let line = run::run(options, seed).await?;
        tell(&line);
        if let Some(path) = &options.results {
            append(path, &line)?;
        }
        last = Some(line.sentence());
        lines.push(line);
    }
    say(&table(&lines));
    let passed = lines.iter().all(|line| line.verdict == Word::Pass) && !lines.is_empty();
    // One run says all of itself in its last line, several are counted.
    match (lines.len(), last) {
        (1, Some(sentence)) => say(&sentence),
        _ => say(&counts(&lines, &[])),
    }
    Ok(passed)
}

/// Runs short ones, a kind of fault each, and a few rotations, alone and federated, for CI. What cannot be installed
/// here is recorded as skipped.
pub(crate) async fn quick(options: &Options) -> Result<bool> {
    let kinds = [
        (1, 20, Nemesis::Kill),
        (2, 20, Nemesis::Pause),
        (3, 20, Nemesis::PowerCut),
        (4, 20, Nemesis::Partition),
    ];
    let mut lines = Vec::new();
    for (seed, seconds, nemesis) in kinds {
        if let Some(why) = lacks(nemesis) {
            skip::record(&format!("chaos-{}", nemesis.name()), &why);
            continue;
        }
        let line = run::run(&options.of(seed, seconds, &[nemesis]), seed).await?;
        tell(&line);
        lines.push(line);
    }
    let mut rotated = Vec::new();
    match lacks(Nemesis::Partition) {
        Some(why) => {
            skip::record("chaos-rotations", &why);
            skip::record("chaos-federation", &why);
        }
        None => {
            let wanted = Wanted::quick(options);
            rotated.push(rotations::run(&wanted).await?);
            rotated.push(federation::run(&wanted).await?);
        }
    }
    say(&table(&lines));
    say(&counts(&lines, &rotated));
    let passed = lines.iter().all(|line| line.verdict == Word::Pass) && !lines.is_empty();
    Ok(passed && rotated.into_iter().all(|passed| passed))
}

/// Sums over result files. True if all passed.
pub(crate) fn merge(files: &[String]) -> Result<bool> {
    let mut lines = Vec::new();
    for file in files {
        lines.extend(read(Path::new(file))?);
    }
    say(&table(&lines));
    say(&counts(&lines, &[]));
    Ok(lines.iter().all(|line| line.verdict == Word::Pass) && !lines.is_empty())
}

fn tell(line: &Line) {
    say(&format!("seed {} ({}): {}", line.seed, line.nemeses, line.sentence()));
    for why in &line.why {
        say(&format!("  {why}"));
    }
    say(&format!("  folder: {}", line.folder.display()));
}

/// How many passed, of runs and of those that rotate.
fn counts(lines: &[Line], rotated: &[bool]) -> String {
    let verdicts = lines.iter().map(|line| line.verdict == Word::Pass);
    let verdicts = verdicts.chain(rotated.iter().copied());
    let (passed, failed): (Vec<bool>, Vec<bool>) = verdicts.partition(|passed| *passed);
    format!("chaos: {} passed, {} failed", passed.len(), failed.len())
}

/// For people, as a table of Markdown.
fn table(lines: &[Line]) -> String {
    let sum = |of: fn(&Line) -> u64| lines.iter().map(of).sum::<u64>();
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut kinds: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for line in lines {
        *verdicts.entry(line.verdict.text()).or_default() += 1;
        for (place, counts) in [&line.faults, &line.on_leader, &line.on_all].into_iter().enumerate()
        {
            for (kind, count) in counts {
                if let Some(sum) = kinds.entry(kind).or_default().get_mut(place) {
                    *sum += count;
                }
            }
        }
    }
    let mut heals: Vec<u64> = lines.iter().filter_map(|line| line.heal_ms).collect();
    heals.sort_unstable();
    let mut gaps: Vec<u64> = lines.iter().map(|line| line.worst_gap_ms).collect();
    gaps.sort_unstable();
    let mut with: Vec<u64> = lines.iter().map(|line| line.worst_gap_with_majority_ms).collect();
    with.sort_unstable();
    let middle = |sorted: &[u64]| sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let most = |sorted: &[u64]| sorted.last().copied().unwrap_or(0);
    let mut rows = vec![
        ("runs".to_owned(), lines.len().to_string()),
        ("verdicts".to_owned(), format!("{verdicts:?}")),
        ("seconds of faults".to_owned(), sum(|line| line.seconds).to_string()),
        ("operations checked".to_owned(), sum(|line| line.operations).to_string()),
        ("… answered".to_owned(), sum(|line| line.ok).to_string()),
        ("… surely without effect".to_owned(), sum(|line| line.failed).to_string()),
        ("… of unknown outcome".to_owned(), sum(|line| line.unknown).to_string()),
        ("writes acknowledged".to_owned(), sum(|line| line.writes).to_string()),
        ("elections".to_owned(), sum(|line| line.elections).to_string()),
        ("faults installed".to_owned(), sum(|line| line.faults.values().sum()).to_string()),
    ];
    for (kind, [all, leader, everyone]) in kinds {
        let text = format!("{all} ({leader} on the leader, {everyone} on all at once)");
        rows.push((format!("fault: {kind}"), text));
    }
    let gap = format!("{} (median of runs), {} (most)", middle(&gaps), most(&gaps));
    rows.push(("worst write gap, ms".to_owned(), gap));
    let gap = format!("{} (median of runs), {} (most)", middle(&with), most(&with));
    rows.push(("… while a majority was left alone".to_owned(), gap));
    let heal = format!("{} (median of runs), {} (most)", middle(&heals), most(&heals));
    rows.push(("healing, ms".to_owned(), heal));
    let mut text = "| what | how much |\n|---|---|".to_owned();
    for (what, value) in rows {
        text.push_str(&format!("\n| {what} | {value} |"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::report::{Facts, judge};

    #[test]
    fn a_merge_passes_if_there_are_runs_and_all_passed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let options = Options::parse(&[]).unwrap();
        let line = judge(&Facts::new(&options, 5, PathBuf::new()));
        append(&path, &line).unwrap();
        append(&path, &Line { seed: 7, ..line }).unwrap();
        let files = [path.display().to_string()];
        assert!(!merge(&files).unwrap(), "neither run has passed");
        assert!(!merge(&[]).unwrap(), "nothing ran");
    }
}

//! What a run consists of: the parts that were asked for, their sizes, and where the result goes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{failover, reads, scale, writes};
use crate::machine;
use crate::report::Report;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rounds of every comparison.
    pub(crate) rounds: usize,
    /// How long one system is loaded in a round.
    pub(crate) slice: Duration,
    /// Numbers of callers that create single entries.
    pub(crate) callers: Vec<usize>,
    /// Leaders that are killed, and leaders that are asked to go.
    pub(crate) trials: usize,
    /// Numbers of entries at which sizes and starts are measured.
    pub(crate) sizes: Vec<usize>,
    /// Starts of each kind at each size.
    pub(crate) starts: usize,
    /// Whether only the table's shape matters.
    pub(crate) smoke: bool,
}

impl Plan {
    fn serious() -> Self {
        Self {
            rounds: 5,
            slice: Duration::from_secs(3),
            callers: vec![1, 16, 64, 256],
            trials: 20,
            sizes: vec![100_000],
            starts: 5,
            smoke: false,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 3,
            slice: Duration::from_secs(1),
            callers: vec![1, 64],
            trials: 3,
            sizes: vec![10_000],
            starts: 3,
            smoke: false,
        }
    }

    /// Seconds in all; its figures mean nothing.
    fn smoke() -> Self {
        Self {
            rounds: 1,
            slice: Duration::from_millis(200),
            callers: vec![1, 4],
            trials: 1,
            sizes: vec![300],
            starts: 1,
            smoke: true,
        }
    }
}

/// A million, which is the most that a registry takes, less what is written beside snapshots.
const LARGE: usize = 990_000;

const PARTS: [&str; 4] = ["writes", "reads", "failover", "scale"];

/// `store [part …] [--quick|--smoke] [--large] [--results FILE]`.
pub(crate) async fn run(words: &[&str]) -> Result<()> {
    let mut plan = Plan::serious();
    let mut parts = Vec::new();
    let mut results = None;
    let mut large = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => plan = Plan::quick(),
            "--smoke" => plan = Plan::smoke(),
            "--large" => large = true,
            "--results" => {
                results = Some(PathBuf::from(words.next().context("--results takes a file")?));
            }
            part if PARTS.contains(&part) => parts.push(part),
            other => bail!(
                "unknown word {other:?}: {}, --quick, --smoke, --large, --results FILE",
                PARTS.join(", ")
            ),
        }
    }
    if large {
        plan.sizes.push(LARGE);
    }
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let mut report = Report::new(plan.smoke, results);
    let before = machine::Times::now()?;
    report.line(&format!("{}\n", machine::describe()));
    if wanted("writes") {
        writes::run(&plan, &mut report).await?;
        report.save()?;
    }
    if wanted("reads") {
        reads::run(&plan, &mut report).await?;
        report.save()?;
    }
    if wanted("failover") {
        failover::run(&plan, &mut report).await?;
        report.save()?;
    }
    if wanted("scale") {
        scale::run(&plan, &mut report).await?;
        report.save()?;
    }
    report.line(&format!("At the end: {}.", machine::Times::now()?.since(&before)));
    report.save()?;
    ensure!(report.is_whole(), "rows are missing: {}", report.missing().join(", "));
    Ok(())
}

//! What a run consists of: the parts that were asked for, their sizes, and where the result goes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{endpoint, refreshes, rotation, signing};
use crate::machine;
use crate::report::Report;

/// The hint that SPIRE and we state where nothing is configured.
const HINT: Duration = Duration::from_secs(300);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds of every comparison.
    pub(crate) rounds: usize,
    /// How long one system is loaded in a round.
    pub(crate) slice: Duration,
    /// Entries that SVIDs are signed for.
    pub(crate) entries: usize,
    /// SVIDs that are signed anew after a rotation.
    pub(crate) renewed: usize,
    /// Rotations.
    pub(crate) rotations: usize,
    /// Trust domains whose bundles are fetched.
    pub(crate) neighbours: usize,
    /// The refresh hint that they state.
    pub(crate) hint: Duration,
    /// How long the refresher's minute is; `None`: a minute.
    pub(crate) minute: Option<Duration>,
    /// How long their fetches are counted.
    pub(crate) refreshing: Duration,
    /// Whether only the tables' shape matters.
    smoke: bool,
}

impl Plan {
    fn serious() -> Self {
        Self {
            rounds: 5,
            slice: Duration::from_secs(3),
            entries: 10_000,
            renewed: 100_000,
            rotations: 3,
            neighbours: 1_000,
            hint: HINT,
            minute: None,
            refreshing: Duration::from_secs(150),
            smoke: false,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 3,
            slice: Duration::from_secs(1),
            entries: 1_000,
            renewed: 10_000,
            rotations: 1,
            neighbours: 1_000,
            hint: HINT,
            minute: None,
            refreshing: Duration::from_secs(75),
            smoke: false,
        }
    }

    /// Seconds in all; its figures mean nothing.
    fn smoke() -> Self {
        Self {
            rounds: 1,
            slice: Duration::from_millis(100),
            entries: 200,
            renewed: 200,
            rotations: 3,
            neighbours: 20,
            hint: Duration::from_secs(1),
            // Only servers with assertions know another minute; else each is asked once in 15 s.
            minute: cfg!(debug_assertions).then_some(Duration::from_millis(400)),
            refreshing: Duration::from_secs(if cfg!(debug_assertions) { 2 } else { 20 }),
            smoke: true,
        }
    }
}

const PARTS: [&str; 7] = ["x509", "p384", "rsa2048", "jwt", "rotation", "endpoint", "refreshes"];

/// `issue [part …] [--quick|--smoke] [--results FILE]`.
pub(crate) async fn run(words: &[&str]) -> Result<()> {
    let mut plan = Plan::serious();
    let mut wanted = Vec::new();
    let mut results = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => plan = Plan::quick(),
            "--smoke" => plan = Plan::smoke(),
            "--results" => {
                results = Some(PathBuf::from(words.next().context("--results takes a file")?));
            }
            part if PARTS.contains(&part) => wanted.push(part),
            other => bail!(
                "unknown word {other:?}: {}, --quick, --smoke, --results FILE",
                PARTS.join(", ")
            ),
        }
    }
    let mut report = Report::new(plan.smoke, results);
    let before = machine::Times::now()?;
    report.line(&format!("{}\n", machine::describe()));
    if cfg!(debug_assertions) {
        report.line("A build with assertions: not to be compared with anything.\n");
    }
    for part in PARTS {
        if wanted.is_empty() || wanted.contains(&part) {
            run_part(part, &plan, &mut report).await.with_context(|| format!("part {part}"))?;
            report.save()?;
        }
    }
    report.line(&format!("At the end: {}.", machine::Times::now()?.since(&before)));
    report.save()?;
    ensure!(report.is_whole(), "rows are missing: {}", report.missing().join(", "));
    Ok(())
}

async fn run_part(part: &str, plan: &Plan, report: &mut Report) -> Result<()> {
    match part {
        "x509" => signing::run(&signing::X509, plan, report).await,
        "p384" => signing::run(&signing::P384, plan, report).await,
        "rsa2048" => signing::run(&signing::RSA2048, plan, report).await,
        "jwt" => signing::run(&signing::JWT, plan, report).await,
        "rotation" => rotation::run(plan, report).await,
        "endpoint" => endpoint::run(plan, report).await,
        "refreshes" => refreshes::run(plan, report).await,
        other => bail!("no part {other}"),
    }
}

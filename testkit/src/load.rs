//! Load on a fixed schedule, and what came of it.
//!
//! Operations start at their scheduled times whether or not earlier ones have ended (no coordinated
//! omission). An operation fails if nobody has answered within [`DEADLINE`] of its scheduled time; a
//! gap is the longest time between two successes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long after its scheduled time an operation may still succeed.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What came of one kind of operation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The kind's name.
    pub kind: String,
    /// Operations that were due.
    pub scheduled: u64,
    /// Operations that succeeded in time.
    pub ok: u64,
    /// Operations that did not.
    pub failed: u64,
    /// Calls made for them.
    pub attempts: u64,
    /// Longest time between two successes.
    pub longest_gap: Duration,
    /// Longest time from when an operation was due to its success.
    pub slowest: Duration,
    /// The first failure's text.
    pub first_failure: Option<String>,
}

/// Counts the calls of an operation.
#[derive(Clone, Debug, Default)]
pub struct Attempts(Arc<AtomicU64>);

impl Attempts {
    /// One more call.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Successes {
    last: Option<Instant>,
    longest_gap: Duration,
    slowest: Duration,
}

/// Runs one kind until told to stop, then waits for what is under way.
///
/// Runs in a `LocalSet`: operations need not be `Send`.
///
/// `operation` is given its number, the time by which it must have succeeded, and the counter of
/// calls; it retries by itself.
pub async fn run<F, Fut>(
    kind: &str,
    every: Duration,
    mut stop: watch::Receiver<bool>,
    operation: F,
) -> Report
where
    F: Fn(u64, Instant, Attempts) -> Fut,
    Fut: Future<Output = Result<()>> + 'static,
{
    let mut report = Report { kind: kind.to_owned(), ..Report::default() };
    let attempts = Attempts::default();
    let successes = Arc::new(Mutex::new(Successes::default()));
    let mut tasks = JoinSet::new();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let deadline = due + DEADLINE;
        let work = operation(report.scheduled, deadline, attempts.clone());
        let successes = Arc::clone(&successes);
        report.scheduled += 1;
        tasks.spawn_local(async move {
            let outcome = tokio::time::timeout_at(deadline, work).await;
            let outcome =
                outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {DEADLINE:?}")));
            if outcome.is_ok() {
                let mut successes = successes.lock().await;
                let now = Instant::now();
                let gap = successes.last.map_or(Duration::ZERO, |last| now - last);
                successes.longest_gap = successes.longest_gap.max(gap);
                successes.slowest = successes.slowest.max(now - due);
                successes.last = Some(now);
            }
            outcome
        });
    }
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(anyhow::Error::from).and_then(|outcome| outcome) {
            Ok(()) => report.ok += 1,
            Err(error) => {
                report.failed += 1;
                report.first_failure.get_or_insert(format!("{error:#}"));
            }
        }
    }
    report.attempts = attempts.0.load(Ordering::Relaxed);
    let successes = successes.lock().await;
    report.longest_gap = successes.longest_gap;
    report.slowest = successes.slowest;
    drop(successes);
    report
}

/// Reports as a table for people.
pub fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "{:<22} {:>9} {:>7} {:>7} {:>9} {:>12}\n",
        "kind", "scheduled", "ok", "failed", "attempts", "longest gap"
    );
    for report in reports {
        text.push_str(&format!(
            "{:<22} {:>9} {:>7} {:>7} {:>9} {:>9} ms\n",
            report.kind,
            report.scheduled,
            report.ok,
            report.failed,
            report.attempts,
            report.longest_gap.as_millis()
        ));
    }
    text
}

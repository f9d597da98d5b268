//! Callers that each have one call under way, for a given time.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::machine::cpu_micros;

/// A caller of some system, who has one call under way at a time.
pub(crate) trait Caller: Send + 'static {
    /// One call, ended by its answer; an answer that refuses is an error.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Whose CPU time is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pids<'a> {
    /// All processes of the system.
    pub(crate) all: &'a [u32],
    /// Those of them that are called.
    pub(crate) called: &'a [u32],
}

impl<'a> Pids<'a> {
    /// A system whose processes need not be told apart.
    pub(crate) fn whole(all: &'a [u32]) -> Self {
        Self { all, called: all }
    }
}

/// What one round of one system came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Operations a second; a batch counts as its items.
    pub(crate) rate: f64,
    /// Of calls; zero where there are none.
    pub(crate) p50_ms: f64,
    /// Of calls; zero where there are none.
    pub(crate) p99_ms: f64,
    /// CPU of all server processes for an operation.
    pub(crate) cpu_us: f64,
    /// CPU of the server processes that are called for an operation.
    pub(crate) called_cpu_us: f64,
    /// CPU of the callers for an operation.
    pub(crate) caller_cpu_us: f64,
}

impl Round {
    /// Work without callers, on one core.
    pub(crate) fn of_cpu(cpu_us: f64) -> Self {
        let rate = if cpu_us > 0.0 { 1e6 / cpu_us } else { 0.0 };
        Self { rate, p50_ms: 0.0, p99_ms: 0.0, cpu_us, called_cpu_us: cpu_us, caller_cpu_us: 0.0 }
    }
}

/// Lets every caller work until the time is over, after one call each that does not count. An
/// operation is one of the `items` of a call.
pub(crate) async fn run<C: Caller>(
    mut callers: Vec<C>,
    items: usize,
    slice: Duration,
    pids: Pids<'_>,
) -> Result<Round> {
    for caller in &mut callers {
        caller.call().await.context("the first call")?;
    }
    let own = std::process::id();
    let (all, called) = (cpu_of(pids.all)?, cpu_of(pids.called)?);
    let caller_cpu = cpu_micros(own)?;
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut caller in callers {
        running.spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < slice {
                let began = Instant::now();
                caller.call().await?;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = running.join_next().await {
        took.extend(ended.context("a caller")??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let operations = (took.len() * items).max(1) as f64;
    let (p50_ms, p99_ms) = percentiles_ms(took);
    Ok(Round {
        rate: operations / elapsed,
        p50_ms,
        p99_ms,
        cpu_us: (cpu_of(pids.all)? - all) / operations,
        called_cpu_us: (cpu_of(pids.called)? - called) / operations,
        caller_cpu_us: (cpu_micros(own)? - caller_cpu) / operations,
    })
}

/// CPU time of some processes together.
pub(crate) fn cpu_of(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu_micros(*pid)).sum()
}

/// Median and 99th percentile of microseconds, in milliseconds.
pub(crate) fn percentiles_ms(mut micros: Vec<f64>) -> (f64, f64) {
    micros.sort_by(f64::total_cmp);
    (at(&micros, 0.5) / 1000.0, at(&micros, 0.99) / 1000.0)
}

/// The figure below which a part of the sorted ones lies; of none, zero.
pub(crate) fn at(sorted: &[f64], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

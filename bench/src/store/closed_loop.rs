//! Callers that each have one call under way, for a given time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::door::{Door, Work};
use crate::machine::cpu_micros;

/// What one round of one system came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Operations a second; a batch counts as its items.
    pub(crate) rate: f64,
    /// Of calls.
    pub(crate) p50_ms: f64,
    /// Of calls.
    pub(crate) p99_ms: f64,
    /// CPU of all server processes for an operation.
    pub(crate) cpu_us: f64,
    /// CPU of the callers for an operation.
    pub(crate) caller_cpu_us: f64,
}

/// Numbers everything that is ever written in this process, so that no name comes twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Lets every door's caller work until the time is over. `pids` are all processes of the system.
pub(crate) async fn run(
    doors: Vec<Door>,
    work: Work,
    slice: Duration,
    pids: &[u32],
) -> Result<Round> {
    for door in &doors {
        door.clone().call(work, next_number()).await.context("the first call")?;
    }
    let own = std::process::id();
    let (cpu, caller_cpu) = (cpu_of(pids)?, cpu_micros(own)?);
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for mut door in doors {
        callers.spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < slice {
                let began = Instant::now();
                door.call(work, next_number()).await?;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = callers.join_next().await {
        took.extend(ended.context("a caller")??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let operations = (took.len() * work.items()).max(1) as f64;
    let (p50_ms, p99_ms) = percentiles_ms(took);
    Ok(Round {
        rate: operations / elapsed,
        p50_ms,
        p99_ms,
        cpu_us: (cpu_of(pids)? - cpu) / operations,
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

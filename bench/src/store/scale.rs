//! What size costs: memory for each entry, a start with so many, a snapshot under writes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steeple_testkit::client::http_ok;
use steeple_testkit::process::wait_for;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::door::{Door, Work, next_number};
use super::folder;
use super::plan::Plan;
use super::steeple::{self, Steeple};
use crate::closed_loop::percentiles_ms;
use crate::machine;
use crate::report::Report;
use crate::spread::Spread;

/// Entries of a call that fills, and callers that fill.
const BATCH: usize = 500;
const FILLERS: usize = 4;

/// One write is due so often while a snapshot is taken, and so long before it.
const EVERY: Duration = Duration::from_millis(5);

/// A start with a million entries on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.line("## server_footprint, cold_start, snapshot\n");
    let folder = folder::new()?;
    let mut steeple = Steeple::start(folder.path()).await?;
    report.line(&format!("- {}", steeple::SETTINGS));
    report.line("- filled: right after all entries were created in batches; started: after a start with them. Memory is of one follower: all of it, and without what files back");
    report.line(&format!("- cold_start: from the start of one follower's process until its ready check succeeds, median of {} (least to most); the others go on", plan.starts));
    report.line(&format!("- snapshot: a write due every {} ms on the leader, for as long without as with `cluster snapshot save` on the same member\n", EVERY.as_millis()));
    let empty = memory(&mut steeple).await?;
    let start = starts(&mut steeple, plan, false).await?;
    report.line(&format!(
        "Without entries: {:.0} MB of memory, {:.0} MB without files; ready {} s after SIGTERM.\n",
        mb(empty.0),
        mb(empty.1),
        start.seconds()
    ));
    report.line("| entries | filling, entries a second | memory filled, MB | memory started, MB | bytes an entry, filled | bytes an entry, started | ready after SIGTERM, s | ready after SIGKILL, s | snapshot took, s | its file, MB | write p99 without, ms | write p99 with, ms | longest write with, ms |");
    report.line("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut present = 0;
    for size in &plan.sizes {
        let rate = fill(&steeple, size.saturating_sub(present)).await?;
        present = *size;
        let filled = memory(&mut steeple).await?;
        let snapshot = snapshot(&steeple).await?;
        let stopped = starts(&mut steeple, plan, false).await?;
        let killed = starts(&mut steeple, plan, true).await?;
        let started = memory(&mut steeple).await?;
        let each = |now: (f64, f64)| (now.1 - empty.1) / *size as f64;
        report.line(&format!(
            "| {size} | {rate:.0} | {:.0} ({:.0}) | {:.0} ({:.0}) | {:.0} | {:.0} | {} | {} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} |",
            mb(filled.0), mb(filled.1), mb(started.0), mb(started.1), each(filled), each(started),
            stopped.seconds(), killed.seconds(),
            snapshot.took_s, snapshot.mb, snapshot.p99_without_ms, snapshot.p99_with_ms, snapshot.worst_with_ms,
        ));
    }
    report.line("");
    Ok(())
}

fn mb(bytes: f64) -> f64 {
    bytes / 1e6
}

async fn memory(steeple: &mut Steeple) -> Result<(f64, f64)> {
    let follower = steeple.follower().await?;
    machine::memory(steeple.cluster.process(follower)?.pid())
}

/// Creates entries, and returns how many a second.
async fn fill(steeple: &Steeple, count: usize) -> Result<f64> {
    let started = Instant::now();
    let doors = steeple.doors(steeple.leader().await?, FILLERS, FILLERS)?;
    let mut fillers = JoinSet::new();
    for (index, mut door) in doors.into_iter().enumerate() {
        // What does not divide goes to the first.
        let share = count / FILLERS + if index == 0 { count % FILLERS } else { 0 };
        fillers.spawn(async move {
            let mut left = share;
            while left > 0 {
                let items = left.min(BATCH);
                door.call(Work::CreateBatch(items), next_number()).await?;
                left -= items;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = fillers.join_next().await {
        ended.context("a filler")??;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Seconds from a follower's start to its ready check, some times.
async fn starts(steeple: &mut Steeple, plan: &Plan, killed: bool) -> Result<Spread> {
    let follower = steeple.follower().await?;
    let mut took = Vec::new();
    for _ in 0..plan.starts {
        if killed {
            steeple.cluster.kill_member(follower)?;
        } else {
            steeple.cluster.stop_member(follower).await?;
        }
        let port = steeple.cluster.member(follower)?.health_port;
        let began = Instant::now();
        steeple.cluster.start_member(follower)?;
        wait_for("a start", PATIENCE, async || http_ok(port, "/ready").await).await?;
        took.push(began.elapsed().as_secs_f64());
    }
    Ok(Spread::of(took))
}

struct Snapshot {
    took_s: f64,
    mb: f64,
    p99_without_ms: f64,
    p99_with_ms: f64,
    worst_with_ms: f64,
}

async fn snapshot(steeple: &Steeple) -> Result<Snapshot> {
    let member = steeple.cluster.member(steeple.leader().await?)?;
    let folder = folder::new()?;
    let file = folder.path().join("bench.snapshot");
    let doors = steeple.doors(member.index, 1, 1)?;
    let door = doors.into_iter().next().context("a door")?;
    door.clone().call(Work::Create, next_number()).await?;
    let mut save = tokio::process::Command::new(steeple_testkit::process::binary("spire-server")?);
    save.args(["cluster", "snapshot", "save"]).arg(&file).arg("-socketPath").arg(member.socket());
    let began = Instant::now();
    let saving = async {
        let output = save.output().await.context("save a snapshot")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        anyhow::Ok(began.elapsed())
    };
    let (took, with) = writes_during(&door, saving).await?;
    // At least two seconds, so that there is a 99th percentile.
    let quiet = took.max(Duration::from_secs(2));
    let nothing = async {
        tokio::time::sleep(quiet).await;
        anyhow::Ok(quiet)
    };
    let (_, without) = writes_during(&door, nothing).await?;
    let bytes = std::fs::metadata(&file).context("look at the snapshot")?.len();
    let worst_with_ms = with.iter().copied().fold(0.0, f64::max) / 1000.0;
    Ok(Snapshot {
        took_s: took.as_secs_f64(),
        mb: mb(bytes as f64),
        p99_without_ms: percentiles_ms(without).1,
        p99_with_ms: percentiles_ms(with).1,
        worst_with_ms,
    })
}

/// Microseconds of writes that were due while something went on, each from when it was due.
async fn writes_during(
    door: &Door,
    something: impl Future<Output = Result<Duration>>,
) -> Result<(Duration, Vec<f64>)> {
    let mut something = std::pin::pin!(something);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = JoinSet::new();
    let took = loop {
        tokio::select! {
            ended = &mut something => break ended?,
            due = ticks.tick() => {
                let mut door = door.clone();
                writes.spawn(async move {
                    door.call(Work::Create, next_number()).await?;
                    anyhow::Ok(due.elapsed().as_secs_f64() * 1e6)
                });
            }
        }
    };
    let mut micros = Vec::new();
    while let Some(ended) = writes.join_next().await {
        micros.push(ended.context("a write")??);
    }
    Ok((took, micros))
}

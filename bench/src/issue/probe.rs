//! What other callers wait for while something goes on.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::agents::Agent;
use crate::closed_loop::{Caller as _, at};

/// One call is due so often, to each replica in turn.
pub(crate) const EVERY: Duration = Duration::from_millis(5);

/// How long calls to one replica took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits {
    micros: Vec<f64>,
    /// Calls without an answer.
    pub(crate) failed: usize,
}

impl Waits {
    /// The wait, in milliseconds, below which a part of the calls was.
    pub(crate) fn ms(&self, part: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_by(f64::total_cmp);
        at(&sorted, part) / 1000.0
    }

    /// As a cell of a table.
    pub(crate) fn text(&self) -> String {
        format!("{:.1} / {:.1} / {:.1}", self.ms(0.5), self.ms(0.99), self.ms(1.0))
    }

    /// How many calls were answered.
    pub(crate) fn answered(&self) -> usize {
        self.micros.len()
    }
}

/// Makes calls on a schedule by turns while something goes on, whatever became of the ones before;
/// each wait counts from when the call was due. Each prober makes a call before, which does not
/// count, and at least one that does.
pub(crate) async fn during<T, const N: usize>(
    mut probers: [Agent; N],
    something: impl Future<Output = Result<T>>,
) -> Result<(T, [Waits; N])> {
    for prober in &mut probers {
        prober.call().await.context("the first other call")?;
    }
    let mut something = std::pin::pin!(something);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    let mut turns = (0..N).cycle();
    let mut done = None;
    while done.is_none() || calls.len() < N {
        tokio::select! {
            ended = &mut something, if done.is_none() => done = Some(ended?),
            due = ticks.tick() => {
                let turn = turns.next().context("a replica")?;
                let mut prober = probers.get(turn).context("a prober")?.clone();
                calls.spawn(async move {
                    let answered = prober.call().await.is_ok();
                    (turn, answered, due.elapsed().as_secs_f64() * 1e6)
                });
            }
        }
    }
    let mut waits = std::array::from_fn(|_| Waits::default());
    while let Some(ended) = calls.join_next().await {
        let (turn, answered, micros) = ended.context("a call")?;
        let Some(waits) = waits.get_mut(turn) else { continue };
        if answered {
            waits.micros.push(micros);
        } else {
            waits.failed += 1;
        }
    }
    Ok((done.context("what went on")?, waits))
}

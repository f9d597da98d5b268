//! A leader that does not get on gives leadership up.
//!
//! Owns the decision, which is pure, and the task that measures and acts: leadership is handed over if
//! that works; if not, this member stops speaking as a leader, so that the others choose another within
//! an election timeout. It stands in no election until its disk and consensus have recovered. From the
//! beginning of a stall to another leader: less than 5 s.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, timeout};

use crate::cluster::Life;
use crate::error::RunError;

/// What takes longer is a stall (`cluster.md`).
const STALL_AFTER: Duration = Duration::from_secs(2);

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A hand-over is done within an election, or not at all.
const HAND_OVER_MAX: Duration = Duration::from_millis(1_500);

const _: () = assert!(
    STALL_AFTER.as_millis() + 2 * LOOK_EVERY.as_millis() + HAND_OVER_MAX.as_millis() < 4_500,
    "an election must fit into the 5 s too"
);

/// How long what a leader needs has been busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pulse {
    /// The sync of the log that runs now.
    sync: Duration,
    /// The question that consensus has not answered yet.
    core: Duration,
    /// What is committed and not applied.
    apply: Duration,
}

/// What does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    Disk(Duration),
    Core(Duration),
    Apply(Duration),
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(time) => {
                write!(
                    f,
                    "a sync of the log has taken {:.1} s: check the disk of DATA_DIR",
                    time.as_secs_f64()
                )
            }
            Self::Core(time) => {
                write!(f, "consensus has not moved for {:.1} s", time.as_secs_f64())
            }
            Self::Apply(time) => {
                write!(
                    f,
                    "nothing was applied for {:.1} s: check the disk of DATA_DIR",
                    time.as_secs_f64()
                )
            }
        }
    }
}

/// Whether something does not get on; the disk first, since it explains the others.
fn stall(pulse: Pulse) -> Option<Stall> {
    let long = |time: Duration| time > STALL_AFTER;
    let Pulse { sync, core, apply } = pulse;
    if long(sync) {
        Some(Stall::Disk(sync))
    } else if long(core) {
        Some(Stall::Core(core))
    } else if long(apply) {
        Some(Stall::Apply(apply))
    } else {
        None
    }
}

/// Watches for ever.
///
/// # Errors
///
/// Never.
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    let mut watch = Watch::new();
    loop {
        let pulse = watch.look(&life).await;
        let found = stall(pulse);
        match (found, life.core.is_stalled()) {
            (Some(found), false) if leads(&life) => give_up(&life, found, pulse).await,
            (None, true) => recover(&life),
            (Some(_) | None, _) => {}
        }
    }
}

/// Whether this member leads others: alone there is no one to lead instead.
fn leads(life: &Life) -> bool {
    let metrics = life.metrics();
    metrics.state.is_leader() && metrics.membership_config.voter_ids().count() > 1
}

async fn give_up(life: &Life, found: Stall, pulse: Pulse) {
    tracing::warn!(member_id = %life.me(), "Leader stalled, gives leadership up: {found}");
    metrics::counter!("spire_server_cluster_leader_stalls").increment(1);
    life.core.set_stalled(true);
    // Consensus that does not move hands nothing over.
    if pulse.core <= LOOK_EVERY {
        match timeout(HAND_OVER_MAX, life.core.transfer_leadership(None)).await {
            Ok(Ok(took)) => {
                return tracing::info!(took_ms = took.as_millis(), "leadership handed over");
            }
            Ok(Err(error)) => tracing::warn!(%error, "failed to hand over leadership"),
            Err(_) => tracing::warn!("failed to hand over leadership in time"),
        }
    }
    if leads(life) {
        tracing::warn!("Stops speaking as a leader, so that the others choose another");
        life.network.set_muted(true);
    }
}

fn recover(life: &Life) {
    tracing::info!("Stall is over");
    life.network.set_muted(false);
    life.core.set_stalled(false);
}

/// What is measured from one look to the next.
struct Watch {
    /// Consensus last answered then.
    answered: Instant,
    applied: u64,
    /// Something was last applied then, or there was nothing to apply.
    moved: Instant,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self { answered: now, applied: 0, moved: now }
    }

    async fn look(&mut self, life: &Life) -> Pulse {
        let core = &life.core;
        // Answered in turn by the one loop that everything of consensus goes through. One that is
        // given up stays in its queue, a few a second while it does not move.
        let question = core.raft.with_raft_state(|_| ());
        let begun = Instant::now();
        if timeout(LOOK_EVERY, question).await.is_ok() {
            self.answered = Instant::now();
        }
        let committed =
            core.raft.metrics().borrow_watched().local_committed.map_or(0, |id| id.index);
        let applied = core.feed.reached_now().index;
        if applied != self.applied || applied >= committed {
            (self.applied, self.moved) = (applied, Instant::now());
        }
        tokio::time::sleep_until(begun + LOOK_EVERY).await;
        Pulse {
            sync: core.syncs.health().waiting,
            core: self.answered.elapsed().saturating_sub(LOOK_EVERY),
            apply: self.moved.elapsed().saturating_sub(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_two_seconds_is_a_stall_and_the_disk_comes_first() {
        let s = Duration::from_secs_f64;
        let table = [
            (0.0, 0.0, 0.0, None),
            (2.0, 2.0, 2.0, None),
            (2.1, 0.0, 0.0, Some(Stall::Disk(s(2.1)))),
            (0.0, 2.1, 0.0, Some(Stall::Core(s(2.1)))),
            (0.0, 0.0, 2.1, Some(Stall::Apply(s(2.1)))),
            (2.1, 9.0, 9.0, Some(Stall::Disk(s(2.1)))),
            (0.0, 2.1, 9.0, Some(Stall::Core(s(2.1)))),
        ];
        for (sync, core, apply, expected) in table {
            let pulse = Pulse { sync: s(sync), core: s(core), apply: s(apply) };
            assert_eq!(stall(pulse), expected, "{pulse:?}");
        }
    }
}

//! What happens until the end, and the end: signals, tasks that end by themselves, the drain.

use std::time::Duration;

use anyhow::anyhow;
use steeple_raft_store::{Role, StoreHandle};
use tokio::task::{JoinError, JoinSet};

use super::start::{Task, Tasks};
use crate::keys::KeyReload;
use crate::logging::Logging;
use crate::shutdown::{Asked, DRAIN_MAX, Signals, Stages};

/// Leadership is handed over within this time or not at all.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// After the drain everything else has this long; what is written is durable already.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Waits for a signal or a failure and ends the process in order.
pub(super) async fn supervise(
    mut signals: Signals,
    logging: Logging,
    stages: Stages,
    mut tasks: Tasks,
    store: Option<StoreHandle>,
    key_reload: Option<KeyReload>,
) -> anyhow::Result<()> {
    loop {
        let ended = tokio::select! {
            Some(ended) = tasks.connections.join_next() => ended,
            Some(ended) = tasks.others.join_next() => ended,
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::ReloadPlugins => {
                    tracing::info!("SIGUSR1 has no effect: plugins have no configuration files to read again, and metrics are read from the Prometheus listener");
                    continue;
                }
                Asked::ReopenLog => {
                    logging.reopen();
                    continue;
                }
                Asked::ReloadKey => {
                    reload_key(key_reload.as_ref());
                    continue;
                }
            },
        };
        // No task ends before the stop: whatever it was, the process cannot go on without it.
        let failure = why(ended);
        stages.stop.cancel();
        stages.abort.cancel();
        stages.close.cancel();
        tokio::time::timeout(CLOSE_MAX, finish(&mut tasks.others)).await.ok();
        return Err(failure);
    }
    tracing::info!("Stopping");
    stages.stop.cancel();
    let orderly = async {
        if let Some(store) = store {
            store.stand_down();
            hand_over(&store).await;
        }
        let drain = finish(&mut tasks.connections);
        if tokio::time::timeout(DRAIN_MAX, drain).await.is_err() {
            tracing::warn!("Open calls were cut off: they took longer than the drain");
        }
        stages.abort.cancel();
        stages.close.cancel();
        tokio::time::timeout(CLOSE_MAX, finish(&mut tasks.others)).await.ok();
    };
    tokio::select! {
        () = orderly => {}
        () = second_stop(&mut signals) => tracing::warn!("Stopping at once"),
    }
    Ok(())
}

/// Reads the cluster key again, beside everything else: a command that prints it may take its time.
fn reload_key(key_reload: Option<&KeyReload>) {
    match key_reload.cloned() {
        Some(key_reload) => {
            tokio::spawn(async move { key_reload.run().await });
        }
        None => tracing::warn!(
            "Cluster key was not read again: this process serves nothing; restart it instead"
        ),
    }
}

/// Resolves at the second SIGTERM or SIGINT.
async fn second_stop(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

/// Gives leadership away before connections are drained, so that the others wait for no one.
async fn hand_over(store: &StoreHandle) {
    let status = store.status();
    let voters = status.members.iter().filter(|member| member.role == Role::Voter).count();
    if status.leader != Some(status.member_id) || voters < 2 {
        return;
    }
    match tokio::time::timeout(HAND_OVER_MAX, store.transfer_leadership(None)).await {
        Ok(Ok(took)) => tracing::info!(took_ms = took.as_millis(), "Leadership handed over"),
        Ok(Err(error)) => tracing::warn!(error = error.text, "Leadership was not handed over"),
        Err(_elapsed) => tracing::warn!("Leadership was not handed over in time"),
    }
}

async fn finish(tasks: &mut JoinSet<Task>) {
    while let Some(ended) = tasks.join_next().await {
        note(ended);
    }
}

type Ended = Result<Task, JoinError>;

/// A failure on the way down is worth a line, but the stop goes on.
fn note(ended: Ended) {
    match ended {
        Ok((_, Ok(()))) => {}
        Ok((task, Err(error))) => tracing::warn!(task, error = format!("{error:#}"), "Ended badly"),
        Err(error) => tracing::warn!(%error, "A task was lost"),
    }
}

fn why(ended: Ended) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Err(error) => anyhow::Error::new(error).context("a task of the server was lost"),
    }
}

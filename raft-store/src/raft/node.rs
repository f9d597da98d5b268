//! Starting consensus: its settings, each chosen, none left to a default that may change.

use std::sync::Arc;
use std::time::Duration;

use openraft::network::{NetSnapshot, RaftNetworkFactory};
use openraft::{SnapshotPolicy, StepDownPolicy};

use crate::config::Config;
use crate::error::OpenError;
use crate::ids::MemberId;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::{Raft, TypeConfig};
use crate::snapshot::SnapshotBody;

/// Longest that sending one snapshot chunk may take.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries in one append: the network splits what is too large.
const APPEND_ENTRIES_MAX: u64 = 512;
/// Log entries purged at once: range deletes are cheap, but each leaves a mark.
const PURGE_BATCH: u64 = 256;

/// Starts consensus on this member. It stays idle until it is initialised or hears from a leader.
pub(crate) async fn start<N>(
    config: &Config,
    member_id: MemberId,
    network: N,
    log: LogStore,
    machine: StateMachine,
) -> Result<Raft, OpenError>
where
    N: RaftNetworkFactory<TypeConfig>,
    N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotBody>,
{
    let settings = Arc::new(settings(config)?);
    Raft::new(member_id.0, settings, network, log, machine)
        .await
        .map_err(|error| refused(config, error.to_string()))
}

/// Consensus tells in words alone that what it read of the log is damaged.
fn refused(config: &Config, reason: String) -> OpenError {
    if reason.contains("Corruption: ") {
        return OpenError::Corrupt { folder: config.data_dir.clone(), reason };
    }
    OpenError::Consensus(reason)
}

fn settings(config: &Config) -> Result<openraft::Config, OpenError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let settings = openraft::Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: ms(config.heartbeat_interval),
        election_timeout_min: ms(config.election_timeout_min()),
        election_timeout_max: ms(config.election_timeout_max()),
        install_snapshot_timeout: ms(SNAPSHOT_CHUNK_TIMEOUT),
        max_payload_entries: APPEND_ENTRIES_MAX,
        // A member that lags by more than is kept is sent a snapshot instead of the log.
        replication_lag_threshold: config.tuning.log_kept,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.tuning.snapshot_after),
        max_in_snapshot_log_to_keep: config.tuning.log_kept,
        purge_batch_size: PURGE_BATCH.min(config.tuning.log_kept.max(1)),
        enable_tick: true,
        enable_heartbeat: true,
        enable_elect: true,
        // A member that was cut off must not raise the term when it comes back. Off by default.
        enable_pre_vote: Some(true),
        // A restarted leader stands for election like everyone else. On by default, not in the paper.
        enable_leader_restore: Some(false),
        // A follower whose log went back has lost data it acknowledged: it must not be fed again.
        allow_log_reversion: Some(false),
        // A leader without a quorum gives up: longer than a lease and an election, so that it never
        // gives up a leadership that still holds.
        quorum_loss_probe_interval: Some(ms(config.election_timeout_max()) * 3),
        removed_leader_step_down: StepDownPolicy::After(150),
        ..openraft::Config::default()
    };
    settings.validate().map_err(|error| OpenError::Consensus(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn a_log_that_cannot_be_read_is_told_as_damage() {
        let config = config("folder".into());
        let damaged = "when Read Logs: Corruption: block checksum mismatch in 000015.sst";
        let error = refused(&config, damaged.to_owned());
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        let error = refused(&config, "something else".to_owned());
        assert!(matches!(error, OpenError::Consensus(_)), "{error:?}");
    }
}

//! What a store is configured with, already checked by the caller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::TrustDomain;

use crate::cluster_key::ClusterKeys;
use crate::ids::ClusterId;
use crate::level::FEATURE_LEVEL_MAX;
use crate::limits::{LOG_ENTRIES_KEPT, RAISE_LEVEL_AFTER, SNAPSHOT_AFTER_ENTRIES};

/// The settings of one member.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the registry (`DATA_DIR/raft`); made if missing.
    pub data_dir: PathBuf,
    /// Members with another cluster name are refused.
    pub cluster_name: String,
    /// If set, this member never forms a cluster: it only joins the one with this id.
    pub cluster_id: Option<ClusterId>,
    /// The trust domain that the registry serves.
    pub trust_domain: TrustDomain,
    /// Where the peer listener binds; `None`: no peer listener, a cluster of one member.
    pub bind: Option<SocketAddr>,
    /// How other members reach this one: `host:port`.
    pub advertise: String,
    /// Where to look for other members, itself included, as `host:port`.
    pub peers: Vec<String>,
    /// The cluster keys that this member holds.
    pub keys: Arc<ClusterKeys>,
    /// Autopilot promotes learners up to this many voters.
    pub voters_max: u8,
    /// A voter unseen for so long is removed if another can take its seat; zero: never.
    pub replace_dead_after: Duration,
    /// How often a leader is heard. Election timeouts are three to six times that.
    pub heartbeat_interval: Duration,
    /// The version of this program, announced to the others.
    pub version: String,
    /// A hash of the settings that should be the same on all members, announced to the others; empty:
    /// none.
    pub settings_hash: String,
    /// Whether the end of [`Store::run`](crate::Store::run) also leaves the cluster.
    pub leave_on_terminate: bool,
    /// Bounds that only a simulation has a reason to change.
    pub tuning: Tuning,
}

/// Bounds that have one good value, documented in `cluster.md`. A simulation lowers them, so that
/// what takes hours happens in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Log entries after which a snapshot is made.
    pub snapshot_after: u64,
    /// Log entries kept behind a snapshot, so that a member that was away shortly needs none.
    pub log_kept: u64,
    /// A learner must have been healthy for so long to become a voter.
    pub stable_for: Duration,
    /// A voter must have been silent for so long to lose its seat to a newcomer at its address.
    pub seat_free_after: Duration,
    /// The highest feature level that this member says it supports: a lower one than the build's makes
    /// it look like an older build.
    pub feature_level_max: u32,
    /// A feature level that all members have supported for so long is raised by itself.
    pub raise_level_after: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            snapshot_after: SNAPSHOT_AFTER_ENTRIES,
            log_kept: LOG_ENTRIES_KEPT,
            stable_for: Duration::from_secs(10),
            seat_free_after: Duration::from_secs(30),
            feature_level_max: FEATURE_LEVEL_MAX,
            raise_level_after: RAISE_LEVEL_AFTER,
        }
    }
}

impl Config {
    /// Whether a member without a folder begins a cluster by itself: it knows of nobody to ask.
    pub(crate) fn founds_alone(&self) -> bool {
        self.peers.iter().all(|peer| *peer == self.advertise)
    }

    /// The shortest election timeout: three heartbeats.
    pub fn election_timeout_min(&self) -> Duration {
        self.heartbeat_interval * 3
    }

    /// The longest election timeout: six heartbeats.
    pub fn election_timeout_max(&self) -> Duration {
        self.heartbeat_interval * 6
    }
}

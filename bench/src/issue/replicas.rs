//! Three replicas of ours that sign as fast as they can.

use std::time::Duration;

use anyhow::Result;
use steeple_spiffe_core::KeyType;
use steeple_testkit::{Cluster, ClusterSpec};
use tempfile::TempDir;

/// How long elections and starts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is printed of their settings.
pub(crate) const SETTINGS: &str = "steeple: three replicas, log level warn, rate limits off; the agent calls one that does not lead, over mutual TLS 1.3, and each call rests on a read that a quorum confirms";

/// A cluster, and the replica that is called.
#[derive(Debug)]
pub(crate) struct Replicas {
    pub(crate) cluster: Cluster,
    /// The index of the replica that is called. It did not lead when the cluster was started.
    pub(crate) called: usize,
    _folder: TempDir,
}

impl Replicas {
    /// Starts them with authorities of a key type.
    pub(crate) async fn start(key_type: KeyType) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cluster = Cluster::start(folder.path(), &spec(key_type)).await?;
        Self::of(cluster, folder).await
    }

    /// Of a cluster that runs.
    pub(crate) async fn of(cluster: Cluster, folder: TempDir) -> Result<Self> {
        let called = (cluster.leader(PATIENCE).await? + 1) % cluster.members().len();
        Ok(Self { cluster, called, _folder: folder })
    }

    /// A replica that is not the one that is called.
    pub(crate) fn other(&self) -> usize {
        (self.called + 1) % self.cluster.members().len()
    }

    /// The processes of all.
    pub(crate) fn pids(&mut self) -> Result<Vec<u32>> {
        (0..self.cluster.members().len())
            .map(|index| Ok(self.cluster.process(index)?.pid()))
            .collect()
    }

    /// The process of the one that is called.
    pub(crate) fn called_pid(&mut self) -> Result<u32> {
        Ok(self.cluster.process(self.called)?.pid())
    }
}

/// What a cluster looks like whose authorities have keys of this type.
pub(crate) fn spec(key_type: KeyType) -> ClusterSpec {
    let server_lines = format!(
        "  ca_key_type = \"{key_type}\"\n  ratelimit {{\n    attestation = false\n    signing = false\n  }}\n"
    );
    ClusterSpec { log_level: "WARN", server_lines, ..ClusterSpec::default() }
}

//! Three replicas of ours.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use steeple_testkit::client::unix_channel;
use steeple_testkit::{Cluster, ClusterSpec};

use super::door::Door;

/// How long elections and starts may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is printed of their settings.
pub(crate) const SETTINGS: &str = "steeple: three replicas, release build, log level warn, called by the admin socket without TLS, mutual TLS 1.3 between members, heartbeat 50 ms (elections 150-300 ms), every acknowledged write synced by two members";

/// Three replicas of ours.
#[derive(Debug)]
pub(crate) struct Steeple {
    pub(crate) cluster: Cluster,
}

impl Steeple {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let spec = ClusterSpec { log_level: "WARN", ..ClusterSpec::default() };
        Ok(Self { cluster: Cluster::start(folder, &spec).await? })
    }

    pub(crate) fn pids(&mut self) -> Result<Vec<u32>> {
        (0..self.cluster.members().len())
            .map(|index| Ok(self.cluster.process(index)?.pid()))
            .collect()
    }

    pub(crate) async fn leader(&self) -> Result<usize> {
        self.cluster.leader(PATIENCE).await
    }

    /// One member that does not lead.
    pub(crate) async fn follower(&self) -> Result<usize> {
        Ok((self.leader().await? + 1) % self.cluster.members().len())
    }

    /// Callers at one member, over so many connections.
    pub(crate) fn doors(
        &self,
        member: usize,
        callers: usize,
        connections: usize,
    ) -> Result<Vec<Door>> {
        let socket = self.cluster.member(member)?.socket();
        let channels: Vec<_> = (0..connections).map(|_| unix_channel(&socket)).collect();
        Ok(channels.iter().cycle().take(callers).cloned().map(Door::Steeple).collect())
    }

    /// Starts a member that does not run, and waits until all serve.
    pub(crate) async fn start_member(&mut self, member: usize) -> Result<()> {
        self.cluster.start_member(member)?;
        self.cluster.wait_ready(PATIENCE).await
    }
}

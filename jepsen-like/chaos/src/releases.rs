//! Two releases of one build: head, and head told to know no higher feature level than the one before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_api::pb::cluster::v1 as cluster;
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};

/// How long it may take until all members have said what they support, and until a level is raised.
const RAISE_MAX: Duration = Duration::from_secs(30);

/// The feature level of the older release. A server of its own says which one head has.
pub(crate) async fn older(folder: &Path) -> Result<u32> {
    let folder = folder.join("scout");
    let spec = ClusterSpec { members: 1, ..ClusterSpec::default() };
    let scout = Cluster::start(&folder, &spec).await.context("ask head for its feature level")?;
    let level = level(&scout.member(0)?.socket()).await?;
    drop(scout);
    std::fs::remove_dir_all(&folder).context("remove the scout's folder")?;
    ensure!(level > 1, "head is at feature level {level}: there is none before it");
    Ok(level - 1)
}

/// The level that a member's cluster is at.
pub(crate) async fn level(socket: &Path) -> Result<u32> {
    let mut client = cluster::cluster_client::ClusterClient::new(unix_channel(socket));
    let status = client.upgrade_status(cluster::UpgradeStatusRequest {}).await;
    Ok(status.context("ask for the feature level")?.into_inner().feature_level)
}

/// Raises the level once everyone is of the newer release; true if all members say so then.
pub(crate) async fn finalize(sockets: &[std::path::PathBuf], from: u32) -> Result<()> {
    let first = sockets.first().context("no member")?;
    let mut client = cluster::cluster_client::ClusterClient::new(unix_channel(first));
    wait_for("the feature level to be raised", RAISE_MAX, async || {
        if level(first).await? == from {
            client.finalize_upgrade(cluster::FinalizeUpgradeRequest {}).await?;
        }
        for socket in sockets {
            let now = level(socket).await?;
            ensure!(now == from + 1, "{} is at {now}", socket.display());
        }
        Ok(())
    })
    .await
}

//! The worst day under stock agents: every server folder is lost, and the cluster comes back from a
//! snapshot that knows two of three agents.
//!
//! Owns the drill's order and what every agent must show after it. What operators type and are told
//! is pinned by `testkit/tests/it/backup.rs`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use steeple_testkit::Cluster;

use super::agents::StockAgent;
use super::{NODE, WITHIN, entry, entry_below};

/// Saves a snapshot, lets one more agent attest, loses every folder, restores, and waits until all
/// three agents serve something new and have renewed; none may have dropped its SVID.
pub(super) async fn drill(
    folder: &Path,
    binaries: &Path,
    cluster: &mut Cluster,
    agents: &mut [StockAgent; 2],
) -> Result<()> {
    let file = folder.join("prod.snapshot").display().to_string();
    cluster.member(1)?.cli_json(&["cluster", "snapshot", "save", &file])?;
    let token = crate::demo::token(cluster, 0, None)?;
    let unknown = format!("spiffe://example.org/spire/agent/join_token/{token}");
    let mut late = StockAgent::by_token(&folder.join("late"), binaries, cluster, &token)?;
    entry_below(cluster, 0, &unknown, "spiffe://example.org/forgotten")?;
    late.serves("spiffe://example.org/forgotten", WITHIN).await.context("after the snapshot")?;

    lose_everything(cluster, &file).await?;
    cluster.member(0)?.cli_json(&["cluster", "agents", "adopt"])?;
    let renewals: Vec<usize> = agents.iter().map(StockAgent::renewals).collect();
    let restored = "spiffe://example.org/after-the-restore";
    entry(cluster, 1, restored)?;
    for (agent, before) in agents.iter_mut().zip(renewals) {
        agent.serves(restored, WITHIN).await.with_context(|| format!("an agent below {NODE}"))?;
        agent.renewed(before, WITHIN).await.context("after the restore")?;
        agent.never_gave_up()?;
    }
    let before = late.renewals();
    entry_below(cluster, 2, &unknown, "spiffe://example.org/found")?;
    late.serves("spiffe://example.org/found", WITHIN).await.context("an adopted agent")?;
    late.renewed(before, WITHIN).await.context("an adopted agent")?;
    late.never_gave_up()
}

/// Ends all members, empties their folders and brings them back from a snapshot, as the runbook says.
async fn lose_everything(cluster: &mut Cluster, snapshot: &str) -> Result<()> {
    for index in 0..3 {
        cluster.kill_member(index)?;
        fs::remove_dir_all(cluster.member(index)?.data()).context("empty a folder")?;
    }
    cluster.hold_member(0).await?;
    let restore = ["cluster", "snapshot", "restore", snapshot, "-confirm", "testkit"];
    let output = cluster.member(0)?.cli(&restore)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the restore was refused: {said}");
    cluster.stop_member(0).await?;
    for index in 0..3 {
        cluster.start_member(index)?;
    }
    cluster.wait_ready(WITHIN).await
}

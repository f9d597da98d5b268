//! Releases follow each other: up, down and up again under load, and what the raised level forbids.
//!
//! The older release is this build told to know no higher feature level (`STEEPLE_FEATURE_LEVEL_MAX`).

use std::time::Duration;

use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec};

use crate::bundles::{done, refused};
use crate::registry::{Ledger, Writers};

const SOON: Duration = Duration::from_secs(30);

/// The level of the older release, and of this build.
const OLD: u32 = 2;
const NEW: u32 = 7;

const CREATE: [&str; 8] = [
    "federation",
    "create",
    "-trustDomain",
    "other.test",
    "-bundleEndpointURL",
    "https://other.test",
    "-bundleEndpointProfile",
    "https_web",
];

/// Stops each member and starts it as another release, highest first, as a StatefulSet does.
async fn roll(cluster: &mut Cluster, release: Option<u32>) {
    for index in (0..3).rev() {
        cluster.stop_member(index).await.unwrap();
        cluster.set_feature_level_max(index, release).unwrap();
        cluster.start_member(index).unwrap();
        cluster.wait_ready(SOON).await.unwrap();
    }
}

/// Waits until every member says that the cluster is at a level and all its members support another.
async fn all_support(cluster: &Cluster, level: u32, supported: u32) {
    let waited = wait_for("what all members support", SOON, async || {
        for member in cluster.members() {
            let said = member.cli_json(&["cluster", "upgrade", "status"])?;
            let members = said["members"].as_array().cloned().unwrap_or_default();
            let same = members.iter().all(|member| member["feature_level_max"] == supported);
            anyhow::ensure!(said["feature_level"] == level && members.len() == 3 && same, "{said}");
        }
        Ok(())
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_up_down_and_up_again_and_the_level_is_raised_once() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ClusterSpec { feature_level_max: Some(OLD), ..ClusterSpec::default() };
    let mut cluster = Cluster::start(folder.path(), &spec).await.unwrap();
    all_support(&cluster, OLD, OLD).await;
    let ledger = Ledger::default();
    let writers = Writers::start(&cluster, 4, "", &ledger);

    // Newer members beside older ones write nothing that the older could not read.
    cluster.stop_member(2).await.unwrap();
    cluster.set_feature_level_max(2, None).unwrap();
    cluster.start_member(2).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    for member in 0..3 {
        let text = refused(&cluster, member, &CREATE);
        assert!(text.contains("needs feature level 3, the cluster is at 2"), "{text}");
        assert!(text.contains("\"spire-server cluster upgrade finalize\""), "{text}");
    }
    let waited = wait_for("a refusal that names an older member", SOON, async || {
        let text = refused(&cluster, 2, &["cluster", "upgrade", "finalize"]);
        anyhow::ensure!(text.contains("supports none above it; start a newer version"), "{text}");
        Ok(())
    });
    waited.await.unwrap();

    roll(&mut cluster, None).await;
    all_support(&cluster, OLD, NEW).await;
    // A downgrade works until the level is raised.
    roll(&mut cluster, Some(OLD)).await;
    all_support(&cluster, OLD, OLD).await;
    roll(&mut cluster, None).await;
    all_support(&cluster, OLD, NEW).await;
    let raised = done(&cluster, 0, &["cluster", "upgrade", "finalize"]);
    assert_eq!(raised, format!("Feature level raised from {OLD} to {NEW}.\n"));
    let created = done(&cluster, 1, &CREATE);
    assert!(created.contains("Trust domain              : other.test"), "{created}");

    // Now the older release refuses the folder, says why, and harms nothing.
    cluster.stop_member(1).await.unwrap();
    cluster.set_feature_level_max(1, Some(OLD)).unwrap();
    cluster.start_member(1).unwrap();
    let ended = cluster.process(1).unwrap().wait(SOON).await.unwrap();
    assert_eq!(ended.code(), Some(1));
    let log = cluster.process(1).unwrap().log_tail(5);
    let why = format!("the cluster is at feature level {NEW}, this version supports up to {OLD}");
    assert!(log.contains(&why), "{log}");
    assert!(log.contains("start the version that the other members run"), "{log}");
    cluster.set_feature_level_max(1, None).unwrap();
    cluster.start_member(1).unwrap();
    cluster.wait_ready(SOON).await.unwrap();

    writers.finish().await;
    ledger.is_kept_by(&cluster, 0..3, 200).await;
    for index in 0..3 {
        let shown = done(&cluster, index, &["federation", "list"]);
        assert!(shown.starts_with("Found 1 federation relationship\n"), "{shown}");
    }
}

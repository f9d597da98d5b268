//! The cluster's own row: written by the first command, and when the feature level is raised.

use std::sync::Arc;

use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{SINGLE, Table};
use crate::change::{Change, ClusterState};
use crate::codec::cluster_to_pb;
use crate::command::InitCluster;
use crate::outcome::{Outcome, Rejection};

/// The epoch of a cluster that was never restored.
const FIRST_EPOCH: u32 = 1;

pub(super) fn init(step: &mut Step<'_, '_>, init: InitCluster) -> Verdict {
    if step.cluster.is_some() {
        return Ok(Err(Rejection::AlreadyInitialised));
    }
    let cluster = ClusterState {
        cluster_id: init.cluster_id,
        name: init.name,
        trust_domain: init.trust_domain,
        epoch: FIRST_EPOCH,
        feature_level: init.feature_level,
        formed_at: step.now,
        restored: None,
    };
    step.put(Table::Cluster, SINGLE, &cluster_to_pb(&cluster));
    step.cluster = Some(cluster.clone());
    step.changes.push(Change::ClusterWritten(Arc::new(cluster)));
    Ok(Ok(Outcome::Done))
}

pub(super) fn raise_level(step: &mut Step<'_, '_>, to: u32) -> Outcome {
    if let Some(cluster) = step.cluster.as_mut().filter(|cluster| cluster.feature_level < to) {
        cluster.feature_level = to;
        let cluster = cluster.clone();
        step.put(Table::Cluster, SINGLE, &cluster_to_pb(&cluster));
        step.changes.push(Change::ClusterWritten(Arc::new(cluster)));
    }
    Outcome::Done
}

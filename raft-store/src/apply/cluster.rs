//! The cluster's own row: written by the first command, when the feature level is raised, and when
//! another cluster key is to seal.

use std::sync::Arc;

use crate::apply::authorities::read_journal;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{SINGLE, Table};
use crate::change::{Change, ClusterState};
use crate::codec::cluster_to_pb;
use crate::command::InitCluster;
use crate::keys_in_use::current_key_id;
use crate::outcome::{Outcome, Rejection};

/// Keys that were left are remembered so long: more than members may hold at once.
const LEFT_KEYS_MAX: usize = 16;

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
        key_id: String::new(),
        left_key_ids: Vec::new(),
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

/// Names the key that seals from now on.
pub(super) fn move_key(step: &mut Step<'_, '_>, expected: String, to: String) -> Verdict {
    let journal = read_journal(step)?;
    let Some(cluster) = &mut step.cluster else { return Ok(Err(Rejection::NotInitialised)) };
    let actual = current_key_id(cluster, &journal).unwrap_or_default();
    if actual != expected {
        let actual = actual.to_owned();
        return Ok(Err(Rejection::ClusterKeyMoved { expected, actual }));
    }
    if cluster.key_id != to {
        cluster.left_key_ids.retain(|left| *left != expected && *left != to);
        if expected != to && !expected.is_empty() {
            cluster.left_key_ids.push(expected);
        }
        let too_many = cluster.left_key_ids.len().saturating_sub(LEFT_KEYS_MAX);
        cluster.left_key_ids.drain(..too_many);
        cluster.key_id = to;
        let cluster = cluster.clone();
        step.put(Table::Cluster, SINGLE, &cluster_to_pb(&cluster));
        step.changes.push(Change::ClusterWritten(Arc::new(cluster)));
    }
    Ok(Ok(Outcome::Done))
}

//! Autopilot: while this member leads, looks at its members every second and makes the change that
//! `plan` says.
//!
//! Owns the measuring (how long healthy, how long silent) and the log lines of what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::admission;
use crate::cluster::life::Life;
use crate::cluster::plan::{HEALTHY_LAG_MAX, HEALTHY_SILENCE_MAX, Policy, Seen, plan};
use crate::error::RunError;
use crate::ids::MemberId;
use crate::raft::Metrics;

/// Seats change within tens of seconds; a look costs nothing.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs for ever; does nothing while another member leads.
///
/// # Errors
///
/// Never: what fails is tried again.
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    let config = &life.core.config;
    let policy = Policy::new(config.voters_max, config.replace_dead_after).tuned(&config.tuning);
    let mut healthy_since = BTreeMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if !life.is_formed() || !life.core.leadership_now().is_self {
            healthy_since.clear();
            continue;
        }
        look(&life, &policy, &mut healthy_since).await;
    }
}

async fn look(life: &Life, policy: &Policy, healthy_since: &mut BTreeMap<MemberId, Duration>) {
    let metrics = life.metrics();
    let members = measure(life, &metrics, healthy_since);
    let voters: Vec<BTreeSet<MemberId>> = metrics
        .membership_config
        .get_joint_config()
        .iter()
        .map(|ids| ids.iter().copied().map(MemberId).collect())
        .collect();
    let Some(step) = plan(policy, &voters, &members) else { return };
    // Someone is being taken in: the next look sees what came of it.
    let Ok(_changing) = life.changing.try_lock() else { return };
    tracing::info!(?step, "Autopilot changes the membership");
    if let Err(status) = admission::make(life, step).await {
        tracing::warn!("failed to change the membership: {}", status.message());
    }
}

/// How the members stand, seen from the leader; `healthy_since` remembers from one look to the next.
pub(crate) fn measure(
    life: &Life,
    metrics: &Metrics,
    healthy_since: &mut BTreeMap<MemberId, Duration>,
) -> Vec<Seen> {
    let now = life.core.clock.boot_time();
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let members = metrics.membership_config.nodes().map(|(id, node)| {
        let member = MemberId(*id);
        let silent_for = life.silent_for(member);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(id)?.as_ref());
        let lag = last.saturating_sub(matched.map_or(0, |matched| matched.index));
        let healthy = member == life.me()
            || (matched.is_some() && lag <= HEALTHY_LAG_MAX && silent_for <= HEALTHY_SILENCE_MAX);
        if !healthy {
            healthy_since.remove(&member);
        }
        let healthy_for =
            healthy.then(|| now.saturating_sub(*healthy_since.entry(member).or_insert(now)));
        let address = node.address.clone();
        let (voter, demoted) = (voters.contains(id), node.demoted);
        let answers = silent_for <= HEALTHY_SILENCE_MAX;
        Seen { id: member, address, voter, demoted, silent_for, healthy_for, answers }
    });
    members.collect()
}

//! The rounds in which a member asks all others how they stand.
//!
//! Owns their pace and what is done with the answers at once. A round has a deadline and the next
//! begins after it: no member is asked twice at a time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::cluster::Life;
use crate::error::RunError;
use crate::ids::MemberId;
use crate::observe::{Kept, better_leader, compare, deviations, offset_text};
use crate::offload::offload;

/// Between the beginnings of two rounds: a clock, a setting or a row that went wrong shows within
/// seconds, at the cost of a small message to each member.
const EVERY: Duration = Duration::from_secs(2);

/// As long as clocks were never compared with a quorum's: a new cluster makes no authorities before.
const FIRST: Duration = Duration::from_millis(250);

/// A member that has not answered by then is asked again in the next round.
const DEADLINE: Duration = Duration::from_millis(1_500);

const _: () = assert!(DEADLINE.as_millis() < EVERY.as_millis());

/// Asks for ever.
///
/// # Errors
///
/// Never.
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    loop {
        let begun = Instant::now();
        measure_room(&life).await;
        round(&life).await;
        compare_hashes(&life).await;
        compare_clocks(&life).await;
        let compared = life.core.cluster_clock.age(life.core.clock.as_ref()).is_some();
        sleep_until(begun + if compared { EVERY } else { FIRST }).await;
    }
}

/// How much room the log has. A store in memory has no folder: then nobody knows.
async fn measure_room(life: &Life) {
    let folder = life.core.config.data_dir.clone();
    let measured = offload(move || rustix::fs::statvfs(&folder)).await;
    let room = measured.ok().and_then(Result::ok);
    life.core.syncs.note_free(room.map(|room| room.f_bavail.saturating_mul(room.f_frsize)));
}

async fn round(life: &Life) {
    let metrics = life.metrics();
    let members: Vec<MemberId> =
        metrics.membership_config.nodes().map(|(id, _)| MemberId(*id)).collect();
    let others = members.iter().filter(|member| **member != life.me());
    join_all(others.map(|member| ask(life, *member))).await;
    life.core.observations.retain(|member| members.contains(&member));
}

/// Looks whether all members that applied the same are in the same state.
async fn compare_hashes(life: &Life) {
    let core = &life.core;
    let own = match core.checkpoints().await {
        Ok(own) => own,
        // Reading the tables fails elsewhere too, where it ends the member.
        Err(error) => return tracing::warn!(%error, "failed to read state hashes"),
    };
    let heard = core.observations.all();
    let others: Vec<Kept<'_>> = heard
        .iter()
        .map(|(member, seen)| Kept { member: *member, checkpoints: &seen.said.checkpoints })
        .collect();
    let voters = life.metrics().membership_config.voter_ids().map(MemberId).collect();
    let me = Kept { member: life.me(), checkpoints: &own };
    let found = compare(&me, &others, &voters);
    if !core.observations.note_mismatch(found.clone()) {
        return;
    }
    let Some(found) = found else { return tracing::info!("State hashes agree again") };
    metrics::counter!("spire_server_cluster_state_hash_mismatch").increment(1);
    tracing::error!(log_index = found.index, "State hash mismatch: {found}");
    if found.against_this_member {
        core.fence.trip(found.to_string());
    }
}

/// Compares clocks; a leader whose own is too far from the median makes way for a better one.
async fn compare_clocks(life: &Life) {
    let core = &life.core;
    let clock = core.clock.as_ref();
    let voters = life.metrics().membership_config.voter_ids().map(MemberId).collect();
    let found = deviations(life.me(), clock, &voters, &core.observations.all());
    let Some(own) = found.get(&life.me()) else { return };
    core.cluster_clock.note_ahead_ms(*own, clock);
    let Some(better) = better_leader(life.me(), &found) else { return };
    if !core.leadership_now().is_self {
        return;
    }
    tracing::warn!(to = %better, "Leader hands over: {}; set it right", offset_text(*own));
    if let Err(error) = core.transfer_leadership(Some(better)).await {
        tracing::warn!(%error, "failed to hand over leadership");
    }
}

async fn ask(life: &Life, member: MemberId) {
    let core = &life.core;
    let began = core.clock.boot_time();
    let Ok(said) = life.network.observe(member, Instant::now() + DEADLINE).await else {
        // Not reached, or of a build that does not know the question: what is known grows old.
        return;
    };
    let (now, heard_at) = (core.clock.now(), core.clock.boot_time());
    let round_trip = heard_at.saturating_sub(began);
    life.network.addresses.introduced(member, &said.version, heard_at);
    core.observations.note(member, said, now, heard_at, round_trip);
}

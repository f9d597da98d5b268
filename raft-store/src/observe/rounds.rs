//! The rounds in which a member asks all others how they stand.
//!
//! Owns their pace and what is done with the answers at once. A round has a deadline and the next
//! begins after it: no member is asked twice at a time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster::Life;
use crate::error::RunError;
use crate::ids::MemberId;

/// Between the beginnings of two rounds: a clock, a setting or a row that went wrong shows within
/// seconds, at the cost of a small message to each member.
const EVERY: Duration = Duration::from_secs(2);

/// A member that has not answered by then is asked again in the next round.
const DEADLINE: Duration = Duration::from_millis(1_500);

const _: () = assert!(DEADLINE.as_millis() < EVERY.as_millis());

/// Asks for ever.
///
/// # Errors
///
/// Never.
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        round(&life).await;
    }
}

async fn round(life: &Life) {
    let metrics = life.metrics();
    let members: Vec<MemberId> =
        metrics.membership_config.nodes().map(|(id, _)| MemberId(*id)).collect();
    let others = members.iter().filter(|member| **member != life.me());
    join_all(others.map(|member| ask(life, *member))).await;
    life.core.observations.retain(|member| members.contains(&member));
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

//! Two trust domains that rotate by schedule and federate, with lifetimes of seconds, while members of
//! both are killed, stopped and cut off and the sides are cut off from each other: every SVID that is
//! seen has to verify with all that a workload of either side held while it lived.
//!
//! [`side`] is one trust domain, [`gate`] the one name of its bundle endpoints; [`field`] puts two of
//! them on a network of ours; [`guest`] is a workload of one side, [`watch`] looks at members,
//! [`handshake`] lets workloads talk to each other; [`disturb`] has the order of faults; [`ledger`] is
//! everything that was seen, and judges it.

mod disturb;
mod field;
mod gate;
mod guest;
mod handshake;
mod ledger;
mod side;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use steeple_checker::results::say;

use crate::run::make_folder;
use crate::wanted::Wanted;
use field::Field;
use ledger::{Ledger, Totals};
use side::Which;
use watch::Phase;

/// Replicas of a side.
const MEMBERS: usize = 3;

/// Prepared after half of it, activated a sixth before its end: a rotation each eighteen seconds, and
/// twelve for the other side to hear of an authority before it signs.
const CA_TTL: Duration = Duration::from_secs(36);

/// SVIDs of authorities that live so short.
const SVID_TTL: Duration = Duration::from_secs(12);

/// Those of agents, which look at theirs every five seconds.
const AGENT_TTL: Duration = Duration::from_secs(20);

/// What peers are told: they come four times as often.
const HINT: Duration = Duration::from_secs(2);

/// What stands for the minute of the refresher, and of those who wait for peers.
const MINUTE: Duration = Duration::from_secs(1);

/// How long a member that is cut off serves what it knew.
const MAX_STALENESS: Duration = Duration::from_secs(3);

/// A verifier of the own side goes on so long with the bundle that it has fetched.
const KEEPS: Duration = Duration::from_secs(2);

/// So long after a fault something of it may be in the way of a fetch: a try that is under way, or put
/// off by those that failed, five minutes at most.
const RECOVERS: Duration = Duration::from_secs(5);

/// The interval of an agent's syncs.
const SYNC: Duration = Duration::from_secs(5);

/// Until there is one cluster again, and until everyone knows what there is.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// In so many rotations there is one cut that is too long.
const ROTATIONS_PER_LONG_CUT: usize = 25;

/// No more of what is wrong is told.
const TOLD_MAX: usize = 20;

/// What was seen, for all who look.
type Shared = Arc<Mutex<Ledger>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs it and tells its figures. Whether nothing was wrong.
pub(crate) async fn run(wanted: &Wanted) -> Result<bool> {
    let folder = make_folder(&wanted.out, wanted.seed)?;
    let (phase, _) = tokio::sync::watch::channel(Phase::Calm);
    let mut field = Field::form(&folder, wanted.seed, &phase).await?;
    let too_long = wanted.rotations / ROTATIONS_PER_LONG_CUT;
    let disturbed = disturb::disturb(&mut field, &phase, wanted.rotations, too_long).await;
    let lasted = field.began.elapsed();
    field.stop().await?;
    let (totals, mut wrong) = lock(&field.ledger).judge(HINT + SYNC + Duration::from_secs(1));
    wrong.extend(disturbed.err().map(|error| format!("{error:#}")));
    wrong.extend(judged_apart(&mut field, &totals)?);
    tell(&field, wanted, lasted, &totals)?;
    say(&format!("federation: {} failures", wrong.len()));
    for what in wrong.iter().take(TOLD_MAX) {
        say(&format!("  {what}"));
    }
    say(&format!("  folder: {}", folder.display()));
    if wrong.is_empty() {
        field.remove_data()?;
    }
    Ok(wrong.is_empty())
}

/// What is wrong beside what workloads held: inside of each side, in handshakes, with agents, in what
/// was written of the other side.
fn judged_apart(field: &mut Field, totals: &Totals) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (which, own) in Which::BOTH.into_iter().zip(&field.own) {
        let (_, inside) = lock(own).judge();
        wrong.extend(inside.into_iter().map(|what| format!("inside of {}: {what}", which.name())));
    }
    wrong.extend(lock(&field.handshakes).failed.iter().cloned());
    for which in Which::BOTH {
        wrong.extend(field.side_mut(which).wrong());
        let (other, stored) = (which.other().name(), stored(field, which)?);
        let published = totals.published.get(other).copied().unwrap_or(0);
        if stored > published {
            let name = which.name();
            wrong.push(format!("{name} stored {stored} bundles of {published} that {other} had"));
        }
    }
    let unanswered = *lock(&field.unanswered);
    if unanswered.apart + unanswered.calm > 0 {
        wrong.push(format!(
            "{} calls without an answer inside of a side while it was cut off from the other, {} while \
             it was left alone",
            unanswered.apart, unanswered.calm
        ));
    }
    Ok(wrong)
}

/// How many bundles of the other side a side has fetched and stored, by its logs.
fn stored(field: &Field, which: Which) -> Result<usize> {
    field.side(which).said("Bundle refreshed", which.other().name())
}

/// Figures, in lines.
fn tell(field: &Field, wanted: &Wanted, lasted: Duration, totals: &Totals) -> Result<()> {
    let [of_foo, of_bar] = field.own.each_ref().map(|own| lock(own).rotations());
    say(&format!(
        "federation: {of_foo} and {of_bar} rotations in {} s, seed {}; {}",
        lasted.as_secs(),
        wanted.seed,
        field.done.sentence()
    ));
    let unanswered = *lock(&field.unanswered);
    say(&format!(
        "federation: {} SVIDs; {} checks across the sides, {} within; {} refused after {} cuts that were \
         too long; {} calls without an answer of sides that were hit",
        totals.svids,
        totals.across,
        totals.within,
        totals.refused,
        field.done.too_long,
        unanswered.hit
    ));
    let handshakes = lock(&field.handshakes).clone();
    say(&format!(
        "federation: {} handshakes, {} failed, {} refused while closed, {} without an SVID at hand; {} \
         streams of workloads broke",
        handshakes.good,
        handshakes.failed.len(),
        handshakes.refused,
        handshakes.without,
        field.breaks()
    ));
    let mut bundles = Vec::new();
    for which in Which::BOTH {
        let (name, other) = (which.name(), which.other().name());
        let published = totals.published.get(other).copied().unwrap_or(0);
        bundles.push(format!(
            "{other} published {published}, {name} stored {}",
            stored(field, which)?
        ));
    }
    say(&format!(
        "federation: {}; {} changes seen on the other side, worst {} ms, {} ms of it without a fault; {} \
         of them undisturbed, worst {} ms",
        bundles.join("; "),
        totals.changes,
        totals.worst.as_millis(),
        totals.worst_connected.as_millis(),
        totals.undisturbed,
        totals.worst_undisturbed.as_millis()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_inside_the_rules_ends_before_an_authority_signs_that_nobody_has_fetched() {
        // Activated at five sixths, prepared at half.
        let between = CA_TTL * 5 / 6 - CA_TTL / 2;
        let longest = Duration::from_millis(*disturb::LASTS_MS.end());
        assert!(longest + RECOVERS + HINT <= between && MAX_STALENESS < between);
        assert!(MINUTE / 2 + HINT + MINUTE < between, "peers are waited for");
    }
}

//! The order of faults: one at a time, on a member of either side or on the way between the sides, and
//! now and then a cut that is too long.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use steeple_spiffe_core::dice::Dice;
use steeple_testkit::process::wait_for;
use tokio::sync::watch;
use tokio::time::Instant;

use super::field::Field;
use super::ledger::{Kind, View};
use super::side::Which;
use super::watch::Phase;
use super::{CA_TTL, MEMBERS, RECOVERS, WHOLE_MAX, lock};
use crate::nemesis::shape;
use crate::plan::Victims;
use crate::run::wait_until_one;

/// How long a member is down, stands still or is cut off, and how long the two sides are, in
/// milliseconds: with what a fetch needs to recover, less than lies between two steps of an authority.
pub(super) const LASTS_MS: RangeInclusive<u64> = 500..=3_000;

/// Between two faults, in milliseconds.
const RESTS_MS: RangeInclusive<u64> = 1_500..=8_000;

/// So long what was mended must be of no help beyond a cut that was too long: several tries.
const REFUSES: Duration = Duration::from_secs(4);

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    kills: u64,
    ends: u64,
    stops: u64,
    inside: BTreeMap<&'static str, u64>,
    between: BTreeMap<&'static str, u64>,
    on_leader: u64,
    /// Cuts that nobody's bundle outlived, each mended by one command a side.
    pub(super) too_long: usize,
}

impl Done {
    pub(super) fn sentence(&self) -> String {
        let sum = |of: &BTreeMap<&str, u64>| of.values().sum::<u64>();
        let shapes = |of: &BTreeMap<&str, u64>| {
            let each = of.iter().map(|(how, count)| format!("{count} {how}"));
            each.collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} kills, {} ends, {} stops, {} cuts inside a side ({}), {} of all these on a leader; {} cuts \
             between the sides ({}), {} too long",
            self.kills,
            self.ends,
            self.stops,
            sum(&self.inside),
            shapes(&self.inside),
            self.on_leader,
            sum(&self.between),
            shapes(&self.between),
            self.too_long
        )
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    End,
    Stop,
    Inside,
    Between,
}

impl Fault {
    fn drawn(dice: &Dice) -> Self {
        match dice.within(0..=9) {
            0..3 => Self::Kill,
            3 => Self::End,
            4..6 => Self::Stop,
            6..8 => Self::Inside,
            _ => Self::Between,
        }
    }
}

/// Faults until both sides have replaced their authorities so often, `too_long` of them cuts that
/// authorities do not outlive.
pub(super) async fn disturb(
    field: &mut Field,
    phase: &watch::Sender<Phase>,
    rotations: usize,
    too_long: usize,
) -> Result<()> {
    let longest = CA_TTL * u32::try_from(rotations + 6).context("rotations")?;
    loop {
        let reached = field.rotations();
        if reached >= rotations && field.done.too_long >= too_long {
            return Ok(());
        }
        ensure!(field.began.elapsed() < longest, "{reached} rotations in {longest:?}");
        let rest = Duration::from_millis(field.dice.within(RESTS_MS));
        tokio::time::sleep(rest).await;
        let due = (field.done.too_long + 1) * rotations;
        if reached * (too_long + 1) >= due && (field.done.too_long) < too_long {
            cut_for_too_long(field, phase).await?;
        } else {
            one(field, phase).await?;
        }
        ensure!(field.spaces.is_alive(), "the switch has ended");
    }
}

/// One fault, and until nothing is left of it.
async fn one(field: &mut Field, phase: &watch::Sender<Phase>) -> Result<()> {
    let fault = Fault::drawn(&field.dice);
    let which = if field.dice.chance(0.5) { Which::Foo } else { Which::Bar };
    let lasts = Duration::from_millis(field.dice.within(LASTS_MS));
    if fault == Fault::Between {
        let how = cut_between(field);
        *field.done.between.entry(how).or_default() += 1;
        phase.send_replace(Phase::Apart);
        lock(&field.ledger).fault_begins();
        tokio::time::sleep(lasts).await;
        field.spaces.links().mend();
    } else {
        let leader = field.side(which).cluster.leader(WHOLE_MAX).await?;
        let hit = if field.dice.chance(0.5) { leader } else { field.dice.place(MEMBERS) };
        field.done.on_leader += u64::from(hit == leader);
        phase.send_replace(Phase::Hit(which));
        lock(&field.ledger).fault_begins();
        hit_member(field, fault, which, hit, lasts).await?;
    }
    for which in Which::BOTH {
        wait_until_one(&field.side(which).eyes, WHOLE_MAX, false).await?;
    }
    phase.send_replace(Phase::Calm);
    lock(&field.ledger).fault_ends(Instant::now() + RECOVERS);
    Ok(())
}

async fn hit_member(
    field: &mut Field,
    fault: Fault,
    which: Which,
    hit: usize,
    lasts: Duration,
) -> Result<()> {
    match fault {
        Fault::Kill | Fault::End => {
            let is_kill = fault == Fault::Kill;
            let cluster = &mut field.side_mut(which).cluster;
            if is_kill {
                cluster.kill_member(hit)?;
            } else {
                cluster.stop_member(hit).await?;
            }
            tokio::time::sleep(lasts).await;
            cluster.start_member(hit)?;
            let count = if is_kill { &mut field.done.kills } else { &mut field.done.ends };
            *count += 1;
        }
        Fault::Stop => {
            let process = field.side_mut(which).cluster.process(hit)?;
            process.signal(Signal::SIGSTOP)?;
            tokio::time::sleep(lasts).await;
            process.signal(Signal::SIGCONT)?;
            field.done.stops += 1;
        }
        Fault::Inside | Fault::Between => {
            let (how, links) = shape(&field.dice, Victims::Anyone, &[hit], MEMBERS);
            for (from, to) in links {
                let (from, to) = (which.node(from), which.node(to));
                field.spaces.links().set(from, to, |link| link.is_cut = true);
            }
            *field.done.inside.entry(how).or_default() += 1;
            tokio::time::sleep(lasts).await;
            field.spaces.links().mend();
        }
    }
    Ok(())
}

/// Cuts the way to the endpoints of one side, or of both. Its name.
fn cut_between(field: &Field) -> &'static str {
    let (how, hidden): (_, &[Which]) = match field.dice.within(0..=3) {
        0 => ("bar is out of reach", &[Which::Bar]),
        1 => ("foo is out of reach", &[Which::Foo]),
        _ => ("both are", &Which::BOTH),
    };
    cut_off(field, hidden);
    how
}

/// Nobody of the other side reaches the endpoints of these, nor hears them.
fn cut_off(field: &Field, hidden: &[Which]) {
    for which in hidden {
        for member in 0..MEMBERS {
            let (asking, gate) = (which.other().node(member), which.gate());
            for (from, to) in [(asking, gate), (gate, asking)] {
                field.spaces.links().set(from, to, |link| link.is_cut = true);
            }
        }
    }
}

/// Cuts the two sides off from each other until neither believes the other any more, sees that it stays
/// so when the way is open again, and has an operator of each side set the bundle of the other.
async fn cut_for_too_long(field: &mut Field, phase: &watch::Sender<Phase>) -> Result<()> {
    phase.send_replace(Phase::Apart);
    for which in Which::BOTH {
        lock(&field.ledger).closes(which);
    }
    lock(&field.ledger).fault_begins();
    cut_off(field, &Which::BOTH);
    wait_for("bundles that are too old", CA_TTL * 3, async || {
        for of in Which::BOTH {
            ensure!(shares(field, of) == 0, "{} is still believed", of.name());
        }
        Ok(())
    })
    .await?;
    field.spaces.links().mend();
    let until = Instant::now() + REFUSES;
    while Instant::now() < until {
        for of in Which::BOTH {
            if shares(field, of) > 0 {
                let name = of.name();
                lock(&field.ledger)
                    .wrong(format!("{name} is believed, and nothing vouches for it"));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    field.side(Which::Foo).set_bundle_of(field.side(Which::Bar))?;
    field.side(Which::Bar).set_bundle_of(field.side(Which::Foo))?;
    wait_for("both sides to know each other again", WHOLE_MAX, async || field.know_each_other())
        .await?;
    for which in Which::BOTH {
        lock(&field.ledger).opens(which);
    }
    phase.send_replace(Phase::Calm);
    lock(&field.ledger).fault_ends(Instant::now() + RECOVERS);
    field.done.too_long += 1;
    Ok(())
}

/// How many of the X.509 authorities that a trust domain publishes now a workload of the other side
/// holds.
fn shares(field: &Field, of: Which) -> usize {
    let ledger = lock(&field.ledger);
    let held = ledger.held(View { of, by: of.other(), kind: Kind::X509 });
    let published = ledger.published(of, Kind::X509);
    held.map_or(0, |held| held.keys().filter(|name| published.contains(*name)).count())
}

//! A member that stands still while it is cut off: what it knew before is no younger for that.
//!
//! ```text
//! cut off ──► renews from the last confirmed state ──► stopped ──► ban or deletion, elsewhere
//!    ──► longer than max_staleness ──► goes on, still cut off ──► must refuse
//!    ──► heal ──► must refuse
//! ```
//!
//! SIGSTOP is to a server with the deliberate bug `clock-stands-still` what a suspend of the
//! machine is to a clock that does not count it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use steeple_checker::history as h;
use tokio::time::Instant;

use crate::clients::Ask;
use crate::issuers;
use crate::neighbour::{Asked, Neighbour, Told};
use crate::nemesis::{Stage, TOGETHER_MAX, one_of};
use crate::options::Nemesis;
use crate::plan::Planned;
use steeple_spiffe_core::dice::Dice;

/// How old a state a member of such a run may serve: its configuration says so too.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(10);

/// Lines of the `cluster` block in such a run. Agents are not sent away first: there is no time.
pub(crate) fn cluster_lines() -> String {
    format!("  max_staleness = \"{}s\"\n  renew_only_delay = \"0s\"\n", MAX_STALENESS.as_secs())
}

/// So much later than the bound an answer is surely wrong: clocks, and the call's way.
const MARGIN: Duration = Duration::from_secs(1);

/// How long the member is asked after it goes on.
const ASKED_FOR: Duration = Duration::from_secs(3);

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(50);

/// Marks of the history, which coverage counts: renewed while it was cut off, and young enough.
pub(crate) const RENEWED: &str = "renewed_while_cut_off";

/// Refused as too old once it went on.
pub(crate) const REFUSED: &str = "refused_as_too_old";

/// Figures of a suspend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspended {
    /// SVIDs that were issued while it was cut off and young enough.
    pub(crate) renewed: u64,
    /// How long after the cut the first of them was asked for.
    pub(crate) first_renewed_ms: u64,
    /// How long it stood still.
    pub(crate) still_ms: u64,
    /// Answers, once it went on, that it cannot say.
    pub(crate) unavailable: u64,
    /// SVIDs that it issued then: of a state that is too old.
    pub(crate) too_old: u64,
}

/// Somebody on the machine of the member that is hit.
struct Victim {
    neighbour: Neighbour,
    token: String,
}

impl Stage {
    /// Cuts a member off, lets it stand still for longer than it may serve what it knows, and asks.
    pub(crate) async fn suspend(&self, planned: Planned, number: u8) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let (links, members) = self.links().await?;
        let (hit, hit_leader) = self.choose(planned, members);
        let at = *hit.first().context("nobody to hit")?;
        let others: Vec<usize> = (0..members).filter(|other| *other != at).collect();
        let is_ban = Dice::new(planned.roll, 10).chance(0.5);
        let victim = self.move_in(at, number).await?;
        let what = if is_ban { "an agent is banned" } else { "an entry is deleted" };
        let how = format!("cut off, then SIGSTOP while {what} elsewhere");
        let entry = self.journal.begin(Nemesis::Suspend, &how, &hit, hit_leader)?;
        let set_cut = |is_cut: bool| {
            for other in &others {
                links.set(at, *other, |link| link.is_cut = is_cut);
                links.set(*other, at, |link| link.is_cut = is_cut);
            }
        };
        set_cut(true);
        let mut seen = self.renew_while_young(&victim).await?;
        self.world.lock().await.pause(at)?;
        let stopped = Instant::now();
        let acknowledged = self.forbid(&victim.token, is_ban, &others).await?;
        tokio::time::sleep_until(acknowledged + MAX_STALENESS + MARGIN).await;
        seen.still_ms = ms(stopped.elapsed());
        self.world.lock().await.resume(at)?;
        let calls = ask_for(&victim.neighbour, ASKED_FOR).await?;
        self.blame(wrong(&calls, acknowledged).map(|why| format!("m{at}, {how}: {why}"))).await;
        let count =
            |of: fn(&Told) -> bool| calls.iter().filter(|call| of(&call.told)).count() as u64;
        seen.unavailable = count(|told| matches!(told, Told::Unavailable(_)));
        seen.too_old = count(|told| matches!(told, Told::Issued { .. }));
        if seen.unavailable > 0 {
            self.recorder.mark(REFUSED);
        }
        self.noted.lock().await.suspends.push(seen);
        set_cut(false);
        self.wait_together(TOGETHER_MAX).await?;
        let asked = victim.neighbour.ask().await?;
        if let Told::Issued { .. } = asked.told {
            let why = format!("m{at}, {what} elsewhere: it issues an SVID in contact all the same");
            self.blame([why]).await;
        }
        self.journal.end(Nemesis::Suspend, entry)
    }

    /// An agent on the member's machine, with an entry of its own; the history has all of it.
    async fn move_in(&self, at: usize, number: u8) -> Result<Victim> {
        let mut hand = self.hand.lock().await;
        let token = format!("neighbour-{number}-{at}");
        let entry = issuers::entry(&token);
        let place = self.world.lock().await.neighbourhood(at, &token, &entry.id)?;
        for ask in [Ask::Token(token.clone()), Ask::Create(vec![entry])] {
            hand.ask(&ask).await.context("nothing was made for a neighbour")?;
        }
        let ask = Ask::Attest { token: token.clone(), client: hand.number };
        let call = self.recorder.invoke(hand.number, &format!("m{at}"), None, ask.operation());
        let moved_in = Neighbour::attest(place).await;
        let told = moved_in.as_ref().ok().and_then(|(_, told)| *told.as_ref().ok()?);
        self.recorder.complete(call, issuers::attested(told));
        let (neighbour, told) = moved_in?;
        told?;
        let first = neighbour.ask().await?;
        ensure!(first.told == Told::Issued { is_stale: false }, "in contact: {:?}", first.told);
        Ok(Victim { neighbour, token })
    }

    /// Asks until the member renews from the last confirmed state, at most as long as it may.
    async fn renew_while_young(&self, victim: &Victim) -> Result<Suspended> {
        let began = Instant::now();
        let mut seen = Suspended::default();
        while began.elapsed() < MAX_STALENESS && seen.renewed == 0 {
            let Asked { began: asked, told } = victim.neighbour.ask().await?;
            if told == (Told::Issued { is_stale: true }) {
                seen.renewed += 1;
                seen.first_renewed_ms = ms(asked.duration_since(began));
                self.recorder.mark(RENEWED);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(seen)
    }

    /// Bans the neighbour or deletes its entry through the others. Returns when that was
    /// acknowledged.
    async fn forbid(&self, token: &str, is_ban: bool, others: &[usize]) -> Result<Instant> {
        let mut hand = self.hand.lock().await;
        let ask = match is_ban {
            true => Ask::Ban(token.to_owned()),
            false => Ask::Delete(vec![issuers::entry(token).id]),
        };
        for other in others.iter().cycle().take(2 * others.len()) {
            let reply = hand.ask_member(*other, &ask).await;
            if matches!(reply, Some(h::Reply::Done | h::Reply::Items(_))) {
                return Ok(Instant::now());
            }
        }
        anyhow::bail!("nobody acknowledges {ask:?}")
    }
}

/// Asks again and again for so long; the first call at once.
async fn ask_for(neighbour: &Neighbour, length: Duration) -> Result<Vec<Asked>> {
    let until = Instant::now() + length;
    let mut calls = Vec::new();
    while Instant::now() < until {
        calls.push(neighbour.ask().await?);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(calls)
}

/// What is wrong with answers of a member that must know by now that it knows nothing.
fn wrong(calls: &[Asked], acknowledged: Instant) -> Option<String> {
    let late = calls.iter().find(|call| {
        let is_over = call.began >= acknowledged + MAX_STALENESS + MARGIN;
        is_over && matches!(call.told, Told::Issued { .. })
    })?;
    let age = ms(late.began.duration_since(acknowledged));
    Some(format!(
        "it issues an SVID {age} ms after what forbids it was acknowledged, with max_staleness {} ms",
        ms(MAX_STALENESS)
    ))
}

fn ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_svid_of_a_state_that_is_too_old_is_wrong_and_nothing_else_is() {
        let acknowledged = Instant::now();
        let unavailable = || Told::Unavailable("no leader".to_owned());
        let issued = |is_stale| Told::Issued { is_stale };
        let bound = MAX_STALENESS + MARGIN;
        for (after, told, is_wrong) in [
            (bound, issued(true), true),
            (bound, issued(false), true),
            (bound + MARGIN, issued(true), true),
            (bound - Duration::from_millis(1), issued(true), false),
            (bound, unavailable(), false),
            (bound, Told::Silence("reset".to_owned()), false),
            (bound, Told::Refused("banned".to_owned()), false),
        ] {
            let call = Asked { began: acknowledged + after, told };
            let found = wrong(std::slice::from_ref(&call), acknowledged);
            assert_eq!(found.is_some(), is_wrong, "{call:?}: {found:?}");
        }
        assert_eq!(wrong(&[], acknowledged), None);
    }

    #[test]
    fn the_members_are_told_the_same_bound() {
        assert!(cluster_lines().contains("max_staleness = \"10s\""), "{}", cluster_lines());
    }
}

//! Damaged files: what is damaged must not serve nor lead, and is rebuilt as the runbook says.

use std::time::Duration;

use anyhow::{Context as _, Result};
use steeple_api::pb::cluster::v1::this_member::State;
use tokio::time::Instant;

use crate::damage::Damage;
use crate::nemesis::{Stage, TOGETHER_MAX, one_of};
use crate::options::Nemesis;
use crate::plan::Planned;
use steeple_spiffe_core::dice::Dice;

/// How long a damaged member may take to end.
const REFUSE_MAX: Duration = Duration::from_secs(20);

/// How long one is watched whose damage shows only when it is read.
const UNHARMED_MAX: Duration = Duration::from_secs(5);

/// What a member says that knows its data to be damaged.
const REFUSALS: [&str; 3] = ["is corrupt", "Fenced: ", "move DATA_DIR/raft away"];

impl Stage {
    /// Damages one file of a member that does not run, starts it, and lets it join anew.
    pub(crate) async fn corrupt(&self, planned: Planned, number: u8) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let members = self.world.lock().await.members();
        let (hit, _) = self.choose(planned, members);
        let at = *hit.first().context("nobody to hit")?;
        let dice = Dice::new(planned.roll, 9);
        // Each kind in its turn; from a turn that a seed draws.
        let turn = usize::from(number) + dice.place(Damage::ALL.len());
        let turns = Damage::in_turn(turn, &self.damaged.lock().await);
        if turns.first() == Some(&Damage::Table) {
            self.make_tables(at).await?;
        }
        let mut world = self.world.lock().await;
        let hit_leader = self.eyes.seen().leader == Some(at);
        world.kill(at)?;
        let registry = world.registry(at)?;
        let said_before = std::fs::read_to_string(world.log(at)?).context("read a log")?.len();
        let mut done = None;
        for damage in turns {
            if let Some(how) = damage.inflict(&registry, &dice)? {
                done = Some((damage, how));
                break;
            }
        }
        let (damage, how) = done.context("nothing to damage")?;
        self.damaged.lock().await.push(damage);
        let how = format!("{}: {how}", damage.name());
        let entry = self.journal.begin(Nemesis::Corrupt, &how, &hit, hit_leader)?;
        world.await_end(at, true);
        world.start(at)?;
        drop(world);
        let did = self.watch_damaged(at, damage).await?;
        let mut world = self.world.lock().await;
        if world.is_up(at) {
            world.kill(at)?;
        }
        let log = std::fs::read_to_string(world.log(at)?).context("read a log")?;
        let said = log.get(said_before..).unwrap_or_default();
        let wrong = wrong(damage, &did, said);
        self.unexplained.lock().await.extend(wrong.map(|why| format!("m{at}, {how}: {why}")));
        // The runbook's step.
        world.set_registry_aside(at, &format!("damaged-{number}"))?;
        world.await_end(at, false);
        world.start(at)?;
        drop(world);
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(Nemesis::Corrupt, entry)
    }

    /// Lets a member start anew if it has no table on its disk yet: RocksDB makes tables of its log
    /// when it is opened.
    async fn make_tables(&self, at: usize) -> Result<()> {
        let mut world = self.world.lock().await;
        let files = world.registry(at)?.join("db");
        let mut names = std::fs::read_dir(&files).context("read a registry's folder")?;
        let is_table = |name: &std::fs::DirEntry| {
            name.path().extension().is_some_and(|ending| ending == "sst")
        };
        if names.any(|name| name.is_ok_and(|name| is_table(&name))) {
            return Ok(());
        }
        world.kill(at)?;
        world.start(at)?;
        drop(world);
        self.wait_together(TOGETHER_MAX).await
    }

    /// Looks at a damaged member until it is clear what it does.
    async fn watch_damaged(&self, at: usize, damage: Damage) -> Result<Did> {
        let limit = if damage.is_seen_at_start() { REFUSE_MAX } else { UNHARMED_MAX };
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(words) = self.world.lock().await.last_words(at)? {
                return Ok(Did::End(words));
            }
            let status = self.eyes.look().await.into_iter().nth(at).flatten();
            let takes_part = status
                .and_then(|status| status.this_member)
                .is_some_and(|own| own.state() == State::Member);
            if damage.is_seen_at_start() && takes_part {
                return Ok(Did::TakePart);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Did::GoOn)
    }
}

/// What a damaged member did.
#[derive(Debug)]
enum Did {
    /// It ended, with these words.
    End(String),
    /// It was a member like the others, though it must have seen the damage.
    TakePart,
    /// It ran on.
    GoOn,
}

/// What is wrong with what a damaged member did, and said since the damage.
fn wrong(damage: Damage, did: &Did, said: &str) -> Option<String> {
    let is_refusal = REFUSALS.iter().any(|refusal| said.contains(refusal));
    match did {
        Did::TakePart => Some("it took part as if nothing had happened".to_owned()),
        Did::GoOn if damage.is_seen_at_start() => Some("it neither refused nor began".to_owned()),
        Did::GoOn => None,
        Did::End(words) if !is_refusal => Some(format!("it ended for another reason: {words}")),
        Did::End(_) if damage.is_seen_at_start() && said.contains("Leadership acquired") => {
            Some("it led before it refused".to_owned())
        }
        Did::End(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_member_must_refuse_say_why_and_never_lead() {
        let refusal =
            "could not open the registry: move DATA_DIR/raft away and let this member join";
        let led = format!("Leadership acquired\n{refusal}");
        let ended = |words: &str| Did::End(words.to_owned());
        for (damage, did, said, is_wrong) in [
            (Damage::LogEnd, ended(refusal), refusal, false),
            (Damage::LogEnd, Did::TakePart, "", true),
            (Damage::LogEnd, Did::GoOn, "", true),
            (Damage::LogEnd, ended("panicked"), "panicked", true),
            (Damage::LogEnd, ended(refusal), led.as_str(), true),
            (Damage::Table, Did::GoOn, "Leadership acquired", false),
            (Damage::Table, ended("Fenced: x"), "Leadership acquired\nFenced: x", false),
            (Damage::Table, ended("panicked"), "panicked", true),
        ] {
            let found = wrong(damage, &did, said);
            assert_eq!(found.is_some(), is_wrong, "{damage:?} {did:?}: {found:?}");
        }
    }
}

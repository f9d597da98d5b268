//! Faults that are no faults: members are replaced one by one, as a StatefulSet does, by the same
//! release or another; leadership and votes are moved by command.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_api::pb::cluster::v1 as cluster;
use steeple_testkit::client::http_ok;
use steeple_testkit::process::wait_for;
use tonic::transport::Channel;

use crate::nemesis::{Stage, TOGETHER_MAX, one_of};
use crate::options::Nemesis;
use crate::plan::Planned;
use crate::releases;
use steeple_spiffe_core::dice::Dice;

type Commands = cluster::cluster_client::ClusterClient<Channel>;

/// How long a command may be tried: faults of links may be in force.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// The member that a fault is about.
struct One {
    at: usize,
    id: String,
    /// Another one, which commands go through.
    through: usize,
    /// The fault in the journal.
    number: usize,
}

impl Stage {
    /// Stops a member, starts it, perhaps as another release, and waits until it is ready.
    pub(crate) async fn replace(&self, at: usize, is_older: Option<bool>) -> Result<()> {
        let mut world = self.world.lock().await;
        if world.is_up(at) {
            world.stop(at).await?;
        }
        if let Some(is_older) = is_older {
            world.set_release(at, is_older)?;
        }
        world.start(at)?;
        let port = world.health_port(at)?;
        drop(world);
        match port {
            Some(port) => {
                let ready = wait_for("a member to be ready", TOGETHER_MAX, async || {
                    http_ok(port, "/ready").await
                });
                ready.await.with_context(|| format!("m{at}"))
            }
            None => self.wait_together(TOGETHER_MAX).await,
        }
    }

    /// Some members, highest first, become the release that the others are becoming; the next time
    /// the rest, and then it goes the other way.
    pub(crate) async fn change_release(&self, planned: Planned) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let (are_older, to_older) = {
            let world = self.world.lock().await;
            let are_older = world.are_older().to_vec();
            let mut direction = self.to_older.lock().await;
            if are_older.iter().all(|is_older| *is_older == *direction) {
                *direction = !*direction;
            }
            (are_older, *direction)
        };
        let mut left: Vec<usize> =
            (0..are_older.len()).rev().filter(|at| are_older.get(*at) != Some(&to_older)).collect();
        let dice = Dice::new(planned.roll, 6);
        left.truncate(1 + dice.place(left.len()));
        let leader = self.eyes.seen().leader;
        let hit_leader = leader.is_some_and(|leader| left.contains(&leader));
        let how = if to_older { "to the older release" } else { "to the newer release" };
        let number = self.journal.begin(Nemesis::Upgrade, how, &left, hit_leader)?;
        for at in left {
            self.replace(at, Some(to_older)).await?;
        }
        self.journal.end(Nemesis::Upgrade, number)
    }

    /// Whoever is of the older release becomes the newer, and the feature level is raised.
    pub(crate) async fn finish_upgrade(&self, older: u32) -> Result<()> {
        let are_older = self.world.lock().await.are_older().to_vec();
        for (at, _) in are_older.iter().enumerate().rev().filter(|(_, is_older)| **is_older) {
            self.replace(at, Some(false)).await?;
        }
        let sockets = self.world.lock().await.sockets();
        releases::finalize(&sockets, older).await
    }

    /// Leadership goes from member to member; a vote is taken and given back; a member is removed and
    /// comes back as a new one.
    pub(crate) async fn change_members(&self, planned: Planned, lasts: Duration) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        match Dice::new(planned.roll, 7).within(0..=3) {
            0 | 1 => self.hand_over(planned).await,
            2 => self.take_vote(planned, lasts).await,
            _ => self.remove_and_join(planned).await,
        }
    }

    async fn hand_over(&self, planned: Planned) -> Result<()> {
        let members = self.world.lock().await.members();
        let dice = Dice::new(planned.roll, 8);
        let all: Vec<usize> = (0..members).collect();
        let how = "leadership is handed over four times";
        let number = self.journal.begin(Nemesis::Membership, how, &all, true)?;
        for _ in 0..4 {
            let (through, further) = (dice.place(members), 1 + dice.place(members - 1));
            self.command(through, async |mut commands| {
                // Whoever leads now: never to itself.
                let leader = self.eyes.seen().leader.context("nobody leads")?;
                let to = self.id_of((leader + further) % members).await?;
                let request = cluster::TransferLeadershipRequest { to };
                Ok(commands.transfer_leadership(request).await.map(drop)?)
            })
            .await?;
            tokio::time::sleep(Duration::from_millis(dice.within(0..=500))).await;
        }
        self.journal.end(Nemesis::Membership, number)
    }

    /// Chooses one member and notes in the journal what is done with it.
    async fn begin_with_one(&self, planned: Planned, how: &str) -> Result<One> {
        let members = self.world.lock().await.members();
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let (hit, hit_leader) = self.choose(planned, members);
        let at = *hit.first().context("nobody to hit")?;
        let id = self.id_of(at).await?;
        let number = self.journal.begin(Nemesis::Membership, how, &hit, hit_leader)?;
        Ok(One { at, id, through: (at + 1) % members, number })
    }

    async fn take_vote(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let how = "a vote is taken and given back";
        let One { id, through, number, .. } = self.begin_with_one(planned, how).await?;
        self.command(through, async |mut commands| {
            let request = cluster::DemoteMemberRequest { id: id.clone() };
            Ok(commands.demote_member(request).await.map(drop)?)
        })
        .await?;
        tokio::time::sleep(lasts).await;
        self.command(through, async |mut commands| {
            let request = cluster::PromoteMemberRequest { id: id.clone() };
            Ok(commands.promote_member(request).await.map(drop)?)
        })
        .await?;
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(Nemesis::Membership, number)
    }

    async fn remove_and_join(&self, planned: Planned) -> Result<()> {
        let how = "a member is removed, its volume emptied, and it joins";
        let One { at, id, through, number } = self.begin_with_one(planned, how).await?;
        self.world.lock().await.await_end(at, true);
        self.command(through, async |mut commands| {
            let request = cluster::RemoveMemberRequest { id: id.clone(), force: false };
            match commands.remove_member(request).await {
                Ok(_) => Ok(()),
                // Of an attempt before, whose answer was lost.
                Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                Err(status) => Err(status.into()),
            }
        })
        .await?;
        let gone = wait_for("a removed member to end", COMMAND_MAX, async || {
            let words = self.world.lock().await.last_words(at)?;
            words.context("it still runs")
        });
        gone.await.with_context(|| format!("m{at}"))?;
        let mut world = self.world.lock().await;
        world.await_end(at, false);
        world.wipe(at)?;
        world.start(at)?;
        drop(world);
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(Nemesis::Membership, number)
    }

    /// The id of a member.
    async fn id_of(&self, at: usize) -> Result<String> {
        wait_for("a member to say who it is", COMMAND_MAX, async || {
            let status = self.eyes.look().await.into_iter().nth(at).flatten();
            let own = status.and_then(|status| status.this_member);
            let id = own.map(|own| own.id).filter(|id| !id.is_empty());
            id.with_context(|| format!("m{at} does not say"))
        })
        .await
    }

    /// Gives a command until it is obeyed.
    async fn command(
        &self,
        through: usize,
        mut give: impl AsyncFnMut(Commands) -> Result<()>,
    ) -> Result<()> {
        wait_for("a command to be obeyed", COMMAND_MAX, async || {
            let commands = self.eyes.commands(through).context("no such member")?;
            let given = tokio::time::timeout(Duration::from_secs(10), give(commands)).await;
            ensure!(given.is_ok(), "m{through} does not answer");
            given.unwrap_or(Ok(()))
        })
        .await
    }
}

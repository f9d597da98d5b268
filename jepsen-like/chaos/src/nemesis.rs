//! Installs what the plan says, and takes it away again.
//!
//! Two tracks run at a time: faults of processes and disks, one after the other, and faults of links.
//! What has ended by itself is noted, and comes back.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clients::Client;
use crate::clients::workload::Workload;
use crate::damage::Damage;
use crate::journal::Journal;
use crate::net::{Link, Links};
use crate::options::Nemesis;
use crate::plan::{Plan, Planned, Victims};
use crate::record::Recorder;
use crate::restore::Restored;
use crate::suspend::Suspended;
use crate::watch::{Eyes, apart};
use crate::world::World;
use steeple_spiffe_core::dice::Dice;

/// How long members may take to be one cluster again where a fault waits for it: a lost volume is
/// given up after 30 s, and its successor votes 10 s after it has caught up.
pub(crate) const TOGETHER_MAX: Duration = Duration::from_secs(90);

/// What a track works on. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// The cluster.
    pub(crate) world: Arc<Mutex<World>>,
    /// Who leads.
    pub(crate) eyes: Eyes,
    /// What was done.
    pub(crate) journal: Journal,
    /// Processes that ended though no fault explains it.
    pub(crate) unexplained: Arc<Mutex<Vec<String>>>,
    /// Whether releases change to the older one now.
    pub(crate) to_older: Arc<Mutex<bool>>,
    /// What clients do, which can be held up.
    pub(crate) workload: Workload,
    /// A client for what a fault asks, in the history like the others.
    pub(crate) hand: Arc<Mutex<Client>>,
    /// The history.
    pub(crate) recorder: Recorder,
    /// What was damaged so far.
    pub(crate) damaged: Arc<Mutex<Vec<Damage>>>,
    /// What restores and suspends have shown.
    pub(crate) noted: Arc<Mutex<Noted>>,
}

/// Figures of faults that have some.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noted {
    /// Of each restore.
    pub(crate) restores: Vec<Restored>,
    /// Of each suspend.
    pub(crate) suspends: Vec<Suspended>,
}

/// Installs the faults of a track until the time is over.
pub(crate) async fn run(stage: Stage, mut plan: Plan, until: Instant) -> Result<()> {
    let mut moves = 0;
    while let Some(planned) = plan.next() {
        let begins = Instant::now() + Duration::from_millis(planned.rest_ms);
        if begins >= until {
            return Ok(());
        }
        tokio::time::sleep_until(begins).await;
        stage.restart_ended(&[]).await?;
        let waits = Duration::from_secs(planned.nemesis.waits_s().unwrap_or(0));
        if begins + waits > until && moves > 0 {
            continue;
        }
        moves += 1;
        let done = stage.install(planned, moves).await;
        if done.is_err() {
            stage.journal.lost(planned.nemesis);
        }
        done.with_context(|| format!("install {}", planned.nemesis.name()))?;
    }
    Ok(())
}

impl Stage {
    async fn install(&self, planned: Planned, number: u8) -> Result<()> {
        let (nemesis, lasts) = (planned.nemesis, Duration::from_millis(planned.lasts_ms));
        match nemesis {
            Nemesis::Kill => self.end_and_start(planned, lasts).await,
            Nemesis::PowerCut => self.end_and_start(planned, lasts).await,
            Nemesis::Pause => self.pause(planned, lasts).await,
            Nemesis::Partition | Nemesis::Network => self.disturb_links(planned, lasts).await,
            Nemesis::Rolling => self.roll().await,
            Nemesis::DiskFull => self.fill_disk(planned, lasts).await,
            Nemesis::Wipe => self.wipe(planned).await,
            Nemesis::Move => self.move_one(planned, number).await,
            Nemesis::Clock => self.jump(planned, lasts).await,
            Nemesis::Upgrade => self.change_release(planned).await,
            Nemesis::Corrupt => self.corrupt(planned, number).await,
            Nemesis::Membership => self.change_members(planned, lasts).await,
            Nemesis::Restore => self.restore(planned, number).await,
            Nemesis::Suspend => self.suspend(planned, number).await,
        }
    }

    /// Who is hit, and whether the leader is among them.
    pub(crate) fn choose(&self, planned: Planned, members: usize) -> (Vec<usize>, bool) {
        let leader = self.eyes.seen().leader;
        let dice = Dice::new(planned.roll, 1);
        let any = dice.place(members);
        let hit = match (planned.victims, leader) {
            (Victims::All, _) => (0..members).collect(),
            (Victims::Leader, Some(leader)) => vec![leader],
            (Victims::Follower, Some(leader)) if members > 1 => {
                vec![(leader + 1 + dice.place(members - 1)) % members]
            }
            (Victims::Leader | Victims::Follower | Victims::Anyone, _) => vec![any],
        };
        let hit_leader = leader.is_some_and(|leader| hit.contains(&leader));
        (hit, hit_leader)
    }

    async fn end_and_start(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let mut world = self.world.lock().await;
        let (mut hit, hit_leader) = self.choose(planned, world.members());
        hit.retain(|at| world.is_up(*at));
        let how = if hit.len() > 1 { "all at once" } else { "one" };
        let number = self.journal.begin(planned.nemesis, how, &hit, hit_leader)?;
        if planned.nemesis == Nemesis::PowerCut {
            world.cut_power(&hit)?;
        } else {
            for at in &hit {
                world.kill(*at)?;
            }
        }
        drop(world);
        tokio::time::sleep(lasts).await;
        let dice = Dice::new(planned.roll, 2);
        for at in &hit {
            self.world.lock().await.start(*at)?;
            if dice.chance(0.5) {
                tokio::time::sleep(Duration::from_millis(dice.within(0..=700))).await;
            }
        }
        self.journal.end(planned.nemesis, number)
    }

    async fn pause(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let mut world = self.world.lock().await;
        let (mut hit, hit_leader) = self.choose(planned, world.members());
        hit.retain(|at| world.is_up(*at));
        let number = self.journal.begin(planned.nemesis, "SIGSTOP", &hit, hit_leader)?;
        for at in &hit {
            world.pause(*at)?;
        }
        drop(world);
        tokio::time::sleep(lasts).await;
        for at in &hit {
            self.world.lock().await.resume(*at)?;
        }
        self.journal.end(planned.nemesis, number)
    }

    async fn disturb_links(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let (links, members) = self.links().await?;
        let (hit, hit_leader) = self.choose(planned, members);
        let dice = Dice::new(planned.roll, 3);
        let how = if planned.nemesis == Nemesis::Partition {
            let (how, mut cut) = shape(&dice, planned.victims, &hit, members);
            let (agents, more) = of_agents(&dice, &hit, members, links.nodes());
            cut.extend(more);
            let how = format!("{how}{agents}");
            let number = self.journal.begin(planned.nemesis, &how, &hit, hit_leader)?;
            for (from, to) in &cut {
                links.set(*from, *to, |link| link.is_cut = true);
            }
            tokio::time::sleep(lasts).await;
            for (from, to) in &cut {
                links.set(*from, *to, |link| link.is_cut = false);
            }
            return self.journal.end(planned.nemesis, number);
        } else {
            "delay, loss, reorder, duplicates"
        };
        let number = self.journal.begin(planned.nemesis, how, &hit, hit_leader)?;
        let bad = bad_links(&dice, &hit, links.nodes());
        for (from, to, link) in &bad {
            links.set(*from, *to, |now| *now = *link);
        }
        tokio::time::sleep(lasts).await;
        for (from, to, _) in &bad {
            links.set(*from, *to, |now| *now = Link::default());
        }
        self.journal.end(planned.nemesis, number)
    }

    /// The links, and how many of the nodes are members: the first ones.
    pub(crate) async fn links(&self) -> Result<(Links, usize)> {
        let world = self.world.lock().await;
        let spaces = world.spaces().context("the run has no network of its own")?;
        Ok((spaces.links().clone(), world.members()))
    }

    /// As a Kubernetes StatefulSet does: the highest first, wait until it takes part, the next.
    async fn roll(&self) -> Result<()> {
        let members = self.world.lock().await.members();
        let all: Vec<usize> = (0..members).collect();
        let number = self.journal.begin(Nemesis::Rolling, "SIGTERM, highest first", &all, true)?;
        self.wait_together(TOGETHER_MAX).await?;
        for at in all.into_iter().rev() {
            self.replace(at, None).await?;
        }
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(Nemesis::Rolling, number)
    }

    async fn fill_disk(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let mut world = self.world.lock().await;
        // Never all: nobody promises to serve without a disk that takes a byte.
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let (hit, hit_leader) = self.choose(planned, world.members());
        let number = self.journal.begin(planned.nemesis, "no space left", &hit, hit_leader)?;
        for at in &hit {
            world.disk(*at)?.fill()?;
            // What a running member has reserved may suffice for long; one that opens its log needs
            // more.
            if Dice::new(planned.roll, 5).chance(0.5) && world.is_up(*at) {
                world.kill(*at)?;
                world.start(*at)?;
            }
        }
        drop(world);
        tokio::time::sleep(lasts).await;
        for at in &hit {
            self.world.lock().await.disk(*at)?.make_room()?;
        }
        // A member whose log cannot be written has to end: it comes back as it was.
        self.restart_ended(&hit).await?;
        self.journal.end(planned.nemesis, number)
    }

    /// A volume is lost only while everyone else has everything.
    async fn wipe(&self, planned: Planned) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let mut world = self.world.lock().await;
        let (hit, hit_leader) = self.choose(planned, world.members());
        let number = self.journal.begin(planned.nemesis, "an empty volume", &hit, hit_leader)?;
        for at in &hit {
            world.kill(*at)?;
            world.wipe(*at)?;
            world.start(*at)?;
        }
        drop(world);
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(planned.nemesis, number)
    }

    /// One at a time, as pods move: a member that comes back elsewhere tells the others itself.
    async fn move_one(&self, planned: Planned, number: u8) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let mut world = self.world.lock().await;
        let (hit, hit_leader) = self.choose(planned, world.members());
        let entry = self.journal.begin(planned.nemesis, "another address", &hit, hit_leader)?;
        for at in &hit {
            if world.is_up(*at) {
                world.kill(*at)?;
            }
            // Never an address that anyone has had.
            world.move_to(*at, Ipv4Addr::new(10, 77, 0, 100u8.saturating_add(number)))?;
            world.start(*at)?;
        }
        drop(world);
        self.wait_together(TOGETHER_MAX).await?;
        self.journal.end(planned.nemesis, entry)
    }

    async fn jump(&self, planned: Planned, lasts: Duration) -> Result<()> {
        let world = self.world.lock().await;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let (hit, hit_leader) = self.choose(planned, world.members());
        let dice = Dice::new(planned.roll, 4);
        let far = i64::try_from(dice.within(1..=3_600)).unwrap_or(1);
        let ahead_s = if dice.chance(0.5) { far } else { -far };
        let how = format!("{ahead_s:+} s");
        let number = self.journal.begin(planned.nemesis, &how, &hit, hit_leader)?;
        for at in &hit {
            world.set_clock(*at, ahead_s)?;
        }
        drop(world);
        tokio::time::sleep(lasts).await;
        for at in &hit {
            self.world.lock().await.set_clock(*at, 0)?;
        }
        self.journal.end(planned.nemesis, number)
    }

    /// Starts what has ended by itself; it is held against the cluster unless it is excused.
    pub(crate) async fn restart_ended(&self, excused: &[usize]) -> Result<()> {
        let mut world = self.world.lock().await;
        for (at, words) in world.find_ended()? {
            let mut unexplained = self.unexplained.lock().await;
            // Once a member: what ends a process ends the next one too.
            let member = format!("m{at} ");
            if !excused.contains(&at) && !unexplained.iter().any(|one| one.starts_with(&member)) {
                unexplained.push(words);
            }
            world.start(at)?;
        }
        Ok(())
    }

    /// Holds it against the cluster.
    pub(crate) async fn blame(&self, what: impl IntoIterator<Item = String>) {
        self.unexplained.lock().await.extend(what);
    }

    pub(crate) async fn wait_together(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while let Some(why) = apart(&self.eyes.look().await, false) {
            anyhow::ensure!(Instant::now() < deadline, "not one cluster within {within:?}: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// One member, where all would be more than is promised.
pub(crate) fn one_of(victims: Victims) -> Victims {
    if victims == Victims::All { Victims::Anyone } else { victims }
}

/// A form of partition: its name, and which links it cuts.
pub(crate) fn shape(
    dice: &Dice,
    victims: Victims,
    hit: &[usize],
    nodes: usize,
) -> (&'static str, Vec<(usize, usize)>) {
    let one = hit.first().copied().unwrap_or(0);
    let others = || (0..nodes).filter(move |other| *other != one);
    let out = || others().map(move |other| (one, other));
    let back = || others().map(move |other| (other, one));
    if victims == Victims::All {
        let all = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        return ("everyone alone", all.filter(|(from, to)| from != to).collect());
    }
    match dice.within(0..=3) {
        0 => ("one is not heard", out().collect()),
        1 => ("one does not hear", back().collect()),
        2 => {
            // Two do not see each other, everyone else sees both.
            let other = others().nth(dice.place(nodes.saturating_sub(1))).unwrap_or(one);
            ("two do not see each other", vec![(one, other), (other, one)])
        }
        _ => ("one alone", out().chain(back()).collect()),
    }
}

/// What agents see of a partition: often nothing, else those hit are gone for them too, or everyone is.
fn of_agents(
    dice: &Dice,
    hit: &[usize],
    members: usize,
    nodes: usize,
) -> (&'static str, Vec<(usize, usize)>) {
    if nodes == members {
        return ("", Vec::new());
    }
    let all: Vec<usize> = (0..members).collect();
    let (how, gone) = match dice.within(0..=3) {
        0 => (", agents see no one", all.as_slice()),
        1 => (", nor do agents see those hit", hit),
        _ => return ("", Vec::new()),
    };
    let pairs = gone.iter().flat_map(|at| (members..nodes).map(move |agent| (*at, agent)));
    (how, pairs.flat_map(|(at, agent)| [(at, agent), (agent, at)]).collect())
}

/// Some links of those hit, each bad in a way of its own.
fn bad_links(dice: &Dice, hit: &[usize], nodes: usize) -> Vec<(usize, usize, Link)> {
    let mut bad = Vec::new();
    for from in 0..nodes {
        for to in (0..nodes).filter(|to| *to != from) {
            let concerns = hit.contains(&from) || hit.contains(&to);
            if !concerns || !dice.chance(0.8) {
                continue;
            }
            let shortest = dice.within(0..=40_000);
            let share = |percent: u64| f64::from(u32::try_from(percent).unwrap_or(0)) / 100.0;
            bad.push((
                from,
                to,
                Link {
                    is_cut: false,
                    delay_us: (shortest, shortest + dice.within(100..=60_000)),
                    loss: share(dice.within(0..=20)),
                    duplicate: share(dice.within(0..=10)),
                    reorder: share(dice.within(0..=30)),
                },
            ));
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_cut_what_their_names_say() {
        for roll in 0..40 {
            let dice = Dice::new(roll, 3);
            let (how, cut) = shape(&dice, Victims::Leader, &[1], 3);
            let expected: &[(usize, usize)] = match how {
                "one is not heard" => &[(1, 0), (1, 2)],
                "one does not hear" => &[(0, 1), (2, 1)],
                "one alone" => &[(1, 0), (1, 2), (0, 1), (2, 1)],
                "two do not see each other" => {
                    assert_eq!(cut.len(), 2);
                    assert_eq!((cut[0].0, cut[0].1), (cut[1].1, cut[1].0));
                    continue;
                }
                other => panic!("{other}"),
            };
            assert_eq!(cut, expected, "{how}");
        }
        let (_, cut) = shape(&Dice::new(1, 3), Victims::All, &[0, 1, 2], 3);
        assert_eq!(cut.len(), 6);
    }

    #[test]
    fn agents_are_cut_off_from_those_hit_or_from_everyone_or_not_at_all() {
        let mut seen = std::collections::BTreeSet::new();
        for roll in 0..40 {
            let (how, cut) = of_agents(&Dice::new(roll, 3), &[1], 3, 5);
            seen.insert(how);
            match how {
                "" => assert_eq!(cut, []),
                ", nor do agents see those hit" => {
                    assert_eq!(cut, [(1, 3), (3, 1), (1, 4), (4, 1)]);
                }
                _ => assert_eq!(cut.len(), 12, "{how}"),
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert_eq!(of_agents(&Dice::new(1, 3), &[1], 3, 3), ("", Vec::new()), "nobody there");
    }
}

//! Rotation by schedule, with lifetimes of seconds, while members are killed, stopped and cut off
//! from each other: every SVID that is seen has to verify with every bundle that anyone held while
//! it lived.
//!
//! Owns its order of faults: one at a time, each on the leader half of the time, so that a majority
//! is always there again after an election. Then there is time between two steps of an authority
//! for bundles to reach everyone, also those who ask a member that is cut off, as there is with
//! lifetimes of hours when nobody answers for minutes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steeple_checker::results::say;
use steeple_spiffe_core::dice::Dice;
use steeple_testkit::cluster::{Place, TRUST_DOMAIN};
use steeple_testkit::process::wait_for;
use steeple_testkit::trust::{Ledger, look};
use steeple_testkit::{Cluster, ClusterSpec};
use tokio::time::Instant;

use crate::nemesis::shape;
use crate::net::Spaces;
use crate::plan::Victims;
use crate::run::{make_folder, remove_data, wait_until_one};
use crate::wanted::Wanted;
use crate::watch::Eyes;

const MEMBERS: usize = 3;

/// Prepared after half of it, activated a sixth before its end: a rotation each twelve seconds.
const CA_TTL: Duration = Duration::from_secs(24);

/// SVIDs of authorities that live so short.
const SVID_TTL: Duration = Duration::from_secs(8);

/// How long a member that is cut off serves what it knew: less than lies between two steps.
const MAX_STALENESS: Duration = Duration::from_secs(3);

/// A verifier goes on so long with the bundle that it has fetched.
const KEEPS: Duration = Duration::from_secs(2);

/// How long links are cut, in milliseconds: with [`KEEPS`] less than lies between two steps.
const CUT_MS: RangeInclusive<u64> = 500..=3_000;

/// Between two looks at members that are cut off.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Until there is one cluster again.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// No more of what is wrong is told.
const TOLD_MAX: usize = 20;

/// Runs it and tells its figures in one line. Whether nothing was wrong.
pub(crate) async fn run(wanted: &Wanted) -> Result<bool> {
    let folder = make_folder(&wanted.out, wanted.seed)?;
    let mut field = Field::form(&folder, wanted.seed).await?;
    let disturbed = field.disturb(wanted.rotations).await;
    let lasted = field.began.elapsed();
    let (totals, mut wrong) = field.ledger.judge();
    wrong.extend(disturbed.err().map(|error| format!("{error:#}")));
    // Half of a lifetime lies between two of a kind, whoever leads.
    let most = 2 * (lasted.as_secs() / (CA_TTL.as_secs() / 2) + 3);
    if totals.published as u64 > most {
        wrong.push(format!("{} authorities were published, {most} are due", totals.published));
    }
    say(&format!(
        "rotations: {} in {} s, seed {}; {}; {} SVIDs, {} bundles up to sequence {}, {} \
         authorities; {} checks, {} failures",
        field.ledger.rotations(),
        lasted.as_secs(),
        wanted.seed,
        field.done.sentence(),
        totals.svids,
        totals.bundles,
        totals.sequence,
        totals.published,
        totals.checks,
        wrong.len()
    ));
    for what in wrong.iter().take(TOLD_MAX) {
        say(&format!("  {what}"));
    }
    say(&format!("  folder: {}", folder.display()));
    if wrong.is_empty() {
        remove_data(&mut field.cluster, MEMBERS)?;
    }
    Ok(wrong.is_empty())
}

/// What was done, and who did not answer meanwhile.
#[derive(Debug, Default)]
struct Done {
    kills: u64,
    stops: u64,
    cuts: BTreeMap<&'static str, u64>,
    on_leader: u64,
    /// Calls without an answer while someone was down or cut off, and while nobody was.
    unanswered: [usize; 2],
}

impl Done {
    fn sentence(&self) -> String {
        let cuts: u64 = self.cuts.values().sum();
        let shapes: Vec<String> =
            self.cuts.iter().map(|(how, count)| format!("{count} {how}")).collect();
        let [in_faults, between] = self.unanswered;
        format!(
            "{} kills, {} stops, {cuts} cuts ({}), {} on the leader; {in_faults} calls without an \
             answer under faults and {between} between them",
            self.kills,
            self.stops,
            shapes.join(", "),
            self.on_leader
        )
    }
}

/// Members on a network of ours, and what is seen of them.
#[derive(Debug)]
struct Field {
    // Dropped in this order: processes end before their namespaces go.
    cluster: Cluster,
    spaces: Spaces,
    eyes: Eyes,
    dice: Dice,
    ledger: Ledger,
    done: Done,
    began: Instant,
}

impl Field {
    async fn form(folder: &Path, seed: u64) -> Result<Self> {
        let prefix = format!("rotate{}-", std::process::id());
        let spaces = Spaces::make(&prefix, MEMBERS, folder, seed).context("make the network")?;
        let place = |at| -> Result<Place> {
            let launcher = spaces.launcher(at)?;
            Ok(Place { address: Spaces::address(at), launcher })
        };
        let places = (0..MEMBERS).map(place).collect::<Result<Vec<_>>>()?;
        let (ca, svid) = (CA_TTL.as_secs(), SVID_TTL.as_secs());
        let spec = ClusterSpec {
            members: MEMBERS,
            places,
            log_level: "INFO",
            server_lines: format!(
                "  ca_ttl = \"{ca}s\"\n  default_x509_svid_ttl = \"{svid}s\"\n  \
                 default_jwt_svid_ttl = \"{svid}s\"\n"
            ),
            cluster_lines: format!(
                "  max_staleness = \"{}s\"\n  renew_only_delay = \"0s\"\n",
                MAX_STALENESS.as_secs()
            ),
            ..ClusterSpec::default()
        };
        let mut cluster = Cluster::prepare(folder, &spec)?;
        for at in 0..MEMBERS {
            cluster.start_member(at)?;
        }
        let sockets: Vec<PathBuf> =
            cluster.members().iter().map(steeple_testkit::cluster::Member::socket).collect();
        let eyes = Eyes::open(&sockets);
        wait_until_one(&eyes, WHOLE_MAX, true).await.context("the cluster does not form")?;
        // The first authorities sign as soon as they are there, for nobody knew a bundle before.
        for socket in &sockets {
            let serves = wait_for("the first authorities", WHOLE_MAX, async || {
                let unanswered = look(socket, TRUST_DOMAIN).await.unanswered();
                ensure!(unanswered == 0, "{unanswered} calls without an answer");
                Ok(())
            });
            serves.await?;
        }
        let (ledger, done, began) = (Ledger::new(KEEPS), Done::default(), Instant::now());
        Ok(Self { cluster, spaces, eyes, dice: Dice::new(seed, 1), ledger, done, began })
    }

    /// One fault after the other until the authorities were replaced so often.
    async fn disturb(&mut self, rotations: usize) -> Result<()> {
        let longest = CA_TTL * u32::try_from(rotations + 3).context("rotations")?;
        let mut is_cut = false;
        while self.ledger.rotations() < rotations {
            let reached = self.ledger.rotations();
            ensure!(self.began.elapsed() < longest, "{reached} rotations in {longest:?}");
            let leader = self.cluster.leader(WHOLE_MAX).await?;
            let hit = if self.dice.chance(0.5) { leader } else { self.dice.place(MEMBERS) };
            self.done.on_leader += u64::from(hit == leader);
            match is_cut {
                true => self.cut(hit).await?,
                false => self.take_down(hit).await?,
            }
            is_cut = !is_cut;
            wait_until_one(&self.eyes, WHOLE_MAX, false).await?;
            let unanswered = self.look_at(&[0, 1, 2]).await?;
            self.done.unanswered[1] += unanswered;
        }
        Ok(())
    }

    /// Kills a member, or one time in five lets it end.
    async fn take_down(&mut self, hit: usize) -> Result<()> {
        if self.dice.chance(0.2) {
            self.cluster.stop_member(hit).await?;
            self.done.stops += 1;
        } else {
            self.cluster.kill_member(hit)?;
            self.done.kills += 1;
        }
        let others: Vec<usize> = (0..MEMBERS).filter(|at| *at != hit).collect();
        let unanswered = self.look_at(&others).await?;
        self.done.unanswered[0] += unanswered;
        self.cluster.start_member(hit)
    }

    /// Cuts links of a member, and looks at everyone meanwhile.
    async fn cut(&mut self, hit: usize) -> Result<()> {
        let (how, links) = shape(&self.dice, Victims::Anyone, &[hit], MEMBERS);
        *self.done.cuts.entry(how).or_default() += 1;
        for (from, to) in links {
            self.spaces.links().set(from, to, |link| link.is_cut = true);
        }
        let until = Instant::now() + Duration::from_millis(self.dice.within(CUT_MS));
        while Instant::now() < until {
            let unanswered = self.look_at(&[0, 1, 2]).await?;
            self.done.unanswered[0] += unanswered;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.spaces.links().mend();
        ensure!(self.spaces.is_alive(), "the switch has ended");
        Ok(())
    }

    /// Looks at members, all at once. How many calls had no answer.
    async fn look_at(&mut self, members: &[usize]) -> Result<usize> {
        let mut tasks = Vec::new();
        for at in members {
            let socket = self.cluster.member(*at)?.socket();
            tasks.push((*at, tokio::spawn(async move { look(&socket, TRUST_DOMAIN).await })));
        }
        let mut unanswered = 0;
        for (at, task) in tasks {
            let sight = task.await.context("look at a member")?;
            unanswered += sight.unanswered();
            self.ledger.note(at, sight);
        }
        Ok(unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_of_a_member_that_is_cut_off_is_younger_than_two_steps_are_apart() {
        // Activated at five sixths, prepared at half: what an election takes is left of it.
        let between = CA_TTL * 5 / 6 - CA_TTL / 2;
        let oldest = Duration::from_millis(*CUT_MS.end()) + KEEPS;
        assert!(oldest + Duration::from_secs(3) <= between && MAX_STALENESS < between);
    }
}

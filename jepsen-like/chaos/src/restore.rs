//! A cluster that is restored from a snapshot, and a volume that comes back late.
//!
//! ```text
//! clients held up ─► snapshot save ─► writes of our own ─► SIGKILL of all
//!   ─► one is held, restored, started; the others join it with emptied folders
//!   ─► one comes back with its old folder: it must end, with the runbook's words
//!   ─► clients go on ─► its folder is moved away, it joins ─► what was lost is lost everywhere
//! ```
//!
//! What is acknowledged between the snapshot and the restore is lost by right, so nothing of that
//! is in the history: it is made here and remembered. For clients nothing happens but a pause,
//! after which revisions are higher and join tokens are void.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use steeple_api::pb::cluster::v1::this_member::State;
use steeple_checker::history as h;
use steeple_testkit::client::{request_key, unix_channel};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::clients::Ask;
use crate::clients::ask::NewEntry;
use crate::clients::call::{Attempt, Said, attempt};
use crate::nemesis::{Stage, TOGETHER_MAX, one_of};
use crate::options::Nemesis;
use crate::plan::Planned;
use crate::world::CLUSTER_NAME;
use steeple_spiffe_core::dice::Dice;

/// How long it may take until a call of ours is answered: the cluster is coming back.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// Between attempts, and between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a member of an epoch that is over may take to end: it gives a quorum ten seconds.
const FENCED_MAX: Duration = Duration::from_secs(40);

/// What it says then, of the epoch and of what to do: the runbook knows these words.
const SUPERSEDED: [&str; 2] = ["has begun without this member", "move DATA_DIR/raft away"];

/// Writes after the snapshot.
const LOST: usize = 5;

/// Figures of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// From when everyone was killed until the restored member answered.
    pub(crate) back_ms: u64,
    /// From when the late member was started until it ended; none if it did not.
    pub(crate) fenced_ms: Option<u64>,
    /// Until all were one cluster again.
    pub(crate) whole_ms: u64,
    /// Acknowledged writes that are lost by right.
    pub(crate) lost: u64,
}

/// Who does what.
#[derive(Clone, Copy, Debug)]
struct Roles {
    /// Who is restored.
    first: usize,
    /// Who comes back with its old folder.
    late: usize,
    members: usize,
}

/// What the snapshot has and the cluster had after it.
#[derive(Debug)]
struct Remembered {
    /// An entry that the snapshot has, deleted after it.
    kept: String,
    /// A join token that the snapshot has.
    token: String,
    /// Entries that were made after it.
    lost: Vec<String>,
    /// The snapshot.
    file: String,
}

impl Stage {
    /// Restores the cluster from a snapshot that lacks some writes; one member keeps its folder.
    pub(crate) async fn restore(&self, planned: Planned, number: u8) -> Result<()> {
        self.wait_together(TOGETHER_MAX).await?;
        let planned = Planned { victims: one_of(planned.victims), ..planned };
        let (members, sockets) = {
            let world = self.world.lock().await;
            (world.members(), world.sockets())
        };
        let (hit, _) = self.choose(planned, members);
        let late = *hit.first().context("nobody to hit")?;
        let roles = Roles { first: (late + 1) % members, late, members };
        let how = format!("m{} is restored, m{late} comes back with its old folder", roles.first);
        let all: Vec<usize> = (0..members).collect();
        let entry = self.journal.begin(Nemesis::Restore, &how, &all, true)?;
        let held_up = self.workload.hold_up().await;
        let channels = sockets.iter().map(|socket| unix_channel(socket)).collect();
        let mut caller = Caller::new(channels, Dice::new(planned.roll, 11))?;
        let remembered = self.save(&mut caller, roles, number).await?;
        let told = caller.highest;

        let killed = Instant::now();
        self.bring_back(roles.first, &remembered.file).await?;
        let found = caller.ask(roles.first, &Ask::Get(remembered.kept.clone())).await?;
        let mut seen = Restored { back_ms: ms(killed.elapsed()), ..Restored::default() };
        seen.lost = remembered.lost.len() as u64 + 1;
        self.blame(went_back(told, found.0)).await;
        seen.fenced_ms = self.bring_late(roles, number).await?;
        let found = examine(&mut caller, roles.first, &remembered).await?;
        self.blame(found).await;
        // From here on clients meet nothing that the history does not know.
        let gone = Ask::Delete(vec![remembered.kept.clone()]);
        caller.ask(roles.first, &gone).await?;
        self.workload.forget_tokens();
        drop(held_up);

        let mut world = self.world.lock().await;
        world.set_registry_aside(late, &format!("late-{number}"))?;
        world.await_end(late, false);
        world.start(late)?;
        drop(world);
        self.wait_together(TOGETHER_MAX).await?;
        seen.whole_ms = ms(killed.elapsed());
        for at in all {
            let back = still_there(&mut caller, at, &remembered.lost).await?;
            self.blame(back).await;
        }
        self.noted.lock().await.restores.push(seen);
        self.journal.end(Nemesis::Restore, entry)
    }

    /// Saves a snapshot, writes after it, and waits until the late member has all of that.
    async fn save(&self, caller: &mut Caller, roles: Roles, number: u8) -> Result<Remembered> {
        let Roles { first, late, .. } = roles;
        let entry = |name: String| NewEntry::alike(name.clone(), &name, "/restore".to_owned());
        let kept = format!("kept-{number}");
        caller.ask(first, &Ask::Create(vec![entry(kept.clone())])).await?;
        let token = caller.token(first, &format!("unspent-{number}")).await?;
        let file = {
            let world = self.world.lock().await;
            let file = world.folder().join(format!("restore-{number}.snapshot"));
            let file = file.display().to_string();
            world.type_in(first, &["cluster", "snapshot", "save", &file])?;
            file
        };
        let lost: Vec<String> = (0..LOST).map(|place| format!("lost-{number}-{place}")).collect();
        for (place, id) in lost.iter().enumerate() {
            let at = (first + place) % roles.members;
            let (_, reply) = caller.ask(at, &Ask::Create(vec![entry(id.clone())])).await?;
            let is_made = matches!(&reply, h::Reply::Items(items)
                if matches!(items.as_slice(), [h::ItemReply::Created(_)]));
            ensure!(is_made, "an entry after the snapshot: {reply:?}");
        }
        caller.ask(first, &Ask::Delete(vec![kept.clone()])).await?;
        let until = Instant::now() + ANSWER_MAX;
        loop {
            let status = self.eyes.look().await.into_iter().nth(late).flatten();
            let own = status.and_then(|status| status.this_member);
            if own.is_some_and(|own| own.revision >= caller.highest) {
                return Ok(Remembered { kept, token, lost, file });
            }
            ensure!(Instant::now() < until, "m{late} does not come to {}", caller.highest);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends everyone at once and restores one, by the commands of the runbook; it leads alone then.
    async fn bring_back(&self, first: usize, file: &str) -> Result<()> {
        let mut world = self.world.lock().await;
        world.end_all()?;
        world.hold(first).await?;
        let confirm = ["-confirm", CLUSTER_NAME];
        let words = ["cluster", "snapshot", "restore", file];
        world.type_in(first, &[words.as_slice(), &confirm].concat())?;
        world.stop(first).await?;
        world.start(first)
    }

    /// The others come back, one of them with its old folder. Returns how long that one ran.
    async fn bring_late(&self, roles: Roles, number: u8) -> Result<Option<u64>> {
        let Roles { first, late, members } = roles;
        let mut world = self.world.lock().await;
        for at in (0..members).filter(|at| *at != first && *at != late) {
            world.set_registry_aside(at, &format!("before-{number}"))?;
            world.start(at)?;
        }
        let said_before = std::fs::read_to_string(world.log(late)?).context("read a log")?.len();
        world.await_end(late, true);
        world.start(late)?;
        drop(world);
        let began = Instant::now();
        let (mut words, mut took_part) = (None, false);
        while words.is_none() && began.elapsed() < FENCED_MAX {
            words = self.world.lock().await.last_words(late)?;
            let status = self.eyes.look().await.into_iter().nth(late).flatten();
            took_part |= status.is_some_and(|status| {
                let is_member = status.this_member.is_some_and(|own| own.state() == State::Member);
                is_member && status.quorum.is_some_and(|quorum| quorum.in_contact)
            });
            tokio::time::sleep(PAUSE).await;
        }
        let ran_ms = words.is_some().then(|| ms(began.elapsed()));
        let mut world = self.world.lock().await;
        if world.is_up(late) {
            world.kill(late)?;
        }
        let log = std::fs::read_to_string(world.log(late)?).context("read a log")?;
        drop(world);
        let said = log.get(said_before..).unwrap_or_default();
        let wrong = wrong(words.as_deref(), took_part, said);
        let wrong = wrong.into_iter().map(|why| format!("m{late}, with its old folder: {why}"));
        self.blame(wrong).await;
        Ok(ran_ms)
    }
}

/// Whether a revision is not above what was told before the restore.
fn went_back(told: u64, now: u64) -> Option<String> {
    (now <= told).then(|| {
        format!("after the restore the state has revision {now}: {told} was told before it")
    })
}

/// What is wrong with a member of an epoch that is over, by its last words (none: it did not end),
/// whether it was ever in contact with a quorum, and what it has logged since it came back.
fn wrong(words: Option<&str>, took_part: bool, said: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    match words {
        None => wrong.push(format!("it still runs after {} s", FENCED_MAX.as_secs())),
        Some(words) if !SUPERSEDED.iter().all(|text| said.contains(text)) => {
            wrong.push(format!("it ended for another reason: {words}"));
        }
        Some(_) => {}
    }
    if took_part {
        wrong.push("it was in contact with a quorum of an epoch that is over".to_owned());
    }
    if said.contains("Leadership acquired") {
        wrong.push("it led in an epoch that is over".to_owned());
    }
    wrong
}

/// What the restored member has that it should not have, or lacks.
async fn examine(caller: &mut Caller, at: usize, known: &Remembered) -> Result<Vec<String>> {
    let mut wrong = still_there(caller, at, &known.lost).await?;
    let (_, kept) = caller.ask(at, &Ask::Get(known.kept.clone())).await?;
    if !matches!(kept, h::Reply::Entry(Some(_))) {
        wrong.push(format!("m{at} lacks entry {}, which the snapshot has", known.kept));
    }
    let ask = Ask::Attest { token: known.token.clone(), client: 0 };
    let (_, admitted) = caller.ask(at, &ask).await?;
    if admitted != h::Reply::Rejected(h::Rejection::TokenUnknown) {
        wrong.push(format!("m{at} admits by a join token of before the restore: {admitted:?}"));
    }
    Ok(wrong)
}

/// Which entries a member has that were made after the snapshot.
async fn still_there(caller: &mut Caller, at: usize, lost: &[String]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for id in lost {
        let (_, found) = caller.ask(at, &Ask::Get(id.clone())).await?;
        if found != h::Reply::Entry(None) {
            wrong.push(format!("m{at} has entry {id}, which was made after the snapshot"));
        }
    }
    Ok(wrong)
}

/// Calls that are no part of the history.
#[derive(Debug)]
struct Caller {
    channels: Vec<Channel>,
    dice: Dice,
    csr: Vec<u8>,
    /// The highest revision that it was told.
    highest: u64,
}

impl Caller {
    fn new(channels: Vec<Channel>, dice: Dice) -> Result<Self> {
        let (_key, csr) = request_key()?;
        Ok(Self { channels, dice, csr, highest: 0 })
    }

    /// Asks a member until it answers from a state that is confirmed: the revision, and the reply.
    async fn ask(&mut self, at: usize, ask: &Ask) -> Result<(u64, h::Reply)> {
        let until = Instant::now() + ANSWER_MAX;
        let mut id = self.request_id(ask);
        loop {
            let channel = self.channels.get(at).cloned().context("no such member")?;
            let one = Attempt { request_id: id.clone(), timeout: ATTEMPT, csr: self.csr.clone() };
            let why = match attempt(channel, ask, &one).await {
                Said::Answer { revision, is_stale: false, reply } => {
                    self.highest = self.highest.max(revision);
                    return Ok((revision, reply));
                }
                Said::Answer { is_stale: true, .. } => "a stale answer".to_owned(),
                Said::Forgotten { revision, text } => {
                    // An id from before the restore: the next one knows better.
                    self.highest = self.highest.max(revision);
                    id = self.request_id(ask);
                    text
                }
                Said::NotDone(text) | Said::Maybe(text) => text,
                Said::Strange(text) => bail!("m{at}, {ask:?}: {text}"),
            };
            ensure!(Instant::now() < until, "m{at} does not answer {ask:?}: {why}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes a join token. An attempt of which nobody knows is left behind.
    async fn token(&mut self, at: usize, name: &str) -> Result<String> {
        for turn in 0..20 {
            let token = format!("{name}-{turn}");
            let channel = self.channels.get(at).cloned().context("no such member")?;
            let one = Attempt { request_id: None, timeout: ATTEMPT, csr: self.csr.clone() };
            let said = attempt(channel, &Ask::Token(token.clone()), &one).await;
            if let Said::Answer { revision, .. } = said {
                self.highest = self.highest.max(revision);
                return Ok(token);
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("m{at} makes no join token")
    }

    fn request_id(&self, ask: &Ask) -> Option<String> {
        let needs_one = ask.operation().is_write() && ask.may_repeat();
        needs_one.then(|| format!("{:016x}{:016x}", self.highest, self.dice.any()))
    }
}

fn ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_an_epoch_that_is_over_must_end_say_so_and_never_lead() {
        let said = "epoch 2 of cluster c has begun without this member, which is of epoch 1; move \
                    DATA_DIR/raft away and start it again: it joins";
        let led = format!("Leadership acquired\n{said}");
        type Case<'a> = (Option<&'a str>, bool, &'a str, usize);
        let cases: [Case<'_>; 6] = [
            (Some(said), false, said, 0),
            (None, false, "", 1),
            (None, true, "Leadership acquired", 3),
            (Some("panicked"), false, "panicked", 1),
            (Some(said), true, said, 1),
            (Some(said), false, &led, 1),
        ];
        for (words, took_part, said, count) in cases {
            let found = wrong(words, took_part, said);
            assert_eq!(found.len(), count, "{words:?} {took_part}: {found:?}");
        }
    }

    #[test]
    fn a_revision_must_be_above_what_was_told_before() {
        assert_eq!(went_back(7, 8), None);
        assert!(went_back(7, 7).is_some() && went_back(7, 6).is_some());
    }
}

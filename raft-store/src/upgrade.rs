//! Raising the feature level: who supports what, since when, and whether it is time.
//!
//! Owns the decisions, which are pure, and the task that raises the level by itself. A level is raised
//! only if every member, voter or learner, has just said that it supports it: whoever does not would
//! halt at the first command that it cannot decode. How long all have supported it is a record of each
//! member's own, not of the log: until the level is raised nothing may be in the log that a build which
//! is taken back could not read.

use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::time::Timestamp;
use tokio::time::{Instant, sleep};

use crate::command::Command;
use crate::contact::Contact;
use crate::core::Core;
use crate::error::{ProposeError, RunError, Unavailable};
use crate::ids::MemberId;
use crate::local::LocalRecords;
use crate::offload::offload;

/// Between two looks; answers of members come every two seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was heard longer ago says nothing of the build that runs now.
const FRESH: Duration = Duration::from_secs(10);

/// A raise waits so long for its commit.
const RAISE_TIMEOUT: Duration = Duration::from_secs(5);

/// Name of the record.
const RECORD: &str = "level-supported";

/// What a member supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelSupport {
    /// Which member.
    pub member: MemberId,
    /// The highest level; `None`: it has not said so lately.
    pub supports: Option<u32>,
}

/// Where a cluster stands between two levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelStatus {
    /// The level that the cluster is at.
    pub level: u32,
    /// What its members support, by id.
    pub members: Vec<LevelSupport>,
    /// The level that all members support, if it is higher and all have said so lately.
    pub ready: Option<u32>,
    /// How long until it is raised by itself, if all go on supporting it.
    pub raised_in: Option<Duration>,
}

/// Why the level was not raised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    /// Not in this state of the cluster, with the fix.
    #[error("{0}")]
    Refused(String),
    /// No leader, or no decision in time.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Since when every member has supported a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since {
    level: u32,
    /// Cluster time.
    since: Timestamp,
}

/// The highest level that all support, as far as all have said so.
fn common(members: &[LevelSupport]) -> Option<u32> {
    members.iter().map(|one| one.supports).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// Carries the record on: it begins when all have said that they support a higher level, goes on while
/// no one says otherwise (a member that restarts says nothing for a while), and is void as soon as one
/// does.
fn follow(
    known: Option<Since>,
    level: u32,
    members: &[LevelSupport],
    now: Timestamp,
) -> Option<Since> {
    let known = known.filter(|known| {
        let denies = |one: &LevelSupport| one.supports.is_some_and(|highest| highest < known.level);
        known.level > level && !members.iter().any(denies)
    });
    let ready = common(members).filter(|ready| *ready > level);
    match (known, ready) {
        (Some(known), Some(ready)) if ready > known.level => {
            Some(Since { level: ready, since: now })
        }
        (Some(known), _) => Some(known),
        (None, Some(ready)) => Some(Since { level: ready, since: now }),
        (None, None) => None,
    }
}

/// The level to raise to now, if all have supported it for long enough and say so still.
fn due(
    known: Option<Since>,
    members: &[LevelSupport],
    now: Timestamp,
    after: Duration,
) -> Option<u32> {
    let known = known?;
    let still = common(members).is_some_and(|ready| ready >= known.level);
    (still && now.since(known.since) >= after).then_some(known.level)
}

/// Whether a level may be raised to by hand; the highest that is possible if none is named.
fn decide(level: u32, members: &[LevelSupport]) -> Result<u32, String> {
    if let Some(silent) = members.iter().find(|one| one.supports.is_none()) {
        return Err(format!(
            "member {} has not said lately what it supports; start it, or remove it with \
             \"spire-server cluster remove\"",
            silent.member
        ));
    }
    let lowest = members.iter().filter_map(|one| Some((one.supports?, one.member))).min();
    match lowest {
        Some((ready, _)) if ready > level => Ok(ready),
        Some((ready, member)) if ready < level => Err(format!(
            "member {member} supports feature level {ready} only, the cluster is at {level}"
        )),
        Some((_, member)) => Err(format!(
            "the cluster is at feature level {level}, and member {member} supports none above it; \
             start a newer version on every member first"
        )),
        None => Err("the cluster has no members yet".to_owned()),
    }
}

/// Why a command may not be proposed at a level, if so.
pub(crate) fn too_new(needs: u32, level: u32) -> Option<String> {
    // Before its first command a cluster is at none.
    (needs > level.max(1)).then(|| {
        format!(
            "this needs feature level {needs}, the cluster is at {level}: start this version on every \
             member, then run \"spire-server cluster upgrade finalize\""
        )
    })
}

impl Core {
    fn level_support(&self) -> Vec<LevelSupport> {
        let now = self.clock.boot_time();
        let metrics = self.metrics();
        let members = metrics.membership_config.nodes().map(|(id, _)| {
            let member = MemberId(*id);
            let observed = self.observed(member);
            let fresh = observed.filter(|seen| now.saturating_sub(seen.heard_at) <= FRESH);
            LevelSupport { member, supports: fresh.map(|seen| seen.said.feature_level_max) }
        });
        members.collect()
    }

    /// Where the cluster stands between two levels, seen from here.
    pub(crate) fn level_status(&self) -> LevelStatus {
        let reached = self.feed.reached_now();
        let members = self.level_support();
        let level = reached.feature_level;
        let ready = common(&members).filter(|ready| *ready > level);
        // A record that cannot be read is made anew by the task.
        let since = read(&self.engine.local).ok().flatten().filter(|since| since.level > level);
        let after = self.config.tuning.raise_level_after;
        let raised_in = since.map(|since| after.saturating_sub(reached.time.since(since.since)));
        LevelStatus { level, members, ready, raised_in }
    }

    /// Raises the level as far as all members support it, here or through the leader. Returns the old
    /// and the new one.
    pub(crate) async fn raise_level(&self) -> Result<(u32, u32), RaiseError> {
        // First of all: who lacks a quorum has not heard the others, whatever they support.
        let Some(leader) = self.leader_in_contact() else { return Err(self.no_leader().into()) };
        let from = self.feed.reached_now().feature_level;
        let to = decide(from, &self.level_support()).map_err(RaiseError::Refused)?;
        let deadline = Instant::now() + RAISE_TIMEOUT;
        if leader == self.member_id {
            self.raise_as_leader(to).await?;
        } else {
            self.forwarder.raise_level(leader, to, deadline).await?;
        }
        let mut reached = self.feed.reached();
        let here = reached.wait_for(|reached| reached.feature_level >= to);
        // Decided all the same; this member follows.
        tokio::time::timeout_at(deadline, here).await.ok();
        Ok((from, to))
    }

    /// On the leader: checks again, then proposes.
    pub(crate) async fn raise_as_leader(&self, to: u32) -> Result<(), RaiseError> {
        let leadership = self.leadership_now();
        // A leader that has lost its quorum is none, and knows nothing new of the others.
        if !leadership.is_self || self.contact() != Contact::InContact {
            return Err(self.no_leader().into());
        }
        let level = self.feed.reached_now().feature_level;
        if to <= level {
            return Ok(());
        }
        let ready = decide(level, &self.level_support()).map_err(RaiseError::Refused)?;
        if to > ready {
            let text =
                format!("all members support feature level {ready} only, as the leader knows");
            return Err(RaiseError::Refused(text));
        }
        let command = Command::RaiseFeatureLevel { to };
        let unavailable = |text: String| {
            let retry_after = self.config.election_timeout_max();
            RaiseError::Unavailable(Unavailable { text, retry_after })
        };
        match self.propose_duty(command, leadership.term).await {
            Ok(applied) => match applied.outcome {
                Ok(_) => Ok(()),
                Err(rejection) => Err(RaiseError::Refused(rejection.to_string())),
            },
            Err(ProposeError::Unavailable(error)) => Err(error.into()),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}

/// Keeps the record and raises the level when it is time; logs every raise. Runs for ever.
///
/// # Errors
///
/// If the record cannot be kept.
pub(crate) async fn run(core: Arc<Core>) -> Result<(), RunError> {
    let mut known = core.feed.reached_now().feature_level;
    loop {
        sleep(LOOK_EVERY).await;
        let level = core.feed.reached_now().feature_level;
        if level > known && known > 0 {
            tracing::info!(from = known, to = level, "Feature level raised");
        }
        known = level;
        look(&core).await?;
    }
}

async fn look(core: &Arc<Core>) -> Result<(), RunError> {
    let now = core.feed.reached_now();
    if now.feature_level == 0 || core.config.tuning.feature_level_max <= now.feature_level {
        return Ok(());
    }
    let members = core.level_support();
    let failed =
        |error: &dyn std::fmt::Display| RunError::Formation(format!("keep own records: {error}"));
    let local = core.engine.local.clone();
    let kept = members.clone();
    let known = offload(move || {
        let known = read(&local)?;
        let next = follow(known, now.feature_level, &kept, now.time);
        if next != known {
            write(&local, next)?;
        }
        std::io::Result::Ok(next)
    });
    let known = known.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let after = core.config.tuning.raise_level_after;
    let Some(to) = due(known, &members, now.time, after) else { return Ok(()) };
    // It is a decision about time, made by nobody.
    if !core.leadership_now().is_self || core.clock_doubt().is_some() {
        return Ok(());
    }
    if let Err(error) = core.raise_as_leader(to).await {
        tracing::warn!(%error, to, "failed to raise the feature level");
    }
    Ok(())
}

fn read(local: &LocalRecords) -> std::io::Result<Option<Since>> {
    let Some(bytes) = local.get(RECORD)? else { return Ok(None) };
    let level = bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let since = bytes.last_chunk().map(|bytes| i64::from_be_bytes(*bytes));
    Ok(level.zip(since).map(|(level, ms)| Since { level, since: Timestamp::from_unix_ms(ms) }))
}

fn write(local: &LocalRecords, since: Option<Since>) -> std::io::Result<()> {
    let Some(since) = since else { return local.remove(RECORD) };
    let level = since.level.to_be_bytes();
    local.put(RECORD, &[level.as_slice(), &since.since.unix_ms().to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each member said that it supports.
    type Said<'a> = &'a [Option<u32>];
    type Record = Option<Since>;

    fn members(supports: Said<'_>) -> Vec<LevelSupport> {
        let all = supports.iter().zip(1..);
        all.map(|(supports, id)| LevelSupport { member: MemberId(id), supports: *supports })
            .collect()
    }

    const T1: Timestamp = Timestamp::from_unix_s(1_000);
    const T2: Timestamp = Timestamp::from_unix_s(2_000);

    #[test]
    fn support_counts_from_when_all_said_so_until_one_says_otherwise() {
        let since = |level| Some(Since { level, since: T1 });
        let begins = |level| Some(Since { level, since: T2 });
        let table: [(&str, Record, u32, Said<'_>, Record); 10] = [
            ("none is higher", None, 2, &[Some(2), Some(2)], None),
            ("one is not", None, 1, &[Some(2), Some(1)], None),
            ("one is silent", None, 1, &[Some(2), None], None),
            ("all are", None, 1, &[Some(2), Some(3)], begins(2)),
            ("all still are", since(2), 1, &[Some(2), Some(2)], since(2)),
            ("one restarts", since(2), 1, &[Some(2), None], since(2)),
            ("one was taken back", since(2), 1, &[Some(2), Some(1)], None),
            ("all went on", since(2), 1, &[Some(3), Some(3)], begins(3)),
            ("it was raised", since(2), 2, &[Some(2), Some(2)], None),
            ("raised, and one is newer", since(2), 2, &[Some(3), Some(3)], begins(3)),
        ];
        for (case, known, level, supports, expected) in table {
            assert_eq!(follow(known, level, &members(supports), T2), expected, "{case}");
        }
    }

    #[test]
    fn a_level_is_raised_by_itself_once_all_have_supported_it_for_long_enough() {
        let after = T2.since(T1);
        let known = Some(Since { level: 2, since: T1 });
        let table: [(&str, Record, Said<'_>, Timestamp, Option<u32>); 5] = [
            ("nothing is known", None, &[Some(2)], T2, None),
            ("too early", known, &[Some(2)], T2.minus(Duration::from_millis(1)), None),
            ("now", known, &[Some(2), Some(3)], T2, Some(2)),
            ("one is silent", known, &[Some(2), None], T2, None),
            ("one was taken back", known, &[Some(2), Some(1)], T2, None),
        ];
        for (case, known, supports, now, expected) in table {
            assert_eq!(due(known, &members(supports), now, after), expected, "{case}");
        }
    }

    #[test]
    fn by_hand_a_level_is_raised_if_every_member_has_just_said_that_it_supports_it() {
        let table: [(Said<'_>, Result<u32, &str>); 6] = [
            (&[Some(2), Some(2)], Ok(2)),
            (&[Some(3), Some(2)], Ok(2)),
            (&[Some(2), None], Err("member 0000000000000002 has not said lately")),
            (&[Some(2), Some(1)], Err("member 0000000000000002 supports none above it")),
            (&[Some(0), Some(2)], Err("member 0000000000000001 supports feature level 0 only")),
            (&[], Err("no members")),
        ];
        for (supports, expected) in table {
            match (decide(1, &members(supports)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                other => panic!("{supports:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_command_above_the_level_is_refused_with_the_way_out() {
        for (needs, level, refused) in
            [(1, 0, false), (1, 1, false), (2, 0, true), (2, 1, true), (2, 2, false)]
        {
            let text = too_new(needs, level);
            assert_eq!(text.is_some(), refused, "{needs} at {level}");
            let names = |text: &String| text.contains("cluster upgrade finalize");
            assert!(text.is_none_or(|text| names(&text)));
        }
    }

    #[test]
    fn the_record_survives() {
        let local = crate::mem::MemoryDisk::new().engine().local;
        assert_eq!(read(&local).unwrap(), None);
        let since = Some(Since { level: 7, since: T1 });
        write(&local, since).unwrap();
        assert_eq!(read(&local).unwrap(), since);
        write(&local, None).unwrap();
        assert_eq!(read(&local).unwrap(), None);
    }
}

//! What was heard of the other members, with its age: the one place of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::time::Timestamp;

use crate::ids::MemberId;
use crate::net::messages as pb;
use crate::observe::{Checkpoint, Mismatch};
use crate::pb::store::StateCheckpoint;

/// What a member says of itself when it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The version of its program.
    pub version: String,
    /// The highest feature level that it can apply.
    pub feature_level_max: u32,
    /// Index of the last log entry that it has applied.
    pub applied_index: u64,
    /// Its wall clock as it answered.
    pub clock: Timestamp,
    /// Hash of the settings that should be the same everywhere; empty: not said.
    pub settings_hash: String,
    /// Ids of the cluster keys that it accepts.
    pub key_ids: Vec<String>,
    /// The cluster key whose CA has signed the peer certificate that it presents; empty: not said.
    pub certificate_key_id: String,
    /// Its newest state hashes, ascending by index. Of this member itself: none, they are in its tables.
    pub checkpoints: Vec<Checkpoint>,
    /// How its disk does.
    pub disk: DiskHealth,
    /// The leader that it is in contact with, itself with a quorum included.
    pub leader: Option<MemberId>,
}

/// The disk of the log: times of syncs, and room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskHealth {
    /// How long the last one took; `None`: there was none, or they cost nothing.
    pub last_sync: Option<Duration>,
    /// The slowest within the last minute.
    pub slowest_sync: Duration,
    /// How long the one that runs now has taken.
    pub waiting: Duration,
    /// Bytes that may still be written; `None`: not known.
    pub free_bytes: Option<u64>,
}

/// What was heard of a member, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What it said.
    pub said: Observation,
    /// Boot-time clock when the answer came.
    pub heard_at: Duration,
    /// How long question and answer took.
    pub round_trip: Duration,
    /// How far its clock is ahead of ours, in milliseconds. Half the round trip is taken for the way
    /// of the answer: wrong by at most that.
    pub clock_offset_ms: i64,
}

/// What was heard of all others.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    heard: Mutex<BTreeMap<MemberId, Observed>>,
    mismatch: Mutex<Option<Mismatch>>,
}

impl Observations {
    /// Notes what a member said. `now` is our wall clock and `heard_at` our boot time at the answer.
    pub(crate) fn note(
        &self,
        member: MemberId,
        said: Observation,
        now: Timestamp,
        heard_at: Duration,
        round_trip: Duration,
    ) {
        let then = now.minus(round_trip / 2);
        let clock_offset_ms = said.clock.unix_ms().saturating_sub(then.unix_ms());
        self.lock().insert(member, Observed { said, heard_at, round_trip, clock_offset_ms });
    }

    /// What was last heard of a member.
    pub(crate) fn get(&self, member: MemberId) -> Option<Observed> {
        self.lock().get(&member).cloned()
    }

    /// What was last heard of everyone.
    pub(crate) fn all(&self) -> BTreeMap<MemberId, Observed> {
        self.lock().clone()
    }

    /// A member that was in contact with a leader when it was last heard, at `from` or after it, and that
    /// leader. Only members that count are looked at.
    pub(crate) fn leader_elsewhere(
        &self,
        from: Duration,
        counts: impl Fn(MemberId) -> bool,
    ) -> Option<(MemberId, MemberId)> {
        let heard = self.lock();
        let mut since = heard.iter().filter(|(_, seen)| seen.heard_at >= from);
        since.find_map(|(member, seen)| {
            Some((*member, seen.said.leader?)).filter(|_| counts(*member))
        })
    }

    /// Notes a mismatch of state hashes, or that there is none; true if that is news.
    pub(crate) fn note_mismatch(&self, found: Option<Mismatch>) -> bool {
        let mut known = self.mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != found;
        *known = found;
        is_news
    }

    /// The mismatch of state hashes that is known, if there is one.
    pub(crate) fn mismatch(&self) -> Option<Mismatch> {
        self.mismatch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all but the given members.
    pub(crate) fn retain(&self, keep: impl Fn(MemberId) -> bool) {
        self.lock().retain(|member, _| keep(*member));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Observed>> {
        // Every change is one insertion: nothing is half done when a holder panics.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn to_pb(said: &Observation) -> pb::ObserveReply {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    pb::ObserveReply {
        version: said.version.clone(),
        feature_level_max: said.feature_level_max,
        applied_index: said.applied_index,
        clock_unix_ms: said.clock.unix_ms(),
        settings_hash: said.settings_hash.clone(),
        key_ids: said.key_ids.clone(),
        certificate_key_id: said.certificate_key_id.clone(),
        checkpoints: said.checkpoints.iter().map(checkpoint_to_pb).collect(),
        disk: Some(pb::DiskHealth {
            last_sync_us: said.disk.last_sync.map(us),
            slowest_sync_us: us(said.disk.slowest_sync),
            waiting_us: us(said.disk.waiting),
            free_bytes: said.disk.free_bytes,
        }),
        leader_id: said.leader.map_or(0, |leader| leader.0),
    }
}

fn checkpoint_to_pb(kept: &Checkpoint) -> StateCheckpoint {
    StateCheckpoint { index: kept.index, hash: kept.hash.to_vec() }
}

/// One that is no SHA-256 is of another kind: nothing to compare with.
fn checkpoint_from_pb(kept: &StateCheckpoint) -> Option<Checkpoint> {
    Some(Checkpoint { index: kept.index, hash: kept.hash.as_slice().try_into().ok()? })
}

pub(crate) fn from_pb(reply: pb::ObserveReply) -> Observation {
    let disk = reply.disk.unwrap_or_default();
    Observation {
        version: reply.version,
        feature_level_max: reply.feature_level_max,
        applied_index: reply.applied_index,
        clock: Timestamp::from_unix_ms(reply.clock_unix_ms),
        settings_hash: reply.settings_hash,
        key_ids: reply.key_ids,
        certificate_key_id: reply.certificate_key_id,
        checkpoints: reply.checkpoints.iter().filter_map(checkpoint_from_pb).collect(),
        disk: DiskHealth {
            last_sync: disk.last_sync_us.map(Duration::from_micros),
            slowest_sync: Duration::from_micros(disk.slowest_sync_us),
            waiting: Duration::from_micros(disk.waiting_us),
            free_bytes: disk.free_bytes,
        },
        leader: (reply.leader_id != 0).then_some(MemberId(reply.leader_id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_taken_for_the_way_back() {
        let ms = Duration::from_millis;
        let ours = Timestamp::from_unix_ms(1_000_000);
        for (theirs, round_trip, offset) in [
            (1_000_000, ms(0), 0),
            (1_000_000, ms(400), 200),
            (999_800, ms(400), 0),
            (1_002_000, ms(100), 2_050),
            (990_000, ms(2), -9_999),
        ] {
            let seen = Observations::default();
            let clock = Timestamp::from_unix_ms(theirs);
            let said = Observation { clock, ..Observation::default() };
            seen.note(MemberId(1), said, ours, ms(7), round_trip);
            let found = seen.get(MemberId(1)).unwrap();
            assert_eq!(found.clock_offset_ms, offset, "{theirs} after {round_trip:?}");
            assert_eq!((found.heard_at, found.round_trip), (ms(7), round_trip));
        }
    }

    #[test]
    fn a_leader_that_others_hear_is_known_from_what_they_said_since() {
        let seen = Observations::default();
        let note = |member: u64, leader: Option<u64>, at: u64| {
            let said = Observation { leader: leader.map(MemberId), ..Observation::default() };
            let (now, at) = (Timestamp::from_unix_ms(0), Duration::from_secs(at));
            seen.note(MemberId(member), said, now, at, Duration::ZERO);
        };
        let found = |from: u64, counts: &[u64]| {
            let counts = |member: MemberId| counts.contains(&member.0);
            let found = seen.leader_elsewhere(Duration::from_secs(from), counts);
            found.map(|(member, leader)| (member.0, leader.0))
        };
        note(1, Some(9), 10);
        note(2, None, 20);
        note(3, Some(9), 30);
        assert_eq!(found(10, &[1, 2, 3]), Some((1, 9)));
        assert_eq!(found(11, &[1, 2, 3]), Some((3, 9)), "the first said so before");
        assert_eq!(found(11, &[1, 2]), None, "the third does not answer");
        assert_eq!(found(31, &[1, 2, 3]), None);
    }

    #[test]
    fn what_a_member_says_survives_the_wire() {
        let said = Observation {
            version: "1".to_owned(),
            feature_level_max: 2,
            applied_index: 3,
            clock: Timestamp::from_unix_ms(4),
            settings_hash: "5".to_owned(),
            key_ids: vec!["6".to_owned(), "7".to_owned()],
            certificate_key_id: "12".to_owned(),
            checkpoints: vec![Checkpoint { index: 256, hash: [11; 32] }],
            disk: DiskHealth {
                last_sync: Some(Duration::from_micros(8)),
                slowest_sync: Duration::from_millis(9),
                waiting: Duration::from_secs(10),
                free_bytes: Some(13),
            },
            leader: Some(MemberId(14)),
        };
        assert_eq!(from_pb(to_pb(&said)), said);
        assert_eq!(from_pb(to_pb(&Observation::default())), Observation::default());
    }

    #[test]
    fn who_is_no_member_any_more_is_forgotten() {
        let seen = Observations::default();
        let note = |id| {
            let (now, zero) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
            seen.note(MemberId(id), Observation::default(), now, zero, zero);
        };
        note(1);
        note(2);
        seen.retain(|member| member == MemberId(2));
        assert!(seen.get(MemberId(1)).is_none());
        assert!(seen.get(MemberId(2)).is_some());
    }
}

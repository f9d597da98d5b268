//! What a quorum's clocks say, and whether this member's agrees. Pure but for the place where the last
//! comparison is kept.
//!
//! Clocks are compared as distances from our boot-time clock, which no one sets: so a wall clock that
//! is set while no one is heard is seen at once, and one that was mended is believed again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::time::{Clock, Timestamp};

use crate::ids::MemberId;
use crate::observe::Observed;

/// What was heard longer ago says nothing of a clock now: five rounds of questions.
const FRESH: Duration = Duration::from_secs(10);

/// A leader whose clock is further from the median of a quorum's does not decide about time
/// (`cluster.md` 9).
pub(crate) const LEADER_OFFSET_MAX: Duration = Duration::from_secs(10);

/// The median of a quorum's clocks, and when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Median {
    /// The median wall clock minus our boot-time clock, in milliseconds.
    over_boot_ms: i64,
    /// Boot time.
    taken_at: Duration,
}

/// How this member's clock compares with a quorum's. Cheap to clone; all clones share.
#[derive(Clone, Debug, Default)]
pub struct ClusterClock {
    median: Arc<Mutex<Option<Median>>>,
}

impl ClusterClock {
    /// By how many milliseconds this member's wall clock is ahead of the median of a quorum's clocks;
    /// `None`: they were never compared.
    pub fn ahead_ms(&self, clock: &dyn Clock) -> Option<i64> {
        let median = (*self.lock())?;
        Some(over_boot_ms(clock.now(), clock.boot_time()).saturating_sub(median.over_boot_ms))
    }

    /// How long ago they were compared.
    pub(crate) fn age(&self, clock: &dyn Clock) -> Option<Duration> {
        let median = (*self.lock())?;
        Some(clock.boot_time().saturating_sub(median.taken_at))
    }

    /// Notes a comparison that says that this member's clock is so far ahead.
    pub fn note_ahead_ms(&self, ahead_ms: i64, clock: &dyn Clock) {
        let taken_at = clock.boot_time();
        let over_boot_ms = over_boot_ms(clock.now(), taken_at).saturating_sub(ahead_ms);
        *self.lock() = Some(Median { over_boot_ms, taken_at });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Median>> {
        // One assignment: nothing is half done when a holder panics.
        self.median.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over_boot_ms(wall: Timestamp, boot: Duration) -> i64 {
    wall.unix_ms().saturating_sub(i64::try_from(boot.as_millis()).unwrap_or(i64::MAX))
}

/// How far each voter's clock is ahead of the median of a quorum's, this member's included if it votes;
/// empty without a quorum of fresh answers. `me` is always among them then.
pub(crate) fn deviations(
    me: MemberId,
    clock: &dyn Clock,
    voters: &BTreeSet<MemberId>,
    heard: &BTreeMap<MemberId, Observed>,
) -> BTreeMap<MemberId, i64> {
    let (now, boot) = (clock.now(), clock.boot_time());
    let own = over_boot_ms(now, boot);
    let mut clocks: BTreeMap<MemberId, i64> = heard
        .iter()
        .filter(|(member, seen)| {
            voters.contains(member) && boot.saturating_sub(seen.heard_at) <= FRESH
        })
        .map(|(member, seen)| {
            let answered = seen.heard_at.saturating_sub(seen.round_trip / 2);
            (*member, over_boot_ms(seen.said.clock, answered))
        })
        .collect();
    if voters.contains(&me) {
        clocks.insert(me, own);
    }
    if clocks.len() * 2 <= voters.len() {
        return BTreeMap::new();
    }
    let Some(median) = median(clocks.values().copied().collect()) else { return BTreeMap::new() };
    clocks.insert(me, own);
    clocks.into_iter().map(|(member, clock)| (member, clock.saturating_sub(median))).collect()
}

/// The middle one; between the two in the middle if their number is even, so that of two that differ
/// neither is in the right.
fn median(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(values.len() / 2 - 1)?;
    Some(lower.midpoint(upper))
}

/// Who should lead instead of a leader with these deviations: the voter whose clock is closest to the
/// median, if the leader's is too far and that one's is not.
pub(crate) fn better_leader(
    me: MemberId,
    deviations: &BTreeMap<MemberId, i64>,
) -> Option<MemberId> {
    let is_far = |ahead_ms: i64| too_far(ahead_ms);
    let own = *deviations.get(&me)?;
    let others = deviations.iter().filter(|(member, ahead)| **member != me && !is_far(**ahead));
    let best = others.min_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    is_far(own).then_some(*best.0)
}

/// Who would give leadership up at once if it led, and by how many milliseconds its clock is ahead.
pub(crate) fn would_make_way(deviations: &BTreeMap<MemberId, i64>) -> BTreeMap<MemberId, i64> {
    let all = deviations.iter().map(|(member, ahead_ms)| (*member, *ahead_ms));
    all.filter(|(member, _)| better_leader(*member, deviations).is_some()).collect()
}

/// Why a leader may not decide about time, if so.
pub(crate) fn doubt(
    voters: usize,
    ahead_ms: Option<i64>,
    compared_ago: Option<Duration>,
) -> Option<String> {
    // Its own clock is the only one.
    if voters <= 1 {
        return None;
    }
    let (Some(ahead_ms), Some(ago)) = (ahead_ms, compared_ago) else {
        return Some("the clocks of a quorum have not been compared yet".to_owned());
    };
    if ago > FRESH {
        let text = "the clocks of a quorum were compared";
        return Some(format!(
            "{text} {} s ago; bring back the members that do not answer",
            ago.as_secs()
        ));
    }
    too_far(ahead_ms).then(|| format!("{}; set it right", offset_text(ahead_ms)))
}

/// What time a leader stamps: its own, unless that is known to be too far from the median of a quorum's
/// clocks; then the median.
pub(crate) fn stamp(now: Timestamp, ahead_ms: Option<i64>) -> Timestamp {
    match ahead_ms.filter(|ahead_ms| too_far(*ahead_ms)) {
        Some(ahead_ms) => Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ahead_ms)),
        None => now,
    }
}

fn too_far(ahead_ms: i64) -> bool {
    Duration::from_millis(ahead_ms.unsigned_abs()) > LEADER_OFFSET_MAX
}

/// `12.3 s ahead of the median of a quorum's`.
#[expect(
    clippy::cast_precision_loss,
    reason = "a text; offsets beyond 2^53 ms are as wrong as any"
)]
pub(crate) fn offset(ahead_ms: i64) -> String {
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
    format!("{seconds:.1} s {way} the median of a quorum's")
}

/// `this member's clock is 12.3 s ahead of the median of a quorum's`.
pub(crate) fn offset_text(ahead_ms: i64) -> String {
    format!("this member's clock is {}", offset(ahead_ms))
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::time::FixedClock;

    use super::*;
    use crate::observe::Observation;

    const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);

    /// Members and by how many seconds they are ahead.
    type Clocks<'a> = &'a [(u64, f64)];

    fn ms(seconds: f64) -> i64 {
        (seconds * 1000.0) as i64
    }

    /// Deviations in seconds; member 1 is this one, at 0.
    fn run(voters: &[u64], heard: &[(u64, f64)]) -> Vec<(u64, i64)> {
        let clock = FixedClock::new(NOW);
        clock.advance(Duration::from_secs(60));
        let heard = heard.iter().map(|(id, ahead)| {
            let then = Timestamp::from_unix_ms(clock.now().unix_ms() + ms(*ahead));
            let said = Observation { clock: then, ..Observation::default() };
            (MemberId(*id), Observed { said, heard_at: clock.boot_time(), ..Observed::default() })
        });
        let heard = heard.collect();
        let voters = voters.iter().copied().map(MemberId).collect();
        let found = deviations(MemberId(1), &clock, &voters, &heard);
        found.into_iter().map(|(member, ahead)| (member.0, ahead)).collect()
    }

    #[test]
    fn a_clock_is_compared_with_the_median_of_a_quorum_of_voters() {
        let table: [(&str, &[u64], Clocks<'_>, Clocks<'_>); 9] = [
            ("alone", &[1], &[], &[(1, 0.0)]),
            ("no quorum", &[1, 2, 3], &[], &[]),
            ("a quorum of two", &[1, 2, 3], &[(2, 4.0)], &[(1, -2.0), (2, 2.0)]),
            (
                "the one in the middle is right",
                &[1, 2, 3],
                &[(2, 4.0), (3, -7.0)],
                &[(1, 0.0), (2, 4.0), (3, -7.0)],
            ),
            (
                "this one is far behind",
                &[1, 2, 3],
                &[(2, 30.0), (3, 30.5)],
                &[(1, -30.0), (2, 0.0), (3, 0.5)],
            ),
            ("a learner does not count", &[1, 2, 3], &[(4, 9.0)], &[]),
            (
                "this one is a learner",
                &[2, 3, 4],
                &[(2, 1.0), (3, 1.0)],
                &[(1, -1.0), (2, 0.0), (3, 0.0)],
            ),
            ("a learner alone", &[2, 3, 4], &[(2, 1.0)], &[]),
            (
                "one of five lies",
                &[1, 2, 3, 4, 5],
                &[(2, 0.1), (3, -0.1), (4, 9000.0)],
                &[(1, -0.05), (2, 0.05), (3, -0.15), (4, 8999.95)],
            ),
        ];
        for (case, voters, heard, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(id, ahead)| (*id, ms(*ahead))).collect();
            assert_eq!(run(voters, heard), expected, "{case}");
        }
    }

    #[test]
    fn a_clock_that_is_set_is_seen_at_once_and_one_that_goes_on_is_not() {
        let clock = FixedClock::new(NOW);
        let compared = ClusterClock::default();
        assert_eq!(compared.ahead_ms(&clock), None);
        compared.note_ahead_ms(500, &clock);
        assert_eq!(compared.ahead_ms(&clock), Some(500));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(compared.ahead_ms(&clock), Some(500), "wall and boot time went on together");
        assert_eq!(compared.age(&clock), Some(Duration::from_secs(3600)));
        let set = Set { clock, by_ms: -9_500 };
        assert_eq!(compared.ahead_ms(&set), Some(-9_000));
    }

    /// A clock whose wall time was set.
    #[derive(Debug)]
    struct Set {
        clock: FixedClock,
        by_ms: i64,
    }

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_ms(self.clock.now().unix_ms() + self.by_ms)
        }

        fn boot_time(&self) -> Duration {
            self.clock.boot_time()
        }
    }

    #[test]
    fn a_leader_that_is_too_far_makes_way_for_the_one_closest_to_the_median() {
        let table: [(&str, Clocks<'_>, Option<u64>); 6] = [
            ("not compared", &[], None),
            ("near enough", &[(1, 10.0), (2, 0.0), (3, -1.0)], None),
            ("too far ahead", &[(1, 10.001), (2, 0.5), (3, 0.0)], Some(3)),
            ("too far behind", &[(1, -3600.0), (2, 0.0), (3, 0.5)], Some(2)),
            ("so is everyone else", &[(1, -15.0), (2, 15.0)], None),
            ("another is too far", &[(1, 0.0), (2, 0.1), (3, 99.0)], None),
        ];
        for (case, clocks, expected) in table {
            let clocks = clocks.iter().map(|(id, ahead)| (MemberId(*id), ms(*ahead))).collect();
            assert_eq!(better_leader(MemberId(1), &clocks), expected.map(MemberId), "{case}");
        }
    }

    #[test]
    fn who_is_too_far_would_make_way_if_someone_is_not() {
        let table: [(&str, Clocks<'_>, &[u64]); 4] = [
            ("not compared", &[], &[]),
            ("all are right", &[(1, 0.0), (2, 10.0), (3, -10.0)], &[]),
            ("two are not", &[(1, 0.0), (2, 30.0), (3, -10.1)], &[2, 3]),
            ("nobody is right", &[(1, -15.0), (2, 15.0)], &[]),
        ];
        for (case, clocks, expected) in table {
            let clocks = clocks.iter().map(|(id, ahead)| (MemberId(*id), ms(*ahead))).collect();
            let found: Vec<u64> = would_make_way(&clocks).into_keys().map(|id| id.0).collect();
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_leader_decides_about_time_only_in_fresh_agreement_with_a_quorum() {
        let s = Duration::from_secs;
        let table = [
            ("alone", 1, None, None, None),
            ("never compared", 3, None, None, Some("not been compared yet")),
            ("agrees", 3, Some(10_000), Some(s(10)), None),
            ("agrees, behind", 3, Some(-10_000), Some(s(0)), None),
            ("long ago", 3, Some(0), Some(s(11)), Some("were compared 11 s ago; bring back")),
            ("ahead", 3, Some(10_001), Some(s(1)), Some("is 10.0 s ahead of the median")),
            ("behind", 2, Some(-99_000), Some(s(1)), Some("is 99.0 s behind the median")),
        ];
        for (case, voters, ahead, ago, expected) in table {
            let found = doubt(voters, ahead, ago);
            match (found, expected) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{case}: {text}"),
                other => panic!("{case}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_leader_that_knows_its_clock_to_be_wrong_stamps_the_median() {
        for (ahead_ms, expected_ms) in
            [(None, 0), (Some(10_000), 0), (Some(10_001), -10_001), (Some(-60_000), 60_000)]
        {
            let expected = Timestamp::from_unix_ms(NOW.unix_ms() + expected_ms);
            assert_eq!(stamp(NOW, ahead_ms), expected, "{ahead_ms:?}");
        }
    }
}

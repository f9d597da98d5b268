//! What members said of themselves, for the screen of `cluster status`, and the warnings about it.
//!
//! Owns which differences between members are worth a warning, and the fixes. What is older than a
//! few rounds of questions is shown with its age and warned of no more: who does not answer is warned
//! of elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::{DiskHealth, MemberId, MemberStatus, MemberView, Observed};

use crate::check::FREE_WARN;

/// Clocks that differ by more are worth a warning (`cluster.md` 9).
const CLOCK_OFFSET_WARN_MS: u64 = 1_000;

/// What was heard longer ago says nothing about now: five rounds of questions.
const FRESH: Duration = Duration::from_secs(10);

/// Adds what a member said of itself. `now` is boot time.
pub(super) fn fill(member: &mut rpc::Member, view: &MemberView, now: Duration) {
    let Some(observed) = &view.observed else { return };
    let said = &observed.said;
    member.observed_age_s = Some(now.saturating_sub(observed.heard_at).as_secs_f64());
    member.clock_offset_s = Some(seconds(observed.clock_offset_ms));
    member.settings_hash.clone_from(&said.settings_hash);
    member.key_ids.clone_from(&said.key_ids);
    member.feature_level_max = said.feature_level_max;
    member.disk = Some(disk(said.disk));
}

fn disk(health: DiskHealth) -> rpc::DiskHealth {
    rpc::DiskHealth {
        last_sync_s: health.last_sync.map(|took| took.as_secs_f64()),
        slowest_sync_s: health.slowest_sync.as_secs_f64(),
        waiting_s: health.waiting.as_secs_f64(),
        free_bytes: health.free_bytes,
    }
}

#[expect(clippy::cast_precision_loss, reason = "offsets beyond 2^53 ms are as wrong as any")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// What an operator should see to. `now` is boot time.
pub(super) fn warnings(status: &MemberStatus, now: Duration) -> Vec<rpc::Warning> {
    let mut warnings = about_this(status);
    let this = status.members.iter().find(|view| view.id == status.member_id);
    let Some(own) = this.and_then(|view| view.observed.as_ref()) else { return warnings };
    let fresh = |observed: &&Observed| now.saturating_sub(observed.heard_at) <= FRESH;
    let others = status.members.iter().filter(|view| view.id != status.member_id);
    let heard: Vec<(&MemberView, &Observed)> =
        others.filter_map(|view| Some((view, view.observed.as_ref().filter(fresh)?))).collect();
    warnings.extend(disk_room(status.member_id, own));
    let own_ahead_ms = own_clock_off(status, &heard);
    warnings.extend(own_ahead_ms.and_then(own_clock));
    for (view, observed) in heard {
        warnings.extend(disk_room(view.id, observed));
        warnings.extend(clock(view.id, observed.clock_offset_ms, own_ahead_ms));
        warnings.extend(differences(view, observed, own));
    }
    warnings
}

/// By how many milliseconds this member's own clock is ahead of the median, if it is off and
/// another member is with the median: of two that differ neither is in the right.
fn own_clock_off(status: &MemberStatus, heard: &[(&MemberView, &Observed)]) -> Option<i64> {
    let is_fresh = status.clock_compared_ago.is_some_and(|ago| ago <= FRESH);
    let ahead_ms = status.clock_ahead_ms.filter(|ahead_ms| is_fresh && is_off(*ahead_ms))?;
    let mut offsets = heard.iter().map(|(_, observed)| observed.clock_offset_ms);
    let agrees = offsets.any(|offset_ms| !is_off(offset_ms.saturating_add(ahead_ms)));
    agrees.then_some(ahead_ms)
}

fn own_clock(ahead_ms: i64) -> Option<rpc::Warning> {
    let text = clock_text(ahead_ms)?;
    Some(rpc::Warning {
        code: "clock_offset".into(),
        message: format!("this member's own clock is {text} the median of the members' clocks"),
        fix: "set the clock of this machine right: let it follow the time source of the others \
              (NTP, chrony); \"timedatectl\" shows it"
            .into(),
    })
}

/// Another member's clock, by this member's; by the median where it is this member's that is off.
fn clock(id: MemberId, offset_ms: i64, own_ahead_ms: Option<i64>) -> Option<rpc::Warning> {
    let text = clock_text(offset_ms.saturating_add(own_ahead_ms.unwrap_or(0)))?;
    let (than, fix) = match own_ahead_ms {
        None => (
            "this member's",
            "let both machines follow the same time source (NTP, chrony); \"timedatectl\" shows it",
        ),
        Some(_) => (
            "the median of the members' clocks",
            "let that machine follow the same time source (NTP, chrony); \"timedatectl\" shows it",
        ),
    };
    Some(rpc::Warning {
        code: "clock_offset".into(),
        message: format!("the clock of member {id} is {text} {than}"),
        fix: fix.into(),
    })
}

/// A member whose disk fills up ends; the others go on without it.
fn disk_room(id: MemberId, observed: &Observed) -> Option<rpc::Warning> {
    let free = observed.said.disk.free_bytes.filter(|free| *free < FREE_WARN)?;
    Some(rpc::Warning {
        code: "disk_low".into(),
        message: format!("the disk of member {id} has {} MiB free", free >> 20),
        fix: "free some space there, or give it a larger disk (docs/runbooks/disk-full.md)".into(),
    })
}

fn about_this(status: &MemberStatus) -> Vec<rpc::Warning> {
    let mut warnings = Vec::new();
    if let Some(mismatch) = &status.mismatch {
        let fix = "a member against a majority ends by itself and says what to do; if none does, take a \
                   snapshot and restore it";
        let message = mismatch.to_string();
        warnings.push(rpc::Warning { code: "state_hash".into(), message, fix: fix.into() });
    }
    let leads = status.leader == Some(status.member_id);
    if let Some(doubt) = status.clock_doubt.as_ref().filter(|_| leads) {
        let message = format!("the leader does not prune or rotate: {doubt}");
        let fix = "let all machines follow the same time source (NTP, chrony)";
        warnings.push(rpc::Warning { code: "clock_doubt".into(), message, fix: fix.into() });
    }
    warnings
}

fn differences(view: &MemberView, observed: &Observed, own: &Observed) -> Vec<rpc::Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: &str, message: String, fix: &str| {
        warnings.push(rpc::Warning { code: code.into(), message, fix: fix.into() });
    };
    let id = view.id;
    let (theirs, ours) = (&observed.said.settings_hash, &own.said.settings_hash);
    if !theirs.is_empty() && !ours.is_empty() && theirs != ours {
        warn(
            "settings_differ",
            format!("the settings of member {id} ({theirs}) are not those of this member ({ours})"),
            "make server.conf the same but for addresses and folders, then restart the one that differs",
        );
    }
    let keys = |said: &[String]| said.iter().cloned().collect::<BTreeSet<_>>();
    let (theirs, ours) = (keys(&observed.said.key_ids), keys(&own.said.key_ids));
    if theirs != ours {
        let list = |ids: &BTreeSet<String>| ids.iter().cloned().collect::<Vec<_>>().join(", ");
        warn(
            "keys_differ",
            format!(
                "member {id} holds the cluster keys {}, this one {}",
                list(&theirs),
                list(&ours)
            ),
            "give every member the same cluster key file and send SIGHUP to the one that differs",
        );
    }
    warnings
}

/// `12.3 s ahead of`, if that is worth a word.
fn clock_text(offset_ms: i64) -> Option<String> {
    if !is_off(offset_ms) {
        return None;
    }
    let way = if offset_ms > 0 { "ahead of" } else { "behind" };
    Some(format!("{:.1} s {way}", seconds(offset_ms).abs()))
}

fn is_off(offset_ms: i64) -> bool {
    offset_ms.unsigned_abs() > CLOCK_OFFSET_WARN_MS
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::{member_status, voter};
    use steeple_raft_store::{Mismatch, Observation};

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn observed(offset_ms: i64, settings: &str, keys: &[&str]) -> Observed {
        let said = Observation {
            settings_hash: settings.to_owned(),
            key_ids: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..Observation::default()
        };
        Observed { said, heard_at: NOW, round_trip: Duration::ZERO, clock_offset_ms: offset_ms }
    }

    fn view(id: u64, observed: Option<Observed>) -> MemberView {
        MemberView { observed, ..voter(id) }
    }

    fn status(other: Option<Observed>) -> MemberStatus {
        member_status(vec![view(1, Some(observed(0, "aa", &["k1", "k2"]))), view(2, other)])
    }

    #[test]
    fn differences_between_members_are_warned_of_with_the_fix() {
        let old = Observed { heard_at: Duration::from_secs(89), ..observed(9_000, "bb", &[]) };
        let table: [(&str, Option<Observed>, &[&str]); 9] = [
            ("never heard", None, &[]),
            ("the same", Some(observed(1_000, "aa", &["k1", "k2"])), &[]),
            ("another order of keys", Some(observed(-1_000, "aa", &["k2", "k1"])), &[]),
            ("ahead", Some(observed(1_001, "aa", &["k1", "k2"])), &["clock_offset"]),
            ("behind", Some(observed(-1_001, "aa", &["k1", "k2"])), &["clock_offset"]),
            ("other settings", Some(observed(0, "bb", &["k1", "k2"])), &["settings_differ"]),
            ("settings not said", Some(observed(0, "", &["k1", "k2"])), &[]),
            ("fewer keys", Some(observed(0, "aa", &["k1"])), &["keys_differ"]),
            ("long ago", Some(old), &[]),
        ];
        for (case, other, expected) in table {
            let found = warnings(&status(other), NOW);
            let codes: Vec<&str> = found.iter().map(|warning| warning.code.as_str()).collect();
            assert_eq!(codes, expected, "{case}");
            assert!(found.iter().all(|warning| !warning.fix.is_empty()), "{case}");
        }
        let mut full = observed(0, "aa", &["k1", "k2"]);
        full.said.disk.free_bytes = Some(FREE_WARN - 1);
        let found = warnings(&status(Some(full.clone())), NOW);
        assert_eq!(found[0].code, "disk_low");
        assert!(found[0].message.contains("member 0000000000000002 has 1023 MiB"), "{found:?}");
        full.said.disk.free_bytes = Some(FREE_WARN);
        assert!(warnings(&status(Some(full)), NOW).is_empty());
        let doubtful = MemberStatus {
            leader: Some(MemberId(1)),
            clock_doubt: Some("why".to_owned()),
            mismatch: Some(Mismatch {
                index: 256,
                groups: vec![vec![MemberId(1)], vec![MemberId(2)]],
                against_this_member: false,
            }),
            ..status(None)
        };
        let codes = |status| {
            let found = warnings(&status, NOW).into_iter();
            found.map(|warning| warning.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(doubtful.clone()), ["state_hash", "clock_doubt"]);
        assert_eq!(codes(MemberStatus { leader: None, ..doubtful }), ["state_hash"]);
        let found = warnings(&status(Some(observed(-12_345, "aa", &["k1", "k2"]))), NOW);
        assert!(found[0].message.contains("is 12.3 s behind this member's"), "{found:?}");
    }

    #[test]
    fn a_member_whose_own_clock_is_off_does_not_blame_the_others() {
        let (two, three) = ("member 0000000000000002 is", "member 0000000000000003 is");
        let own = "this member's own clock is 12.0 s ahead of the median";
        /// How far this member is ahead of the median, when that was found, the others' distances
        /// from this member, and who is named.
        type Case<'a> = (&'a str, i64, u64, [i64; 2], &'a [&'a str]);
        let table: [Case<'_>; 6] = [
            ("this one is off", 12_000, 0, [-12_000, -11_500], &[own]),
            ("and another", 12_000, 0, [-12_000, -20_000], &[own, three]),
            ("another alone", 0, 0, [-12_000, 300], &[two]),
            ("by a little", 1_000, 0, [-1_000, -700], &[]),
            ("nobody is with the median", 6_000, 0, [-12_000, -12_000], &[two, three]),
            ("not compared lately", 12_000, 11, [-12_000, -12_000], &[two, three]),
        ];
        for (case, ahead_ms, ago, offsets, expected) in table {
            let [second, third] = offsets.map(|offset_ms| Some(observed(offset_ms, "aa", &["k1"])));
            let members =
                vec![view(1, Some(observed(0, "aa", &["k1"]))), view(2, second), view(3, third)];
            let status = MemberStatus {
                clock_ahead_ms: Some(ahead_ms),
                clock_compared_ago: Some(Duration::from_secs(ago)),
                ..member_status(members)
            };
            let found = warnings(&status, NOW);
            assert_eq!(found.len(), expected.len(), "{case}: {found:?}");
            for (warning, part) in found.iter().zip(expected) {
                assert_eq!(warning.code, "clock_offset", "{case}");
                assert!(warning.message.contains(*part), "{case}: {warning:?}");
            }
        }
    }
}

//! From what was measured to verdicts. Pure.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::{
    Contact, DiskHealth, ForeignPeer, LevelStatus, MemberState, MemberStatus, MemberView, Observed,
};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityStatus, Timestamp};

use super::Verdict;
use super::measure::Folder;
use crate::authority::AuthorityPolicy;
use crate::key_uses::{KeyFacts, KeyUse, WaitReason, Waiting};
use crate::keys::Tested;
use crate::snapshots::Backups;

const MIB: u64 = 1024 * 1024;

/// Snapshots and log of a large registry fit into this.
pub(crate) const FREE_WARN: u64 = 1024 * MIB;

/// Less, and RocksDB may not get through its next compaction.
const FREE_FAIL: u64 = 128 * MIB;

/// A sync is in the path of every write: above this the disk limits the cluster.
const SYNC_WARN: Duration = Duration::from_millis(50);

/// A leader whose disk takes longer gives leadership up.
const SYNC_FAIL: Duration = Duration::from_secs(2);

/// Warned of above the first, acted on above the second (`cluster.md` 9).
const CLOCK_WARN_MS: u64 = 1_000;
const CLOCK_FAIL_MS: u64 = 10_000;

/// What was heard longer ago says nothing about now.
const FRESH: Duration = Duration::from_secs(10);

/// What to do about a comparison that lacks the others' answers.
const ASK_AGAIN: &str = "ask again when the other members answer";

/// A snapshot may fail and be made up for at the next interval; within a day, if intervals are longer.
const SNAPSHOT_MISSED_MAX: Duration = Duration::from_secs(24 * 3600);

/// Saving a large one, and a change of leaders, take a while.
const SNAPSHOT_GRACE: Duration = Duration::from_secs(3600);

/// Files that are named in one line; the log names all.
const FILES_NAMED: usize = 3;

const DISK_DOC: &str = "docs/runbooks/disk-full.md";
const CLOCK_DOC: &str = "docs/runbooks/clock-wrong.md";
const QUORUM_DOC: &str = "docs/runbooks/lost-quorum.md";
const JOIN_DOC: &str = "docs/runbooks/stuck-join.md";
const EPOCH_DOC: &str = "docs/runbooks/restore.md";
const LOST_DOC: &str = "docs/runbooks/lost-member.md";
const KEY_DOC: &str = "docs/reference/cluster.md#2-the-cluster-key";
const CONFIG_DOC: &str = "docs/reference/cluster.md#1-configuration";
const LEVEL_DOC: &str = "docs/reference/cluster.md#12-feature-levels";

pub(super) fn data_folder(folder: &Folder) -> Verdict {
    let path = folder.path.display();
    let line = |text: String| Verdict::ok("data_folder", DISK_DOC, text);
    match &folder.free {
        Err(error) => line(String::new())
            .fail(format!("{path}: {error}"), "mount it, or make it readable for this user"),
        Ok(free) => {
            let text = format!("{path} has {} MiB free", free / MIB);
            let hint = "free some space, or give it a larger disk";
            match *free {
                free if free < FREE_FAIL => line(String::new()).fail(text, hint),
                free if free < FREE_WARN => line(String::new()).warn(text, hint),
                _ => line(text),
            }
        }
    }
}

pub(super) fn disk_sync(probed: &io::Result<Duration>, log: DiskHealth) -> Verdict {
    let line = |text: String| Verdict::ok("disk_sync", DISK_DOC, text);
    let probed = match probed {
        Ok(probed) => *probed,
        Err(error) => {
            let hint = "make data_dir writable, or replace the disk";
            return line(String::new())
                .fail(format!("a small file cannot be synced: {error}"), hint);
        }
    };
    let log = log.slowest_sync.max(log.waiting);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let text = format!(
        "a small file takes {:.1} ms; the log took at most {:.1} ms within the last minute",
        ms(probed),
        ms(log)
    );
    let hint = "use a faster disk, or one that is not shared; raise cluster.heartbeat_interval";
    match probed.max(log) {
        slow if slow > SYNC_FAIL => line(String::new()).fail(text, hint),
        slow if slow > SYNC_WARN => line(String::new()).warn(text, hint),
        _ => line(text),
    }
}

pub(super) fn quorum(state: &MemberState, contact: &Contact) -> Verdict {
    let line = |doc| Verdict::ok("quorum", doc, "this member is in contact with its cluster");
    match (state, contact) {
        (MemberState::Member, Contact::InContact) => line(QUORUM_DOC),
        (MemberState::Member, Contact::Lost { text, .. }) => line(QUORUM_DOC)
            .fail(text.clone(), "bring back enough voters, or the network between them"),
        (MemberState::Forming { text }, _) => line(JOIN_DOC).fail(
            format!("no cluster yet: {text}"),
            "start the missing founders, or correct cluster.peers",
        ),
        (MemberState::Joining { text }, _) => line(JOIN_DOC).fail(
            format!("not taken in yet: {text}"),
            "check that cluster.peers names a member of the cluster and the keys agree",
        ),
    }
}

/// What else goes by this cluster's name: another epoch of it, or another cluster at a configured peer.
pub(super) fn epochs(
    epoch: u32,
    newer: Option<u32>,
    twin: bool,
    foreign: &[ForeignPeer],
) -> Verdict {
    let line = |text: String| Verdict::ok("epochs", EPOCH_DOC, text);
    let stop =
        "stop one of the two, move DATA_DIR/raft of its members away and let them join the other";
    if let Some(newer) = newer {
        let text = format!("this member is of epoch {epoch}, epoch {newer} has begun elsewhere");
        return line(String::new()).fail(text, stop);
    }
    if twin {
        let text = format!("epoch {epoch} was begun twice, by two restores or recoveries");
        return line(String::new()).fail(text, stop);
    }
    if !foreign.is_empty() {
        let each =
            foreign.iter().map(|peer| format!("{} (cluster {})", peer.address, peer.cluster));
        let text = format!("peers of other clusters: {}", each.collect::<Vec<_>>().join(", "));
        let hint = "stop it, move its DATA_DIR/raft away and start it to join, or drop it from \
                    cluster.peers";
        return line(String::new()).warn(text, hint);
    }
    match epoch {
        0 => line("not known yet".to_owned()),
        epoch => line(format!("nobody met is of another epoch than {epoch}")),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a text; offsets beyond 2^53 ms are as wrong as any"
)]
pub(super) fn clock(status: &MemberStatus) -> Verdict {
    let line = |text: String| Verdict::ok("clock", CLOCK_DOC, text);
    let hint = "let this machine follow a time source (NTP, chrony)";
    if status.members.len() < 2 {
        return line("there is no other clock to compare with".to_owned());
    }
    let again = "ask again when a majority of the voters answers";
    let Some((ahead_ms, ago)) = status.clock_ahead_ms.zip(status.clock_compared_ago) else {
        return line(String::new()).warn("it was not compared with a quorum's yet", again);
    };
    let mut text = format!("{:+.3} s from the median of a quorum's", ahead_ms as f64 / 1000.0);
    let is_old = ago > FRESH;
    if is_old {
        text = format!("{text}, compared {} s ago and not since", ago.as_secs());
    }
    match ahead_ms.unsigned_abs() {
        off if off > CLOCK_FAIL_MS => line(String::new()).fail(text, hint),
        off if off > CLOCK_WARN_MS => line(String::new()).warn(text, hint),
        _ if is_old => line(String::new()).warn(text, again),
        _ => line(text),
    }
}

pub(super) fn names(bad: &[(String, String)]) -> Verdict {
    let line = Verdict::ok("names", CONFIG_DOC, "the addresses of all members and peers resolve");
    if bad.is_empty() {
        return line;
    }
    let list = bad.iter().map(|(address, reason)| format!("{address} ({reason})"));
    let text = format!("not resolved: {}", list.collect::<Vec<_>>().join(", "));
    line.fail(text, "correct cluster.peers or the name service")
}

pub(super) fn peers(status: &MemberStatus, contact: &Contact) -> Verdict {
    let others = others(status);
    // Without a quorum nobody can be removed.
    let (doc, hint) = match contact {
        Contact::InContact => (
            LOST_DOC,
            "start it, mend the network, or remove it with \"spire-server cluster remove\"",
        ),
        Contact::Lost { .. } => (
            QUORUM_DOC,
            "start it, or mend the network; only if most voters are lost for good: \
             \"spire-server cluster recover\"",
        ),
    };
    let line = |text: String| Verdict::ok("peers", doc, text);
    let silent = others.iter().filter(|member| member.reachable == Some(false));
    let silent: Vec<_> =
        silent.map(|member| format!("{} at {}", member.id, member.address)).collect();
    if silent.is_empty() {
        return match others.len() {
            0 => line("there are no other members".to_owned()),
            1 => line("the other member answers".to_owned()),
            others => line(format!("all {others} other members answer")),
        };
    }
    line(String::new()).fail(format!("no answer from {}", silent.join(", ")), hint)
}

pub(super) fn versions(status: &MemberStatus, levels: &LevelStatus, now: Duration) -> Verdict {
    let line = |text: String| Verdict::ok("versions", LEVEL_DOC, text);
    let found: BTreeSet<&str> =
        status.members.iter().filter_map(|member| member.version.as_deref()).collect();
    let list = found.iter().copied().collect::<Vec<_>>().join(", ");
    let level = levels.level;
    if found.len() > 1 {
        let text = format!("feature level {level}; members run {list}");
        return line(String::new())
            .warn(text, "finish the upgrade: start the same version everywhere");
    }
    if let Some(ready) = levels.ready {
        return line(String::new()).warn(
            format!("feature level {level}, all members ({list}) support {ready}"),
            "run \"spire-server cluster upgrade finalize\" when the old version is not needed any more",
        );
    }
    match (heard(status, now).len(), others(status).len()) {
        (heard, others) if heard == others => {
            line(format!("feature level {level}, all members run {list}"))
        }
        (0, _) => line(String::new()).warn(
            format!("feature level {level}; no other member has said lately what it runs"),
            ASK_AGAIN,
        ),
        (heard, others) => {
            let (heard, all) = (heard + 1, others + 1);
            line(format!("feature level {level}, {heard} of {all} members run {list}"))
        }
    }
}

pub(super) fn cluster_keys(keys: &[KeyFacts]) -> Verdict {
    let line = |text: String| Verdict::ok("cluster_keys", KEY_DOC, text);
    if keys.is_empty() {
        return line("not known yet".to_owned());
    }
    let text = keys.iter().map(key_text).collect::<Vec<_>>().join("; ");
    let lacking = |key: &&KeyFacts| !key.lacking_at.is_empty();
    if keys.iter().filter(lacking).any(KeyFacts::is_needed) {
        let hint = "put the line of that key into the key file of the member and send it SIGHUP";
        return line(String::new()).fail(text, hint);
    }
    if keys.iter().filter(lacking).any(|key| key.use_ != KeyUse::Unused) {
        let hint =
            "give every member the same cluster key file and send SIGHUP to those that differ";
        return line(String::new()).warn(text, hint);
    }
    // This member alone, though there are others.
    let compared = |key: &KeyFacts| key.held_by.len() + key.lacking_at.len();
    if keys.iter().any(|key| compared(key) < 2 && key.missing_at.len() > key.lacking_at.len()) {
        let text = format!("{text}; no other member has said lately which keys it holds");
        return line(String::new()).warn(text, ASK_AGAIN);
    }
    line(text)
}

/// `0011… seals 3 authorities, held by all`.
fn key_text(key: &KeyFacts) -> String {
    let use_ = match key.use_ {
        KeyUse::Seals => format!("seals, {} authorities are under it", key.authorities),
        KeyUse::New => "nothing depends on it yet".to_owned(),
        KeyUse::Leaving => format!("still needed: {}", still_needed(key)),
        KeyUse::Unused => "nothing depends on it: its line may be dropped".to_owned(),
    };
    let lacking: Vec<String> = key.lacking_at.iter().map(ToString::to_string).collect();
    match lacking.is_empty() {
        true => format!("{} {use_}", key.id),
        false => format!("{} {use_}, not held by {}", key.id, lacking.join(", ")),
    }
}

/// What depends on a key on its way out, or may.
fn still_needed(key: &KeyFacts) -> String {
    let sealed = match key.authorities {
        0 => None,
        1 => Some("1 authority is under it".to_owned()),
        count => Some(format!("{count} authorities are under it")),
    };
    let members = key.waits_for.iter().map(|Waiting { member, address, reason }| match reason {
        WaitReason::Presents => format!("{member} ({address}) presents a certificate of it"),
        WaitReason::Silent => {
            format!("{member} ({address}) does not answer; its certificate is not known")
        }
        WaitReason::LacksKey => format!("{member} ({address}) does not hold the key that seals"),
    });
    sealed.into_iter().chain(members).collect::<Vec<_>>().join("; ")
}

pub(super) fn authorities(tested: &[Tested]) -> Verdict {
    let line = |text: String| Verdict::ok("authorities", KEY_DOC, text);
    let bad = tested.iter().filter_map(|one| Some((one, one.error.as_ref()?)));
    let bad: Vec<_> = bad.map(|(one, error)| format!("{}: {error}", one.authority)).collect();
    if tested.is_empty() {
        let hint = "wait until the leader has made them; its log says what keeps it";
        return line(String::new()).fail("there is no authority that could sign", hint);
    }
    if bad.is_empty() {
        return line(format!("{} authorities passed a test signature", tested.len()));
    }
    line(String::new())
        .fail(bad.join("; "), "give this member the cluster key that the others hold")
}

pub(super) fn settings(status: &MemberStatus, now: Duration) -> Verdict {
    let line = |text: String| Verdict::ok("settings", CONFIG_DOC, text);
    let hash = |seen: &Observed| seen.said.settings_hash.clone();
    let Some(own) = own(status).map(hash) else { return line("not known yet".to_owned()) };
    let heard = heard(status, now);
    let differ = heard.iter().filter(|(_, seen)| hash(seen) != own);
    let differ: Vec<_> =
        differ.map(|(member, seen)| format!("{} ({})", member.id, hash(seen))).collect();
    if differ.is_empty() {
        return match (heard.len(), others(status).len()) {
            (heard, others) if heard == others => {
                line(format!("this member and {others} others have {own}"))
            }
            (0, _) => line(String::new()).warn(
                format!("this member has {own}; no other member has said lately what it has"),
                ASK_AGAIN,
            ),
            (heard, others) => {
                line(format!("this member and {heard} of {others} others have {own}"))
            }
        };
    }
    line(String::new()).warn(
        format!("this member has {own}, others differ: {}", differ.join(", ")),
        "make server.conf the same but for addresses and folders, then restart the ones that differ",
    )
}

/// `kinds`: those that the settings want to rotate.
pub(super) fn certificates(
    journal: &Journal,
    kinds: &[AuthorityKind],
    shortest_svid_ttl: Option<Duration>,
    now: Timestamp,
) -> Verdict {
    let line = |text: String| Verdict::ok("certificates", "docs/reference/cluster.md#9-time", text);
    let active = |kind: AuthorityKind| {
        move |one: &&Authority| one.kind == kind && one.status == AuthorityStatus::Active
    };
    let mut texts = Vec::new();
    let mut late = false;
    for (kind, name) in
        [(AuthorityKind::X509, "x509"), (AuthorityKind::Jwt, "jwt"), (AuthorityKind::Wit, "wit")]
    {
        let Some(authority) = journal.authorities.iter().find(active(kind)) else { continue };
        let left = authority.not_after.since(now);
        if !kinds.contains(&kind) {
            // What the settings want no more ends, and nothing follows it.
            texts.push(match left.as_secs() / 60 {
                0 => format!("the {name} authority, which is switched off, has ended"),
                left => format!("the {name} authority, which is switched off, ends in {left} min"),
            });
            continue;
        }
        if left.is_zero() {
            let hint = "see the leader's log for what keeps rotation; clocks and quorum come first";
            return line(String::new())
                .fail(format!("the active {name} authority has ended"), hint);
        }
        let lifetime = authority.not_after.since(authority.issued_at);
        late |= left < lifetime / 12;
        texts.push(format!("the active {name} authority ends in {} min", left.as_secs() / 60));
        if let Some(shortest) = shortest_svid_ttl.filter(|_| kind == AuthorityKind::X509) {
            let margin = AuthorityPolicy::outage_margin(shortest, authority, now);
            texts.push(format!(
                "workloads go on without servers for {} min at least",
                margin.as_secs() / 60
            ));
        }
    }
    let text = texts.join(", ");
    if late {
        return line(String::new())
            .warn(text, "rotation is late: see the leader's log for what keeps it");
    }
    line(text)
}

pub(super) fn state(status: &MemberStatus, now: Duration) -> Verdict {
    let line =
        Verdict::ok("state", LOST_DOC, "members that applied the same are in the same state");
    match &status.mismatch {
        None if heard(status, now).is_empty() && !others(status).is_empty() => {
            line.warn("no other member has said lately in which state it is", ASK_AGAIN)
        }
        None => line,
        Some(mismatch) => line.fail(
            mismatch.to_string(),
            "move DATA_DIR/raft of the member in the minority away and start it again",
        ),
    }
}

/// `None`: there is no schedule. Only the leader makes any, in its own folder.
pub(super) fn snapshots(backups: Option<&Backups>, leads: bool) -> Verdict {
    let line = |text: String| {
        Verdict::ok("snapshots", "docs/reference/cluster.md#11-snapshots-restore-recover", text)
    };
    let Some(backups) = backups else { return line("no schedule is configured".to_owned()) };
    let (mut text, mut hint) = match backups.age {
        Some(age) if age <= late_after(backups.interval) => {
            (format!("the newest is {} min old", age.as_secs() / 60), "")
        }
        Some(age) => (
            format!("the newest is {} h old", age.as_secs() / 3600),
            "see the leader's log for what keeps the schedule; members that do not share a folder \
             have old ones: give them one",
        ),
        None if leads => {
            ("there is none yet".to_owned(), "wait for the schedule, or save one by hand")
        }
        None => ("none in this member's folder; the leader saves them".to_owned(), ""),
    };
    for doubtful in backups.doubtful.iter().take(FILES_NAMED) {
        text = format!("{text}; {doubtful}");
    }
    if let Some(more @ 1..) = backups.doubtful.len().checked_sub(FILES_NAMED) {
        text = format!("{text}; {more} more do not count");
    }
    if hint.is_empty() && !backups.doubtful.is_empty() {
        hint = "these files do not count as backups: copy them again or remove them; if one is from \
                the future, set the clock right that it was saved by";
    }
    match hint {
        "" => line(text),
        hint => line(String::new()).warn(text, hint),
    }
}

/// The age from which on the schedule does not do what it says.
fn late_after(interval: Duration) -> Duration {
    interval + interval.min(SNAPSHOT_MISSED_MAX) + SNAPSHOT_GRACE
}

fn others(status: &MemberStatus) -> Vec<&MemberView> {
    status.members.iter().filter(|member| member.id != status.member_id).collect()
}

fn own(status: &MemberStatus) -> Option<&Observed> {
    let own = status.members.iter().find(|member| member.id == status.member_id)?;
    own.observed.as_ref()
}

/// Others and what they said lately.
fn heard(status: &MemberStatus, now: Duration) -> Vec<(&MemberView, &Observed)> {
    let fresh = |seen: &&Observed| now.saturating_sub(seen.heard_at) <= FRESH;
    let all = others(status).into_iter();
    all.filter_map(|member| Some((member, member.observed.as_ref().filter(fresh)?))).collect()
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::{member_status, voter};
    use steeple_raft_store::{ClusterId, Observation};
    use steeple_spiffe_core::AuthorityId;
    use steeple_spiffe_core::authority::{Authority, SealedKey};

    use super::*;
    use crate::check::Outcome::{self, Fail, Ok, Warn};
    use crate::key_uses;
    use crate::key_uses::tests::{cluster, in_use};

    const NOW: Duration = Duration::from_secs(100);

    fn member(id: u64) -> MemberView {
        let said = Observation {
            settings_hash: "aa".to_owned(),
            key_ids: vec!["k1".to_owned()],
            ..Observation::default()
        };
        let observed = Some(Observed { said, heard_at: NOW, ..Observed::default() });
        MemberView { version: Some("1".to_owned()), observed, ..voter(id) }
    }

    fn status(edit: impl FnOnce(&mut MemberView)) -> MemberStatus {
        let mut other = member(2);
        edit(&mut other);
        of_members(vec![member(1), other])
    }

    fn of_members(members: Vec<MemberView>) -> MemberStatus {
        MemberStatus {
            clock_ahead_ms: Some(0),
            clock_compared_ago: Some(Duration::ZERO),
            ..member_status(members)
        }
    }

    fn said(edit: impl FnOnce(&mut Observation)) -> MemberStatus {
        status(|other| edit(&mut other.observed.as_mut().unwrap().said))
    }

    fn levels(ready: Option<u32>) -> LevelStatus {
        LevelStatus { level: 1, members: Vec::new(), ready, raised_in: None }
    }

    fn expect(case: &str, verdict: &Verdict, outcome: Outcome) {
        assert_eq!(verdict.outcome, outcome, "{case}: {verdict:?}");
        assert_eq!(verdict.hint.is_empty(), outcome == Ok, "{case}: {verdict:?}");
        assert!(!verdict.text.is_empty() && !verdict.doc.is_empty(), "{case}: {verdict:?}");
    }

    #[test]
    fn disks_are_judged_by_room_and_by_the_slowest_sync() {
        let ms = Duration::from_millis;
        for (free, outcome) in [
            (Result::Ok(FREE_WARN), Ok),
            (Result::Ok(FREE_WARN - 1), Warn),
            (Result::Ok(FREE_FAIL - 1), Fail),
            (Err(io::Error::other("gone")), Fail),
        ] {
            let text = format!("{free:?}");
            expect(&text, &data_folder(&Folder { path: "/d".into(), free }), outcome);
        }
        for (probed, log, outcome) in [
            (1, 2, Ok),
            (50, 50, Ok),
            (51, 1, Warn),
            (1, 51, Warn),
            (2_001, 1, Fail),
            (1, 2_001, Fail),
        ] {
            let log = DiskHealth { slowest_sync: ms(log), ..DiskHealth::default() };
            expect("sync", &disk_sync(&Result::Ok(ms(probed)), log), outcome);
        }
        expect("sync", &disk_sync(&Err(io::Error::other("gone")), DiskHealth::default()), Fail);
    }

    #[test]
    fn clocks_are_judged_by_their_distance_from_the_median() {
        for (ahead_ms, outcome) in [
            (Some(-1_000), Ok),
            (Some(1_001), Warn),
            (Some(-10_000), Warn),
            (Some(10_001), Fail),
            (None, Warn),
        ] {
            let status = MemberStatus { clock_ahead_ms: ahead_ms, ..status(|_| ()) };
            expect(&format!("{ahead_ms:?}"), &clock(&status), outcome);
        }
        for (ahead_ms, ago, outcome) in [
            (0, FRESH, Ok),
            (0, FRESH + Duration::from_secs(38), Warn),
            (1_001, FRESH * 2, Warn),
            (10_001, FRESH * 2, Fail),
        ] {
            let (clock_ahead_ms, clock_compared_ago) = (Some(ahead_ms), Some(ago));
            let status = MemberStatus { clock_ahead_ms, clock_compared_ago, ..status(|_| ()) };
            let verdict = clock(&status);
            expect(&format!("{ahead_ms} {ago:?} ago"), &verdict, outcome);
            let says =
                verdict.text.contains(&format!("compared {} s ago and not since", ago.as_secs()));
            assert_eq!(says, ago > FRESH, "{verdict:?}");
        }
        let mut alone = MemberStatus { clock_ahead_ms: None, ..status(|_| ()) };
        alone.members.truncate(1);
        expect("alone", &clock(&alone), Ok);
    }

    #[test]
    fn members_are_judged_by_whether_they_answer_and_what_they_say() {
        let table = [
            ("all well", status(|_| ()), [Ok, Ok, Ok, Ok]),
            ("silent", status(|other| other.reachable = Some(false)), [Fail, Ok, Ok, Ok]),
            (
                "another version",
                status(|other| other.version = Some("2".into())),
                [Ok, Warn, Ok, Ok],
            ),
            ("other keys", said(|said| said.key_ids.clear()), [Ok, Ok, Fail, Ok]),
            ("other settings", said(|said| said.settings_hash = "bb".into()), [Ok, Ok, Ok, Warn]),
            ("never heard", status(|other| other.observed = None), [Ok, Warn, Warn, Warn]),
        ];
        for (case, status, [reach, version, keys, same]) in table {
            expect(case, &peers(&status, &Contact::InContact), reach);
            expect(case, &versions(&status, &levels(None), NOW), version);
            let uses = key_uses::keys(&status, &cluster("k1", &[]), &in_use("k1", &["k1"]), NOW);
            expect(case, &cluster_keys(&uses), keys);
            expect(case, &settings(&status, NOW), same);
        }
        let more = said(|said| said.key_ids.push("k2".to_owned()));
        let of = |status: &MemberStatus, current: &str, left: &[&str]| {
            let in_use = in_use(current, &[current]);
            cluster_keys(&key_uses::keys(status, &cluster(current, left), &in_use, NOW))
        };
        expect("a new key on its way", &of(&more, "k1", &[]), Warn);
        expect("an old key on its way out", &of(&more, "k1", &["k2"]), Ok);
        let text = of(&more, "k1", &["k2"]).text;
        assert!(text.contains("k2 nothing depends on it: its line may be dropped"), "{text}");
        expect("the key that seals is missing here", &of(&more, "k2", &["k1"]), Fail);
        expect("level", &versions(&status(|_| ()), &levels(Some(2)), NOW), Warn);
    }

    #[test]
    fn a_key_that_is_still_needed_names_what_needs_it() {
        let mut own = member(1);
        own.observed.as_mut().unwrap().said.key_ids.push("k2".to_owned());
        let silent = MemberView { observed: None, ..member(2) };
        let status = of_members(vec![own, silent]);
        let text = |sealed: &[&str]| {
            let keys = key_uses::keys(&status, &cluster("k1", &["k2"]), &in_use("k1", sealed), NOW);
            cluster_keys(&keys).text
        };
        let silent = "0000000000000002 (m2:1) does not answer; its certificate is not known";
        let expected = format!("; k2 still needed: {silent}");
        assert!(text(&["k1"]).contains(&expected), "{}", text(&["k1"]));
        let expected = format!("; k2 still needed: 1 authority is under it; {silent}");
        assert!(text(&["k1", "k2"]).contains(&expected), "{}", text(&["k1", "k2"]));
    }

    #[test]
    fn what_could_not_be_compared_lately_is_not_called_ok() {
        let comparisons = |status: &MemberStatus, now| {
            let keys = key_uses::keys(status, &cluster("k1", &[]), &in_use("k1", &["k1"]), now);
            let keys = cluster_keys(&keys);
            [versions(status, &levels(None), now), keys, settings(status, now), state(status, now)]
        };
        let late = NOW + FRESH + Duration::from_secs(1);
        // What this member says of itself is always new.
        let heard_at = |id: u64, at: Duration| {
            let mut member = member(id);
            member.observed.as_mut().unwrap().heard_at = at;
            member
        };
        let all = of_members(vec![heard_at(1, late), heard_at(2, NOW), heard_at(3, NOW)]);
        let one = of_members(vec![heard_at(1, late), heard_at(2, late), heard_at(3, NOW)]);
        let alone = of_members(vec![heard_at(1, late)]);
        for (case, status, now, outcome) in [
            ("all were heard", &all, NOW + FRESH, Ok),
            ("nobody was", &all, late, Warn),
            ("one was", &one, late, Ok),
            ("there are no others", &alone, late, Ok),
        ] {
            for verdict in comparisons(status, now) {
                expect(case, &verdict, outcome);
            }
        }
        let [versions, keys, settings, state] = comparisons(&all, late);
        for verdict in [&versions, &keys, &settings, &state] {
            assert!(verdict.text.contains("no other member has said lately"), "{verdict:?}");
        }
        let [versions, _, settings, _] = comparisons(&one, late);
        assert_eq!(versions.text, "feature level 1, 2 of 3 members run 1");
        assert_eq!(settings.text, "this member and 1 of 2 others have aa");
    }

    #[test]
    fn without_a_quorum_nobody_is_told_to_remove_a_member() {
        let silent = status(|other| other.reachable = Some(false));
        let text = "no leader: 1 of 2 voters reachable".to_owned();
        let lost = Contact::Lost { since: NOW, elsewhere: false, text };
        for (contact, hint, doc) in [
            (&Contact::InContact, "cluster remove", LOST_DOC),
            (&lost, "cluster recover", QUORUM_DOC),
        ] {
            let verdict = peers(&silent, contact);
            expect("silent", &verdict, Fail);
            assert!(verdict.hint.contains(hint), "{verdict:?}");
            assert_eq!(verdict.doc, doc);
        }
        assert!(!peers(&silent, &lost).hint.contains("remove"));
    }

    #[test]
    fn certificates_say_how_long_workloads_could_go_on_alone() {
        let hours = |count: u64| Timestamp::UNIX_EPOCH.plus(Duration::from_secs(count * 3600));
        let authority = Authority {
            id: AuthorityId::new("a"),
            kind: AuthorityKind::X509,
            status: AuthorityStatus::Active,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: hours(0),
            not_after: hours(24),
            tainted: false,
        };
        let journal = Journal { revision: 1, authorities: vec![authority] };
        let hour = Duration::from_secs(3600);
        let both = [AuthorityKind::X509, AuthorityKind::Jwt];
        for (case, shortest, now, outcome, part) in [
            ("no entries", None, hours(1), Ok, "ends in 1380 min"),
            ("half of an hour", Some(hour), hours(1), Ok, "without servers for 30 min at least"),
            ("cut short", Some(hour * 9), hours(20), Ok, "without servers for 120 min at least"),
            ("late", Some(hour), hours(23), Warn, "without servers for 30 min at least"),
            ("over", Some(hour), hours(24), Fail, "has ended"),
        ] {
            let verdict = certificates(&journal, &both, shortest, now);
            expect(case, &verdict, outcome);
            assert!(verdict.text.contains(part), "{case}: {verdict:?}");
        }
    }

    #[test]
    fn a_kind_that_is_switched_off_ends_and_that_is_no_failure() {
        let hours = |count: u64| Timestamp::UNIX_EPOCH.plus(Duration::from_secs(count * 3600));
        let authority = |kind: AuthorityKind, ends: u64| Authority {
            id: AuthorityId::new("a"),
            kind,
            status: AuthorityStatus::Active,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: hours(0),
            not_after: hours(ends),
            tainted: false,
        };
        let authorities =
            vec![authority(AuthorityKind::X509, 48), authority(AuthorityKind::Wit, 24)];
        let journal = Journal { revision: 1, authorities };
        let off = [AuthorityKind::X509, AuthorityKind::Jwt];
        for (kinds, now, outcome, part) in [
            (&off[..], 23, Ok, "the wit authority, which is switched off, ends in 60 min"),
            (&off[..], 25, Ok, "the wit authority, which is switched off, has ended"),
            (&AuthorityKind::ALL[..], 1, Ok, "the active wit authority ends in 1380 min"),
            (&AuthorityKind::ALL[..], 23, Warn, "the active wit authority ends in 60 min"),
            (&AuthorityKind::ALL[..], 25, Fail, "the active wit authority has ended"),
        ] {
            let verdict = certificates(&journal, kinds, None, hours(now));
            expect(part, &verdict, outcome);
            assert!(verdict.text.contains(part), "{part}: {verdict:?}");
        }
    }

    #[test]
    fn what_signs_is_judged_by_its_key_and_its_end() {
        let tested = |error: Option<&str>| Tested {
            authority: "x509 a".to_owned(),
            error: error.map(str::to_owned),
        };
        expect("none", &authorities(&[]), Fail);
        expect("good", &authorities(&[tested(None)]), Ok);
        expect("bad", &authorities(&[tested(None), tested(Some("no"))]), Fail);
        expect("names", &names(&[]), Ok);
        expect("names", &names(&[("a:1".to_owned(), "no such host".to_owned())]), Fail);
        let text = "no leader".to_owned();
        let lost = Contact::Lost { since: NOW, elsewhere: false, text };
        let text = || "why".to_owned();
        for (state, contact, outcome, doc) in [
            (MemberState::Member, &Contact::InContact, Ok, QUORUM_DOC),
            (MemberState::Member, &lost, Fail, QUORUM_DOC),
            (MemberState::Forming { text: text() }, &lost, Fail, JOIN_DOC),
            (MemberState::Joining { text: text() }, &lost, Fail, JOIN_DOC),
        ] {
            let verdict = quorum(&state, contact);
            expect("quorum", &verdict, outcome);
            assert_eq!(verdict.doc, doc, "{state:?}");
        }
    }

    #[test]
    fn snapshots_are_judged_by_the_interval_that_was_configured() {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let minute = Duration::from_secs(60);
        for (interval, late_after) in [
            (minute, hours(1) + minute * 2),
            (hours(1), hours(3)),
            (hours(24), hours(49)),
            (hours(24 * 7), hours(24 * 8 + 1)),
        ] {
            for (age, leads, outcome) in [
                (Some(Duration::ZERO), true, Ok),
                (Some(late_after), true, Ok),
                (Some(late_after + minute), true, Warn),
                (Some(late_after + minute), false, Warn),
                (None, true, Warn),
                (None, false, Ok),
            ] {
                let backups = Backups { age, interval, doubtful: Vec::new() };
                let case = format!("{interval:?} {age:?}");
                expect(&case, &snapshots(Some(&backups), leads), outcome);
            }
        }
        expect("no schedule", &snapshots(None, true), Ok);
    }

    #[test]
    fn snapshot_files_that_do_not_count_are_named() {
        let (age, interval) = (Some(Duration::from_secs(120)), Duration::from_secs(3600));
        let doubtful =
            |count: u8| -> Vec<String> { (0..count).map(|n| format!("f{n} ends early")).collect() };
        for (count, expected) in [
            (1, "the newest is 2 min old; f0 ends early"),
            (3, "the newest is 2 min old; f0 ends early; f1 ends early; f2 ends early"),
            (
                5,
                "the newest is 2 min old; f0 ends early; f1 ends early; f2 ends early; 2 more do not \
                 count",
            ),
        ] {
            let backups = Backups { age, interval, doubtful: doubtful(count) };
            let verdict = snapshots(Some(&backups), true);
            expect("doubtful", &verdict, Warn);
            assert_eq!(verdict.text, expected);
        }
        let backups = Backups { age: None, interval, doubtful: doubtful(1) };
        let verdict = snapshots(Some(&backups), false);
        expect("doubtful on a follower", &verdict, Warn);
    }

    #[test]
    fn whoever_else_goes_by_this_clusters_name_is_told_of() {
        let foreign = [ForeignPeer { address: "a:1".to_owned(), cluster: ClusterId(7) }];
        for (case, verdict, outcome, part) in [
            ("alone", epochs(2, None, false, &[]), Ok, "another epoch than 2"),
            ("not formed", epochs(0, None, false, &[]), Ok, "not known yet"),
            ("left behind", epochs(2, Some(3), false, &foreign), Fail, "epoch 3 has begun"),
            ("twice", epochs(2, None, true, &foreign), Fail, "begun twice"),
            ("foreign", epochs(2, None, false, &foreign), Warn, "a:1 (cluster 0000"),
        ] {
            expect(case, &verdict, outcome);
            assert!(verdict.text.contains(part), "{case}: {verdict:?}");
        }
    }
}

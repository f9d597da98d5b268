//! Which member holds which cluster key, and what still depends on each.
//!
//! Owns the verdict on a key: new, the one that seals, on its way out, or of no more use. Pure: of what
//! members said of themselves and what the replicated state says. Who is told in which words is for
//! `service` and `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steeple_raft_store::change::ClusterState;
use steeple_raft_store::{KeysInUse, MemberId, MemberStatus, Observed};

/// What was heard longer ago says nothing about now: five rounds of questions.
const FRESH: Duration = Duration::from_secs(10);

/// What becomes of the line of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Nothing depends on it yet.
    New,
    /// It seals.
    Seals,
    /// Another one seals, and something still depends on it.
    Leaving,
    /// It sealed once, and nothing depends on it any more.
    Unused,
}

/// Why a key on its way out waits for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// Its peer certificate is of that key.
    Presents,
    /// It has said nothing lately: its peer certificate is not known.
    Silent,
    /// It does not hold the key that seals.
    LacksKey,
}

/// A member that a key on its way out waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which member.
    pub member: MemberId,
    /// Where it said it can be reached.
    pub address: String,
    /// Why it is waited for.
    pub reason: WaitReason,
}

/// What each member said lately; `None`: nothing.
type Said<'a> = BTreeMap<MemberId, Option<&'a Observed>>;

/// A cluster key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its id.
    pub id: String,
    /// What becomes of its line.
    pub use_: KeyUse,
    /// The members that hold it.
    pub held_by: Vec<MemberId>,
    /// The members that do not, or have not said so lately.
    pub missing_at: Vec<MemberId>,
    /// Those of them that have said lately which keys they hold.
    pub lacking_at: Vec<MemberId>,
    /// Private keys sealed under it, the records of ACME among them.
    pub authorities: usize,
    /// The members whose peer certificates are of it.
    pub presented_by: Vec<MemberId>,
    /// The members that it waits for while it is on its way out; empty for every other key.
    pub waits_for: Vec<Waiting>,
}

/// All keys that a member holds or something depends on: the one that seals first, then by id. `now` is
/// boot time.
pub fn keys(
    status: &MemberStatus,
    cluster: &ClusterState,
    in_use: &KeysInUse,
    now: Duration,
) -> Vec<KeyFacts> {
    let said = heard(status, now);
    let held = said.values().flatten().flat_map(|seen| seen.said.key_ids.iter().cloned());
    let ids: BTreeSet<String> = held.chain(in_use.needed()).collect();
    let current = in_use.current.as_deref();
    let mut keys: Vec<KeyFacts> =
        ids.into_iter().map(|id| facts(id, &said, status, cluster, in_use)).collect();
    // Stable: the others stay in their order.
    keys.sort_by_key(|key| Some(key.id.as_str()) != current);
    keys
}

fn heard(status: &MemberStatus, now: Duration) -> Said<'_> {
    let each = status.members.iter().map(|member| {
        let fresh = |seen: &&Observed| now.saturating_sub(seen.heard_at) <= FRESH;
        (member.id, member.observed.as_ref().filter(fresh))
    });
    each.collect()
}

fn facts(
    id: String,
    said: &Said<'_>,
    status: &MemberStatus,
    cluster: &ClusterState,
    in_use: &KeysInUse,
) -> KeyFacts {
    let holds = |seen: &Option<&Observed>| seen.is_some_and(|seen| seen.said.key_ids.contains(&id));
    let (held, missing): (Vec<_>, Vec<_>) = said.iter().partition(|(_, seen)| holds(seen));
    let of = |members: &[(&MemberId, &Option<&Observed>)]| -> Vec<MemberId> {
        members.iter().map(|(member, _)| **member).collect()
    };
    let lacking: Vec<_> = missing.iter().copied().filter(|(_, seen)| seen.is_some()).collect();
    let presents =
        |seen: &Option<&Observed>| seen.is_some_and(|seen| seen.said.certificate_key_id == id);
    let presented_by: Vec<_> =
        said.iter().filter(|(_, seen)| presents(seen)).map(|(member, _)| *member).collect();
    let authorities = in_use.depending_on(&id);
    let is_current = in_use.current.as_deref() == Some(id.as_str());
    let waits_for = waits_for(&id, said, status, in_use.current.as_deref());
    let is_free = authorities == 0 && waits_for.is_empty() && in_use.current.is_some();
    let use_ = match (is_current, cluster.left_key_ids.contains(&id)) {
        (true, _) => KeyUse::Seals,
        (false, true) if is_free => KeyUse::Unused,
        (false, true) => KeyUse::Leaving,
        (false, false) if authorities > 0 => KeyUse::Leaving,
        (false, false) => KeyUse::New,
    };
    let waits_for = match use_ {
        KeyUse::Leaving => waits_for,
        KeyUse::New | KeyUse::Seals | KeyUse::Unused => Vec::new(),
    };
    let (held_by, missing_at, lacking_at) = (of(&held), of(&missing), of(&lacking));
    KeyFacts { id, use_, held_by, missing_at, lacking_at, authorities, presented_by, waits_for }
}

/// The members that may depend on a key that does not seal. One that says nothing may depend on anything:
/// it could not meet the others without it.
fn waits_for(
    id: &str,
    said: &Said<'_>,
    status: &MemberStatus,
    current: Option<&str>,
) -> Vec<Waiting> {
    let lacks = |seen: &Observed| {
        current.is_some_and(|current| !seen.said.key_ids.iter().any(|held| held == current))
    };
    let reason = |seen: Option<&Observed>| match seen {
        None => Some(WaitReason::Silent),
        Some(seen) if seen.said.certificate_key_id == id => Some(WaitReason::Presents),
        Some(seen) if lacks(seen) => Some(WaitReason::LacksKey),
        Some(_) => None,
    };
    let each = said.iter().filter_map(|(member, seen)| {
        let address = address_of(status, *member).to_owned();
        Some(Waiting { member: *member, address, reason: reason(*seen)? })
    });
    each.collect()
}

/// Where a member said it can be reached; empty if it is none.
pub fn address_of(status: &MemberStatus, id: MemberId) -> &str {
    let mut members = status.members.iter();
    members.find(|member| member.id == id).map_or("", |member| member.address.as_str())
}

impl KeyFacts {
    /// Whether a member without it lacks something now.
    pub fn is_needed(&self) -> bool {
        self.authorities > 0 || self.use_ == KeyUse::Seals
    }

    /// Whether something is known to depend on it, beyond what members that say nothing may do.
    pub fn is_known_to_wait(&self) -> bool {
        let is_known = |one: &Waiting| match one.reason {
            WaitReason::Presents | WaitReason::LacksKey => true,
            WaitReason::Silent => false,
        };
        self.authorities > 0 || self.waits_for.iter().any(is_known)
    }
}

/// Whether nothing depends on another key than the one that seals.
pub fn is_done(keys: &[KeyFacts]) -> bool {
    keys.iter().all(|key| match key.use_ {
        KeyUse::Seals | KeyUse::New | KeyUse::Unused => true,
        KeyUse::Leaving => false,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use steeple_raft_store::testing::{self, member_status};
    use steeple_raft_store::{MemberView, Observation};
    use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind};

    use super::*;

    pub(crate) const NOW: Duration = Duration::from_secs(100);

    /// A member that holds these keys and presents a certificate of the first.
    pub(crate) fn member(id: u64, keys: &[&str]) -> MemberView {
        let said = Observation {
            key_ids: keys.iter().map(|key| (*key).to_owned()).collect(),
            certificate_key_id: keys.first().copied().unwrap_or_default().to_owned(),
            ..Observation::default()
        };
        let observed = Some(Observed { said, heard_at: NOW, ..Observed::default() });
        MemberView { observed, ..testing::voter(id) }
    }

    pub(crate) fn cluster(current: &str, left: &[&str]) -> ClusterState {
        ClusterState {
            key_id: current.to_owned(),
            left_key_ids: left.iter().map(|id| (*id).to_owned()).collect(),
            ..testing::cluster_state()
        }
    }

    pub(crate) fn in_use(current: &str, sealed: &[&str]) -> KeysInUse {
        let one = || vec![(AuthorityKind::X509, AuthorityId::new("a"))];
        let sealed = sealed.iter().map(|id| ((*id).to_owned(), one())).collect();
        KeysInUse { current: Some(current.to_owned()), sealed, ..KeysInUse::default() }
    }

    #[test]
    fn a_line_may_go_only_when_nothing_and_nobody_depends_on_its_key() {
        use KeyUse::{Leaving, New, Seals, Unused};
        let both = || vec![member(1, &["new", "old"]), member(2, &["new", "old"])];
        let silent = MemberView { observed: None, ..member(2, &[]) };
        let long_ago = {
            let mut member = member(2, &["new"]);
            member.observed.as_mut().unwrap().heard_at = Duration::from_secs(89);
            member
        };
        let pair = |other: MemberView| vec![member(1, &["new", "old"]), other];
        type Case<'a> =
            (&'a str, Vec<MemberView>, &'a str, &'a [&'a str], &'a [&'a str], [KeyUse; 2]);
        // Who holds what, which one seals, which were left, what authorities are sealed under; then what
        // becomes of the one that seals and of the other.
        let table: [Case<'_>; 8] = [
            ("a new line", both(), "old", &[], &["old"], [Seals, New]),
            ("just moved", both(), "new", &["old"], &["old"], [Seals, Leaving]),
            ("half sealed anew", both(), "new", &["old"], &["new", "old"], [Seals, Leaving]),
            ("all sealed anew", both(), "new", &["old"], &["new"], [Seals, Unused]),
            (
                "an old certificate",
                pair(member(2, &["old", "new"])),
                "new",
                &["old"],
                &["new"],
                [Seals, Leaving],
            ),
            ("a silent member", pair(silent), "new", &["old"], &["new"], [Seals, Leaving]),
            ("long silent", pair(long_ago), "new", &["old"], &["new"], [Seals, Leaving]),
            (
                "one has dropped it",
                pair(member(2, &["new"])),
                "new",
                &["old"],
                &["new"],
                [Seals, Unused],
            ),
        ];
        for (case, members, current, left, sealed, expected) in table {
            let in_use = in_use(current, sealed);
            let keys = keys(&member_status(members), &cluster(current, left), &in_use, NOW);
            let uses: Vec<KeyUse> = keys.iter().map(|key| key.use_).collect();
            assert_eq!(uses, expected, "{case}");
            assert_eq!(is_done(&keys), !uses.contains(&Leaving), "{case}");
        }
    }

    #[test]
    fn a_key_on_its_way_out_names_the_members_it_waits_for_and_why() {
        use WaitReason::{LacksKey, Presents, Silent};
        let silent = MemberView { observed: None, ..member(4, &[]) };
        let first = || member(1, &["new", "old"]);
        let members =
            || vec![first(), member(2, &["old", "new"]), member(3, &["older"]), silent.clone()];
        let of = |members: Vec<MemberView>, id: &str| {
            let cluster = cluster("new", &["old", "older"]);
            let found = keys(&member_status(members), &cluster, &in_use("new", &["new"]), NOW);
            found.into_iter().find(|key| key.id == id).unwrap()
        };
        let waits = |key: &KeyFacts| -> Vec<(u64, String, WaitReason)> {
            let each = key.waits_for.iter();
            each.map(|one| (one.member.0, one.address.clone(), one.reason)).collect()
        };
        let at = |id: u64, reason| (id, format!("m{id}:1"), reason);
        let old = of(members(), "old");
        assert_eq!(waits(&old), [at(2, Presents), at(3, LacksKey), at(4, Silent)]);
        assert!(old.is_known_to_wait());
        assert!(of(members(), "new").waits_for.is_empty(), "it seals");

        let alone = of(vec![first(), silent.clone()], "old");
        assert_eq!((alone.use_, waits(&alone)), (KeyUse::Leaving, vec![at(4, Silent)]));
        assert!(!alone.is_known_to_wait(), "nothing but silence");
        let free = of(vec![first()], "old");
        assert_eq!((free.use_, waits(&free)), (KeyUse::Unused, vec![]));
    }

    #[test]
    fn who_holds_a_key_and_who_does_not_is_named() {
        let members = vec![member(1, &["new", "old"]), member(2, &["old"])];
        let found = keys(&member_status(members), &cluster("", &[]), &in_use("old", &["old"]), NOW);
        let [old, new] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((old.id.as_str(), new.id.as_str()), ("old", "new"));
        assert_eq!((&old.held_by, &old.missing_at), (&vec![MemberId(1), MemberId(2)], &vec![]));
        assert_eq!((&new.held_by, &new.missing_at), (&vec![MemberId(1)], &vec![MemberId(2)]));
        assert_eq!((old.authorities, new.authorities), (1, 0));
        assert_eq!(new.presented_by, [MemberId(1)]);
    }

    #[test]
    fn a_key_that_nobody_holds_is_shown_as_long_as_something_needs_it() {
        let members = vec![member(1, &["new"])];
        let found =
            keys(&member_status(members), &cluster("", &[]), &in_use("lost", &["lost"]), NOW);
        assert_eq!((found[0].id.as_str(), &found[0].missing_at), ("lost", &vec![MemberId(1)]));
    }
}

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
    /// Private keys sealed under it.
    pub authorities: usize,
    /// The members whose peer certificates are of it.
    pub presented_by: Vec<MemberId>,
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
        ids.into_iter().map(|id| facts(id, &said, cluster, in_use)).collect();
    // Stable: the others stay in their order.
    keys.sort_by_key(|key| Some(key.id.as_str()) != current);
    keys
}

/// What each member said lately; `None`: nothing.
fn heard(status: &MemberStatus, now: Duration) -> BTreeMap<MemberId, Option<&Observed>> {
    let each = status.members.iter().map(|member| {
        let fresh = |seen: &&Observed| now.saturating_sub(seen.heard_at) <= FRESH;
        (member.id, member.observed.as_ref().filter(fresh))
    });
    each.collect()
}

fn facts(
    id: String,
    said: &BTreeMap<MemberId, Option<&Observed>>,
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
    let authorities = in_use.sealed.get(&id).map_or(0, Vec::len);
    let is_current = in_use.current.as_deref() == Some(id.as_str());
    // A member that says nothing may depend on anything: it could not meet the others without it.
    let all_said = said.values().all(Option::is_some);
    let current_everywhere = in_use.current.as_ref().is_some_and(|current| {
        said.values().flatten().all(|seen| seen.said.key_ids.contains(current))
    });
    let is_free = authorities == 0 && presented_by.is_empty() && all_said && current_everywhere;
    let use_ = match (is_current, cluster.left_key_ids.contains(&id)) {
        (true, _) => KeyUse::Seals,
        (false, true) if is_free => KeyUse::Unused,
        (false, true) => KeyUse::Leaving,
        (false, false) if authorities > 0 => KeyUse::Leaving,
        (false, false) => KeyUse::New,
    };
    let (held_by, missing_at, lacking_at) = (of(&held), of(&missing), of(&lacking));
    KeyFacts { id, use_, held_by, missing_at, lacking_at, authorities, presented_by }
}

impl KeyFacts {
    /// Whether a member without it lacks something now.
    pub fn is_needed(&self) -> bool {
        self.authorities > 0 || self.use_ == KeyUse::Seals
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
        KeysInUse { current: Some(current.to_owned()), sealed }
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

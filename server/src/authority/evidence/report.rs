//! What is known of a prepared authority at one moment, and what follows from it.
//!
//! Pure. Owns the rule (`docs/reference/cluster.md`, "Rotation"): all voters in contact sign with it,
//! members out of contact have stopped serving, every agent that exists was given a bundle that holds
//! it, or has had the time that the slowest needs, and so have peers of other trust domains.

use std::time::Duration;

use steeple_raft_store::MemberId;
use steeple_spiffe_core::authority::Authority;
use steeple_spiffe_core::{SpiffeId, Timestamp};

use crate::authority::planner::Evidence;
use crate::authority::policy::AGENT_FETCH_BOUND;
use crate::mutants::{self, Mutant};

/// What is made is committed within this time, also where an upstream authority signs it.
const COMMITTED_WITHIN: Duration = Duration::from_secs(30);

/// Until when a member that does not answer is waited for. Cut off from the others it may be, and serve all
/// the same: until then it may give a bundle of before the authority to an agent that had one with it.
pub(in crate::authority) fn absent_until(
    prepared: &Authority,
    max_staleness: Duration,
) -> Timestamp {
    if mutants::on(Mutant::AbsentForEver) {
        return prepared.not_after;
    }
    prepared.issued_at.plus(COMMITTED_WITHIN + max_staleness)
}

/// A member, as far as a prepared authority concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Which.
    pub member: MemberId,
    /// Why it is not ready to sign with the authority; `None`: it is.
    pub not_ready: Option<String>,
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The voters in contact, and absent members that are waited for.
    pub members: Vec<MemberReport>,
    /// What is known of the agents.
    pub agents: Agents,
    /// From when on those that were not seen with the authority for good are taken to have it.
    pub assumed_at: Timestamp,
    /// From when on peers of other trust domains are taken to have it; `None`: nobody fetches it.
    pub peers_at: Option<Timestamp>,
}

/// Agents, as far as a prepared authority concerns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// How many there are that are neither banned nor expired.
    pub count: usize,
    /// Those of them that were not seen with the authority, by id.
    pub without: Vec<SpiffeId>,
    /// Those that were given it by a member that answers, by id; one that does not answer may have given
    /// them the bundle of before since.
    pub unsure: Vec<SpiffeId>,
}

impl Agents {
    /// Whether all have it, and nothing can have taken it from them.
    pub fn all_know(&self) -> bool {
        self.without.is_empty() && self.unsure.is_empty()
    }
}

/// When agents that were not seen with an authority are taken to have it.
pub(in crate::authority) fn assumed_at(prepared: &Authority, max_staleness: Duration) -> Timestamp {
    prepared.issued_at.plus(AGENT_FETCH_BOUND + max_staleness)
}

/// When peers who have it within this time are taken to have an authority.
pub(in crate::authority) fn peers_at(prepared: &Authority, known_within: Duration) -> Timestamp {
    prepared.issued_at.plus(known_within)
}

/// When all are known to have an authority that is prepared at a time: at the earliest and at the latest,
/// if all members are ready.
pub(super) fn known_between(
    prepared_at: Timestamp,
    max_staleness: Duration,
    peers_known_within: Option<Duration>,
) -> (Timestamp, Timestamp) {
    let peers = peers_known_within.map(|within| prepared_at.plus(within));
    let agents = prepared_at.plus(AGENT_FETCH_BOUND + max_staleness);
    let earliest = peers.unwrap_or(prepared_at);
    (earliest, earliest.max(agents))
}

impl Report {
    /// Whether the authority may sign without anyone being surprised.
    pub fn judge(&self, now: Timestamp) -> Evidence {
        let members = self.members.iter().all(|member| member.not_ready.is_none());
        let agents = self.agents.all_know() || now >= self.assumed_at;
        let peers =
            mutants::on(Mutant::PeersNotWaitedFor) || self.peers_at.is_none_or(|at| now >= at);
        if members && agents && peers { Evidence::Complete } else { Evidence::Incomplete }
    }

    /// From when on time alone is enough, if all members are ready.
    pub fn known_at(&self) -> Timestamp {
        self.peers_at.map_or(self.assumed_at, |at| {
            if self.agents.all_know() { at } else { at.max(self.assumed_at) }
        })
    }

    /// Who is waited for at this time, in words; `None`: no one.
    pub fn waits_for(&self, now: Timestamp) -> Option<String> {
        let mut parts: Vec<String> = self
            .members
            .iter()
            .filter_map(|one| Some(format!("member {}: {}", one.member, one.not_ready.as_ref()?)))
            .collect();
        let Agents { count, without, unsure } = &self.agents;
        if !without.is_empty() {
            parts.push(format!("{} of {count} agents: {}", without.len(), named(without)));
        }
        // While the absent member itself is waited for, its name says all.
        if !unsure.is_empty() && self.members.iter().all(|one| one.not_ready.is_none()) {
            parts.push(format!(
                "{} of {count} agents to ask again, since a member that is gone may have given them the \
                 bundle of before: {}",
                unsure.len(),
                named(unsure)
            ));
        }
        if let Some(at) = self.peers_at.filter(|at| now < *at) {
            parts.push(format!(
                "peers of other trust domains, who fetch the bundle by its refresh_hint, for {} s more",
                at.since(now).as_secs() + 1
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The first few of some agents.
fn named(agents: &[SpiffeId]) -> String {
    /// So many are named.
    const NAMED: usize = 5;
    let names: Vec<String> = agents.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if agents.len() > NAMED { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use steeple_spiffe_core::authority::{AuthorityKind, SealedKey};
    use steeple_spiffe_core::{AuthorityId, AuthorityStatus};

    use super::*;
    use crate::authority::AuthorityPolicy;
    use crate::authority::policy::PEER_MINUTE;

    /// A prepared authority whose certificate is its name.
    pub(in crate::authority::evidence) fn authority(kind: AuthorityKind, name: &str) -> Authority {
        Authority {
            id: AuthorityId::new(name),
            kind,
            status: AuthorityStatus::Prepared,
            public_der: name.as_bytes().to_vec(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: Timestamp::from_unix_s(1_000),
            not_after: Timestamp::from_unix_s(90_000),
            tainted: false,
        }
    }

    fn agents(count: usize) -> Vec<SpiffeId> {
        let id = |at| SpiffeId::parse(&format!("spiffe://example.org/spire/agent/a{at}")).unwrap();
        (0..count).map(id).collect()
    }

    #[test]
    fn members_are_waited_for_and_agents_for_a_while() {
        let member = |not_ready: Option<&str>| MemberReport {
            member: MemberId(7),
            not_ready: not_ready.map(str::to_owned),
        };
        let until = assumed_at(&authority(AuthorityKind::X509, "a"), Duration::from_secs(60));
        assert_eq!(until, Timestamp::from_unix_s(1_000 + 14 * 60));
        let report = |members, missing| Report {
            members,
            agents: Agents { count: 9, without: agents(missing), unsure: Vec::new() },
            assumed_at: until,
            peers_at: None,
        };
        let (early, late) = (until.minus(Duration::from_millis(1)), until);
        let (complete, incomplete) = (Evidence::Complete, Evidence::Incomplete);
        let table = [
            ("nobody is there", report(vec![], 0), complete, complete),
            ("all have it", report(vec![member(None)], 0), complete, complete),
            ("an agent lacks it", report(vec![member(None)], 1), incomplete, complete),
            (
                "a member lacks it",
                report(vec![member(Some("x")), member(None)], 0),
                incomplete,
                incomplete,
            ),
        ];
        for (what, report, before, after) in table {
            let judged = (report.judge(early), report.judge(late));
            assert_eq!(judged, (before, after), "{what}");
            assert_eq!(report.waits_for(early).is_none(), before == complete, "{what}");
        }
        let report = report(vec![member(Some("its key does not open"))], 6);
        assert_eq!(
            report.waits_for(early).unwrap(),
            "member 0000000000000007: its key does not open; 6 of 9 agents: \
             spiffe://example.org/spire/agent/a0, spiffe://example.org/spire/agent/a1, \
             spiffe://example.org/spire/agent/a2, spiffe://example.org/spire/agent/a3, \
             spiffe://example.org/spire/agent/a4, ..."
        );
    }

    #[test]
    fn agents_that_a_member_that_is_gone_may_have_misled_are_not_said_to_lack_it() {
        let gone =
            MemberReport { member: MemberId(7), not_ready: Some("it does not answer".to_owned()) };
        let agents =
            |without, unsure| Agents { count: 2, without: agents(without), unsure: agents(unsure) };
        let assumed_at = assumed_at(&authority(AuthorityKind::X509, "a"), Duration::ZERO);
        let early = assumed_at.minus(Duration::from_millis(1));
        let waits = |members: &[MemberReport], agents| {
            let (members, peers_at) = (members.to_vec(), None);
            let report = Report { members, agents, assumed_at, peers_at };
            assert_eq!(report.judge(early), Evidence::Incomplete);
            report.waits_for(early).unwrap()
        };
        let gone = std::slice::from_ref(&gone);
        assert_eq!(waits(gone, agents(0, 2)), "member 0000000000000007: it does not answer");
        assert_eq!(
            waits(gone, agents(1, 1)),
            "member 0000000000000007: it does not answer; 1 of 2 agents: \
             spiffe://example.org/spire/agent/a0"
        );
        assert_eq!(
            waits(&[], agents(0, 2)),
            "2 of 2 agents to ask again, since a member that is gone may have given them the bundle of \
             before: spiffe://example.org/spire/agent/a0, spiffe://example.org/spire/agent/a1"
        );
    }

    #[test]
    fn peers_are_given_the_time_of_their_hint_and_of_one_failure() {
        let prepared = authority(AuthorityKind::X509, "a");
        let told = |hint: u64| AuthorityPolicy {
            refresh_hint: Some(Duration::from_secs(hint)),
            ..AuthorityPolicy::default()
        };
        let bound = |hint| told(hint).peers_fetch_bound().unwrap().as_secs();
        assert_eq!([bound(300), bound(5), bound(0)], [360, 120, 24 * 360 + 60]);
        assert_eq!(AuthorityPolicy::default().peers_fetch_bound(), None);

        let known_within = |hint, minute| told(hint).peers_known_within(minute).unwrap();
        let within = known_within(300, PEER_MINUTE);
        assert_eq!(within, Duration::from_secs(390));
        let quick = known_within(2, Duration::from_secs(1));
        assert_eq!(quick, Duration::from_millis(3_500), "a test's minute");
        let at = peers_at(&prepared, within);
        assert_eq!(at, Timestamp::from_unix_s(1_000 + 390));
        let assumed_at = assumed_at(&prepared, Duration::ZERO);
        let report = |missing| Report {
            members: Vec::new(),
            agents: Agents { count: 9, without: agents(missing), unsure: Vec::new() },
            assumed_at,
            peers_at: Some(at),
        };
        let early = at.minus(Duration::from_millis(1));
        let judged = [early, at].map(|now| report(0).judge(now));
        assert_eq!(judged, [Evidence::Incomplete, Evidence::Complete]);
        assert_eq!((report(0).known_at(), report(1).known_at()), (at, assumed_at));
        assert!(report(0).waits_for(early).unwrap().starts_with("peers of other trust domains"));
        assert_eq!(report(0).waits_for(at), None);
    }
}

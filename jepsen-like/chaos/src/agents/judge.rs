//! Broken promises in what workloads saw, and what that amounts to.
//!
//! Workloads must not notice what happens to servers: no call fails, nothing that is held has ended,
//! everything that was held stays, renewals go on; and agents do not come back as a herd.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::seen::{Sight, Svid, What};
use super::{IDENTITIES, TTL_S, WORKLOADS};
use crate::journal::Entry;

/// Connections that one agent may open to one server within a second: what backs off stays below.
const CONNECTIONS_MAX: usize = 10;

/// A second.
const SECOND_NS: u64 = 1_000_000_000;

/// So long after a fault a renewal counts as one in spite of it.
const SHADOW_NS: u64 = 5 * SECOND_NS;

/// A connection that an agent began: when, who, to which member.
pub(crate) type Connection = (u64, usize, usize);

/// Everything that is judged.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// How many agents there were; 0: there is nothing to judge.
    pub(crate) agents: usize,
    /// How many of them were stock agents.
    pub(crate) stock: usize,
    /// What workloads saw.
    pub(crate) sights: Vec<Sight>,
    /// Until when they looked, by the wall clock.
    pub(crate) until_ms: i64,
    /// Connections of agents to members; none if they were not on a network of ours.
    pub(crate) connections: Vec<Connection>,
    /// What was wrong with the agents themselves.
    pub(crate) wrong: Vec<String>,
}

/// What it amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) agents: u64,
    /// Those of them that were stock agents.
    #[serde(default)]
    pub(crate) stock: u64,
    pub(crate) workloads: u64,
    /// X.509-SVIDs that took the place of an older one.
    pub(crate) renewals: u64,
    /// Of those, how many while the leader was hit, or within five seconds after.
    pub(crate) renewals_near_leader_faults: u64,
    pub(crate) tokens: u64,
    pub(crate) newcomers: u64,
    /// Calls that failed and streams that ended.
    pub(crate) failures: u64,
    pub(crate) slowest_answer_ms: u64,
    /// Connections that agents opened to members; 0 where they could not be counted.
    pub(crate) connections: u64,
    /// Most that one member got from all of them within a second.
    pub(crate) most_connections_in_1_s: u64,
}

impl Figures {
    /// In a few words; none if there were no agents.
    pub(crate) fn words(&self) -> String {
        if self.agents == 0 {
            return String::new();
        }
        let calls = self.tokens + self.newcomers + self.failures;
        format!(
            "; {} agents ({} stock): {} of {calls} calls failed, {} renewals",
            self.agents, self.stock, self.failures, self.renewals
        )
    }
}

/// Broken promises, each in a sentence.
pub(crate) fn violations(story: &Story) -> Vec<String> {
    let mut wrong = story.wrong.clone();
    wrong.extend(failures(&story.sights));
    for workload in workloads(story) {
        wrong.extend(held(&workload, story));
    }
    for ((agent, member), times) in by_pair(story) {
        let most = most_within(&times, SECOND_NS);
        if most > CONNECTIONS_MAX {
            wrong.push(format!("agent {agent} opened {most} connections to m{member} in a second"));
        }
    }
    wrong
}

/// What a run of so many seconds should have shown, and has not.
pub(crate) fn missing(story: &Story, seconds: u64) -> Vec<String> {
    let mut missing = Vec::new();
    let renewed = renewals(story);
    for workload in workloads(story) {
        let (agent, number) = workload;
        let own = || story.sights.iter().filter(|one| (one.agent, one.workload) == workload);
        let has = |of: fn(&What) -> bool| own().any(|one| of(&one.what));
        for (what, is_there) in [
            ("X.509-SVIDs", has(|what| matches!(what, What::Svids { .. }))),
            ("bundles", has(|what| matches!(what, What::Bundles { .. }))),
            ("JWT-SVIDs", has(|what| matches!(what, What::Token { .. }))),
            ("newcomers", has(|what| matches!(what, What::Fetched { .. }))),
        ] {
            if !is_there {
                missing.push(format!("workload {number} of agent {agent} saw no {what}"));
            }
        }
        let own = renewed.iter().filter(|(_, renewed)| *renewed == workload).count();
        if seconds >= u64::from(TTL_S.unsigned_abs()) && own < IDENTITIES {
            missing.push(format!("workload {number} of agent {agent} saw {own} renewals"));
        }
    }
    missing
}

/// What it amounts to.
pub(crate) fn figures(story: &Story, faults: &[Entry]) -> Figures {
    let count =
        |of: fn(&What) -> bool| story.sights.iter().filter(|one| of(&one.what)).count() as u64;
    let answers = story.sights.iter().filter_map(|one| match &one.what {
        What::Token { took_ms, .. } | What::Fetched { took_ms, .. } => Some(*took_ms),
        What::Svids { .. } | What::Bundles { .. } | What::Failed { .. } => None,
    });
    // All workloads of an agent are shown the same renewals.
    let of_first: Vec<u64> = renewals(story)
        .into_iter()
        .filter(|(_, (_, number))| *number == 0)
        .map(|(at, _)| at)
        .collect();
    let near = |at: &&u64| {
        let mut hits = faults.iter().filter(|fault| fault.hit_leader);
        hits.any(|fault| {
            let until = fault.until_ns.unwrap_or(u64::MAX).saturating_add(SHADOW_NS);
            (fault.from_ns..=until).contains(at)
        })
    };
    let mut by_member: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (at, _, member) in &story.connections {
        by_member.entry(*member).or_default().push(*at);
    }
    let most = by_member.values().map(|times| most_within(times, SECOND_NS)).max();
    Figures {
        agents: story.agents as u64,
        stock: story.stock as u64,
        workloads: (story.agents * WORKLOADS) as u64,
        renewals: of_first.len() as u64,
        renewals_near_leader_faults: of_first.iter().filter(near).count() as u64,
        tokens: count(|what| matches!(what, What::Token { .. })),
        newcomers: count(|what| matches!(what, What::Fetched { .. })),
        failures: count(|what| matches!(what, What::Failed { .. })),
        slowest_answer_ms: answers.max().unwrap_or(0),
        connections: story.connections.len() as u64,
        most_connections_in_1_s: most.unwrap_or(0) as u64,
    }
}

/// When a workload was shown an X.509-SVID in the place of another: (nanoseconds, workload).
pub(crate) fn renewals(story: &Story) -> Vec<(u64, (usize, usize))> {
    let mut serials: BTreeMap<(usize, usize, &str), &str> = BTreeMap::new();
    let mut found = Vec::new();
    for sight in &story.sights {
        let What::Svids { svids } = &sight.what else { continue };
        for svid in svids {
            let place = (sight.agent, sight.workload, svid.id.as_str());
            let before = serials.insert(place, &svid.serial);
            if before.is_some_and(|before| before != svid.serial) {
                found.push((sight.at_ns, (sight.agent, sight.workload)));
            }
        }
    }
    found
}

/// The first failure of each kind of each workload: the rest are alike.
fn failures(sights: &[Sight]) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for sight in sights {
        let What::Failed { call, text } = &sight.what else { continue };
        if told.insert((sight.agent, sight.workload, *call)) {
            let at = sight.at_ns / 1_000_000;
            let (agent, number) = (sight.agent, sight.workload);
            found.push(format!("workload {number} of agent {agent} at {at} ms: {call}: {text}"));
        }
    }
    found
}

fn workloads(story: &Story) -> impl Iterator<Item = (usize, usize)> {
    let agents = 0..story.agents;
    agents.flat_map(|agent| (0..WORKLOADS).map(move |number| (agent, number)))
}

/// What is wrong with the SVIDs that a workload held, from one message of its stream to the next.
fn held(workload: &(usize, usize), story: &Story) -> Vec<String> {
    let (agent, number) = *workload;
    let own = story.sights.iter().filter(|one| (one.agent, one.workload) == *workload);
    let messages: Vec<(i64, &[Svid])> = own
        .filter_map(|one| match &one.what {
            What::Svids { svids } => Some((one.wall_ms, svids.as_slice())),
            What::Bundles { .. }
            | What::Fetched { .. }
            | What::Token { .. }
            | What::Failed { .. } => None,
        })
        .collect();
    let mut wrong = Vec::new();
    let ends = messages.iter().skip(1).map(|(at, _)| *at).chain([story.until_ms]);
    for ((from_ms, svids), until_ms) in messages.iter().zip(ends) {
        for svid in *svids {
            if svid.not_after_ms < until_ms {
                let by = until_ms - svid.not_after_ms.max(*from_ms);
                wrong.push(format!(
                    "workload {number} of agent {agent} held {} for {by} ms after its end",
                    svid.id
                ));
            }
        }
    }
    for (before, after) in messages.iter().zip(messages.iter().skip(1)) {
        for svid in before.1 {
            if !after.1.iter().any(|one| one.id == svid.id) {
                wrong.push(format!("workload {number} of agent {agent} lost {}", svid.id));
            }
        }
    }
    wrong
}

fn by_pair(story: &Story) -> BTreeMap<(usize, usize), Vec<u64>> {
    let mut pairs: BTreeMap<(usize, usize), Vec<u64>> = BTreeMap::new();
    for (at, agent, member) in &story.connections {
        pairs.entry((*agent, *member)).or_default().push(*at);
    }
    pairs
}

/// The most of these times, in their order, that lie within a length.
fn most_within(times: &[u64], length: u64) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (last, at) in times.iter().enumerate() {
        while times.get(first).is_some_and(|from| at.saturating_sub(*from) >= length) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    const END_MS: i64 = 70_000;

    fn sight(at_ms: i64, agent: usize, workload: usize, what: What) -> Sight {
        let at_ns = u64::try_from(at_ms).unwrap() * 1_000_000;
        Sight { at_ns, wall_ms: at_ms, agent, workload, what }
    }

    fn svids(serial: &str, not_after_ms: i64) -> What {
        let one = |number: usize| Svid {
            id: format!("w{number}"),
            serial: format!("{serial}-{number}"),
            not_after_ms,
        };
        What::Svids { svids: (0..IDENTITIES).map(one).collect() }
    }

    /// A run in which all is well.
    fn well() -> Story {
        let mut sights = Vec::new();
        for number in 0..WORKLOADS {
            let mut add = |at_ms, what| sights.push(sight(at_ms, 0, number, what));
            add(0, What::Bundles { stream: "jwt" });
            add(1_000, svids("a", 61_000));
            add(2_000, What::Token { subject: "w0".to_owned(), expires_ms: 62_000, took_ms: 7 });
            add(3_000, What::Fetched { svids: IDENTITIES, took_ms: 9 });
            add(31_000, svids("b", 91_000));
        }
        let connections = vec![(SECOND_NS, 0, 1), (2 * SECOND_NS, 0, 2)];
        Story { agents: 1, stock: 0, sights, until_ms: END_MS, connections, wrong: Vec::new() }
    }

    #[test]
    fn a_run_in_which_workloads_notice_nothing_is_good_and_complete() {
        assert_eq!(violations(&well()), Vec::<String>::new());
        assert_eq!(missing(&well(), 60), Vec::<String>::new());
        assert_eq!(violations(&Story::default()), Vec::<String>::new());
        assert_eq!(missing(&Story::default(), 60), Vec::<String>::new());
    }

    #[test]
    fn every_broken_promise_is_found() {
        type Change = fn(&mut Story);
        let failed = || What::Failed { call: "FetchX509SVID", text: "Unavailable: x".to_owned() };
        assert_eq!(failures(&[sight(5, 0, 0, failed()), sight(6, 0, 0, failed())]).len(), 1);
        let cases: [(Change, &str); 7] = [
            (|s| s.wrong.push("agent 0 ended".to_owned()), "agent 0 ended"),
            (
                |s| {
                    let text = "the stream has ended".to_owned();
                    let what = What::Failed { call: "FetchX509SVID", text };
                    s.sights.push(sight(40_000, 0, 1, what));
                },
                "workload 1 of agent 0 at 40000 ms: FetchX509SVID: the stream has ended",
            ),
            (|s| s.until_ms = 91_500, "workload 0 of agent 0 held w0 for 500 ms after its end"),
            (|s| s.sights.retain(|one| one.wall_ms < 31_000), "held w1 for 9000 ms after its end"),
            (
                |s| s.sights.push(sight(65_000, 0, 0, svids("c", 64_000))),
                "held w2 for 5000 ms after its end",
            ),
            (
                |s| {
                    let What::Svids { mut svids } = svids("c", 120_000) else { return };
                    svids.pop();
                    s.sights.push(sight(65_000, 0, 0, What::Svids { svids }));
                },
                "workload 0 of agent 0 lost w2",
            ),
            (
                |s| s.connections = (0..11).map(|at| (at * SECOND_NS / 20, 0, 2)).collect(),
                "agent 0 opened 11 connections to m2 in a second",
            ),
        ];
        for (change, expected) in cases {
            let mut story = well();
            change(&mut story);
            let found = violations(&story);
            assert!(found.iter().any(|one| one.contains(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn what_was_not_exercised_is_missing() {
        let mut idle = well();
        idle.sights.retain(|one| !matches!(one.what, What::Token { .. }));
        assert_eq!(missing(&idle, 60).len(), WORKLOADS, "{:?}", missing(&idle, 60));
        let mut stale = well();
        stale.sights.retain(|one| one.wall_ms < 31_000);
        assert_eq!(missing(&stale, 60).len(), WORKLOADS, "{:?}", missing(&stale, 60));
        assert_eq!(missing(&stale, 20), Vec::<String>::new(), "too short for a renewal");
    }

    #[test]
    fn renewals_are_counted_once_an_agent_and_told_apart_by_what_happened_to_the_leader() {
        let fault = |from_s: u64, hit_leader| Entry {
            number: 0,
            nemesis: "kill".to_owned(),
            how: String::new(),
            members: vec![0],
            hit_leader,
            from_ns: from_s * SECOND_NS,
            until_ns: Some((from_s + 1) * SECOND_NS),
        };
        let told = figures(&well(), &[fault(29, true)]);
        assert_eq!((told.renewals, told.renewals_near_leader_faults), (3, 3));
        for faults in [vec![fault(29, false)], vec![fault(40, true)], vec![fault(20, true)]] {
            assert_eq!(figures(&well(), &faults).renewals_near_leader_faults, 0);
        }
        assert_eq!((told.tokens, told.slowest_answer_ms, told.connections), (2, 9, 2));
        assert_eq!(told.most_connections_in_1_s, 1);
    }
}

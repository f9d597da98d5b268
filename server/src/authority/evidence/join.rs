//! What members replied about a prepared authority, put together.
//!
//! Pure. Owns two rules: a member that does not answer is waited for while it may serve what it knew, and
//! an agent counts when it was given the authority after the last replica that serves had it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steeple_api::pb::member::v1 as rpc;
use steeple_raft_store::MemberId;
use steeple_spiffe_core::Timestamp;

use super::report::MemberReport;
use super::sightings::Mark;
use crate::mutants::{self, Mutant};

/// What became of a question to one member.
#[derive(Clone, Debug)]
pub(in crate::authority) struct Reply {
    /// Which.
    pub(in crate::authority) member: MemberId,
    /// Learners serve agents and sign, too; but they are not waited for.
    pub(in crate::authority) votes: bool,
    /// What became of it.
    pub(in crate::authority) what: What,
}

/// See [`Reply`].
#[derive(Clone, Debug)]
pub(in crate::authority) enum What {
    /// It answered.
    Said(rpc::EvidenceAnswer),
    /// It is of an older release; why it is not ready, if so.
    Older(Option<String>),
    /// It gave no answer, and why.
    Failed(String),
    /// It is out of contact, and was not asked.
    Absent,
}

/// One round of questions.
#[derive(Clone, Copy, Debug)]
pub(in crate::authority) struct Round {
    /// The member that asked.
    pub(in crate::authority) asked_by: MemberId,
    /// The answers were made at most this long apart.
    pub(in crate::authority) spread: Duration,
    /// Until when absent members are waited for.
    pub(in crate::authority) until: Timestamp,
    /// When the answers were in.
    pub(in crate::authority) now: Timestamp,
}

impl Round {
    /// The members that count, and the agents that have the authority.
    pub(in crate::authority) fn join(&self, replies: &[Reply]) -> (Vec<MemberReport>, Seen) {
        let left = self.until.since(self.now).as_secs();
        let mut members = Vec::new();
        let mut given = Given::new(self.spread);
        let mut absent_for = Duration::MAX;
        let one_view = mutants::on(Mutant::EvidenceOfOneView);
        for reply in replies.iter().filter(|reply| !one_view || reply.member == self.asked_by) {
            let (counts, not_ready) = match &reply.what {
                What::Said(answer) => {
                    given.add(answer);
                    (reply.votes, Some(&answer.not_ready).filter(|text| !text.is_empty()).cloned())
                }
                What::Older(not_ready) => {
                    given.held_for(Duration::ZERO);
                    (reply.votes, not_ready.clone())
                }
                What::Failed(text) => (reply.votes, Some(text.clone())),
                What::Absent => {
                    absent_for = absent_for.min(self.now.since(self.until));
                    (left > 0, Some(absent_text(left)))
                }
            };
            if counts {
                members.push(MemberReport { member: reply.member, not_ready });
            }
        }
        let given_here = given.seen();
        given.held_for(absent_for);
        (members, Seen { for_good: given.seen(), here: given_here })
    }
}

/// Agents that were given an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::authority) struct Seen {
    /// Nobody can have given them an older bundle since: they count.
    pub(in crate::authority) for_good: BTreeSet<Mark>,
    /// The members that answer have not given them an older bundle since; one that is absent may have.
    pub(in crate::authority) here: BTreeSet<Mark>,
}

fn absent_text(left: u64) -> String {
    format!("it does not answer; cut off, it may give out the bundle of before for {left} s more")
}

/// What members say they gave, and since when nothing older can have been given by any of them.
#[derive(Debug)]
struct Given {
    /// The answers were made at most this long apart.
    spread: Duration,
    held_for: Duration,
    /// The shortest time since each agent was given the authority.
    ago: BTreeMap<Mark, Duration>,
}

impl Given {
    fn new(spread: Duration) -> Self {
        Self { spread, held_for: Duration::MAX, ago: BTreeMap::new() }
    }

    /// Somebody gave out bundles without it until so long ago.
    fn held_for(&mut self, time: Duration) {
        self.held_for = self.held_for.min(time);
    }

    fn add(&mut self, answer: &rpc::EvidenceAnswer) {
        self.held_for(Duration::from_millis(answer.held_for_ms));
        for (mark, ago) in answer.agents.iter().zip(&answer.given_ms_ago) {
            let ago = Duration::from_millis((*ago).into());
            let known = self.ago.entry(Mark(*mark)).or_insert(ago);
            *known = ago.min(*known);
        }
    }

    /// Agents that were given it, and nothing older since.
    fn seen(&self) -> BTreeSet<Mark> {
        let since = |ago: Duration| ago.saturating_add(self.spread) <= self.held_for;
        self.ago.iter().filter(|(_, ago)| since(**ago)).map(|(mark, _)| *mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn answer(held_for_ms: u64, given: &[(u64, u32)]) -> rpc::EvidenceAnswer {
        rpc::EvidenceAnswer {
            not_ready: String::new(),
            agents: given.iter().map(|(mark, _)| *mark).collect(),
            given_ms_ago: given.iter().map(|(_, ago)| *ago).collect(),
            held_for_ms,
        }
    }

    #[test]
    fn an_agent_counts_that_was_given_it_after_the_last_member_had_it() {
        let seen = |spread, absent: Option<u64>, answers: &[rpc::EvidenceAnswer]| {
            let ms = Duration::from_millis;
            let mut given = Given::new(ms(spread));
            absent.into_iter().for_each(|gone_for| given.held_for(ms(gone_for)));
            answers.iter().for_each(|answer| given.add(answer));
            given.seen().into_iter().map(|mark| mark.0).collect::<Vec<_>>()
        };
        let first = answer(9_000, &[(1, 5_000), (2, 100), (3, 4_990)]);
        assert_eq!(seen(0, None, std::slice::from_ref(&first)), [1, 2, 3]);
        let later = answer(4_995, &[(1, 6_000), (4, 9)]);
        let both = [first.clone(), later];
        assert_eq!(seen(0, None, &both), [2, 3, 4], "the first may have asked the second before");
        assert_eq!(seen(10, None, &both), [2, 4], "nobody knows which answer was made first");
        let again = [first.clone(), answer(4_995, &[(1, 4_995)])];
        assert_eq!(seen(0, None, &again), [1, 2, 3], "or after");
        assert_eq!(seen(0, Some(100), &both), [2, 4], "one that is cut off served until then");
        let older = rpc::EvidenceAnswer { given_ms_ago: Vec::new(), ..first };
        assert_eq!(seen(0, None, &[older]), [0; 0], "it does not say when");
    }

    #[test]
    fn voters_count_and_so_do_members_that_are_absent_while_they_may_serve() {
        let until = Timestamp::from_unix_s(1_000);
        // What the members that answer have given, of the last one asked about.
        let here = Cell::new(Vec::new());
        let joined = |now_s, replies: &[Reply]| {
            let (asked_by, spread) = (MemberId(1), Duration::ZERO);
            let round = Round { asked_by, spread, until, now: Timestamp::from_unix_s(now_s) };
            let (members, seen) = round.join(replies);
            let ids = |seen: &BTreeSet<Mark>| seen.iter().map(|mark| mark.0).collect::<Vec<_>>();
            assert!(seen.for_good.is_subset(&seen.here), "{seen:?}");
            here.set(ids(&seen.here));
            let members = members.into_iter().map(|one| (one.member.0, one.not_ready));
            (members.collect::<Vec<_>>(), ids(&seen.for_good))
        };
        let reply = |id, votes, what| Reply { member: MemberId(id), votes, what };
        let said = |given: &[(u64, u32)]| What::Said(answer(60_000, given));
        let late = |text: &str| {
            What::Said(rpc::EvidenceAnswer { not_ready: text.to_owned(), ..answer(60_000, &[]) })
        };
        let text = |text: &str| Some(text.to_owned());

        let all = [reply(1, true, said(&[(7, 5)])), reply(2, false, late("it lags"))];
        assert_eq!(joined(999, &all), (vec![(1, None)], vec![7]), "a learner is not waited for");
        let lags = [reply(1, true, said(&[])), reply(2, true, late("it lags"))];
        assert_eq!(joined(999, &lags).0, [(1, None), (2, text("it lags"))]);
        let mute = [reply(2, true, What::Failed("timed out".to_owned()))];
        assert_eq!(joined(999, &mute).0, [(2, text("timed out"))]);
        let older = [reply(1, true, said(&[(7, 5)])), reply(2, true, What::Older(None))];
        assert_eq!(joined(999, &older), (vec![(1, None), (2, None)], vec![]), "it says nothing");

        let absent = [reply(2, true, What::Absent), reply(1, true, said(&[(7, 500), (8, 1_500)]))];
        let waits =
            "it does not answer; cut off, it may give out the bundle of before for 1 s more";
        assert_eq!(joined(999, &absent), (vec![(2, text(waits)), (1, None)], vec![]));
        assert_eq!(here.take(), [7, 8], "they have it, though it may not stay so");
        assert_eq!(joined(1_001, &absent), (vec![(1, None)], vec![7]), "and no more");
    }
}

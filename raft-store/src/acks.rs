//! Who still follows this member as its leader: answers to calls that were sent after a given moment.
//!
//! Owns the rule by which a confirmed read believes in its leader. openraft has a rule of its own, and
//! both must hold. Its own is not enough: appends are answered in a stream without saying which one is
//! meant, and an answer that was held up since before an election is taken for the answer to a later
//! append that ends at the same entry (`InflightAppendQueue::drain_acked`, 0.10.0-alpha.37). A leader
//! that was voted out then confirms a read. Here only calls count that have one answer each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::ids::MemberId;

/// A moment in the life of this process. Whatever is stamped later has a greater one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

/// What other members have answered to this one as their leader.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    last: AtomicU64,
    /// For each member the term in which it answered, and when the call was sent that it answered.
    answered: watch::Sender<BTreeMap<MemberId, (u64, Stamp)>>,
}

impl Acks {
    /// Now.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(self.last.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// A member follows the leader of `term`, as it says to a call that was sent at `sent`.
    pub(crate) fn note(&self, member: MemberId, term: u64, sent: Stamp) {
        self.answered.send_if_modified(|answered| {
            let known = answered.entry(member).or_default();
            let newer = (term, sent) > *known;
            if newer {
                *known = (term, sent);
            }
            newer
        });
    }

    /// Waits until a majority of each set of voters, `own` among them or not, follows this member as the
    /// leader of `term` by calls that were sent after `asked`. The voters are asked for each time that
    /// someone answers.
    pub(crate) async fn quorum(
        &self,
        own: MemberId,
        term: u64,
        asked: Stamp,
        voters: impl Fn() -> Vec<BTreeSet<u64>>,
    ) {
        let mut answered = self.answered.subscribe();
        let follows = |answered: &BTreeMap<MemberId, (u64, Stamp)>, voter: u64| {
            let by = answered.get(&MemberId(voter));
            voter == own.0 || by.is_some_and(|(of, sent)| *of == term && *sent > asked)
        };
        let confirmed = answered.wait_for(|answered| {
            voters().iter().all(|set| {
                set.iter().filter(|voter| follows(answered, **voter)).count() > set.len() / 2
            })
        });
        // It lives as long as this does.
        confirmed.await.ok();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const TERM: u64 = 7;

    fn follow(acks: &Acks, asked: Stamp, voters: &[&[u64]]) -> bool {
        let voters = || voters.iter().map(|set| set.iter().copied().collect()).collect();
        acks.quorum(MemberId(1), TERM, asked, voters).now_or_never().is_some()
    }

    #[test]
    fn only_what_was_sent_in_this_term_and_after_the_question_counts() {
        let acks = Acks::default();
        let early = acks.stamp();
        let asked = acks.stamp();
        let three: &[&[u64]] = &[&[1, 2, 3]];
        assert!(follow(&acks, asked, &[&[1]]), "alone it needs nobody");
        assert!(!follow(&acks, asked, three), "nobody answered");
        acks.note(MemberId(2), TERM, early);
        acks.note(MemberId(3), TERM, asked);
        assert!(!follow(&acks, asked, three), "answers to what was sent before");
        acks.note(MemberId(2), TERM - 1, acks.stamp());
        assert!(!follow(&acks, asked, three), "an answer of an earlier term");
        acks.note(MemberId(2), TERM, acks.stamp());
        assert!(follow(&acks, asked, three));
        acks.note(MemberId(2), TERM, early);
        assert!(follow(&acks, asked, three), "an old answer that comes late takes nothing back");
        assert!(!follow(&acks, acks.stamp(), three), "the next question needs new answers");
    }

    #[test]
    fn each_of_two_sets_of_voters_must_follow() {
        let acks = Acks::default();
        let asked = acks.stamp();
        let joint: &[&[u64]] = &[&[1, 2, 3], &[3, 4, 5]];
        acks.note(MemberId(2), TERM, acks.stamp());
        acks.note(MemberId(4), TERM, acks.stamp());
        assert!(!follow(&acks, asked, joint), "one of three");
        acks.note(MemberId(5), TERM, acks.stamp());
        assert!(follow(&acks, asked, joint));
        assert!(!follow(&acks, asked, &[&[2, 3, 6, 7]]), "half is no majority");
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_answer_and_sees_the_voters_of_then() {
        let acks = Acks::default();
        let asked = acks.stamp();
        let voters = || vec![BTreeSet::from([1, 2, 3])];
        let answer = async {
            tokio::task::yield_now().await;
            acks.note(MemberId(3), TERM, acks.stamp());
        };
        tokio::join!(acks.quorum(MemberId(1), TERM, asked, voters), answer);
    }
}

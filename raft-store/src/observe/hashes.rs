//! Comparing the state hashes of members. Pure; acted on by `rounds`.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::MemberId;

/// The state hash as it was after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The entry's index.
    pub index: u64,
    /// The hash.
    pub hash: [u8; 32],
}

/// Two members that applied the same log are in different states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The lowest index at which it shows.
    pub index: u64,
    /// Members by hash, the largest group first; this member is among them.
    pub groups: Vec<Vec<MemberId>>,
    /// Whether a majority of the voters agrees on another hash than this member's.
    pub against_this_member: bool,
}

/// What is known of a member's checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) member: MemberId,
    pub(crate) checkpoints: &'a [Checkpoint],
}

/// Looks for a mismatch between this member and others, at indexes of which both kept a checkpoint.
///
/// This member is in the wrong only if more than half of all voters agree with each other and not with
/// it: never all, and never one of two halves.
pub(crate) fn compare(
    me: &Kept<'_>,
    others: &[Kept<'_>],
    voters: &BTreeSet<MemberId>,
) -> Option<Mismatch> {
    let mut first: Option<Mismatch> = None;
    for own in me.checkpoints {
        let mut groups: BTreeMap<[u8; 32], Vec<MemberId>> =
            BTreeMap::from([(own.hash, vec![me.member])]);
        for other in others {
            let same = other.checkpoints.iter().find(|kept| kept.index == own.index);
            if let Some(kept) = same {
                groups.entry(kept.hash).or_default().push(other.member);
            }
        }
        if groups.len() < 2 {
            continue;
        }
        let agreeing = |members: &Vec<MemberId>| {
            members.iter().filter(|member| voters.contains(member)).count() * 2 > voters.len()
        };
        let against = groups.iter().any(|(hash, members)| *hash != own.hash && agreeing(members));
        let mut groups: Vec<Vec<MemberId>> = groups.into_values().collect();
        groups.sort_by_key(|members| std::cmp::Reverse(members.len()));
        let found = Mismatch { index: own.index, groups, against_this_member: against };
        match &mut first {
            None => first = Some(found),
            // More members may have reached a later one: what they agree on there counts.
            Some(first) => first.against_this_member |= against,
        }
    }
    first
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups = self
            .groups
            .iter()
            .map(|members| members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        let groups = groups.collect::<Vec<_>>().join(" against ");
        write!(f, "state hashes after entry {} differ: {groups}", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints at 256, 512, …: a digit a hash, `-` for one that is not kept.
    fn kept(text: &str) -> Vec<Checkpoint> {
        let all = text.bytes().zip(1_u64..).filter(|(byte, _)| *byte != b'-');
        all.map(|(byte, number)| Checkpoint { index: number * 256, hash: [byte; 32] }).collect()
    }

    /// Where a mismatch shows, and whether this member is in the wrong.
    type Found = Option<(u64, bool)>;

    /// Members and what they kept.
    type Members<'a> = &'a [(u64, &'a str)];

    fn run(voters: &[u64], members: Members<'_>) -> Option<(u64, bool)> {
        let voters = voters.iter().copied().map(MemberId).collect();
        let all: Vec<_> = members.iter().map(|(id, text)| (MemberId(*id), kept(text))).collect();
        let all: Vec<Kept<'_>> =
            all.iter().map(|(member, checkpoints)| Kept { member: *member, checkpoints }).collect();
        let (me, others) = all.split_first().unwrap();
        compare(me, others, &voters).map(|found| (found.index, found.against_this_member))
    }

    #[test]
    fn only_a_member_against_a_majority_of_voters_is_in_the_wrong() {
        let table: [(&str, &[u64], Members<'_>, Found); 14] = [
            ("alone", &[1], &[(1, "11")], None),
            ("all agree", &[1, 2, 3], &[(1, "12"), (2, "12"), (3, "12")], None),
            ("nothing in common", &[1, 2, 3], &[(1, "1-"), (2, "-2"), (3, "-2")], None),
            ("one behind", &[1, 2, 3], &[(1, "123"), (2, "1"), (3, "12")], None),
            ("two against one", &[1, 2, 3], &[(1, "19"), (2, "12"), (3, "12")], Some((512, true))),
            ("one against two", &[1, 2, 3], &[(1, "12"), (2, "12"), (3, "19")], Some((512, false))),
            ("the third is not heard", &[1, 2, 3], &[(1, "19"), (2, "12")], Some((512, false))),
            ("a tie of two", &[1, 2], &[(1, "1"), (2, "2")], Some((256, false))),
            (
                "a tie of four",
                &[1, 2, 3, 4],
                &[(1, "1"), (2, "1"), (3, "2"), (4, "2")],
                Some((256, false)),
            ),
            ("all differ", &[1, 2, 3], &[(1, "1"), (2, "2"), (3, "3")], Some((256, false))),
            (
                "a learner against the voters",
                &[1, 2],
                &[(3, "9"), (1, "1"), (2, "1")],
                Some((256, true)),
            ),
            (
                "learners do not outvote a voter",
                &[1],
                &[(1, "1"), (2, "2"), (3, "2")],
                Some((256, false)),
            ),
            (
                "the majority shows later only",
                &[1, 2, 3],
                &[(1, "99"), (2, "12"), (3, "-2")],
                Some((256, true)),
            ),
            (
                "three of five",
                &[1, 2, 3, 4, 5],
                &[(1, "9"), (2, "1"), (3, "1"), (4, "1"), (5, "9")],
                Some((256, true)),
            ),
        ];
        for (case, voters, members, expected) in table {
            assert_eq!(run(voters, members), expected, "{case}");
        }
    }

    #[test]
    fn a_mismatch_names_index_and_members() {
        let (one, two) = (kept("9"), kept("1"));
        let me = Kept { member: MemberId(1), checkpoints: &one };
        let others = [MemberId(2), MemberId(3)].map(|member| Kept { member, checkpoints: &two });
        let found = compare(&me, &others, &[1, 2, 3].map(MemberId).into()).unwrap();
        assert_eq!(
            found.to_string(),
            "state hashes after entry 256 differ: 0000000000000002, 0000000000000003 against \
             0000000000000001"
        );
    }
}

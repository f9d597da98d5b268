//! `cluster upgrade` and `cluster check` as the wire says them.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::{LevelStatus, LevelSupport, MemberStatus, RaiseError};

use crate::check::{Outcome, Verdict};
use crate::status::Failure;

pub(super) fn level_to_pb(
    levels: LevelStatus,
    status: &MemberStatus,
) -> rpc::UpgradeStatusResponse {
    let members = levels.members.into_iter().map(|one| {
        let view = status.members.iter().find(|view| view.id == one.member);
        rpc::MemberLevel {
            id: one.member.to_string(),
            version: view.and_then(|view| view.version.clone()).unwrap_or_default(),
            feature_level_max: one.supports.unwrap_or(0),
        }
    });
    rpc::UpgradeStatusResponse {
        feature_level: levels.level,
        members: members.collect(),
        ready_level: levels.ready.unwrap_or(0),
        raised_in_s: levels.raised_in.map(|time| time.as_secs_f64()),
    }
}

/// From which level to which it was raised; the same twice where there is nothing to raise it to.
///
/// # Errors
///
/// It was refused, or nothing is known.
pub(super) fn raised(
    raised: Result<(u32, u32), RaiseError>,
    levels: impl FnOnce() -> LevelStatus,
) -> Result<(u32, u32), Failure> {
    match raised {
        Ok(raised) => Ok(raised),
        Err(RaiseError::Refused(text)) => match at_newest(&levels()) {
            Some(level) => Ok((level, level)),
            None => Err(Failure::failed_precondition(text)),
        },
        Err(RaiseError::Unavailable(error)) => Err(error.into()),
    }
}

/// The level that the cluster is at, if every member has said lately that it supports none above.
fn at_newest(levels: &LevelStatus) -> Option<u32> {
    let is_newest = |one: &LevelSupport| one.supports == Some(levels.level);
    let all = !levels.members.is_empty() && levels.members.iter().all(is_newest);
    all.then_some(levels.level)
}

pub(super) fn verdict_to_pb(verdict: Verdict) -> rpc::Verdict {
    use rpc::verdict::Outcome as Wire;
    let outcome = match verdict.outcome {
        Outcome::Ok => Wire::Ok,
        Outcome::Warn => Wire::Warn,
        Outcome::Fail => Wire::Fail,
    };
    rpc::Verdict {
        name: verdict.name.to_owned(),
        outcome: outcome.into(),
        text: verdict.text,
        hint: verdict.hint.into_owned(),
        doc: verdict.doc.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_raft_store::{MemberId, Unavailable};

    use super::*;

    #[test]
    fn at_the_newest_level_of_all_members_there_is_nothing_to_raise() {
        let levels = |supports: &[Option<u32>]| {
            let all = supports.iter().zip(1..);
            let members = all
                .map(|(supports, id)| LevelSupport { member: MemberId(id), supports: *supports })
                .collect();
            LevelStatus { level: 5, members, ready: None, raised_in: None }
        };
        let refused = || Err(RaiseError::Refused("why".to_owned()));
        let why = || Err(Failure::failed_precondition("why"));
        type Case<'a> = (&'a [Option<u32>], Result<(u32, u32), Failure>);
        let table: [Case<'_>; 5] = [
            (&[Some(5), Some(5)], Ok((5, 5))),
            // One of them is newer: the others are to follow.
            (&[Some(5), Some(6)], why()),
            (&[Some(5), None], why()),
            (&[Some(5), Some(4)], why()),
            (&[], why()),
        ];
        for (supports, expected) in table {
            assert_eq!(raised(refused(), || levels(supports)), expected, "{supports:?}");
        }
        let newest = || levels(&[Some(5)]);
        assert_eq!(raised(Ok((4, 5)), newest), Ok((4, 5)));
        let unavailable = Unavailable { text: "no leader".to_owned(), retry_after: Duration::ZERO };
        let found = raised(Err(RaiseError::Unavailable(unavailable.clone())), newest);
        assert_eq!(found, Err(Failure::from(unavailable)), "as every write");
    }
}

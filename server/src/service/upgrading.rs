//! `cluster upgrade` and `cluster check` as the wire says them.

use steeple_api::pb::cluster::v1 as rpc;
use steeple_raft_store::{LevelStatus, MemberStatus, RaiseError};

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

pub(super) fn not_raised(error: RaiseError) -> Failure {
    match error {
        RaiseError::Refused(text) => Failure::failed_precondition(text),
        RaiseError::Unavailable(error) => error.into(),
    }
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
        hint: verdict.hint.to_owned(),
        doc: verdict.doc.to_owned(),
    }
}

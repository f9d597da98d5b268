//! What a server's answer means for this agent's life. Pure.
//!
//! The table of `spire-semantics` 8.5. Only answers of a server that verified count, and only those
//! to the certificate now in use: a call that was under way while the certificate was replaced says
//! nothing about the new one.

use std::error::Error as _;

use steeple_api::pb::types::permission_denied_details::Reason;
use steeple_api::status::reason_of;
use tonic::{Code, Status};

use crate::upstream::CallError;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An ordinary failure: try again later.
    Retry,
    /// The servers no longer accept this agent's certificate: attest again, or give up where that is
    /// not possible.
    Reattest,
    /// An operator banned this agent: forget the certificate and end.
    Banned,
    /// Every server shows a certificate of an authority we don't know: go on with what is cached, and
    /// tell the operator.
    Distrusted,
}

/// Judges a failed call; `generation` counts the certificate in use.
pub fn verdict(error: &CallError, generation: u64) -> Verdict {
    if error.is_unknown_authority {
        return Verdict::Distrusted;
    }
    if error.status.code() != Code::PermissionDenied {
        return Verdict::Retry;
    }
    match reason_of(&error.status) {
        Some(_) if error.generation != generation => Verdict::Retry,
        Some(
            Reason::AgentExpired
            | Reason::AgentNotActive
            | Reason::AgentNotAttested
            | Reason::AgentMustReattest,
        ) => Verdict::Reattest,
        Some(Reason::AgentBanned) => Verdict::Banned,
        Some(Reason::Unknown) | None => Verdict::Retry,
    }
}

/// Whether a failed call may mean that no server lets this agent in with its certificate any more: it
/// was denied without a reason, or the connection broke, as it does when a server refuses a certificate
/// in the handshake. A server that is unavailable or was not reached says nothing of the kind.
pub fn is_shut_out(status: &Status) -> bool {
    let is_denied = status.code() == Code::PermissionDenied
        && matches!(reason_of(status), None | Some(Reason::Unknown));
    is_denied || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steeple_api::status::permission_denied;

    use super::*;

    fn judge(status: Status, generation: u64) -> Verdict {
        verdict(&CallError { status, is_unknown_authority: false, generation }, 7)
    }

    #[test]
    fn reasons_decide_and_only_for_the_certificate_in_use() {
        let cases = [
            (Reason::AgentExpired, Verdict::Reattest),
            (Reason::AgentNotActive, Verdict::Reattest),
            (Reason::AgentNotAttested, Verdict::Reattest),
            (Reason::AgentMustReattest, Verdict::Reattest),
            (Reason::AgentBanned, Verdict::Banned),
            (Reason::Unknown, Verdict::Retry),
        ];
        for (reason, want) in cases {
            let status = || permission_denied("no", reason);
            assert_eq!(judge(status(), 7), want, "{reason:?}");
            assert_eq!(judge(status(), 6), Verdict::Retry, "{reason:?} of an older certificate");
        }
    }

    #[test]
    fn answers_without_a_reason_are_ordinary_failures() {
        for status in [
            Status::permission_denied("authorization denied for method /x"),
            Status::unavailable("no leader: 1 of 3 voters reachable"),
            Status::internal("x"),
            Status::not_found("x"),
            Status::unauthenticated("x"),
        ] {
            assert_eq!(judge(status.clone(), 7), Verdict::Retry, "{status:?}");
        }
    }

    #[test]
    fn who_is_denied_or_cut_off_without_a_reason_may_be_shut_out() {
        let mut cut_off = Status::unknown("transport error");
        cut_off.set_source(Arc::new(std::io::Error::other("alert: unknown ca")));
        for (status, want) in [
            (Status::permission_denied("authorization denied for method /x"), true),
            (cut_off, true),
            (permission_denied("no", Reason::AgentBanned), false),
            (Status::unavailable("no leader: 1 of 3 voters reachable"), false),
            (Status::deadline_exceeded("no answer"), false),
            (Status::internal("x"), false),
        ] {
            assert_eq!(is_shut_out(&status), want, "{status:?}");
        }
    }

    #[test]
    fn unknown_authorities_everywhere_are_told_from_other_failures() {
        let status = Status::unavailable("x509: certificate signed by unknown authority");
        let error = CallError { status, is_unknown_authority: true, generation: 7 };
        assert_eq!(verdict(&error, 7), Verdict::Distrusted);
    }
}

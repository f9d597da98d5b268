//! Every refusal and failure of the API as gRPC code, text and details. The only file that maps
//! errors to statuses: services build a [`Failure`], never a status.
//!
//! Three classes are kept apart (`docs/reference/cluster.md` 4): *rejected* by a replicated decision
//! gets its own code; *unavailable* and *indeterminate* are `Unavailable` with a retry hint, never
//! `PermissionDenied` or `NotFound`. Texts are SPIRE's wherever SPIRE has the case.

use std::fmt::Display;
use std::time::Duration;

use steeple_api::pb;
use steeple_api::pb::types::permission_denied_details::Reason;
use steeple_raft_store::{ProposeError, Rejection, Unavailable};
use tonic::{Code, Status};

use crate::attest::AttestError;
use crate::authority::IssueError;
use crate::gate::ratelimit::LimitError;

/// Trailing metadata of gRPC that says after how many milliseconds a retry makes sense.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Retry hint for outcomes that are not known: a new leader is there by then.
const RETRY_INDETERMINATE: Duration = Duration::from_millis(500);

/// Retry hint when this replica cannot sign: authorities are made and opened within seconds.
const RETRY_NO_AUTHORITY: Duration = Duration::from_secs(2);

/// Why a call, or one item of a batch, has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    message: String,
    reason: Option<Reason>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// The request is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The request is malformed, and why: `<message>: <cause>`.
    pub fn invalid_because(message: &str, cause: impl Display) -> Self {
        Self::invalid(format!("{message}: {cause}"))
    }

    /// There is no such thing; only after a confirmed read.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// There is one already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    /// Something in this process went wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Something that must be configured or done first is missing.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// The method does nothing in this version or with this configuration.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// The caller may not call the method, by a decision that needs no registry or that a confirmed
    /// read has backed.
    pub fn denied(method: &str, reason: Option<Reason>) -> Self {
        let message = format!("authorization denied for method {method}");
        Self { reason, ..Self::new(Code::PermissionDenied, message) }
    }

    /// An agent must attest anew instead of renewing.
    pub fn must_reattest() -> Self {
        let message = "agent must reattest instead of renew";
        Self {
            reason: Some(Reason::AgentMustReattest),
            ..Self::new(Code::PermissionDenied, message)
        }
    }

    /// A banned agent tries to attest. SPIRE attaches no detail here.
    pub fn attest_banned() -> Self {
        Self::new(Code::PermissionDenied, "failed to attest: agent is banned")
    }

    /// The answer was not ready by the caller's deadline.
    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// Not now, for a reason of this replica.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(Code::Unavailable, message) }
    }

    /// There is nothing to sign with yet.
    pub fn initializing(message: impl Into<String>) -> Self {
        Self::unavailable(message, RETRY_NO_AUTHORITY)
    }

    /// The client broke off, or broke the protocol of a stream.
    pub fn stream(status: &Status) -> Self {
        Self::new(status.code(), status.message())
    }

    /// A limit was hit: `rejecting request due to <what> rate limiting: <cause>`.
    pub fn limited(what: &str, error: &LimitError) -> Self {
        let message = format!("rejecting request due to {what} rate limiting: {error}");
        Self::new(Code::ResourceExhausted, message)
    }

    /// A command's replicated refusal, for a call that was `doing` something (`failed to ban
    /// agent`).
    pub fn rejected(doing: &str, rejection: &Rejection) -> Self {
        let plain = |code, message: &str| Self::new(code, message);
        let wrapped = |code| Self::new(code, format!("{doing}: {rejection}"));
        match rejection {
            Rejection::EntryNotFound => plain(Code::NotFound, "entry not found"),
            Rejection::AgentNotFound => plain(Code::NotFound, "agent not found"),
            Rejection::AgentBanned => Self::attest_banned(),
            Rejection::TokenUnknown => plain(
                Code::InvalidArgument,
                "failed to attest: join token does not exist or has already been used",
            ),
            Rejection::TokenExpired => plain(Code::InvalidArgument, "join token expired"),
            Rejection::EntryIdTaken(_) | Rejection::EntryWouldBeSimilar(_) => {
                wrapped(Code::AlreadyExists)
            }
            Rejection::StoreSvidSelectorTypes
            | Rejection::RequestIdReused
            | Rejection::OwnBundle
            | Rejection::OwnRelationship => wrapped(Code::InvalidArgument),
            // SPIRE knows no other code here; its text is its database's.
            Rejection::RelationshipExists => wrapped(Code::Internal),
            Rejection::RelationshipNotFound => {
                plain(Code::NotFound, "federation relationship not found")
            }
            Rejection::BundleExists => plain(Code::AlreadyExists, "bundle already exists"),
            Rejection::BundleNotFound => plain(Code::NotFound, "bundle not found"),
            // SPIRE names the part that refuses; scripts may look for its words.
            Rejection::BundleInUse(_) => {
                Self::failed_precondition(format!("{doing}: datastore-sql: {rejection}"))
            }
            Rejection::LimitReached { .. } => wrapped(Code::ResourceExhausted),
            Rejection::NothingToAdopt => wrapped(Code::FailedPrecondition),
            // Not a code that clients retry by themselves: the outcome would never become known.
            Rejection::RequestForgotten => wrapped(Code::Aborted),
            // Someone else was faster. Nothing was decided about the caller: it tries again.
            Rejection::SerialsChanged
            | Rejection::BundleMoved
            | Rejection::JournalMoved { .. }
            | Rejection::SealedMoved { .. }
            | Rejection::ClusterKeyMoved { .. } => {
                Self { retry_after: Some(Duration::ZERO), ..wrapped(Code::Unavailable) }
            }
            Rejection::NotInitialised => {
                Self { retry_after: Some(RETRY_NO_AUTHORITY), ..wrapped(Code::Unavailable) }
            }
            Rejection::FederatedBundleMissing(_)
            | Rejection::TokenExists
            | Rejection::AuthorityState(_)
            | Rejection::AlreadyInitialised => wrapped(Code::Internal),
        }
    }

    /// A signature that could not be made, for a call that was `doing` something (`failed to sign
    /// X509-SVID`). Another replica may well be able to.
    pub fn unsigned(doing: &str, error: &IssueError) -> Self {
        match error {
            IssueError::NoAuthority { .. }
            | IssueError::Sealed { .. }
            | IssueError::Expired { .. }
            | IssueError::Skew { .. }
            | IssueError::ClockOff { .. } => {
                Self::unavailable(format!("{doing}: {error}"), RETRY_NO_AUTHORITY)
            }
            IssueError::Invalid(text) => Self::internal(text),
        }
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What an agent is told to do about it.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// As the status of one item of a batch.
    pub fn into_item(self) -> pb::types::Status {
        steeple_api::status::item(self.code, self.message)
    }

    /// As the status of a whole call.
    pub fn into_status(self) -> Status {
        let mut status = match self.reason {
            Some(reason) => steeple_api::status::permission_denied(self.message, reason),
            None => Status::new(self.code, self.message),
        };
        if let Some(retry_after) = self.retry_after {
            let ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
            status.metadata_mut().insert(RETRY_PUSHBACK, ms.into());
        }
        status
    }

    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason: None, retry_after: None }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        Self::unavailable(error.text, error.retry_after)
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Unavailable(error) => error.into(),
            ProposeError::Indeterminate { .. } => {
                Self::unavailable(error.to_string(), RETRY_INDETERMINATE)
            }
            ProposeError::TooLarge { .. } => Self::invalid(format!(
                "{error}: give it fewer or shorter values, such as selectors, names or certificates"
            )),
            ProposeError::Overloaded => Self::new(Code::ResourceExhausted, error.to_string()),
            // Only duties are bound to a leader; a service that sees this may try again at once.
            ProposeError::NotLeader => Self::unavailable(error.to_string(), Duration::ZERO),
        }
    }
}

impl From<AttestError> for Failure {
    fn from(error: AttestError) -> Self {
        Self::new(error.code, error.message)
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{EntryId, TrustDomain};

    use super::*;

    #[test]
    fn who_was_overtaken_by_another_cluster_key_tries_again() {
        let moved = Rejection::ClusterKeyMoved { expected: "k1".into(), actual: "k2".into() };
        let failure = Failure::rejected("doing", &moved);
        let expected = (Code::Unavailable, "doing: cluster key k2 seals, not k1");
        assert_eq!((failure.code(), failure.message()), expected);
    }

    #[test]
    fn every_rejection_has_its_code_and_text() {
        let id = || EntryId::parse("e1").expect("an id");
        let td = TrustDomain::parse("other.org").expect("a name");
        let table = [
            (Rejection::EntryNotFound, Code::NotFound, "entry not found"),
            (Rejection::AgentNotFound, Code::NotFound, "agent not found"),
            (Rejection::AgentBanned, Code::PermissionDenied, "failed to attest: agent is banned"),
            (
                Rejection::TokenUnknown,
                Code::InvalidArgument,
                "failed to attest: join token does not exist or has already been used",
            ),
            (Rejection::TokenExpired, Code::InvalidArgument, "join token expired"),
            (Rejection::TokenExists, Code::Internal, "doing: join token already exists"),
            (Rejection::EntryIdTaken(id()), Code::AlreadyExists, "doing: entry id e1 is taken"),
            (
                Rejection::EntryWouldBeSimilar(id()),
                Code::AlreadyExists,
                "doing: entry would equal entry e1",
            ),
            (
                Rejection::FederatedBundleMissing(td),
                Code::Internal,
                "doing: unable to find federated bundle \"spiffe://other.org\"",
            ),
            (
                Rejection::StoreSvidSelectorTypes,
                Code::InvalidArgument,
                "doing: selector types must be the same when store SVID is enabled",
            ),
            (
                Rejection::LimitReached { what: "entries".into(), limit: 5 },
                Code::ResourceExhausted,
                "doing: limit of 5 entries reached",
            ),
            (Rejection::SerialsChanged, Code::Unavailable, "doing: agent serials have changed"),
            (
                Rejection::JournalMoved { expected: 1, actual: 2 },
                Code::Unavailable,
                "doing: authority journal is at revision 2, not 1",
            ),
            (
                Rejection::AuthorityState("a".into()),
                Code::Internal,
                "doing: authority a is not in the expected state",
            ),
            (
                Rejection::AlreadyInitialised,
                Code::Internal,
                "doing: cluster is already initialised",
            ),
            (Rejection::NotInitialised, Code::Unavailable, "doing: cluster is not initialised"),
            (
                Rejection::RequestIdReused,
                Code::InvalidArgument,
                "doing: request id was used for another request",
            ),
            (
                Rejection::RequestForgotten,
                Code::Aborted,
                "doing: request is older than what is remembered: whether it took effect is not \
                 known; look, then send it under a new id",
            ),
        ];
        for (rejection, code, text) in table {
            let failure = Failure::rejected("doing", &rejection);
            assert_eq!((failure.code(), failure.message()), (code, text), "{rejection:?}");
        }
    }

    #[test]
    fn lack_of_a_quorum_is_always_unavailable_with_a_hint() {
        let unavailable =
            || Unavailable { text: "no leader".into(), retry_after: Duration::from_millis(700) };
        let table: [(Failure, &str, &str); 4] = [
            (unavailable().into(), "no leader", "700"),
            (ProposeError::Unavailable(unavailable()).into(), "no leader", "700"),
            (
                ProposeError::Indeterminate { text: "reply lost".into() }.into(),
                "outcome unknown: reply lost",
                "500",
            ),
            (ProposeError::NotLeader.into(), "not the leader of that term", "0"),
        ];
        for (failure, text, hint) in table {
            let status = failure.into_status();
            assert_eq!((status.code(), status.message()), (Code::Unavailable, text));
            let found = status.metadata().get(RETRY_PUSHBACK).expect("a hint");
            assert_eq!(found.to_str().expect("digits"), hint, "{text}");
            assert!(status.details().is_empty(), "{text}");
        }
    }

    #[test]
    fn a_replica_that_cannot_sign_sends_callers_elsewhere() {
        let table = [
            (
                IssueError::NoAuthority { text: "no active X.509 authority".into() },
                Code::Unavailable,
                "failed to sign: no active X.509 authority",
            ),
            (
                IssueError::Sealed { kek_id: "k1".into() },
                Code::Unavailable,
                "failed to sign: sealed: cluster key does not open k1",
            ),
            (
                IssueError::Expired { kind: "JWT" },
                Code::Unavailable,
                "failed to sign: active JWT authority has expired",
            ),
            (
                IssueError::Skew { limit_ms: 30_000 },
                Code::Unavailable,
                "failed to sign: clock is behind cluster time by more than 30000 ms",
            ),
            (
                IssueError::ClockOff { ahead_ms: -42_000, limit: Duration::from_secs(30) },
                Code::Unavailable,
                "failed to sign: this replica's clock is 42.0 s behind the median of the members' \
                 clocks, at most 30.0 s are allowed; set this machine's clock right (NTP)",
            ),
            (
                IssueError::Invalid("failed to sign X509-SVID: bad key".into()),
                Code::Internal,
                "failed to sign X509-SVID: bad key",
            ),
        ];
        for (error, code, text) in table {
            let failure = Failure::unsigned("failed to sign", &error);
            assert_eq!((failure.code(), failure.message()), (code, text));
        }
    }

    #[test]
    fn proposals_that_this_member_refuses_are_the_callers_to_change_or_to_slow_down() {
        let too_large: Failure = ProposeError::TooLarge { bytes: 9, max: 8 }.into();
        assert_eq!(too_large.code(), Code::InvalidArgument);
        let text = "command of 9 bytes is larger than 8: give it fewer or shorter values";
        assert!(too_large.message().starts_with(text), "{too_large:?}");
        let overloaded: Failure = ProposeError::Overloaded.into();
        assert_eq!(overloaded.code(), Code::ResourceExhausted);
    }

    #[test]
    fn only_denials_of_agents_carry_a_reason() {
        let table = [
            (Failure::denied("/m", Some(Reason::AgentBanned)), Some(Reason::AgentBanned)),
            (Failure::denied("/m", None), None),
            (Failure::must_reattest(), Some(Reason::AgentMustReattest)),
            (Failure::attest_banned(), None),
        ];
        for (failure, reason) in table {
            let status = failure.into_status();
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(steeple_api::status::reason_of(&status), reason, "{status:?}");
        }
        let denied = Failure::denied("/pkg.Service/Method", None);
        assert_eq!(denied.message(), "authorization denied for method /pkg.Service/Method");
    }
}

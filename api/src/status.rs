//! Statuses: of single items of a batch, and of calls that an agent must understand.
//!
//! Owns the numbers and the encoding of `grpc-status-details-bin`; who is refused and why is the
//! gate's. An agent reads the reason to know whether to attest again, so it must be exactly
//! SPIRE's.

use prost::Message;
use tonic::Code;

use crate::pb;
use pb::types::permission_denied_details::Reason;

/// The type URL of the details in a `google.protobuf.Any`, as every protobuf library writes it.
const DETAILS_TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// What `grpc-status-details-bin` holds. Public protobuf (`google/rpc/status.proto`), written here
/// because it is all we need of that package.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The status of an item that is done.
pub fn ok() -> pb::types::Status {
    item(Code::Ok, "OK")
}

/// The status of an item.
pub fn item(code: Code, message: impl Into<String>) -> pb::types::Status {
    pb::types::Status { code: code.into(), message: message.into() }
}

/// The refusal of a call with a reason that the calling agent acts on. Some reasons make a stock
/// agent delete its SVID: the caller of this function needs a confirmed read first.
pub fn permission_denied(message: impl Into<String>, reason: Reason) -> tonic::Status {
    let message = message.into();
    let details = pb::types::PermissionDeniedDetails { reason: reason.into() };
    let status = RpcStatus {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: DETAILS_TYPE_URL.to_owned(),
            value: details.encode_to_vec(),
        }],
    };
    tonic::Status::with_details(Code::PermissionDenied, message, status.encode_to_vec().into())
}

/// The name of a code as grpc-go prints it: scripts and SPIRE's metrics read these.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The reason of a refusal, if it carries one that we know.
pub fn reason_of(status: &tonic::Status) -> Option<Reason> {
    let rpc_status = RpcStatus::decode(status.details()).ok()?;
    let any = rpc_status.details.iter().find(|any| any.type_url == DETAILS_TYPE_URL)?;
    let details = pb::types::PermissionDeniedDetails::decode(any.value.as_slice()).ok()?;
    Reason::try_from(details.reason).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONS: [(Reason, i32); 6] = [
        (Reason::Unknown, 0),
        (Reason::AgentExpired, 1),
        (Reason::AgentNotAttested, 2),
        (Reason::AgentNotActive, 3),
        (Reason::AgentBanned, 4),
        (Reason::AgentMustReattest, 5),
    ];

    #[test]
    fn an_agent_reads_the_reason_that_the_server_gave() {
        for (reason, number) in REASONS {
            let status = permission_denied("no", reason);
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(status.message(), "no");
            assert_eq!(reason_of(&status), Some(reason));
            assert_eq!(i32::from(reason), number);
        }
    }

    #[test]
    fn the_details_are_the_bytes_that_a_stock_agent_reads() {
        // google.rpc.Status{code: 7, message: "no", details: [Any{type_url, value: {reason: 4}}]},
        // written by hand from the wire format.
        let url = b"type.googleapis.com/spire.api.types.PermissionDeniedDetails";
        let mut any = vec![0x0a, u8::try_from(url.len()).unwrap()];
        any.extend_from_slice(url);
        any.extend_from_slice(&[0x12, 2, 0x08, 4]);
        let mut expected =
            vec![0x08, 7, 0x12, 2, b'n', b'o', 0x1a, u8::try_from(any.len()).unwrap()];
        expected.extend_from_slice(&any);
        assert_eq!(permission_denied("no", Reason::AgentBanned).details(), expected);
    }

    #[test]
    fn a_status_without_a_known_reason_has_none() {
        let plain = tonic::Status::permission_denied("no");
        assert_eq!(reason_of(&plain), None);
        let junk = tonic::Status::with_details(Code::PermissionDenied, "no", vec![0xff; 9].into());
        assert_eq!(reason_of(&junk), None);

        let unknown = pb::types::PermissionDeniedDetails { reason: 77 };
        let rpc_status = RpcStatus {
            details: vec![prost_types::Any {
                type_url: DETAILS_TYPE_URL.to_owned(),
                value: unknown.encode_to_vec(),
            }],
            ..Default::default()
        };
        let details = rpc_status.encode_to_vec().into();
        let future = tonic::Status::with_details(Code::PermissionDenied, "no", details);
        assert_eq!(reason_of(&future), None);
    }

    #[test]
    fn items_carry_the_number_of_their_code() {
        assert_eq!(ok(), pb::types::Status { code: 0, message: "OK".to_owned() });
        let missing = item(Code::NotFound, "entry not found");
        assert_eq!(missing, pb::types::Status { code: 5, message: "entry not found".to_owned() });
    }
}

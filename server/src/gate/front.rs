//! Where a request meets the server: admitted or refused, answered, stamped, counted.
//!
//! Owns what is the same for every RPC: path and deadline, the wait for `steeple-min-revision`, the
//! trailers `steeple-revision`, `steeple-member` and `steeple-staleness`, and the call counters. What is
//! logged of a call is `line`'s, what a method does is behind the routes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use steeple_raft_store::{MemberId, Revision};
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use super::call::{Call, Notes, WORK_MAX};
use super::caller::Gate;
use super::line::Line;
use super::policy::{self, Rule};
use super::refusals::Refusals;
use super::staleness::Standing;
use crate::listen::{Application, Peer};
use crate::metrics::RpcTimer;
use crate::status::Failure;

/// Request: wait until this replica has applied the revision.
const MIN_REVISION: &str = "steeple-min-revision";
/// Request: the caller's own name for the call, 32 hex digits.
const REQUEST_ID: &str = "steeple-request-id";
/// Trailer: the state that the answer reflects.
const REVISION: &str = "steeple-revision";
/// Trailer: who answered.
const MEMBER: &str = "steeple-member";
/// Trailer: seconds since the state was confirmed; absent from a replica in contact.
const STALENESS: &str = "steeple-staleness";

/// The front of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    shared: Arc<Shared>,
    routes: Routes,
}

#[derive(Debug)]
struct Shared {
    gate: Gate,
    member: MemberId,
    /// Whether this is the admin socket, on which some methods exist alone.
    socket: bool,
    audit: bool,
    refusals: Refusals,
}

impl Front {
    /// A front before some routes. `socket` marks the admin socket, `audit` writes a line per call.
    pub fn new(gate: Gate, member: MemberId, routes: Routes, socket: bool, audit: bool) -> Self {
        let shared = Arc::new(Shared { gate, member, socket, audit, refusals: Refusals::new() });
        Self { shared, routes: routes.prepare() }
    }
}

impl Application for Front {
    async fn answer(&self, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let rule = policy::rule(&path).filter(|rule| self.shared.socket || !rule.socket_only);
        let Some(rule) = rule else {
            return Failure::unimplemented(policy::unknown_method(&path)).into_status().into_http();
        };
        let timer = RpcTimer::start(rule);
        let notes = Arc::new(Notes::new(self.shared.gate.views.revision()));
        let client_deadline = timeout(request.headers()).map(|timeout| Instant::now() + timeout);
        let answered =
            self.admit_and_route(rule, Arc::clone(&peer), request, &notes, client_deadline);
        let response = match client_deadline {
            None => answered.await,
            Some(deadline) => tokio::time::timeout_at(deadline, answered)
                .await
                .unwrap_or_else(|_elapsed| Failure::deadline_exceeded().into_status().into_http()),
        };
        let random = Arc::clone(&self.shared.gate.random);
        let line = Line { rule, peer, notes: Arc::clone(&notes), random };
        self.stamp(response, notes, timer, line)
    }
}

impl Front {
    async fn admit_and_route(
        &self,
        rule: &'static Rule,
        peer: Arc<Peer>,
        mut request: Request<Incoming>,
        notes: &Arc<Notes>,
        client_deadline: Option<Instant>,
    ) -> Response<Body> {
        let admitted =
            self.admit(rule, Arc::clone(&peer), request.headers(), notes, client_deadline).await;
        match admitted {
            Ok(call) => {
                request.extensions_mut().insert(call);
                let response = match self.routes.clone().call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                said_if_missing(rule, response)
            }
            Err(failure) => {
                let request_id = notes.log_id(self.shared.gate.random.as_ref());
                self.shared.refusals.log(rule, &peer, &failure, request_id);
                failure.into_status().into_http()
            }
        }
    }

    async fn admit(
        &self,
        rule: &'static Rule,
        peer: Arc<Peer>,
        headers: &HeaderMap,
        notes: &Arc<Notes>,
        client_deadline: Option<Instant>,
    ) -> Result<Call, Failure> {
        let gate = &self.shared.gate;
        let attempt = attempt(headers)?;
        let min_revision = min_revision(headers)?;
        let longest = Instant::now() + WORK_MAX;
        let deadline = client_deadline.map_or(longest, |deadline| deadline.min(longest));
        let caller = gate.admit(rule, &peer, deadline).await?;
        notes.authorized(caller.authorized(&gate.admin_ids));
        if let Some(revision) = min_revision {
            gate.reads.reach(revision, deadline).await?;
        }
        // What the answer reflects at least; services raise it by what they confirm or write.
        notes.reflects(gate.views.revision());
        if gate.reads.standing() != Standing::Strict {
            notes.stale(gate.reads.confirmed_age().unwrap_or(Duration::MAX));
        }
        let notes = Arc::clone(notes);
        Ok(Call { rule, caller, peer, client_deadline, attempt, notes })
    }

    /// Puts the trailers on and counts the call when its last frame leaves.
    fn stamp(
        &self,
        response: Response<Body>,
        notes: Arc<Notes>,
        timer: RpcTimer,
        line: Line,
    ) -> Response<Body> {
        let member = self.shared.member;
        let audit = self.shared.audit;
        let (mut parts, body) = response.into_parts();
        too_large_as_in_grpc(&mut parts.headers);
        if let Some(code) = code_of(&parts.headers) {
            write_trailers(&mut parts.headers, &notes, member);
            timer.finish(code);
            line.log(code, &parts.headers, audit);
            return Response::from_parts(parts, body);
        }
        let mut timer = Some(timer);
        let body = body.map_frame(move |frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                too_large_as_in_grpc(&mut trailers);
                write_trailers(&mut trailers, &notes, member);
                let code = code_of(&trailers).unwrap_or(Code::Unknown);
                if let Some(timer) = timer.take() {
                    timer.finish(code);
                }
                line.log(code, &trailers, audit);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        });
        Response::from_parts(parts, Body::new(body))
    }
}

/// A method of the policy that no route leads to is one that this version does not have yet. The
/// router's own answer has no text.
fn said_if_missing(rule: &Rule, response: Response<Body>) -> Response<Body> {
    let silent = tonic::Status::from_header_map(response.headers())
        .is_some_and(|status| status.code() == Code::Unimplemented && status.message().is_empty());
    if !silent {
        return response;
    }
    let text = format!("{}/{} is not supported by this version", rule.service(), rule.name());
    Failure::unimplemented(text).into_status().into_http()
}

/// tonic refuses a message above the limit with a code and a text of its own; clients know gRPC-Go's.
fn too_large_as_in_grpc(trailers: &mut HeaderMap) {
    let status = tonic::Status::from_header_map(trailers);
    let refused = status.filter(|status| status.code() == Code::OutOfRange);
    let Some((size, max)) = refused.as_ref().and_then(|status| sizes(status.message())) else {
        return;
    };
    let text = format!("grpc: received message larger than max ({size} vs. {max})");
    // Such a text always goes into a header.
    tonic::Status::resource_exhausted(text).add_header(trailers).ok();
}

/// The numbers in tonic's text about a message above the limit.
fn sizes(text: &str) -> Option<(u64, u64)> {
    let rest = text.strip_prefix("Error, decoded message length too large: found ")?;
    let (size, max) = rest.split_once(" bytes, the limit is: ")?;
    Some((size.parse().ok()?, max.strip_suffix(" bytes")?.parse().ok()?))
}

fn write_trailers(headers: &mut HeaderMap, notes: &Notes, member: MemberId) {
    headers.insert(REVISION, notes.revision().as_u64().into());
    if let Ok(member) = HeaderValue::try_from(member.to_string()) {
        headers.insert(MEMBER, member);
    }
    if let Some(age) = notes.staleness() {
        headers.insert(STALENESS, age.as_secs().into());
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(tonic::Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The caller's patience: `grpc-timeout` of the gRPC protocol, at most eight digits and a unit.
/// What does not parse is no deadline, as in gRPC-Go.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn min_revision(headers: &HeaderMap) -> Result<Option<Revision>, Failure> {
    let Some(value) = headers.get(MIN_REVISION) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| Failure::invalid("steeple-min-revision is no number"))?;
    Ok(Some(Revision::from_u64(number)))
}

fn attempt(headers: &HeaderMap) -> Result<Option<[u8; 16]>, Failure> {
    let Some(value) = headers.get(REQUEST_ID) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.len() == 32);
    let number = text.and_then(|text| u128::from_str_radix(text, 16).ok());
    let number =
        number.ok_or_else(|| Failure::invalid("steeple-request-id is no 32 hex digits"))?;
    Ok(Some(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::try_from(value).expect("a header value"));
        headers
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let table = [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("7u", Some(Duration::from_micros(7))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5x", None),
            ("-1S", None),
        ];
        for (text, expected) in table {
            assert_eq!(timeout(&header("grpc-timeout", text)), expected, "{text:?}");
        }
    }

    #[test]
    fn request_ids_are_32_hex_digits_or_refused() {
        let good = header(REQUEST_ID, "000102030405060708090a0b0c0d0e0f");
        let expected: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).expect("small"));
        assert_eq!(attempt(&good), Ok(Some(expected)));
        assert_eq!(attempt(&HeaderMap::new()), Ok(None));
        for bad in ["", "00", "zz0102030405060708090a0b0c0d0e0f"] {
            let failure = attempt(&header(REQUEST_ID, bad)).expect_err(bad);
            assert_eq!(failure.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn answers_say_what_they_reflect_and_how_stale_they_are() {
        let notes = Notes::new(Revision::from_u64(5));
        notes.reflects(Revision::from_u64(9));
        notes.reflects(Revision::from_u64(7));
        let mut headers = HeaderMap::new();
        write_trailers(&mut headers, &notes, MemberId(0xab));
        assert_eq!(headers.get(REVISION).expect("revision"), "9");
        assert_eq!(headers.get(MEMBER).expect("member"), "00000000000000ab");
        assert!(headers.get(STALENESS).is_none());
        notes.decided(Revision::from_u64(6));
        write_trailers(&mut headers, &notes, MemberId(0xab));
        assert_eq!(headers.get(REVISION).expect("revision"), "6", "a request decided earlier");
        notes.stale(Duration::from_secs(42));
        write_trailers(&mut headers, &notes, MemberId(0xab));
        assert_eq!(headers.get(STALENESS).expect("staleness"), "42");
    }
    #[test]
    fn a_message_above_the_limit_is_refused_in_grpcs_words() {
        let table = [
            (
                tonic::Status::out_of_range(
                    "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
                ),
                Code::ResourceExhausted,
                "grpc: received message larger than max (5000000 vs. 4194304)",
            ),
            (tonic::Status::out_of_range("another"), Code::OutOfRange, "another"),
            (tonic::Status::internal("x"), Code::Internal, "x"),
        ];
        for (status, code, text) in table {
            let mut headers = status.into_http::<Body>().into_parts().0.headers;
            too_large_as_in_grpc(&mut headers);
            let status = tonic::Status::from_header_map(&headers).expect("a status");
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}

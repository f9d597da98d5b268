//! AttestAgent: how an agent comes to exist (`spire-api` 2.1).
//!
//! Owns the conversation and its order: the attestor verifies, the issuer signs in memory, the
//! command spends the token and records the agent, and only when that is applied the certificate is
//! released. Whether the token is unspent and the agent not banned is decided by the command.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use steeple_api::convert::svid;
use steeple_api::pb::server::agent::v1 as rpc;
use steeple_api::pb::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_api::pb::server::agent::v1::attest_agent_response as answer;
use steeple_raft_store::command::AdmitAgent;
use steeple_raft_store::{Command, Rejection};
use steeple_spiffe_core::Selector;
use steeple_spiffe_core::csr::CertificateRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::context::Context;
use crate::attest::{AttestError, Attested, ChallengeChannel};
use crate::authority::{IssuedX509, X509Params};
use crate::gate::Call;
use crate::status::Failure;

/// A whole attestation ends by then, so that silent clients hold nothing for long.
const ATTESTATION_MAX: Duration = Duration::from_secs(60);

/// Times the command is proposed when the agent's serials move under it.
const ADMISSIONS_MAX: u32 = 4;

/// The answers of one attestation.
pub(super) type ResponseStream =
    Pin<Box<dyn Stream<Item = Result<rpc::AttestAgentResponse, Status>> + Send>>;

/// Attests an agent. The conversation runs as the stream is polled: challenges first, the result
/// last.
pub(super) fn respond(
    context: Context,
    call: Call,
    requests: Streaming<rpc::AttestAgentRequest>,
) -> ResponseStream {
    // One challenge is out at a time.
    let (challenges, outgoing) = mpsc::channel(1);
    let work = async move {
        let deadline = tokio::time::Instant::now() + ATTESTATION_MAX;
        let channel = Conversation { requests, challenges, peer_ip: call.peer.ip() };
        match tokio::time::timeout_at(deadline, attest(&context, &call, channel)).await {
            Ok(result) => result.map_err(Status::from),
            Err(_elapsed) => Err(Failure::deadline_exceeded().into()),
        }
    };
    let result = futures::stream::once(work);
    Box::pin(futures::stream::select(ReceiverStream::new(outgoing).map(Ok), result))
}

async fn attest(
    context: &Context,
    call: &Call,
    mut conversation: Conversation,
) -> Result<rpc::AttestAgentResponse, Failure> {
    let opening = Opening::read(conversation.first().await?)?;
    let attestor = context.attestors.lookup(&opening.kind).ok_or_else(|| {
        Failure::failed_precondition(format!(
            "error getting node attestor: could not find node attestor type \"{}\"",
            opening.kind
        ))
    })?;
    let mut attested = attestor.attest(&opening.payload, &mut conversation).await?;
    if attested.agent_id.is_server() {
        return Err(Failure::internal("agent ID cannot collide with the server ID"));
    }
    if context.settings.agent_spiffe_id_as_selector {
        let own = Selector::new("spiffe_id", &attested.agent_id.to_string());
        attested.selectors = attested.selectors.into_iter().chain(own.ok()).collect();
    }
    let issued = sign(context, &attested, &opening.csr)?;
    admit(context, call, &opening.kind, &attested, &issued).await?;
    tracing::info!(
        agent_id = %attested.agent_id,
        caller_addr = call.peer.address_text(),
        node_attestor_type = opening.kind,
        "Agent attestation request completed"
    );
    let result = answer::Result {
        svid: Some(svid::x509_to_pb(&attested.agent_id, issued.chain_der, issued.not_after)),
        reattestable: attested.can_reattest,
    };
    Ok(rpc::AttestAgentResponse { step: Some(answer::Step::Result(result)) })
}

fn sign(context: &Context, attested: &Attested, csr: &[u8]) -> Result<IssuedX509, Failure> {
    // Only the key counts; SPIRE does not check this signature either.
    let csr = CertificateRequest::parse(csr)
        .map_err(|error| Failure::invalid_because("failed to parse CSR", error))?;
    let params = X509Params {
        spiffe_id: attested.agent_id.clone(),
        dns_names: Vec::new(),
        subject: None,
        public_key_spki: csr.public_key_spki,
        ttl: context.issuer.policy().agent_ttl,
    };
    let issued = context.issuer.sign_x509(params);
    issued.map_err(|error| Failure::unsigned("failed to sign X509 SVID", &error))
}

/// Records the agent. A record that moved since this replica looked is looked at again, on a
/// confirmed read: nothing has been released yet.
async fn admit(
    context: &Context,
    call: &Call,
    kind: &str,
    attested: &Attested,
    issued: &IssuedX509,
) -> Result<(), Failure> {
    let mut rejection = Rejection::SerialsChanged;
    for attempt in 0..ADMISSIONS_MAX {
        if attempt > 0 {
            context.confirm(call).await?;
        }
        let seen = context.views().agent(&attested.agent_id);
        let command = Command::AdmitAgent(AdmitAgent {
            token: attested.token.clone(),
            agent_id: attested.agent_id.clone(),
            attestation_type: kind.to_owned(),
            serial: issued.serial.clone(),
            not_after: issued.not_after,
            selectors: attested.selectors.clone(),
            can_reattest: attested.can_reattest,
            seen: seen.map(|record| record.serials.clone()),
        });
        match context.propose(call, attempt, command).await?.outcome {
            Ok(_) => return Ok(()),
            Err(Rejection::SerialsChanged) => rejection = Rejection::SerialsChanged,
            Err(other) => return Err(Failure::rejected("failed to attest", &other)),
        }
    }
    Err(Failure::rejected("failed to attest", &rejection))
}

/// The first message, checked in SPIRE's order.
#[derive(Debug)]
struct Opening {
    kind: String,
    payload: Vec<u8>,
    csr: Vec<u8>,
}

impl Opening {
    fn read(params: Option<Params>) -> Result<Self, Failure> {
        let malformed = |what: &str| Failure::invalid(format!("malformed param: missing {what}"));
        let params = params.ok_or_else(|| malformed("params"))?;
        let data = params.data.ok_or_else(|| malformed("attestation data"))?;
        let holder = params.params.ok_or_else(|| malformed("X509-SVID parameters"))?;
        if holder.csr.is_empty() {
            return Err(malformed("CSR"));
        }
        if data.r#type.is_empty() {
            return Err(malformed("attestation data type"));
        }
        if data.payload.is_empty() {
            return Err(malformed("attestation data payload"));
        }
        Ok(Self { kind: data.r#type, payload: data.payload, csr: holder.csr })
    }
}

/// Both directions of the stream.
struct Conversation {
    requests: Streaming<rpc::AttestAgentRequest>,
    challenges: mpsc::Sender<rpc::AttestAgentResponse>,
    peer_ip: Option<IpAddr>,
}

impl Conversation {
    async fn first(&mut self) -> Result<Option<Params>, Failure> {
        match self.next().await?.step {
            Some(Step::Params(params)) => Ok(Some(params)),
            Some(Step::ChallengeResponse(_)) | None => Ok(None),
        }
    }

    async fn next(&mut self) -> Result<rpc::AttestAgentRequest, Failure> {
        let message = self.requests.message().await.map_err(|status| Failure::stream(&status))?;
        message.ok_or_else(|| Failure::invalid("failed to receive request from stream: EOF"))
    }
}

#[tonic::async_trait]
impl ChallengeChannel for Conversation {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        let step = Some(answer::Step::Challenge(challenge));
        let gone = |_| AttestError::new(Code::Cancelled, "client has gone");
        self.challenges.send(rpc::AttestAgentResponse { step }).await.map_err(gone)?;
        let failed = |failure: Failure| AttestError::new(failure.code(), failure.message());
        let reply = self.next().await.map_err(failed)?;
        match reply.step {
            Some(Step::ChallengeResponse(response)) => Ok(response),
            Some(Step::Params(_)) | None => {
                Err(AttestError::new(Code::InvalidArgument, "expected a challenge response"))
            }
        }
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.peer_ip
    }
}

#[cfg(test)]
mod tests {
    use steeple_api::pb;

    use super::*;

    #[test]
    fn the_first_message_must_be_complete() {
        let data = |kind: &str, payload: &[u8]| {
            Some(pb::types::AttestationData { r#type: kind.into(), payload: payload.to_vec() })
        };
        let holder = |csr: &[u8]| Some(rpc::AgentX509svidParams { csr: csr.to_vec() });
        let table = [
            (None, "missing params"),
            (Some(Params { data: None, params: holder(b"x") }), "missing attestation data"),
            (Some(Params { data: data("t", b"p"), params: None }), "missing X509-SVID parameters"),
            (Some(Params { data: data("t", b"p"), params: holder(b"") }), "missing CSR"),
            (
                Some(Params { data: data("", b"p"), params: holder(b"x") }),
                "missing attestation data type",
            ),
            (
                Some(Params { data: data("t", b""), params: holder(b"x") }),
                "missing attestation data payload",
            ),
        ];
        for (params, text) in table {
            let failure = Opening::read(params).expect_err(text);
            assert_eq!(failure.code(), Code::InvalidArgument);
            assert_eq!(failure.message(), format!("malformed param: {text}"));
        }
        let good = Some(Params { data: data("t", b"p"), params: holder(b"x") });
        assert!(Opening::read(good).is_ok());
    }
}

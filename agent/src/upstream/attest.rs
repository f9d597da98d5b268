//! Joining and staying: attestation, renewal of the agent's own certificate, status reports.
//!
//! Owns the conversations of `spire-api` 2.1 as an agent has them. Which evidence is shown is
//! `attest::node`'s, what an answer means for the agent's life is `rotate`'s.

use steeple_api::pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::attest::node::{NodeAttestError, NodeAttestor};

type Client = pb::server::agent::v1::agent_client::AgentClient<Channel>;
type Step = pb::server::agent::v1::attest_agent_request::Step;
type Answer = pb::server::agent::v1::attest_agent_response::Step;

/// What attestation brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The agent's certificate chain in DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// Whether the agent may attest again under the same id.
    pub can_reattest: bool,
}

/// Attestation failed.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The evidence could not be produced on this machine.
    #[error("produce attestation data")]
    Evidence(#[from] NodeAttestError),
    /// The server or the way to it.
    #[error(transparent)]
    Server(#[from] super::CallError),
}

/// Shows the evidence, answers challenges, takes the certificate.
pub async fn attest(
    channel: Channel,
    attestor: &NodeAttestor,
    payload: Vec<u8>,
    csr: Vec<u8>,
) -> Result<Admitted, Status> {
    let params = pb::server::agent::v1::attest_agent_request::Params {
        data: Some(pb::types::AttestationData { r#type: attestor.kind().to_owned(), payload }),
        params: Some(pb::server::agent::v1::AgentX509svidParams { csr }),
    };
    // Strictly request and answer: one step may wait to be sent.
    let (steps, outgoing) = mpsc::channel(1);
    send(&steps, Step::Params(params)).await?;
    let mut client = Client::new(channel);
    let mut answers = client.attest_agent(ReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let ended = || Status::unavailable("attestation ended early");
        let answer = answers.message().await?.ok_or_else(ended)?;
        match answer.step {
            Some(Answer::Challenge(challenge)) => {
                let failed = |error| Status::internal(format!("answer challenge: {error}"));
                let response = attestor.answer(&challenge).map_err(failed)?;
                send(&steps, Step::ChallengeResponse(response)).await?;
            }
            Some(Answer::Result(result)) => return admitted(result.svid, result.reattestable),
            None => return Err(Status::internal("server sent an empty attestation step")),
        }
    }
}

/// Renews the certificate of an agent that can't attest again.
pub async fn renew(channel: Channel, csr: Vec<u8>) -> Result<Admitted, Status> {
    let params = Some(pb::server::agent::v1::AgentX509svidParams { csr });
    let request = pb::server::agent::v1::RenewAgentRequest { params };
    let response = Client::new(channel).renew_agent(request).await?.into_inner();
    admitted(response.svid, false)
}

/// Reports this agent's version.
pub async fn post_status(channel: Channel) -> Result<(), Status> {
    let request = pb::server::agent::v1::PostStatusRequest {
        current_bundle_serial: 0,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Client::new(channel).post_status(request).await?;
    Ok(())
}

async fn send(
    steps: &mpsc::Sender<pb::server::agent::v1::AttestAgentRequest>,
    step: Step,
) -> Result<(), Status> {
    let request = pb::server::agent::v1::AttestAgentRequest { step: Some(step) };
    steps.send(request).await.map_err(|_closed| Status::unavailable("attestation was cut off"))
}

fn admitted(svid: Option<pb::types::X509svid>, can_reattest: bool) -> Result<Admitted, Status> {
    let svid = svid.ok_or_else(|| Status::internal("server sent no SVID"))?;
    if svid.cert_chain.is_empty() {
        return Err(Status::internal("server sent an SVID without certificates"));
    }
    Ok(Admitted { chain_der: svid.cert_chain, can_reattest })
}

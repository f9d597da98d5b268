//! `spire.api.server.agent.v1.Agent`: attested agents and join tokens.
//!
//! Owns the calls about agents that exist, and join tokens; how one comes to exist is in
//! [`super::admission`]. A new certificate is signed first and released only after the command that
//! records its serial has been applied.

use prost::Message as _;
use std::time::Duration;
use steeple_api::convert::agent as convert;
use steeple_api::convert::{id, selector, svid};
use steeple_api::pb;
use steeple_api::pb::server::agent::v1 as rpc;
use steeple_raft_store::command::{CreateJoinToken, SetPendingSerial};
use steeple_raft_store::{Command, Rejection};
use steeple_spiffe_core::csr::CertificateRequest;
use steeple_spiffe_core::limits::{AGENT_VERSION_BYTES_MAX, JOIN_TOKEN_BYTES_MAX};
use steeple_spiffe_core::{
    AgentRecord, EntryId, RegistrationEntry, Selector, SelectorSet, SpiffeId,
};
use tonic::{Request, Response, Status, Streaming};

use super::admission;
use super::context::Context;
use super::paging::Page;
use crate::authority::X509Params;
use crate::gate::Call;
use crate::status::Failure;
use crate::view::AgentFilter;

/// The service.
#[derive(Clone, Debug)]
pub struct AgentService {
    context: Context,
}

impl AgentService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::agent_server::Agent for AgentService {
    type AttestAgentStream = admission::ResponseStream;

    async fn count_agents(
        &self,
        request: Request<rpc::CountAgentsRequest>,
    ) -> Result<Response<rpc::CountAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = filter(request.into_inner().filter.map(FilterFields::from))?;
        self.context.confirm(&call).await?;
        let count = call.showing(self.context.views().agents_count(&filter));
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Response::new(rpc::CountAgentsResponse { count }))
    }

    async fn list_agents(
        &self,
        request: Request<rpc::ListAgentsRequest>,
    ) -> Result<Response<rpc::ListAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let filter = filter(request.filter.map(FilterFields::from))?;
        let page = Page::of(request.page_size, &request.page_token, "failed to list agents")?;
        self.context.confirm(&call).await?;
        let page_of_rows = self.context.views().agents_page(page.after, page.limit, &filter);
        let rows = call.showing(page_of_rows);
        let next_page_token = page.next_token(rows.last().map(|(row, _)| *row));
        let mask = request.output_mask.as_ref();
        let agents = rows.iter().map(|(_, agent)| masked(agent, mask)).collect();
        Ok(Response::new(rpc::ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(
        &self,
        request: Request<rpc::GetAgentRequest>,
    ) -> Result<Response<pb::types::Agent>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let agent_id = self.agent_id(request.id.as_ref())?;
        self.context.confirm(&call).await?;
        let found = call.showing(self.context.views().agent_at(&agent_id));
        let agent = found.ok_or_else(|| Failure::not_found("agent not found"))?;
        Ok(Response::new(masked(&agent, request.output_mask.as_ref())))
    }

    async fn delete_agent(
        &self,
        request: Request<rpc::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let agent_id = self.agent_id(request.into_inner().id.as_ref())?;
        self.change(&call, Command::DeleteAgent(agent_id.clone()), "failed to delete agent")
            .await?;
        tracing::info!(agent_id = %agent_id, "Agent deleted");
        Ok(Response::new(()))
    }

    async fn ban_agent(
        &self,
        request: Request<rpc::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let agent_id = self.agent_id(request.into_inner().id.as_ref())?;
        self.change(&call, Command::BanAgent(agent_id.clone()), "failed to ban agent").await?;
        tracing::info!(agent_id = %agent_id, "Agent banned");
        Ok(Response::new(()))
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<rpc::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let call = Call::of(&request)?;
        call.within(&self.context.limits.attestation, 1, "attest agent").await?;
        Ok(Response::new(admission::respond(self.context.clone(), call, request.into_inner())))
    }

    async fn renew_agent(
        &self,
        request: Request<rpc::RenewAgentRequest>,
    ) -> Result<Response<rpc::RenewAgentResponse>, Status> {
        let call = Call::of(&request)?;
        call.within(&self.context.limits.x509, 1, "renew agent").await?;
        let svid = self.renew(&call, request.into_inner().params).await?;
        Ok(Response::new(rpc::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn create_join_token(
        &self,
        request: Request<rpc::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::types::JoinToken>, Status> {
        let call = Call::of(&request)?;
        let token = self.join_token(&call, request.into_inner()).await?;
        Ok(Response::new(token))
    }

    async fn post_status(
        &self,
        request: Request<rpc::PostStatusRequest>,
    ) -> Result<Response<rpc::PostStatusResponse>, Status> {
        let call = Call::of(&request)?;
        call.within(&self.context.limits.post_status, 1, "post status").await?;
        self.record_version(&call, request.into_inner().agent_version).await?;
        Ok(Response::new(rpc::PostStatusResponse {}))
    }
}

impl AgentService {
    fn agent_id(&self, message: Option<&pb::types::Spiffeid>) -> Result<SpiffeId, Failure> {
        id::agent_id(message, self.context.trust_domain())
            .map_err(|error| Failure::invalid_because("invalid agent ID", error))
    }

    async fn change(&self, call: &Call, command: Command, doing: &str) -> Result<(), Failure> {
        let applied = self.context.propose(call, 0, command).await?;
        match applied.outcome {
            Ok(_) => Ok(()),
            Err(rejection) => Err(Failure::rejected(doing, &rejection)),
        }
    }

    async fn renew(
        &self,
        call: &Call,
        params: Option<rpc::AgentX509svidParams>,
    ) -> Result<pb::types::X509svid, Failure> {
        let agent = call.agent()?;
        let params = params.ok_or_else(|| Failure::invalid("params cannot be nil"))?;
        if params.csr.is_empty() {
            return Err(Failure::invalid("missing CSR"));
        }
        let csr = CertificateRequest::parse(&params.csr)
            .map_err(|error| Failure::invalid_because("failed to parse CSR", error))?;
        // To tell an agent that it must attest anew makes it drop its SVID: only after a confirmed
        // read.
        self.context.confirm(call).await?;
        let record = self.context.views().agent(&agent.id);
        let record = record.ok_or_else(|| Failure::not_found("agent not found"))?;
        if record.can_reattest {
            return Err(Failure::must_reattest());
        }
        let issued = self
            .context
            .issuer
            .sign_x509(X509Params {
                spiffe_id: agent.id.clone(),
                dns_names: Vec::new(),
                subject: None,
                public_key_spki: csr.public_key_spki,
                ttl: self.context.issuer.policy().agent_ttl,
            })
            .map_err(|error| Failure::unsigned("failed to sign X509 SVID", &error))?;
        let command = Command::SetPendingSerial(SetPendingSerial {
            agent_id: agent.id.clone(),
            seen: agent.seen.clone(),
            pending: issued.serial,
            not_after: issued.not_after,
        });
        self.change(call, command, "failed to update agent").await?;
        tracing::info!(agent_id = %agent.id, expires_at = issued.not_after.unix_s(), "Renewed agent SVID");
        Ok(svid::x509_to_pb(&agent.id, issued.chain_der, issued.not_after))
    }

    async fn join_token(
        &self,
        call: &Call,
        request: rpc::CreateJoinTokenRequest,
    ) -> Result<pb::types::JoinToken, Failure> {
        let trust_domain = self.context.trust_domain();
        let said = request.encode_to_vec();
        let ttl = u64::try_from(request.ttl).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or_else(|| Failure::invalid("ttl is required, you must provide one"))?;
        let alias_id = request
            .agent_id
            .map(|agent_id| id::workload_id(Some(&agent_id), trust_domain))
            .transpose()
            .map_err(|error| Failure::invalid_because("invalid agent ID", error))?;
        let random = self.context.gate.random.as_ref();
        let token = match request.token.as_str() {
            "" => call.uuid(0, random),
            given => given.to_owned(),
        };
        if token.len() > JOIN_TOKEN_BYTES_MAX {
            let text = format!("token is longer than {JOIN_TOKEN_BYTES_MAX} bytes");
            return Err(Failure::invalid(text));
        }
        let node = SpiffeId::agent(trust_domain.clone(), &format!("join_token/{token}"))
            .map_err(|error| Failure::invalid_because("invalid token", error))?;
        let alias = alias_id
            .map(|spiffe_id| alias_entry(&call.uuid(1, random), spiffe_id, node))
            .transpose()?;
        let ttl = Duration::from_secs(ttl);
        let expires_at = self.context.gate.clock.now().plus(ttl);
        let command = Command::CreateJoinToken(CreateJoinToken {
            token: token.clone(),
            expires_at,
            alias: alias.map(Box::new),
        });
        let applied = self.context.propose_said(call, &said, command).await?;
        applied
            .outcome
            .map_err(|rejection| Failure::rejected("failed to create token", &rejection))?;
        // Asked for again, it is the first one, which ends by when that was decided.
        let expires_at = expires_at.min(applied.time.plus(ttl));
        Ok(pb::types::JoinToken { value: token, expires_at: expires_at.unix_s() })
    }

    async fn record_version(&self, call: &Call, version: String) -> Result<(), Failure> {
        let agent = call.agent()?;
        if version.len() > AGENT_VERSION_BYTES_MAX {
            let text =
                format!("agent version is too long (max {AGENT_VERSION_BYTES_MAX} characters)");
            return Err(Failure::invalid(text));
        }
        let record = self.context.views().agent(&agent.id);
        let known = record.is_some_and(|record| record.agent_version == version);
        if version.is_empty() || known {
            return Ok(());
        }
        let command = Command::SetAgentVersion { agent_id: agent.id.clone(), version };
        match self.context.propose(call, 0, command).await?.outcome {
            Ok(_) => Ok(()),
            Err(Rejection::AgentNotFound) => Err(Failure::not_found("agent not found")),
            Err(rejection) => Err(Failure::rejected("failed to update agent", &rejection)),
        }
    }
}

/// The entry that gives a join token's agent a second, chosen id.
fn alias_entry(
    entry_id: &str,
    spiffe_id: SpiffeId,
    node: SpiffeId,
) -> Result<RegistrationEntry, Failure> {
    let selector = Selector::new("spiffe_id", &node.to_string())
        .map_err(|error| Failure::invalid_because("invalid token", error))?;
    let id = EntryId::parse(entry_id).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(RegistrationEntry::new(id, spiffe_id, node, SelectorSet::from([selector])))
}

/// The fields that the filters of count and list share.
struct FilterFields {
    attestation_type: String,
    selector_match: Option<pb::types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

impl From<rpc::count_agents_request::Filter> for FilterFields {
    fn from(filter: rpc::count_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selector_match: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

impl From<rpc::list_agents_request::Filter> for FilterFields {
    fn from(filter: rpc::list_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selector_match: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

fn filter(fields: Option<FilterFields>) -> Result<AgentFilter, Failure> {
    let Some(fields) = fields else { return Ok(AgentFilter::default()) };
    let selectors = fields
        .selector_match
        .map(|given| selector::filter_from_pb(&given))
        .transpose()
        .map_err(|error| Failure::invalid_because("failed to parse selectors", error))?;
    Ok(AgentFilter {
        attestation_type: Some(fields.attestation_type),
        selectors,
        banned: fields.banned,
        can_reattest: fields.can_reattest,
        // SPIRE ignores a time that it cannot parse.
        expires_before: convert::expires_before(&fields.expires_before),
    })
}

fn masked(agent: &AgentRecord, mask: Option<&pb::types::AgentMask>) -> pb::types::Agent {
    let mut message = convert::to_pb(agent);
    convert::apply_mask(&mut message, mask);
    message
}

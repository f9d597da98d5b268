//! `spire.api.server.svid.v1.SVID`: everything that is signed for workloads.
//!
//! Owns who gets what signed from which request. Each batch rests on one read barrier, after which
//! the agent's standing and its entries are looked up; only a replica that has been cut off for long
//! enough signs from the last confirmed state, and then refuses nothing for good: what it does not
//! know is `Unavailable`.

use std::time::Duration;

use steeple_api::convert::{id, svid};
use steeple_api::pb;
use steeple_api::pb::server::svid::v1 as rpc;
use steeple_raft_store::WIT_LEVEL;
use steeple_spiffe_core::csr::CertificateRequest;
use steeple_spiffe_core::svid::wit::{HolderKey, HolderKeyError};
use steeple_spiffe_core::{
    EntryId, RegistrationEntry, SpiffeId, check_dns_name, check_wildcard_overlap,
};
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::authority::{IssuedJwt, JwtParams, WitParams, X509Params};
use crate::gate::{Basis, Call};
use crate::status::Failure;

/// Retry hint for what a cut-off replica does not know.
const RETRY_ELSEWHERE: Duration = Duration::from_secs(5);

/// SVIDs of a batch that are signed on the thread that serves it, as a JWT-SVID is: to change to
/// another costs as much as a part of a signature. A full batch costs some 10 ms of CPU with P-256 and
/// 250 ms with RSA-4096, which connections must not wait for.
const SIGNED_AT_ONCE_MAX: usize = 2;

/// The service.
#[derive(Clone, Debug)]
pub struct SvidService {
    context: Context,
}

impl SvidService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl rpc::svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<rpc::MintX509svidRequest>,
    ) -> Result<Response<rpc::MintX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let params = self.minted(&request.csr, request.ttl)?;
        self.context.confirm(&call).await?;
        let spiffe_id = params.spiffe_id.clone();
        let issued = self.context.issuer.sign_x509(params);
        let issued =
            issued.map_err(|error| Failure::unsigned("failed to sign X509-SVID", &error))?;
        let svid = svid::x509_to_pb(&spiffe_id, issued.chain_der, issued.not_after);
        Ok(Response::new(rpc::MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<rpc::MintJwtsvidRequest>,
    ) -> Result<Response<rpc::MintJwtsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        self.check_jwt_enabled()?;
        let spiffe_id = id::workload_id(request.id.as_ref(), self.context.trust_domain())
            .map_err(|error| Failure::invalid_because("invalid SPIFFE ID", error))?;
        self.context.confirm(&call).await?;
        let svid = self.sign_jwt(JwtParams {
            spiffe_id,
            audience: request.audience,
            ttl: seconds(request.ttl),
            jwt_id: None,
        })?;
        Ok(Response::new(rpc::MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        request: Request<rpc::MintWitsvidRequest>,
    ) -> Result<Response<rpc::MintWitsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        self.check_wit_enabled()?;
        let spiffe_id = id::workload_id(request.id.as_ref(), self.context.trust_domain())
            .map_err(|error| Failure::invalid_because("invalid SPIFFE ID", error))?;
        let key =
            holder_key(&request.public_key, &request.signing_algorithm, "invalid public key")?;
        self.context.confirm(&call).await?;
        let svid = self.sign_wit(&WitParams { spiffe_id, key, ttl: seconds(request.ttl) })?;
        Ok(Response::new(rpc::MintWitsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<rpc::BatchNewX509svidRequest>,
    ) -> Result<Response<rpc::BatchNewX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Failure::invalid("missing parameters").into());
        }
        call.within(&self.context.limits.x509, params.len(), "certificate signing").await?;
        let basis = self.basis(&call).await?;
        let (service, agent) = (self.clone(), call.agent()?.id.clone());
        let results = batch(params, move |params| service.new_x509(&agent, basis, &params)).await?;
        Ok(Response::new(rpc::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<rpc::NewJwtsvidRequest>,
    ) -> Result<Response<rpc::NewJwtsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        call.within(&self.context.limits.jwt, 1, "JWT signing request").await?;
        self.check_jwt_enabled()?;
        let basis = self.basis(&call).await?;
        let entry = self.authorized(&call.agent()?.id, basis, &request.entry_id)?;
        let attributes = entry.additional_attributes.unwrap_or_default();
        let svid = self.sign_jwt(JwtParams {
            spiffe_id: entry.spiffe_id.clone(),
            audience: request.audience,
            ttl: seconds(entry.jwt_svid_ttl_s),
            jwt_id: attributes.jwt_svid_include_jti.then(|| self.jwt_id()),
        })?;
        Ok(Response::new(rpc::NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<rpc::BatchNewWitsvidRequest>,
    ) -> Result<Response<rpc::BatchNewWitsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let params = request.into_inner().params;
        self.check_wit_enabled()?;
        if params.is_empty() {
            return Err(Failure::invalid("missing parameters").into());
        }
        call.within(&self.context.limits.wit, params.len(), "certificate signing").await?;
        let basis = self.basis(&call).await?;
        let (service, agent) = (self.clone(), call.agent()?.id.clone());
        let results = batch(params, move |params| service.new_wit(&agent, basis, &params)).await?;
        Ok(Response::new(rpc::BatchNewWitsvidResponse { results }))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<rpc::NewDownstreamX509caRequest>,
    ) -> Result<Response<rpc::NewDownstreamX509caResponse>, Status> {
        let call = Call::of(&request)?;
        call.within(&self.context.limits.x509, 1, "downstream CA signing").await?;
        let request = request.into_inner();
        let csr = checked_csr(&request.csr)?;
        self.context.confirm(&call).await?;
        self.check_downstream(&call)?;
        let issuer = &self.context.issuer;
        let ca_cert_chain = issuer
            .sign_downstream_ca(&csr.public_key_spki, seconds(request.preferred_ttl))
            .map_err(|error| Failure::unsigned("failed to sign downstream X.509 CA", &error))?;
        let bundle = self.context.views().bundle(self.context.trust_domain());
        let bundle = bundle.ok_or_else(|| Failure::not_found("bundle not found"))?;
        let roots = bundle.x509_authorities.iter().map(|root| root.certificate_der.clone());
        let x509_authorities = roots.collect();
        Ok(Response::new(rpc::NewDownstreamX509caResponse { ca_cert_chain, x509_authorities }))
    }
}

impl SvidService {
    /// What a batch rests on. After a confirmed read the agent is looked at once more, so that a
    /// ban or deletion acknowledged anywhere is in force.
    async fn basis(&self, call: &Call) -> Result<Basis, Failure> {
        let basis = self.context.gate.reads.for_issuance(call.deadline()).await?;
        match basis {
            Basis::Confirmed(revision) => {
                call.notes.reflects(revision);
                self.context.gate.agent_stands(call)?;
            }
            Basis::Stale { age } => call.notes.stale(age),
        }
        Ok(basis)
    }

    fn new_x509(
        &self,
        agent: &SpiffeId,
        basis: Basis,
        params: &rpc::NewX509svidParams,
    ) -> rpc::batch_new_x509svid_response::Result {
        match self.try_new_x509(agent, basis, params) {
            Ok(svid) => rpc::batch_new_x509svid_response::Result {
                status: Some(steeple_api::status::ok()),
                svid: Some(svid),
            },
            Err(failure) => rpc::batch_new_x509svid_response::Result {
                status: Some(failure.into_item()),
                svid: None,
            },
        }
    }

    fn try_new_x509(
        &self,
        agent: &SpiffeId,
        basis: Basis,
        params: &rpc::NewX509svidParams,
    ) -> Result<pb::types::X509svid, Failure> {
        if params.entry_id.is_empty() {
            return Err(Failure::invalid("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(Failure::invalid("missing CSR"));
        }
        let entry = self.authorized(agent, basis, &params.entry_id)?;
        let csr = checked_csr(&params.csr)?;
        let issued = self
            .context
            .issuer
            .sign_x509(X509Params {
                spiffe_id: entry.spiffe_id.clone(),
                dns_names: entry.dns_names.clone(),
                subject: None,
                public_key_spki: csr.public_key_spki,
                ttl: seconds(entry.x509_svid_ttl_s),
            })
            .map_err(|error| Failure::unsigned("failed to sign X509-SVID", &error))?;
        Ok(svid::x509_to_pb(&entry.spiffe_id, issued.chain_der, issued.not_after))
    }

    /// SPIRE sets no status on what it signed, and clients may rely on it as little as on ours.
    fn new_wit(
        &self,
        agent: &SpiffeId,
        basis: Basis,
        params: &rpc::NewWitsvidParams,
    ) -> rpc::batch_new_witsvid_response::Result {
        match self.try_new_wit(agent, basis, params) {
            Ok(svid) => rpc::batch_new_witsvid_response::Result { status: None, svid: Some(svid) },
            Err(failure) => rpc::batch_new_witsvid_response::Result {
                status: Some(failure.into_item()),
                svid: None,
            },
        }
    }

    fn try_new_wit(
        &self,
        agent: &SpiffeId,
        basis: Basis,
        params: &rpc::NewWitsvidParams,
    ) -> Result<pb::types::Witsvid, Failure> {
        if params.entry_id.is_empty() {
            return Err(Failure::invalid("missing entry ID"));
        }
        if params.public_key.is_empty() {
            return Err(Failure::invalid("missing public key"));
        }
        let entry = self.authorized(agent, basis, &params.entry_id)?;
        let key =
            holder_key(&params.public_key, &params.signing_algorithm, "malformed public key")?;
        // SPIRE's entries have no lifetime of their own for these.
        let ttl = seconds(entry.x509_svid_ttl_s);
        self.sign_wit(&WitParams { spiffe_id: entry.spiffe_id.clone(), key, ttl })
    }

    fn sign_wit(&self, params: &WitParams) -> Result<pb::types::Witsvid, Failure> {
        let level = self.context.views().cluster().map_or(0, |cluster| cluster.feature_level);
        if level < WIT_LEVEL {
            let text = format!(
                "failed to sign WIT-SVID: the cluster is at feature level {level}, WIT-SVIDs need \
                 {WIT_LEVEL}: finalize the upgrade (spire-server cluster upgrade finalize)"
            );
            return Err(Failure::unavailable(text, RETRY_ELSEWHERE));
        }
        let issued = self.context.issuer.sign_wit(params);
        let IssuedJwt { token, issued_at, expires_at, .. } =
            issued.map_err(|error| Failure::unsigned("failed to sign WIT-SVID", &error))?;
        Ok(pb::types::Witsvid {
            token,
            id: Some(id::to_pb(&params.spiffe_id)),
            expires_at: expires_at.unix_s(),
            issued_at: issued_at.unix_s(),
            hint: String::new(),
        })
    }

    fn check_wit_enabled(&self) -> Result<(), Failure> {
        if self.context.issuer.policy().wit_svids {
            return Ok(());
        }
        Err(Failure::unimplemented("WIT functionality is disabled"))
    }

    /// Whether the caller is a downstream server still, now that a read is confirmed: a CA is not signed
    /// for an entry whose deletion was acknowledged anywhere.
    fn check_downstream(&self, call: &Call) -> Result<(), Failure> {
        let caller = call.caller.id().ok_or_else(|| Failure::denied(call.rule.method, None))?;
        let entries = self.context.views().entries_with_spiffe_id(caller);
        if entries.iter().any(|entry| entry.downstream) {
            return Ok(());
        }
        Err(Failure::denied(call.rule.method, None))
    }

    /// The entry with an id, if the agent is authorised for it.
    fn authorized(
        &self,
        agent: &SpiffeId,
        basis: Basis,
        entry_id: &str,
    ) -> Result<std::sync::Arc<RegistrationEntry>, Failure> {
        let found = EntryId::parse(entry_id).ok();
        let found = found.and_then(|id| self.context.views().authorized_entry(agent, &id));
        found.ok_or_else(|| match basis {
            Basis::Confirmed(_) => Failure::not_found("entry not found or not authorized"),
            Basis::Stale { .. } => Failure::unavailable(
                "entry is not known to this replica, which is cut off from the cluster",
                RETRY_ELSEWHERE,
            ),
        })
    }

    fn sign_jwt(&self, params: JwtParams) -> Result<pb::types::Jwtsvid, Failure> {
        if params.audience.is_empty() {
            return Err(Failure::invalid("at least one audience is required"));
        }
        if params.audience.iter().all(String::is_empty) {
            // SPIRE looks at the names only while it signs, so this is its code and text.
            return Err(Failure::internal(
                "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty",
            ));
        }
        let spiffe_id = params.spiffe_id.clone();
        let issued = self.context.issuer.sign_jwt(params);
        let IssuedJwt { token, issued_at, expires_at, .. } =
            issued.map_err(|error| Failure::unsigned("failed to sign JWT-SVID", &error))?;
        Ok(pb::types::Jwtsvid {
            token,
            id: Some(id::to_pb(&spiffe_id)),
            expires_at: expires_at.unix_s(),
            issued_at: issued_at.unix_s(),
            hint: String::new(),
        })
    }

    fn check_jwt_enabled(&self) -> Result<(), Failure> {
        if self.context.settings.disable_jwt_svids {
            return Err(Failure::unimplemented("JWT functionality is disabled"));
        }
        Ok(())
    }

    /// The `jti` of SPIRE: the bytes of a random UUID in base64.
    fn jwt_id(&self) -> String {
        use base64::Engine as _;

        let mut bytes = [0; 16];
        self.context.gate.random.fill(&mut bytes);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a certificate request for MintX509SVID asks for.
    fn minted(&self, csr: &[u8], ttl: i32) -> Result<X509Params, Failure> {
        if csr.is_empty() {
            return Err(Failure::invalid("missing CSR"));
        }
        let request = CertificateRequest::parse(csr)
            .map_err(|error| Failure::invalid_because("malformed CSR", error))?;
        CertificateRequest::verify_signature(csr)
            .map_err(|error| Failure::invalid_because("failed to verify CSR signature", error))?;
        let uri = match request.uris.as_slice() {
            [] => return Err(Failure::invalid("CSR URI SAN is required")),
            [uri] => uri,
            [_, _, ..] => return Err(Failure::invalid("only one URI SAN is expected")),
        };
        let invalid = |error: &dyn std::fmt::Display| {
            Failure::invalid_because("CSR URI SAN is invalid", error)
        };
        let spiffe_id = SpiffeId::parse(uri).map_err(|error| invalid(&error))?;
        id::check_workload(&spiffe_id, self.context.trust_domain())
            .map_err(|error| invalid(&error))?;
        for name in &request.dns_names {
            check_dns_name(name)
                .map_err(|error| Failure::invalid_because("CSR DNS name is invalid", error))?;
        }
        check_wildcard_overlap(&request.dns_names).map_err(|error| {
            let doing = "CSR DNS name contains a wildcard that covers another non-wildcard name";
            Failure::invalid_because(doing, error)
        })?;
        Ok(X509Params {
            spiffe_id,
            dns_names: request.dns_names,
            subject: (!request.subject_is_empty).then_some(request.subject_der),
            public_key_spki: request.public_key_spki,
            ttl: seconds(ttl),
        })
    }
}

/// A certificate request whose signature is good.
fn checked_csr(der: &[u8]) -> Result<CertificateRequest, Failure> {
    let csr = CertificateRequest::parse(der)
        .map_err(|error| Failure::invalid_because("malformed CSR", error))?;
    CertificateRequest::verify_signature(der)
        .map_err(|error| Failure::invalid_because("invalid CSR signature", error))?;
    Ok(csr)
}

/// A lifetime in seconds; zero and less mean the default.
fn seconds(ttl: i32) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

/// Signs a batch, a large one where connections need not wait for it.
async fn batch<P: Send + 'static, R: Send + 'static>(
    params: Vec<P>,
    sign: impl Fn(P) -> R + Send + 'static,
) -> Result<Vec<R>, Failure> {
    let is_short = params.len() <= SIGNED_AT_ONCE_MAX;
    let sign = move || params.into_iter().map(sign).collect::<Vec<_>>();
    if is_short {
        return Ok(sign());
    }
    let results = tokio::task::spawn_blocking(sign).await;
    results.map_err(|_stopped| Failure::internal("signing was interrupted"))
}

/// The key that a token is to confirm; `malformed` is SPIRE's word for one that is none.
fn holder_key(spki: &[u8], algorithm: &str, malformed: &str) -> Result<HolderKey, Failure> {
    HolderKey::new(spki, algorithm).map_err(|error| {
        let doing = match error {
            HolderKeyError::Malformed => malformed,
            HolderKeyError::Algorithm { .. } => "invalid signing algorithm or key type",
        };
        Failure::invalid_because(doing, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_below_one_second_mean_the_default() {
        for (ttl, expected) in [(60, 60), (0, 0), (-1, 0)] {
            assert_eq!(seconds(ttl), Duration::from_secs(expected));
        }
    }
}

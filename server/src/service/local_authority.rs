//! `spire.api.server.localauthority.v1.LocalAuthority`: steps that operators take in an authority's
//! life.
//!
//! Owns SPIRE's order of checks and its words. Every step is a command that compares the journal with
//! the one that was checked, so that two operators, or one and the rotator, never both have their way;
//! a step that lost such a race is checked again. The authorities are the cluster's: what SPIRE says
//! of "local" ones holds for all replicas at once.

use steeple_api::metadata::{EXPECTED_JOURNAL, number};
use steeple_api::pb::server::localauthority::v1 as rpc;
use steeple_raft_store::change::Journal;
use steeple_raft_store::command::RootChange;
use steeple_raft_store::{Command, Rejection};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::context::Context;
use super::upstream_roots::{self, roots_to};
use crate::authority::{MintError, Slots, kind_name, told};
use crate::gate::Call;
use crate::metrics::record_call;
use crate::status::Failure;

/// How often a step is checked again when the journal moved under it. The rotator takes a few steps in
/// a row at most; an operator who loses more races than that is told to try again.
const ATTEMPTS: u32 = 8;

const NOT_CONFIGURED: &str = "upstream authority is not configured";
const NO_WIT: &str = "WIT-SVID functionality is not yet implemented";

/// The service.
#[derive(Clone, Debug)]
pub struct LocalAuthorityService {
    context: Context,
}

/// The authorities that `show` shows.
#[derive(Debug)]
struct State {
    active: rpc::AuthorityState,
    prepared: Option<rpc::AuthorityState>,
    old: Option<rpc::AuthorityState>,
}

/// A step that may be taken, and what the caller is told when it was.
type Checked<T> = Result<(Command, T), Failure>;

impl LocalAuthorityService {
    /// The service over a context.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn state(&self, call: &Call, kind: AuthorityKind) -> Result<State, Failure> {
        self.allow(kind)?;
        self.context.confirm(call).await?;
        let journal = self.context.views().journal();
        let slots = Slots::of(&journal, kind);
        let active = slots.current.ok_or_else(initializing)?;
        let (mut prepared, mut old) = (None, None);
        if let Some(next) = slots.next {
            match next.status {
                AuthorityStatus::Prepared => prepared = Some(message(next)),
                AuthorityStatus::Old | AuthorityStatus::Revoked => old = Some(message(next)),
                AuthorityStatus::Active => {}
            }
        }
        Ok(State { active: message(active), prepared, old })
    }

    async fn prepare(
        &self,
        call: &Call,
        kind: AuthorityKind,
        expected_journal: Option<u64>,
    ) -> Result<rpc::AuthorityState, Failure> {
        self.allow(kind)?;
        let failed = format!("failed to prepare {} authority", kind_name(kind));
        let begun = Instant::now();
        self.context.confirm(call).await?;
        let journal = self.context.views().journal();
        let active = Slots::of(&journal, kind).current.ok_or_else(initializing)?;
        let has_moved = |journal: &Journal| {
            let moved = expected_journal.filter(|expected| *expected != journal.revision);
            moved.map_or(Ok(()), |expected| {
                let moved = Rejection::JournalMoved { expected, actual: journal.revision };
                Err(Failure::rejected(&failed, &moved))
            })
        };
        has_moved(&journal)?;
        let cluster = self.context.views().cluster().ok_or_else(initializing)?;
        // A wrong clock would make an authority that has ended, or that has not begun.
        self.context.issuer.trust_clock().map_err(|error| Failure::unsigned(&failed, &error))?;
        let now = self.context.gate.clock.now().max(self.context.views().cluster_time());
        let (minter, cluster_id) = (&self.context.minter, cluster.cluster_id);
        let minted = match expected_journal {
            None => minter.mint_in_background(kind, cluster_id, now).await,
            Some(_) => minter.mint_longer(kind, cluster_id, now, Some(active)).await,
        };
        let minted = minted.map_err(|error| unminted(&failed, error))?;
        let decide = |journal: &Journal| {
            has_moved(journal)?;
            Ok((minted.prepare(journal.revision), message(&minted.authority)))
        };
        let state = self.step(call, &failed, &decide).await?;
        told::prepared(&minted.authority, begun);
        Ok(state)
    }

    async fn activate(
        &self,
        call: &Call,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<rpc::AuthorityState, Failure> {
        self.allow(kind)?;
        let failed = format!("failed to activate {} authority", kind_name(kind));
        let begun = Instant::now();
        let decide = |journal: &Journal| {
            let prepared = to_activate(journal, kind, id)?;
            let (expected_journal, id) = (journal.revision, prepared.id.clone());
            let command = Command::ActivateAuthority { expected_journal, kind, id };
            Ok((command, message(prepared)))
        };
        let state = self.step(call, &failed, &decide).await?;
        record_call(told::activate_metric(kind), Code::Ok, begun);
        Ok(state)
    }

    async fn taint(
        &self,
        call: &Call,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<rpc::AuthorityState, Failure> {
        self.allow(kind)?;
        self.allow_local(kind, "tainted")?;
        let failed = format!("failed to taint {} authority", kind_name(kind));
        let decide = |journal: &Journal| {
            let old = to_taint(journal, kind, id)?;
            let (expected_journal, id) = (journal.revision, old.id.clone());
            let command = Command::TaintAuthority { expected_journal, kind, id };
            let state = match kind {
                AuthorityKind::X509 => message(old),
                // SPIRE says no more of a key.
                AuthorityKind::Jwt | AuthorityKind::Wit => named(&old.id),
            };
            Ok((command, state))
        };
        let state = self.step(call, &failed, &decide).await?;
        let request_id = call.notes.log_id(self.context.gate.random.as_ref());
        let (service, method) = (call.rule.short_service(), call.rule.name());
        tracing::info!(
            local_authority_id = %id,
            service,
            method,
            request_id,
            subsystem_name = "api",
            "{} authority tainted successfully",
            kind_name(kind)
        );
        Ok(state)
    }

    async fn revoke(
        &self,
        call: &Call,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<rpc::AuthorityState, Failure> {
        self.allow(kind)?;
        self.allow_local(kind, "revoked")?;
        let failed = format!("failed to revoke {} authority", kind_name(kind));
        let decide = |journal: &Journal| {
            let tainted = to_revoke(journal, kind, id, &|| self.is_published_key(id))?;
            let (expected_journal, id) = (journal.revision, tainted.id.clone());
            let state = named(&id);
            Ok((Command::RevokeAuthority { expected_journal, kind, id }, state))
        };
        let state = self.step(call, &failed, &decide).await?;
        let request_id = call.notes.log_id(self.context.gate.random.as_ref());
        let (service, method) = (call.rule.short_service(), call.rule.name());
        tracing::info!(
            local_authority_id = %id,
            service,
            method,
            request_id,
            subsystem_name = "api",
            "{} authority revoked successfully",
            kind_name(kind)
        );
        Ok(state)
    }

    /// Taints or revokes roots of the upstream authority; returns their subject key id.
    async fn change_roots(
        &self,
        call: &Call,
        change: RootChange,
        subject_key_id: &str,
    ) -> Result<String, Failure> {
        if self.context.minter.upstream.is_none() {
            return Err(Failure::failed_precondition(NOT_CONFIGURED));
        }
        let id = subject_key_id.to_lowercase();
        let decide = |journal: &Journal| {
            let bundle = self.context.views().bundle(self.context.trust_domain());
            let roots = roots_to(change, journal, bundle.as_deref(), &id)?;
            let expected_journal = journal.revision;
            Ok((Command::ChangeRoots { expected_journal, change, roots }, id.clone()))
        };
        self.step(call, upstream_roots::failed(change), &decide).await
    }

    /// Takes one step: checked against a confirmed journal, proposed for that journal alone, and
    /// visible on this replica when it returns.
    async fn step<T>(
        &self,
        call: &Call,
        failed: &str,
        decide: &(dyn Fn(&Journal) -> Checked<T> + Sync),
    ) -> Result<T, Failure> {
        let mut moved = Rejection::JournalMoved { expected: 0, actual: 0 };
        for part in 0..ATTEMPTS {
            self.context.confirm(call).await?;
            let (command, state) = decide(&self.context.views().journal())?;
            let applied = self.context.propose(call, part, command).await?;
            match applied.outcome {
                Ok(_) => {
                    // It is decided; a replica that does not show it in time is merely late.
                    self.context.views().wait_for(applied.revision, call.deadline()).await;
                    return Ok(state);
                }
                Err(rejection @ Rejection::JournalMoved { .. }) => moved = rejection,
                Err(rejection) => return Err(Failure::rejected(failed, &rejection)),
            }
        }
        Err(Failure::rejected(failed, &moved))
    }

    /// Below an upstream authority its roots are tainted and revoked, not what it signed.
    fn allow_local(&self, kind: AuthorityKind, verb: &str) -> Result<(), Failure> {
        if kind == AuthorityKind::X509 && self.context.minter.upstream.is_some() {
            return Err(Failure::failed_precondition(format!(
                "local authority can't be {verb} if there is an upstream authority"
            )));
        }
        Ok(())
    }

    fn allow(&self, kind: AuthorityKind) -> Result<(), Failure> {
        match kind {
            AuthorityKind::Jwt if self.context.settings.disable_jwt_svids => {
                Err(Failure::unimplemented("JWT functionality is disabled"))
            }
            // No method of SPIRE's service changes these.
            AuthorityKind::Wit => Err(Failure::unimplemented(NO_WIT)),
            AuthorityKind::Jwt | AuthorityKind::X509 => Ok(()),
        }
    }

    /// Whether a JWT key is in the own bundle, whoever put it there.
    fn is_published_key(&self, id: &str) -> bool {
        let bundle = self.context.views().bundle(self.context.trust_domain());
        bundle.is_some_and(|bundle| bundle.jwt_authorities.iter().any(|key| key.key_id == id))
    }
}

#[tonic::async_trait]
impl rpc::local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        request: Request<rpc::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<rpc::GetJwtAuthorityStateResponse>, Status> {
        let call = Call::of(&request)?;
        let State { active, prepared, old } = self.state(&call, AuthorityKind::Jwt).await?;
        let active = Some(active);
        Ok(Response::new(rpc::GetJwtAuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<rpc::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<rpc::PrepareJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let expected = expected_journal(request.metadata())?;
        let prepared_authority = Some(self.prepare(&call, AuthorityKind::Jwt, expected).await?);
        Ok(Response::new(rpc::PrepareJwtAuthorityResponse { prepared_authority }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<rpc::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<rpc::ActivateJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let activated_authority = Some(self.activate(&call, AuthorityKind::Jwt, &id).await?);
        Ok(Response::new(rpc::ActivateJwtAuthorityResponse { activated_authority }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<rpc::TaintJwtAuthorityRequest>,
    ) -> Result<Response<rpc::TaintJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let tainted_authority = Some(self.taint(&call, AuthorityKind::Jwt, &id).await?);
        Ok(Response::new(rpc::TaintJwtAuthorityResponse { tainted_authority }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<rpc::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<rpc::RevokeJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let revoked_authority = Some(self.revoke(&call, AuthorityKind::Jwt, &id).await?);
        Ok(Response::new(rpc::RevokeJwtAuthorityResponse { revoked_authority }))
    }

    async fn get_x509_authority_state(
        &self,
        request: Request<rpc::GetX509AuthorityStateRequest>,
    ) -> Result<Response<rpc::GetX509AuthorityStateResponse>, Status> {
        let call = Call::of(&request)?;
        let State { active, prepared, old } = self.state(&call, AuthorityKind::X509).await?;
        let active = Some(active);
        Ok(Response::new(rpc::GetX509AuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<rpc::PrepareX509AuthorityRequest>,
    ) -> Result<Response<rpc::PrepareX509AuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let expected = expected_journal(request.metadata())?;
        let prepared_authority = Some(self.prepare(&call, AuthorityKind::X509, expected).await?);
        Ok(Response::new(rpc::PrepareX509AuthorityResponse { prepared_authority }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<rpc::ActivateX509AuthorityRequest>,
    ) -> Result<Response<rpc::ActivateX509AuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let activated_authority = Some(self.activate(&call, AuthorityKind::X509, &id).await?);
        Ok(Response::new(rpc::ActivateX509AuthorityResponse { activated_authority }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<rpc::TaintX509AuthorityRequest>,
    ) -> Result<Response<rpc::TaintX509AuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let tainted_authority = Some(self.taint(&call, AuthorityKind::X509, &id).await?);
        Ok(Response::new(rpc::TaintX509AuthorityResponse { tainted_authority }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<rpc::RevokeX509AuthorityRequest>,
    ) -> Result<Response<rpc::RevokeX509AuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().authority_id;
        call.notes.names_authority(&id);
        let revoked_authority = Some(self.revoke(&call, AuthorityKind::X509, &id).await?);
        Ok(Response::new(rpc::RevokeX509AuthorityResponse { revoked_authority }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<rpc::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<rpc::TaintX509UpstreamAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().subject_key_id;
        call.notes.names_root(&id);
        let subject_key_id = self.change_roots(&call, RootChange::Taint, &id).await?;
        let request_id = call.notes.log_id(self.context.gate.random.as_ref());
        let (service, method) = (call.rule.short_service(), call.rule.name());
        tracing::info!(
            %subject_key_id,
            service,
            method,
            request_id,
            subsystem_name = "api",
            "X.509 upstream authority tainted successfully"
        );
        let upstream_authority_subject_key_id = subject_key_id;
        let reply = rpc::TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id };
        Ok(Response::new(reply))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<rpc::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<rpc::RevokeX509UpstreamAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().subject_key_id;
        call.notes.names_root(&id);
        let subject_key_id = self.change_roots(&call, RootChange::Revoke, &id).await?;
        let request_id = call.notes.log_id(self.context.gate.random.as_ref());
        let (service, method) = (call.rule.short_service(), call.rule.name());
        tracing::info!(
            %subject_key_id,
            service,
            method,
            request_id,
            subsystem_name = "api",
            "X.509 upstream authority successfully revoked"
        );
        let upstream_authority_subject_key_id = subject_key_id;
        let reply = rpc::RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id };
        Ok(Response::new(reply))
    }

    async fn get_wit_authority_state(
        &self,
        _request: Request<rpc::GetWitAuthorityStateRequest>,
    ) -> Result<Response<rpc::GetWitAuthorityStateResponse>, Status> {
        Err(Failure::unimplemented(NO_WIT).into())
    }

    async fn prepare_wit_authority(
        &self,
        _request: Request<rpc::PrepareWitAuthorityRequest>,
    ) -> Result<Response<rpc::PrepareWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented(NO_WIT).into())
    }

    async fn activate_wit_authority(
        &self,
        _request: Request<rpc::ActivateWitAuthorityRequest>,
    ) -> Result<Response<rpc::ActivateWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented(NO_WIT).into())
    }

    async fn taint_wit_authority(
        &self,
        _request: Request<rpc::TaintWitAuthorityRequest>,
    ) -> Result<Response<rpc::TaintWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented(NO_WIT).into())
    }

    async fn revoke_wit_authority(
        &self,
        _request: Request<rpc::RevokeWitAuthorityRequest>,
    ) -> Result<Response<rpc::RevokeWitAuthorityResponse>, Status> {
        Err(Failure::unimplemented(NO_WIT).into())
    }
}

/// The journal that a `Prepare` is for alone, if it says so.
fn expected_journal(metadata: &MetadataMap) -> Result<Option<u64>, Failure> {
    let expected = number(metadata, EXPECTED_JOURNAL);
    if expected.is_none() && metadata.contains_key(EXPECTED_JOURNAL) {
        return Err(Failure::invalid(format!("{EXPECTED_JOURNAL} is no number")));
    }
    Ok(expected)
}

/// Why an authority was not made.
fn unminted(failed: &str, error: MintError) -> Failure {
    let is_too_short = matches!(error, MintError::EndsTooSoon { .. });
    let text = format!("{failed}: {:#}", anyhow::Error::from(error));
    // Nothing here is broken: the operator has something to do first.
    if is_too_short { Failure::failed_precondition(text) } else { Failure::internal(text) }
}

/// The prepared authority that an operator names.
fn to_activate<'a>(
    journal: &'a Journal,
    kind: AuthorityKind,
    id: &str,
) -> Result<&'a Authority, Failure> {
    if id.is_empty() {
        return Err(Failure::invalid("no authority ID provided"));
    }
    let next = Slots::of(journal, kind).next.filter(|next| next.id.as_str() == id);
    let next = next.ok_or_else(|| Failure::invalid("unexpected authority ID"))?;
    match next.status {
        AuthorityStatus::Prepared => Ok(next),
        AuthorityStatus::Active | AuthorityStatus::Old | AuthorityStatus::Revoked => {
            Err(Failure::internal(format!(
                "only Prepared authorities can be activated: {}",
                unsupported(next.status)
            )))
        }
    }
}

/// The authority that an operator may taint. SPIRE knows the last one that signed only; here it may be
/// any earlier one whose key is still trusted, and one that was prepared and passed over.
fn to_taint<'a>(
    journal: &'a Journal,
    kind: AuthorityKind,
    id: &str,
) -> Result<&'a Authority, Failure> {
    let Words { tainted, gone_at_taint, .. } = words(kind);
    let failed = format!("failed to taint {} authority", kind_name(kind));
    if id.is_empty() {
        return Err(Failure::invalid("no authority ID provided"));
    }
    let slots = Slots::of(journal, kind);
    let found = find(journal, kind, id);
    let found = found.ok_or_else(|| Failure::invalid("unexpected authority ID"))?;
    let is_next = slots.next.is_some_and(|next| next.id == found.id);
    match found.status {
        AuthorityStatus::Active => Err(Failure::invalid("unable to taint current local authority")),
        AuthorityStatus::Prepared if is_next => Err(Failure::invalid_because(
            "only Old local authorities can be tainted",
            unsupported(found.status),
        )),
        AuthorityStatus::Prepared | AuthorityStatus::Old if found.tainted => {
            Err(Failure::internal(format!("{failed}: {tainted}")))
        }
        AuthorityStatus::Prepared | AuthorityStatus::Old => Ok(found),
        AuthorityStatus::Revoked if is_next => {
            Err(Failure::internal(format!("{failed}: {gone_at_taint}")))
        }
        AuthorityStatus::Revoked => Err(Failure::invalid("unexpected authority ID")),
    }
}

/// The authority that an operator may revoke. `is_published` says whether the bundle holds a JWT key of
/// that name that is no authority of this cluster.
fn to_revoke<'a>(
    journal: &'a Journal,
    kind: AuthorityKind,
    id: &str,
    is_published: &dyn Fn() -> bool,
) -> Result<&'a Authority, Failure> {
    let Words { untainted, gone_at_revoke, unknown, prepared, .. } = words(kind);
    let failed = format!("failed to revoke {} authority", kind_name(kind));
    let invalid = |why: &str| Failure::invalid_because("invalid authority ID", why);
    if id.is_empty() {
        return Err(invalid("no authority ID provided"));
    }
    let untainted = || Failure::internal(format!("{failed}: {untainted}"));
    let Some(found) = find(journal, kind, id) else {
        // Nothing but an authority of this cluster is ever tainted.
        let foreign_key = kind == AuthorityKind::Jwt && is_published();
        return Err(if foreign_key { untainted() } else { invalid(unknown) });
    };
    let is_next = Slots::of(journal, kind).next.is_some_and(|next| next.id == found.id);
    match found.status {
        AuthorityStatus::Active => Err(invalid("unable to use current authority")),
        AuthorityStatus::Prepared => Err(invalid(prepared)),
        AuthorityStatus::Old if found.tainted => Ok(found),
        AuthorityStatus::Old => Err(untainted()),
        AuthorityStatus::Revoked if is_next => {
            Err(Failure::internal(format!("{failed}: {gone_at_revoke}")))
        }
        AuthorityStatus::Revoked => Err(invalid(unknown)),
    }
}

fn find<'a>(journal: &'a Journal, kind: AuthorityKind, id: &str) -> Option<&'a Authority> {
    journal.authorities.iter().rfind(|one| one.kind == kind && one.id.as_str() == id)
}

/// What SPIRE says of each kind; its bundle store knows "root CAs" and "keys".
struct Words {
    tainted: &'static str,
    untainted: &'static str,
    gone_at_taint: &'static str,
    gone_at_revoke: &'static str,
    unknown: &'static str,
    prepared: &'static str,
}

const fn words(kind: AuthorityKind) -> Words {
    match kind {
        AuthorityKind::X509 => Words {
            tainted: "root CA is already tainted",
            untainted: "it is not possible to revoke an untainted root CA",
            gone_at_taint: "no ca found with provided subject key ID",
            gone_at_revoke: "no root CA found with provided subject key ID",
            unknown: "only Old local authority can be revoked",
            prepared: "only Old local authority can be revoked",
        },
        AuthorityKind::Jwt | AuthorityKind::Wit => Words {
            tainted: "key is already tainted",
            untainted: "it is not possible to revoke an untainted key",
            gone_at_taint: "no JWT Key found with provided key ID",
            gone_at_revoke: "no JWT Key found with provided key ID",
            unknown: "no JWT authority found with provided authority ID",
            prepared: "unable to use a prepared key",
        },
    }
}

fn unsupported(status: AuthorityStatus) -> String {
    let status = match status {
        AuthorityStatus::Prepared => "PREPARED",
        AuthorityStatus::Active => "ACTIVE",
        AuthorityStatus::Old | AuthorityStatus::Revoked => "OLD",
    };
    format!("unsupported local authority status: {status}")
}

fn initializing() -> Failure {
    Failure::initializing("server is initializing")
}

fn message(authority: &Authority) -> rpc::AuthorityState {
    rpc::AuthorityState {
        expires_at: authority.not_after.unix_s(),
        upstream_authority_subject_key_id: told::upstream_authority_id(authority),
        ..named(&authority.id)
    }
}

fn named(id: &AuthorityId) -> rpc::AuthorityState {
    rpc::AuthorityState { authority_id: id.as_str().to_owned(), ..Default::default() }
}

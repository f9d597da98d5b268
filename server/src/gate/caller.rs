//! Who calls, and whether the policy lets them in.
//!
//! Owns the order in which SPIRE looks (everyone, local, administrator by configuration, entries,
//! agent) and the rule that a refusal needs a confirmed read: what the local view allows goes
//! through, what it would refuse is looked at again after a read barrier. Promotes a renewed agent
//! certificate at its first use. Whose authority was revoked since the handshake is refused as
//! well.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use steeple_api::pb::types::permission_denied_details::Reason as Detail;
use steeple_raft_store::command::{AdoptAgent, Command, PromoteSerial};
use steeple_raft_store::{Rejection, RequestId, StoreHandle};
use steeple_spiffe_core::agent::Serials;
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::svid::x509::verify_chain;
use steeple_spiffe_core::{Clock, Serial, SpiffeId, Timestamp, TrustDomain};
use tokio::time::Instant;

use super::adoption::{self, Forgotten};
use super::agent_check::{self, Reason, Verdict};
use super::call::{Authorized, Call};
use super::policy::{Grant, Rule};
use super::reads::Reads;
use crate::listen::{Peer, PeerCertificate};
use crate::mutants::{self, Mutant};
use crate::status::Failure;
use crate::view::Views;

/// Looks at an agent's record before giving up: the local view, a confirmed read, and again when
/// its serials moved between two looks.
const LOOKS_MAX: usize = 4;

/// Retry hint when the looks are used up or clocks disagree.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Retry hint while an operator has to decide.
const RETRY_UNDECIDED: Duration = Duration::from_secs(10);

/// The attestor whose agents cannot attest again.
const JOIN_TOKEN: &str = "join_token";

/// An admitted caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Not authenticated; only methods that are open to everyone.
    Nobody,
    /// A process on the admin socket.
    Local,
    /// An administrator.
    Admin(SpiffeId),
    /// A downstream server.
    Downstream(SpiffeId),
    /// An agent.
    Agent(AgentCaller),
}

/// A caller's part, for log lines and audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not authenticated.
    Nobody,
    /// On the admin socket.
    Local,
    /// An administrator.
    Admin,
    /// A downstream server.
    Downstream,
    /// An agent.
    Agent,
}

/// An agent whose certificate the registry knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCaller {
    /// Which agent.
    pub id: SpiffeId,
    /// The serial it presented.
    pub serial: Serial,
    /// The pair of serials that the authorising read saw; what the call writes about serials
    /// compares and sets on it.
    pub seen: Serials,
}

impl Caller {
    /// The caller's part.
    pub fn role(&self) -> Role {
        match self {
            Self::Nobody => Role::Nobody,
            Self::Local => Role::Local,
            Self::Admin(_) => Role::Admin,
            Self::Downstream(_) => Role::Downstream,
            Self::Agent(_) => Role::Agent,
        }
    }

    /// As what it was let in, as SPIRE's log lines say it; `None`: the method is open to anybody.
    pub fn authorized(&self, admin_ids: &BTreeSet<SpiffeId>) -> Option<Authorized> {
        let via = match self {
            Self::Nobody => return None,
            Self::Local => "transport",
            Self::Admin(id) if admin_ids.contains(id) => "config",
            Self::Admin(_) | Self::Downstream(_) => "entries",
            Self::Agent(_) => "datastore",
        };
        Some(Authorized { r#as: self.role().as_str(), via })
    }

    /// The caller's SPIFFE id, if it showed one.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Nobody | Self::Local => None,
            Self::Admin(id) | Self::Downstream(id) => Some(id),
            Self::Agent(agent) => Some(&agent.id),
        }
    }

    /// What tells callers apart where requests are remembered.
    pub fn key(&self) -> String {
        match self.id() {
            Some(id) => id.to_string(),
            None => self.role().to_string(),
        }
    }
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Local => "local",
            Self::Admin => "admin",
            Self::Downstream => "downstream",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Lets callers in.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// Administrators by configuration.
    pub admin_ids: Arc<BTreeSet<SpiffeId>>,
    /// Where promotions go.
    pub store: StoreHandle,
    /// What is known here.
    pub views: Views,
    /// Confirmed reads.
    pub reads: Reads,
    /// The local clock.
    pub clock: Arc<dyn Clock>,
    /// Request ids of promotions.
    pub random: Arc<dyn Random>,
}

/// What the local view says about a caller.
enum Look {
    Admitted(Caller),
    /// Only certificates can be in doubt; a detail tells an agent what to do.
    Doubted(Doubt),
}

#[derive(Clone, Copy)]
enum Doubt {
    NotGranted,
    Agent(Reason),
    SerialsMoved,
    /// A restored state does not know the agent, and no one has decided about such agents.
    Undecided,
}

impl Gate {
    /// Lets a peer call a method, or says why not.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` by a decision that holds cluster-wide; `Unavailable` when that could not
    /// be confirmed.
    pub async fn admit(
        &self,
        rule: &'static Rule,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<Caller, Failure> {
        if peer.is_local() {
            return self.admit_local(rule);
        }
        let Some(certificate) = peer.certificate() else {
            let open = rule.grants(Grant::Any);
            return if open { Ok(Caller::Nobody) } else { Err(Failure::denied(rule.method, None)) };
        };
        if rule.grants(Grant::Any) {
            return Ok(Caller::Nobody);
        }
        if !self.stays_trusted(certificate, deadline).await? {
            return Err(Failure::denied(rule.method, None));
        }
        if let Some(caller) = self.admit_by_configuration(rule, certificate, deadline).await? {
            return Ok(caller);
        }
        if !rule.grants.iter().any(|grant| self.depends_on_registry(*grant, certificate)) {
            return Err(Failure::denied(rule.method, None));
        }
        let stale = self.agent_staleness(rule, certificate)?;
        let mut doubt = match self.look(rule, certificate, stale, deadline).await? {
            Look::Admitted(caller) => return Ok(caller),
            Look::Doubted(doubt) => doubt,
        };
        for _ in 1..LOOKS_MAX {
            self.reads.confirm(deadline).await?;
            doubt = match self.look(rule, certificate, stale, deadline).await? {
                Look::Admitted(caller) => return Ok(caller),
                Look::Doubted(Doubt::SerialsMoved) => Doubt::SerialsMoved,
                Look::Doubted(doubt) => return Err(refusal(rule, doubt)),
            };
        }
        Err(refusal(rule, doubt))
    }

    /// Looks once more whether an admitted agent may still act, after a read barrier: a ban, a
    /// deletion or a revocation that was acknowledged anywhere before the barrier is seen here.
    ///
    /// # Errors
    ///
    /// The agent has lost its standing since it was admitted.
    pub fn agent_stands(&self, call: &Call) -> Result<(), Failure> {
        self.certificate_stands(call)?;
        let agent = call.agent()?;
        let record = self.views.agent(&agent.id);
        let not_after = call.peer.certificate().map_or(Timestamp::default(), |peer| peer.not_after);
        let (local, cluster) = (self.clock.now(), self.views.cluster_time());
        match agent_check::judge(record.as_deref(), &agent.serial, not_after, local, cluster) {
            Verdict::Current | Verdict::Pending { .. } => Ok(()),
            Verdict::Refused(reason) => Err(refusal(call.rule, Doubt::Agent(reason))),
        }
    }

    /// Looks once more, after a read barrier, whether the own trust domain still vouches for a
    /// caller.
    ///
    /// # Errors
    ///
    /// The authority of its certificate was revoked since it was admitted.
    pub fn certificate_stands(&self, call: &Call) -> Result<(), Failure> {
        let stands = match call.peer.certificate() {
            Some(peer) if call.caller != Caller::Nobody => self.is_trusted_here(peer),
            Some(_) | None => true,
        };
        if stands { Ok(()) } else { Err(Failure::denied(call.rule.method, None)) }
    }

    /// Whether the own trust domain still vouches for one of its members. The handshake asked the
    /// same, but its connection outlives a revocation. Who is refused is also told to connect anew:
    /// it may have a newer certificate by now.
    async fn stays_trusted(
        &self,
        peer: &PeerCertificate,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        if self.is_trusted_here(peer) {
            return Ok(true);
        }
        self.reads.confirm(deadline).await?;
        let stays = self.is_trusted_here(peer);
        if !stays && peer.lapse() {
            let (caller_id, serial_number) = (&peer.id, &peer.serial);
            tracing::warn!(%caller_id, %serial_number, "Caller refused: no authority of the bundle vouches for its certificate any more");
        }
        Ok(stays)
    }

    /// The same, as far as this replica knows. What vouches for members of other trust domains is
    /// asked where they are let in.
    fn is_trusted_here(&self, peer: &PeerCertificate) -> bool {
        let is_own = peer.id.is_member_of(&self.trust_domain);
        if !is_own || mutants::on(Mutant::RevocationSeenAtConnection) {
            return true;
        }
        let bundle = self.views.bundle(&self.trust_domain);
        bundle.is_some_and(|bundle| peer.is_vouched_for_by(&bundle, self.clock.now()))
    }

    fn admit_local(&self, rule: &'static Rule) -> Result<Caller, Failure> {
        if rule.grants(Grant::Local) {
            Ok(Caller::Local)
        } else if rule.grants(Grant::Any) {
            Ok(Caller::Nobody)
        } else {
            Err(Failure::denied(rule.method, None))
        }
    }

    /// What needs no entry: administrators by configuration.
    async fn admit_by_configuration(
        &self,
        rule: &Rule,
        peer: &PeerCertificate,
        deadline: Instant,
    ) -> Result<Option<Caller>, Failure> {
        if !self.admin_ids.contains(&peer.id) || !self.grants_admin(rule, peer) {
            return Ok(None);
        }
        let is_foreign = !peer.id.is_member_of(&self.trust_domain);
        if is_foreign && !self.is_vouched_for(peer, deadline).await? {
            return Ok(None);
        }
        Ok(Some(Caller::Admin(peer.id.clone())))
    }

    /// Whether the bundle of a foreign trust domain leads to a certificate now. The handshake asked
    /// the same, but its connection outlives the bundle: once its deletion or replacement is
    /// acknowledged anywhere, the administrators it vouched for are refused everywhere.
    async fn is_vouched_for(
        &self,
        peer: &PeerCertificate,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        self.reads.confirm(deadline).await?;
        let bundle = self.views.bundle(peer.id.trust_domain());
        let now = self.clock.now();
        Ok(bundle.is_some_and(|bundle| verify_chain(&peer.chain_der, &bundle, now).is_ok()))
    }

    fn grants_admin(&self, rule: &Rule, peer: &PeerCertificate) -> bool {
        let own = peer.id.is_member_of(&self.trust_domain);
        rule.grants(Grant::Admin) || (own && rule.grants(Grant::OwnAdmin))
    }

    /// Whether the registry could still let the peer in by this grant.
    fn depends_on_registry(&self, grant: Grant, peer: &PeerCertificate) -> bool {
        match grant {
            Grant::Any | Grant::Local => false,
            Grant::Admin | Grant::OwnAdmin | Grant::Agent | Grant::Downstream => {
                peer.id.is_member_of(&self.trust_domain)
            }
        }
    }

    /// How stale the state is that agents are judged by; `None` = in contact. Agents are refused
    /// here while they are being sent to other replicas.
    fn agent_staleness(
        &self,
        rule: &Rule,
        peer: &PeerCertificate,
    ) -> Result<Option<Duration>, Failure> {
        if rule.grants(Grant::Agent) && peer.id.is_agent() {
            return Ok(self.reads.agent_service()?);
        }
        Ok(None)
    }

    async fn look(
        &self,
        rule: &Rule,
        peer: &PeerCertificate,
        stale: Option<Duration>,
        deadline: Instant,
    ) -> Result<Look, Failure> {
        if let Some(caller) = self.admit_by_entry(rule, peer) {
            return Ok(Look::Admitted(caller));
        }
        if !rule.grants(Grant::Agent) {
            return Ok(Look::Doubted(Doubt::NotGranted));
        }
        let record = self.views.agent(&peer.id);
        let (local, cluster) = (self.clock.now(), self.views.cluster_time());
        let verdict =
            agent_check::judge(record.as_deref(), &peer.serial, peer.not_after, local, cluster);
        let seen = record.map(|record| record.serials.clone()).unwrap_or_default();
        let admitted = |seen| {
            let (id, serial) = (peer.id.clone(), peer.serial.clone());
            Look::Admitted(Caller::Agent(AgentCaller { id, serial, seen }))
        };
        match verdict {
            Verdict::Current => Ok(admitted(seen)),
            // Cut off, the certificate is accepted as it is; it is promoted when contact is back.
            Verdict::Pending { seen } if stale.is_some() => Ok(admitted(seen)),
            Verdict::Pending { seen } => {
                let promoted = Serials { current: seen.pending.clone(), pending: None };
                let done = self.promote(peer, seen, deadline).await?;
                Ok(if done { admitted(promoted) } else { Look::Doubted(Doubt::SerialsMoved) })
            }
            Verdict::Refused(reason) => self.look_back(peer, reason, stale, deadline).await,
        }
    }

    /// Looks whether an agent that would be refused is one that a restored state has forgotten.
    async fn look_back(
        &self,
        peer: &PeerCertificate,
        reason: Reason,
        stale: Option<Duration>,
        deadline: Instant,
    ) -> Result<Look, Failure> {
        let record = self.views.agent(&peer.id);
        let cluster = self.views.cluster();
        let restored = cluster.as_ref().and_then(|cluster| cluster.restored.as_ref());
        match adoption::judge(restored, reason, record.as_deref(), peer.not_before) {
            Forgotten::No => Ok(Look::Doubted(Doubt::Agent(reason))),
            Forgotten::Undecided => Ok(Look::Doubted(Doubt::Undecided)),
            // Cut off, nothing can be adopted, and nothing be said about the agent either.
            Forgotten::Adopt if stale.is_some() => Ok(Look::Doubted(Doubt::Undecided)),
            Forgotten::Adopt => {
                let seen = record.map(|record| record.serials.clone());
                match self.adopt(peer, seen, deadline).await? {
                    None => {
                        let current = Some(peer.serial.clone());
                        let seen = Serials { current, pending: None };
                        let (id, serial) = (peer.id.clone(), peer.serial.clone());
                        Ok(Look::Admitted(Caller::Agent(AgentCaller { id, serial, seen })))
                    }
                    Some(Rejection::NothingToAdopt) => Ok(Look::Doubted(Doubt::Agent(reason))),
                    Some(_) => Ok(Look::Doubted(Doubt::SerialsMoved)),
                }
            }
        }
    }

    /// Takes the presented serial for the agent's; the rejection if that was refused.
    async fn adopt(
        &self,
        peer: &PeerCertificate,
        seen: Option<Serials>,
        deadline: Instant,
    ) -> Result<Option<Rejection>, Failure> {
        let kind = adoption::attestation_type(&peer.id).to_owned();
        let known = seen.is_some();
        let command = Command::AdoptAgent(AdoptAgent {
            agent_id: peer.id.clone(),
            can_reattest: kind != JOIN_TOKEN,
            attestation_type: kind,
            serial: peer.serial.clone(),
            not_after: peer.not_after,
            seen,
        });
        let id = RequestId::fresh(self.views.revision(), self.random.as_ref());
        let applied = self.store.propose(command, id, deadline).await?;
        // As after a promotion: one that does not find it yet only looks again.
        let _caught_up = self.views.wait_for(applied.revision, deadline).await;
        let rejection = applied.outcome.err();
        if rejection.is_none() {
            tracing::warn!(agent_id = %peer.id, serial = %peer.serial, known, "Agent adopted: the restored state had forgotten its certificate");
        }
        Ok(rejection)
    }

    fn admit_by_entry(&self, rule: &Rule, peer: &PeerCertificate) -> Option<Caller> {
        let (admin, downstream) = (self.grants_admin(rule, peer), rule.grants(Grant::Downstream));
        if !admin && !downstream {
            return None;
        }
        let entries = self.views.entries_with_spiffe_id(&peer.id);
        if admin && entries.iter().any(|entry| entry.admin) {
            return Some(Caller::Admin(peer.id.clone()));
        }
        let granted = downstream && entries.iter().any(|entry| entry.downstream);
        granted.then(|| Caller::Downstream(peer.id.clone()))
    }

    /// Makes the pending serial the current one; false when the serials have moved meanwhile.
    async fn promote(
        &self,
        peer: &PeerCertificate,
        seen: Serials,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let command = Command::PromoteSerial(PromoteSerial { agent_id: peer.id.clone(), seen });
        let id = RequestId::fresh(self.views.revision(), self.random.as_ref());
        let applied = self.store.propose(command, id, deadline).await?;
        // Later calls on this connection then find the new serial in place; one that does not only
        // looks again.
        let _caught_up = self.views.wait_for(applied.revision, deadline).await;
        Ok(applied.outcome.is_ok())
    }
}

fn refusal(rule: &Rule, doubt: Doubt) -> Failure {
    let denied = |detail| Failure::denied(rule.method, Some(detail));
    match doubt {
        Doubt::NotGranted => Failure::denied(rule.method, None),
        Doubt::SerialsMoved => Failure::unavailable("agent serials are changing", RETRY_AFTER),
        Doubt::Undecided => Failure::unavailable(
            "agent was attested after the state that was restored: an operator has to decide with \
             \"spire-server cluster agents adopt\" or \"refuse\"",
            RETRY_UNDECIDED,
        ),
        Doubt::Agent(Reason::Expired) => denied(Detail::AgentExpired),
        Doubt::Agent(Reason::NotAttested) => denied(Detail::AgentNotAttested),
        Doubt::Agent(Reason::Banned) => denied(Detail::AgentBanned),
        Doubt::Agent(Reason::NotActive) => denied(Detail::AgentNotActive),
        Doubt::Agent(Reason::ClocksDisagree { local, cluster }) => Failure::unavailable(
            format!(
                "agent SVID has expired by this server's clock but not by cluster time, which is \
                 {} s behind it: correct this server's clock if it is ahead, or the leader's if \
                 that is behind; otherwise the next write moves cluster time on",
                local.since(cluster).as_secs()
            ),
            RETRY_AFTER,
        ),
    }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;

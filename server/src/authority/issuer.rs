//! Signs X509-SVIDs, JWT-SVIDs and WIT-SVIDs, locally, on any replica.
//!
//! Owns the pointer to the active authorities and the checks around a signature: nothing signs
//! before its authority is in the committed bundle that this replica publishes, with an authority that
//! the views show as replaced (so after a confirmed read, nothing by one that was tainted before it),
//! with a clock that is behind the cluster's, or past its authority's end; and what comes out is parsed
//! again before it is handed on. Who may have what signed is the caller's decision.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use steeple_raft_store::change::Journal;
use steeple_raft_store::{ClusterClock, ClusterId, ClusterKeys};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::signer::Signer;
use steeple_spiffe_core::svid::jwt::{JwtClaims, JwtSvid, sign_jwt_svid};
use steeple_spiffe_core::svid::wit::{HolderKey, WitClaims, WitSvid, sign_wit_svid};
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, LeafSubject, LeafTemplate, X509Svid,
    sign_downstream_ca, sign_leaf,
};
use steeple_spiffe_core::{AuthorityId, Clock, Serial, SpiffeId, Timestamp, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::chained::leads_to;
use super::mint::{check_ca, random_serial};
use super::planner::kind_name;
use super::policy::{AuthorityPolicy, BACKDATE, WIT_SVID_TTL};
use super::slots::{Slots, successor};
use super::told;
use crate::keys::KeyRing;
use crate::mutants::{self, Mutant};
use crate::view::Views;

/// What an X509-SVID is to contain.
#[derive(Clone, Debug)]
pub struct X509Params {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// DNS names, in order; the first is also the common name.
    pub dns_names: Vec<String>,
    /// The subject (a `Name` in DER) of a request that has its own; `None` is SPIRE's default.
    pub subject: Option<Vec<u8>>,
    /// The key to certify, as SubjectPublicKeyInfo in DER.
    pub public_key_spki: Vec<u8>,
    /// The lifetime; zero is the configured default. Cut to the authority's own end.
    pub ttl: Duration,
}

/// A signed X509-SVID.
#[derive(Clone, Debug)]
pub struct IssuedX509 {
    /// The certificate, and below an upstream authority the chain above it. In DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The certificate's serial.
    pub serial: Serial,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Which authority signed it.
    pub authority_id: AuthorityId,
}

/// What a JWT-SVID is to contain.
#[derive(Clone, Debug)]
pub struct JwtParams {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// For whom it is; empty names are dropped, one must remain.
    pub audience: Vec<String>,
    /// The lifetime; zero is the configured default. Cut to the authority's own end.
    pub ttl: Duration,
    /// The `jti` claim, for entries that ask for one.
    pub jwt_id: Option<String>,
}

/// What a WIT-SVID is to contain.
#[derive(Clone, Debug)]
pub struct WitParams {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The key of its holder.
    pub key: HolderKey,
    /// The lifetime; zero is SPIRE's default of an hour. Cut to the authority's own end.
    pub ttl: Duration,
}

/// A signed JWT-SVID or WIT-SVID.
#[derive(Clone, Debug)]
pub struct IssuedJwt {
    /// The compact token.
    pub token: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Which authority signed it.
    pub authority_id: AuthorityId,
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// There is no authority to sign with, or this replica does not publish it yet.
    #[error("{text}")]
    NoAuthority {
        /// What is missing.
        text: String,
    },
    /// The authority's key does not open here.
    #[error("sealed: cluster key does not open {kek_id}")]
    Sealed {
        /// Which cluster key is needed.
        kek_id: String,
    },
    /// The active authority has ended.
    #[error("active {kind} authority has expired")]
    Expired {
        /// Which kind.
        kind: &'static str,
    },
    /// This replica's clock is too far behind the cluster's.
    #[error("clock is behind cluster time by more than {limit_ms} ms")]
    Skew {
        /// The limit, in milliseconds.
        limit_ms: u128,
    },
    /// This replica's clock is too far from the median of a quorum's.
    #[error("{}", clock_off_text(*ahead_ms, *limit))]
    ClockOff {
        /// By how many milliseconds it is ahead.
        ahead_ms: i64,
        /// How far it may be.
        limit: Duration,
    },
    /// The request cannot be signed as it is, or what was signed failed its checks.
    #[error("{0}")]
    Invalid(String),
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a text; offsets beyond 2^53 ms are as wrong as any"
)]
fn clock_off_text(ahead_ms: i64, limit: Duration) -> String {
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "this replica's clock is {:.1} s {way} the median of the members' clocks, at most {:.1} s are \
         allowed; set this machine's clock right (NTP)",
        ahead_ms.unsigned_abs() as f64 / 1000.0,
        limit.as_secs_f64(),
    )
}

/// Signs with the active authorities.
#[derive(Clone, Debug)]
pub struct Issuer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    policy: Arc<AuthorityPolicy>,
    views: Views,
    clock: Arc<dyn Clock>,
    cluster_clock: ClusterClock,
    random: Arc<dyn Random>,
    ring: Mutex<KeyRing>,
    active: ArcSwap<Active>,
    changed: watch::Sender<()>,
}

/// The slots that sign, and of which state they are.
#[derive(Debug)]
struct Active {
    /// `None`: of none yet.
    seen: Option<Seen>,
    x509: Result<X509Slot, IssueError>,
    jwt: Result<KeySlot, IssueError>,
    wit: Result<KeySlot, IssueError>,
}

/// What the slots were made from.
type Seen = (Arc<Journal>, Option<Arc<Bundle>>);

fn is_same(seen: &Seen, now: &Seen) -> bool {
    let same_bundle = match (&seen.1, &now.1) {
        (Some(seen), Some(now)) => Arc::ptr_eq(seen, now),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    Arc::ptr_eq(&seen.0, &now.0) && same_bundle
}

#[derive(Debug)]
struct X509Slot {
    id: AuthorityId,
    not_after: Timestamp,
    identity: IssuerIdentity,
    signer: Arc<dyn Signer>,
    /// What follows the leaf: nothing below a self-signed authority, whose certificate is in the
    /// bundle.
    chain_above: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct KeySlot {
    id: AuthorityId,
    not_after: Timestamp,
    signer: Arc<dyn Signer>,
}

impl Issuer {
    /// An issuer without authorities, and the task that gives it those of the journal.
    pub fn start(
        keys: Arc<ClusterKeys>,
        views: Views,
        trust_domain: TrustDomain,
        policy: Arc<AuthorityPolicy>,
        clock: Arc<dyn Clock>,
        cluster_clock: ClusterClock,
        random: Arc<dyn Random>,
    ) -> (Self, IssuerTask) {
        let missing = || IssueError::NoAuthority { text: "authorities are not known yet".into() };
        let active =
            Active { seen: None, x509: Err(missing()), jwt: Err(missing()), wit: Err(missing()) };
        let (changed, _) = watch::channel(());
        let inner = Inner {
            trust_domain,
            policy,
            views,
            clock,
            cluster_clock,
            random,
            ring: Mutex::new(KeyRing::new(Arc::clone(&keys))),
            active: ArcSwap::from_pointee(active),
            changed,
        };
        let issuer = Self { inner: Arc::new(inner) };
        let task = IssuerTask { issuer: issuer.clone(), keys };
        (issuer, task)
    }

    /// The policy it signs by.
    pub fn policy(&self) -> &AuthorityPolicy {
        &self.inner.policy
    }

    /// Whether every kind of SVID that there is to be can be signed now. WIT-SVIDs do not count: they
    /// are an experiment, and its failure is no reason to take a replica out of service.
    pub fn ready(&self) -> bool {
        let active = self.active();
        let now = self.inner.clock.now();
        self.check_clock(now).is_ok()
            && active.x509.as_ref().is_ok_and(|slot| slot.not_after > now)
            && (!self.inner.policy.jwt_svids
                || active.jwt.as_ref().is_ok_and(|slot| slot.not_after > now))
    }

    /// Why nothing can be signed, if so: the first reason found, X.509 before JWT.
    pub fn not_ready_reason(&self) -> Option<IssueError> {
        let active = self.active();
        let now = self.inner.clock.now();
        let x509 = || usable(&active.x509, "X.509", |slot| slot.not_after, now).map(drop);
        let jwt = || usable(&active.jwt, "JWT", |slot| slot.not_after, now).map(drop);
        let signs = self.check_clock(now).and_then(|()| x509());
        let signs = if self.inner.policy.jwt_svids { signs.and_then(|()| jwt()) } else { signs };
        signs.err()
    }

    /// The authority that signs X509-SVIDs now.
    pub fn active_x509_authority(&self) -> Option<AuthorityId> {
        self.active().x509.as_ref().ok().map(|slot| slot.id.clone())
    }

    /// Waits until every kind of SVID that there is to be can be signed.
    pub async fn wait_ready(&self) {
        let mut changed = self.inner.changed.subscribe();
        while !self.ready() {
            if changed.changed().await.is_err() {
                return; // Not reached: the sender lives as long as this handle.
            }
        }
    }

    /// Signs an X509-SVID.
    pub fn sign_x509(&self, params: X509Params) -> Result<IssuedX509, IssueError> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        self.check_clock(now)?;
        let active = self.active();
        let slot = usable(&active.x509, "X.509", |slot| slot.not_after, now)?;

        let ttl = or_default(params.ttl, inner.policy.default_x509_svid_ttl);
        let not_after = now.plus(ttl).min(slot.not_after).floor_to_second();
        let serial = random_serial(inner.random.as_ref());
        let subject = match &params.subject {
            Some(name) => LeafSubject::Given(name),
            None => LeafSubject::Default,
        };
        let template = LeafTemplate {
            spiffe_id: &params.spiffe_id,
            dns_names: &params.dns_names,
            subject,
            // Agents and servers have none.
            unique_id: inner.policy.unique_ids && !params.spiffe_id.is_reserved(),
            public_key_spki: &params.public_key_spki,
            serial,
            not_before: now.minus(BACKDATE).floor_to_second(),
            not_after,
        };
        let leaf = sign_leaf(&slot.identity, slot.signer.as_ref(), &template)
            .map_err(|error| IssueError::Invalid(format!("failed to sign X509-SVID: {error}")))?;
        check_x509(&leaf, &params.spiffe_id, now)?;
        metrics::counter!("spire_server_server_ca_sign_x509_svid").increment(1);
        let not_before = template.not_before;
        let mut chain_der = vec![leaf];
        chain_der.extend(slot.chain_above.iter().cloned());
        Ok(IssuedX509 {
            chain_der,
            serial: Serial::from_be_bytes(&serial),
            not_before,
            not_after,
            authority_id: slot.id.clone(),
        })
    }

    /// Signs the CA certificate of a downstream server; returns it with the chain above it, in DER. A
    /// lifetime of zero is `ca_ttl`; it is cut to the authority's own end.
    pub fn sign_downstream_ca(
        &self,
        public_key_spki: &[u8],
        ttl: Duration,
    ) -> Result<Vec<Vec<u8>>, IssueError> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        self.check_clock(now)?;
        let active = self.active();
        let slot = usable(&active.x509, "X.509", |slot| slot.not_after, now)?;
        let ttl = or_default(ttl, inner.policy.ca_ttl);
        let template = DownstreamTemplate {
            trust_domain: &inner.trust_domain,
            // A self-signed authority is a chain of one.
            subject: DownstreamSubject::Depth(slot.chain_above.len().max(1)),
            public_key_spki,
            serial: random_serial(inner.random.as_ref()),
            not_before: now.minus(BACKDATE).floor_to_second(),
            not_after: now.plus(ttl).min(slot.not_after).floor_to_second(),
        };
        let invalid = |error: &dyn std::fmt::Display| {
            IssueError::Invalid(format!("failed to sign downstream X.509 CA: {error}"))
        };
        let certificate = sign_downstream_ca(&slot.identity, slot.signer.as_ref(), &template)
            .map_err(|error| invalid(&error))?;
        check_ca(&certificate, &inner.trust_domain, now).map_err(|error| invalid(&error))?;
        metrics::counter!("spire_server_server_ca_sign_x509_ca_svid").increment(1);
        let above = slot.chain_above.iter().cloned();
        Ok(std::iter::once(certificate).chain(above).collect())
    }

    /// Signs a JWT-SVID.
    pub fn sign_jwt(&self, params: JwtParams) -> Result<IssuedJwt, IssueError> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        self.check_clock(now)?;
        let active = self.active();
        let slot = usable(&active.jwt, "JWT", |slot| slot.not_after, now)?;

        let audience: Vec<String> =
            params.audience.into_iter().filter(|name| !name.is_empty()).collect();
        if audience.is_empty() {
            return Err(IssueError::Invalid("at least one audience is required".into()));
        }
        let ttl = or_default(params.ttl, inner.policy.default_jwt_svid_ttl);
        let issued_at = now.floor_to_second();
        let expires_at = now.plus(ttl).min(slot.not_after).floor_to_second();
        let claims = JwtClaims {
            subject: &params.spiffe_id,
            audience: &audience,
            issued_at,
            expires_at,
            issuer: inner.policy.jwt_issuer.as_deref(),
            jwt_id: params.jwt_id.as_deref(),
        };
        let token = sign_jwt_svid(slot.signer.as_ref(), slot.id.as_str(), &claims)
            .map_err(|error| IssueError::Invalid(format!("failed to sign JWT-SVID: {error}")))?;
        check_jwt(&token, &params.spiffe_id, &audience, now)?;
        metrics::counter!("spire_server_server_ca_sign_jwt_svid").increment(1);
        Ok(IssuedJwt { token, issued_at, expires_at, authority_id: slot.id.clone() })
    }

    /// Signs a WIT-SVID.
    pub fn sign_wit(&self, params: &WitParams) -> Result<IssuedJwt, IssueError> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        self.check_clock(now)?;
        let active = self.active();
        let slot = usable(&active.wit, "WIT", |slot| slot.not_after, now)?;

        let ttl = or_default(params.ttl, WIT_SVID_TTL);
        let issued_at = now.floor_to_second();
        let expires_at = now.plus(ttl).min(slot.not_after).floor_to_second();
        let claims = WitClaims {
            subject: &params.spiffe_id,
            key: &params.key,
            issued_at,
            expires_at,
            issuer: inner.policy.wit_issuer.as_deref(),
        };
        let token = sign_wit_svid(slot.signer.as_ref(), slot.id.as_str(), &claims)
            .map_err(|error| IssueError::Invalid(format!("failed to sign WIT-SVID: {error}")))?;
        check_wit(&token, &params.spiffe_id, now)?;
        Ok(IssuedJwt { token, issued_at, expires_at, authority_id: slot.id.clone() })
    }

    /// Whether this replica's clock is good enough to make anything with a time in it.
    ///
    /// # Errors
    ///
    /// How far it is off.
    pub fn trust_clock(&self) -> Result<(), IssueError> {
        self.check_clock(self.inner.clock.now())
    }

    /// The slots of what the views show now. The task follows the views too, but a signature does not
    /// wait for it: an authority that a confirmed read has shown to be replaced signs no more.
    fn active(&self) -> Arc<Active> {
        if !mutants::on(Mutant::TaintSeenAtConnection) {
            self.refresh();
        }
        self.inner.active.load_full()
    }

    /// Looks at the views once.
    pub(super) fn refresh(&self) {
        self.look(false);
    }

    /// Looks at the views once; what was looked at already only if the cluster keys have changed.
    fn look(&self, keys_changed: bool) {
        let inner = &*self.inner;
        let Some(cluster) = inner.views.cluster() else { return };
        let is_current = |now: &Seen| {
            let active = inner.active.load();
            !keys_changed && active.seen.as_ref().is_some_and(|seen| is_same(seen, now))
        };
        if is_current(&inner.views.trust(&inner.trust_domain)) {
            return;
        }
        let mut ring = inner.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever held the ring may have looked already, and at something newer.
        let now = inner.views.trust(&inner.trust_domain);
        if is_current(&now) {
            return;
        }
        let active = load(&mut ring, cluster.cluster_id, now, inner.policy.wit_svids);
        log_activated(&inner.active.load(), &active);
        inner.active.store(Arc::new(active));
        drop(ring);
        inner.changed.send_replace(());
    }

    /// Refuses to sign with a wrong clock: what it signs would begin or end at the wrong time, and what
    /// has ended might seem good. The median of a quorum's clocks decides; where none is known yet,
    /// committed times show at least a clock that is behind.
    fn check_clock(&self, now: Timestamp) -> Result<(), IssueError> {
        let limit = self.inner.policy.skew_limit();
        if let Some(ahead_ms) = self.inner.cluster_clock.ahead_ms(self.inner.clock.as_ref()) {
            if Duration::from_millis(ahead_ms.unsigned_abs()) > limit {
                return Err(IssueError::ClockOff { ahead_ms, limit });
            }
            return Ok(());
        }
        if self.inner.views.cluster_time().since(now) > limit {
            return Err(IssueError::Skew { limit_ms: limit.as_millis() });
        }
        Ok(())
    }
}

/// Gives the issuer the active authorities whenever journal, bundle, cluster row or cluster keys move,
/// whether anything is signed or not.
#[derive(Debug)]
pub struct IssuerTask {
    issuer: Issuer,
    keys: Arc<ClusterKeys>,
}

impl IssuerTask {
    /// Follows the views until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut revision = self.issuer.inner.views.subscribe_revision();
        let mut keys = self.keys.changes();
        self.issuer.refresh();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                moved = revision.changed() => match moved {
                    Ok(()) => self.issuer.refresh(),
                    Err(_gone) => return,
                },
                // What did not open may do so now.
                Ok(()) = keys.changed() => self.issuer.look(true),
            }
        }
    }
}

fn load(ring: &mut KeyRing, cluster_id: ClusterId, seen: Seen, wit_svids: bool) -> Active {
    let (journal, bundle) = &seen;
    if let Err(error) = ring.follow(cluster_id, journal) {
        tracing::error!(%error, "Authority key does not open");
    }
    let bundle = bundle.as_deref();
    let x509 = slot(ring, journal, AuthorityKind::X509, bundle)
        .and_then(|(authority, signer)| x509_slot(authority, signer, bundle));
    let jwt = key_slot(ring, journal, AuthorityKind::Jwt, bundle);
    let wit = if wit_svids {
        key_slot(ring, journal, AuthorityKind::Wit, bundle)
    } else {
        // Others of the cluster may have the flag.
        Err(IssueError::NoAuthority { text: "WIT functionality is disabled".to_owned() })
    };
    Active { seen: Some(seen), x509, jwt, wit }
}

fn key_slot(
    ring: &KeyRing,
    journal: &Journal,
    kind: AuthorityKind,
    bundle: Option<&Bundle>,
) -> Result<KeySlot, IssueError> {
    let (authority, signer) = slot(ring, journal, kind, bundle)?;
    Ok(KeySlot { id: authority.id.clone(), not_after: authority.not_after, signer })
}

fn slot<'a>(
    ring: &KeyRing,
    journal: &'a Journal,
    kind: AuthorityKind,
    bundle: Option<&Bundle>,
) -> Result<(&'a Authority, Arc<dyn Signer>), IssueError> {
    let mut authority = Slots::of(journal, kind).current.ok_or_else(|| {
        IssueError::NoAuthority { text: format!("no active {} authority", kind_name(kind)) }
    })?;
    if mutants::on(Mutant::KeyReleasedBeforeCommit) {
        authority = successor(journal, kind).unwrap_or(authority);
    }
    let published = bundle.is_some_and(|bundle| is_published(authority, bundle));
    if !published && !mutants::on(Mutant::SignBeforePublish) {
        let text = format!("active {} authority is not in the bundle", kind_name(kind));
        return Err(IssueError::NoAuthority { text });
    }
    match ring.signer(authority) {
        Some(signer) => Ok((authority, signer)),
        None => Err(IssueError::Sealed { kek_id: authority.sealed_key.kek_id.clone() }),
    }
}

fn x509_slot(
    authority: &Authority,
    signer: Arc<dyn Signer>,
    bundle: Option<&Bundle>,
) -> Result<X509Slot, IssueError> {
    let identity = IssuerIdentity::from_certificate(&authority.public_der)
        .map_err(|error| IssueError::Invalid(format!("authority certificate: {error}")))?;
    let mut chain_above = Vec::new();
    if !bundle.is_some_and(|bundle| is_root(authority, bundle)) {
        chain_above.push(authority.public_der.clone());
        chain_above.extend(authority.upstream_chain.iter().cloned());
    }
    Ok(X509Slot {
        id: authority.id.clone(),
        not_after: authority.not_after,
        identity,
        signer,
        chain_above,
    })
}

/// Whether verifiers that use this bundle accept what the authority signs.
fn is_published(authority: &Authority, bundle: &Bundle) -> bool {
    match authority.kind {
        AuthorityKind::X509 => {
            let last = authority.upstream_chain.last().unwrap_or(&authority.public_der);
            is_root(authority, bundle) || leads_to(last, &bundle.x509_authorities)
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let mut keys = bundle.keys(authority.kind).iter();
            keys.any(|one| one.key_id == authority.id.as_str())
        }
    }
}

/// Whether the authority's own certificate is in the bundle. Below an upstream authority the bundle
/// holds the upstream root instead.
fn is_root(authority: &Authority, bundle: &Bundle) -> bool {
    bundle.x509_authorities.iter().any(|one| one.certificate_der == authority.public_der)
}

fn usable<'a, T>(
    slot: &'a Result<T, IssueError>,
    kind: &'static str,
    not_after: impl Fn(&T) -> Timestamp,
    now: Timestamp,
) -> Result<&'a T, IssueError> {
    let slot = slot.as_ref().map_err(Clone::clone)?;
    if not_after(slot) <= now {
        return Err(IssueError::Expired { kind });
    }
    Ok(slot)
}

/// Checks a fresh certificate as a verifier would: an invalid one is an error, never handed out.
fn check_x509(leaf: &[u8], expected: &SpiffeId, now: Timestamp) -> Result<(), IssueError> {
    let invalid = |reason: &str| IssueError::Invalid(format!("invalid X509-SVID: {reason}"));
    let chain = [leaf.to_vec()];
    let svid = X509Svid::parse_chain(&chain).map_err(|error| invalid(&error.to_string()))?;
    if svid.id != *expected {
        return Err(invalid("wrong SPIFFE ID"));
    }
    if now < svid.not_before || now >= svid.not_after {
        return Err(invalid("not valid now"));
    }
    Ok(())
}

/// Checks a fresh token as a validator would.
fn check_jwt(
    token: &str,
    subject: &SpiffeId,
    audience: &[String],
    now: Timestamp,
) -> Result<(), IssueError> {
    let invalid = |reason: &str| IssueError::Invalid(format!("invalid JWT-SVID: {reason}"));
    let svid = JwtSvid::parse_insecure(token).map_err(|error| invalid(&error.to_string()))?;
    if svid.id != *subject {
        return Err(invalid("wrong subject"));
    }
    if svid.expires_at <= now {
        return Err(invalid("already expired"));
    }
    if svid.audience != audience {
        return Err(invalid("wrong audience"));
    }
    Ok(())
}

/// Checks a fresh token as SPIRE does.
fn check_wit(token: &str, subject: &SpiffeId, now: Timestamp) -> Result<(), IssueError> {
    let invalid = |reason: &str| IssueError::Invalid(format!("invalid WIT-SVID: {reason}"));
    let svid = WitSvid::parse_insecure(token).map_err(|error| invalid(&error.to_string()))?;
    if svid.id != *subject {
        return Err(invalid("wrong subject"));
    }
    if svid.expires_at <= now {
        return Err(invalid("already expired"));
    }
    if svid.not_before.is_some_and(|at| at > now) {
        return Err(invalid("not valid yet"));
    }
    if svid.audience.iter().any(String::is_empty) {
        return Err(invalid("empty audience"));
    }
    Ok(())
}

fn or_default(ttl: Duration, default: Duration) -> Duration {
    if ttl.is_zero() { default } else { ttl }
}

/// Writes the lines that scripts of SPIRE wait for.
fn log_activated(before: &Active, after: &Active) {
    let signs = |active: &Active| {
        let x509 = active.x509.as_ref().ok().map(|slot| (AuthorityKind::X509, slot.id.clone()));
        let jwt = active.jwt.as_ref().ok().map(|slot| (AuthorityKind::Jwt, slot.id.clone()));
        let wit = active.wit.as_ref().ok().map(|slot| (AuthorityKind::Wit, slot.id.clone()));
        [x509, jwt, wit]
    };
    let Some((journal, _)) = &after.seen else { return };
    let slots = signs(before).into_iter().zip(signs(after));
    for (kind, id) in slots.filter(|(old, new)| old != new).filter_map(|(_, new)| new) {
        let mut authorities = journal.authorities.iter();
        if let Some(one) = authorities.find(|one| one.kind == kind && one.id == id) {
            told::activated(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::change::ClusterState;
    use steeple_raft_store::testing::cluster_state;
    use steeple_raft_store::{Change, ChangeBatch, Revision, RowNumber};
    use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};
    use steeple_spiffe_core::random::SeededRandom;
    use steeple_spiffe_core::svid::x509::verify_chain;
    use steeple_spiffe_core::time::FixedClock;
    use steeple_spiffe_core::{KeyType, LocalSigner};

    use super::super::chained::check_chain;
    use super::super::mint::Minter;
    use steeple_spiffe_core::AuthorityStatus;
    use steeple_spiffe_core::svid::x509::certificate_facts;

    use super::*;

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const CLUSTER: ClusterId = ClusterId(5);
    const HOUR: Duration = Duration::from_secs(3600);

    /// An issuer with its clock, fed from a journal and a bundle that tests change.
    struct Bench {
        issuer: Issuer,
        views: Views,
        clock: Arc<FixedClock>,
        minter: Minter,
        journal: Journal,
        bundle: Bundle,
        revision: u64,
    }

    fn key(authority: &Authority) -> JwtAuthority {
        JwtAuthority {
            key_id: authority.id.to_string(),
            public_key_der: authority.public_der.clone(),
            expires_at: Some(authority.not_after),
            tainted: false,
        }
    }

    impl Bench {
        fn new() -> Self {
            let random: Arc<dyn Random> = Arc::new(SeededRandom::new(1));
            let keys = Arc::new(ClusterKeys::generate(random.as_ref()).unwrap().0);
            Self::with_keys(Arc::clone(&keys), keys)
        }

        /// `seals` is what new authorities are sealed with, `opens` what the issuer holds.
        fn with_keys(seals: Arc<ClusterKeys>, opens: Arc<ClusterKeys>) -> Self {
            let jwt_issuer = Some("https://issuer".to_owned());
            Self::with_policy(seals, opens, AuthorityPolicy { jwt_issuer, ..Default::default() })
        }

        fn with_policy(
            seals: Arc<ClusterKeys>,
            opens: Arc<ClusterKeys>,
            policy: AuthorityPolicy,
        ) -> Self {
            let trust_domain = TrustDomain::parse("example.org").unwrap();
            let policy = Arc::new(policy);
            let clock = Arc::new(FixedClock::new(START));
            let random: Arc<dyn Random> = Arc::new(SeededRandom::new(2));
            let cluster = ClusterState { cluster_id: CLUSTER, ..cluster_state() };
            let cluster = Change::ClusterWritten(Arc::new(cluster));
            let views = Views::of_changes(Revision::new(0, 1), START, vec![cluster]);
            let (issuer, _task) = Issuer::start(
                opens,
                views.clone(),
                trust_domain.clone(),
                Arc::clone(&policy),
                Arc::<FixedClock>::clone(&clock),
                ClusterClock::default(),
                Arc::clone(&random),
            );
            let bundle = Bundle::empty(trust_domain.clone());
            let minter = Minter { trust_domain, policy, keys: seals, random, upstream: None };
            let journal = Journal::default();
            Self { issuer, views, clock, minter, journal, bundle, revision: 1 }
        }

        /// Adds an authority to the journal; returns its place there.
        fn add(&mut self, kind: AuthorityKind, status: AuthorityStatus) -> usize {
            let mut authority = self.minter.mint(kind, CLUSTER, self.clock.now()).unwrap();
            authority.status = status;
            self.journal.authorities.push(authority);
            self.journal.authorities.len() - 1
        }

        fn publish(&mut self, at: usize) {
            let authority = &self.journal.authorities[at];
            match authority.kind {
                AuthorityKind::X509 => self.bundle.x509_authorities.push(X509Authority {
                    certificate_der: authority.public_der.clone(),
                    tainted: false,
                }),
                AuthorityKind::Jwt => self.bundle.jwt_authorities.push(key(authority)),
                AuthorityKind::Wit => self.bundle.wit_authorities.push(key(authority)),
            }
        }

        /// Shows journal and bundle to the issuer.
        fn commit(&mut self) {
            self.revision += 1;
            self.journal.revision += 1;
            self.views.apply(&ChangeBatch {
                revision: Revision::new(0, self.revision),
                time: self.clock.now(),
                changes: vec![
                    Change::JournalWritten(Arc::new(self.journal.clone())),
                    Change::BundleWritten {
                        row: RowNumber(1),
                        bundle: Arc::new(self.bundle.clone()),
                    },
                ],
            });
        }

        /// A bench whose both authorities are active and published.
        fn ready() -> Self {
            Self::new().activated()
        }

        fn activated(mut self) -> Self {
            let bench = &mut self;
            for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
                let at = bench.add(kind, AuthorityStatus::Active);
                bench.publish(at);
            }
            bench.commit();
            assert!(bench.issuer.ready());
            self
        }

        fn sign_x509(&self, ttl: Duration) -> Result<IssuedX509, IssueError> {
            let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
            self.issuer.sign_x509(X509Params {
                spiffe_id: workload(),
                dns_names: vec!["b.test".to_owned(), "a.test".to_owned()],
                subject: None,
                public_key_spki: signer.public_key_spki().to_vec(),
                ttl,
            })
        }

        fn sign_jwt(&self, audience: &[&str], ttl: Duration) -> Result<IssuedJwt, IssueError> {
            self.issuer.sign_jwt(JwtParams {
                spiffe_id: workload(),
                audience: audience.iter().map(|name| (*name).to_owned()).collect(),
                ttl,
                jwt_id: None,
            })
        }
    }

    #[test]
    fn unique_ids_are_for_workloads_alone() {
        let random = SeededRandom::new(1);
        let keys = Arc::new(ClusterKeys::generate(&random).unwrap().0);
        let policy = AuthorityPolicy { unique_ids: true, ..Default::default() };
        let bench = Bench::with_policy(Arc::clone(&keys), keys, policy).activated();
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        for (spiffe_id, expected) in [
            (workload(), true),
            (SpiffeId::server(trust_domain.clone()), false),
            (SpiffeId::agent(trust_domain, "x").unwrap(), false),
        ] {
            let signed = bench.issuer.sign_x509(X509Params {
                spiffe_id: spiffe_id.clone(),
                dns_names: Vec::new(),
                subject: None,
                public_key_spki: signer.public_key_spki().to_vec(),
                ttl: Duration::ZERO,
            });
            // The attribute type 2.5.4.45 in DER.
            let found = signed.unwrap().chain_der[0].windows(5).any(|it| it == [6, 3, 0x55, 4, 45]);
            assert_eq!(found, expected, "{spiffe_id}");
        }
    }

    fn workload() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/web").unwrap()
    }

    #[test]
    fn an_x509_svid_chains_to_the_published_bundle_and_carries_what_was_asked() {
        let bench = Bench::ready();
        let issued = bench.sign_x509(HOUR).unwrap();
        assert_eq!(issued.chain_der.len(), 1, "a self-signed authority is not in the chain");
        assert_eq!(issued.not_before, START.minus(BACKDATE));
        assert_eq!(issued.not_after, START.plus(HOUR));
        let id = verify_chain(&issued.chain_der, &bench.bundle, START).unwrap();
        assert_eq!(id, workload());
        let svid = X509Svid::parse_chain(&issued.chain_der).unwrap();
        assert_eq!(svid.serial, issued.serial);
        assert_eq!(svid.dns_names, ["b.test", "a.test"]);
        assert_eq!(AuthorityId::from_subject_key_id(&svid.authority_key_id), issued.authority_id);
        assert_ne!(bench.sign_x509(HOUR).unwrap().serial, issued.serial);
    }

    #[test]
    fn lifetimes_default_when_zero_and_end_with_the_authority() {
        let bench = Bench::ready();
        let policy = AuthorityPolicy::default();
        let authority_end = START.plus(policy.ca_ttl);
        assert_eq!(
            bench.sign_x509(Duration::ZERO).unwrap().not_after,
            START.plus(policy.default_x509_svid_ttl)
        );
        assert_eq!(bench.sign_x509(HOUR * 100).unwrap().not_after, authority_end);
        let jwt = bench.sign_jwt(&["a"], Duration::ZERO).unwrap();
        assert_eq!(jwt.expires_at, START.plus(policy.default_jwt_svid_ttl));
        assert_eq!(bench.sign_jwt(&["a"], HOUR * 100).unwrap().expires_at, authority_end);
    }

    #[test]
    fn a_jwt_svid_validates_against_the_bundle_and_drops_empty_audiences() {
        let bench = Bench::ready();
        let issued = bench.sign_jwt(&["", "a", "b"], HOUR).unwrap();
        let bundle = Arc::new(bench.bundle.clone());
        let bundles = |_: &TrustDomain| Some(Arc::clone(&bundle));
        let svid = JwtSvid::validate(&issued.token, &["b".to_owned()], &bundles, START).unwrap();
        assert_eq!(svid.id, workload());
        assert_eq!(svid.audience, ["a", "b"]);
        assert!(svid.claims_json.contains("https://issuer"), "{}", svid.claims_json);
        assert!(!svid.claims_json.contains("jti"), "{}", svid.claims_json);

        for audience in [&[][..], &["", ""]] {
            let error = bench.sign_jwt(audience, HOUR).unwrap_err();
            assert_eq!(error, IssueError::Invalid("at least one audience is required".into()));
        }
    }

    fn sign_wit(bench: &Bench, ttl: Duration) -> Result<IssuedJwt, IssueError> {
        let (holder, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let key = HolderKey::new(holder.public_key_spki(), "ES256").unwrap();
        bench.issuer.sign_wit(&WitParams { spiffe_id: workload(), key, ttl })
    }

    fn with_wit_svids() -> Bench {
        let random = SeededRandom::new(1);
        let keys = Arc::new(ClusterKeys::generate(&random).unwrap().0);
        let wit_issuer = Some("https://wit".to_owned());
        let policy = AuthorityPolicy { wit_svids: true, wit_issuer, ..Default::default() };
        Bench::with_policy(Arc::clone(&keys), keys, policy).activated()
    }

    #[test]
    fn a_wit_svid_is_signed_by_a_published_key_alone_and_ends_with_it() {
        let mut bench = with_wit_svids();
        let no_authority = |text: &str| IssueError::NoAuthority { text: text.to_owned() };
        let missing = no_authority("no active WIT authority");
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), missing, "which keeps no replica away");
        let at = bench.add(AuthorityKind::Wit, AuthorityStatus::Prepared);
        bench.publish(at);
        bench.commit();
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), missing, "a prepared one does not sign");
        bench.journal.authorities[at].status = AuthorityStatus::Active;
        let key = bench.bundle.wit_authorities.pop().unwrap();
        bench.commit();
        let unpublished = no_authority("active WIT authority is not in the bundle");
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), unpublished);
        bench.bundle.jwt_authorities.push(key.clone());
        bench.commit();
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), unpublished, "as a JWT key it is none");
        bench.bundle.wit_authorities.push(key);
        bench.commit();

        let ends = [(Duration::ZERO, HOUR), (HOUR / 2, HOUR / 2), (HOUR * 100, HOUR * 24)];
        for (ttl, lasts) in ends {
            let issued = sign_wit(&bench, ttl).unwrap();
            assert_eq!((issued.issued_at, issued.expires_at), (START, START.plus(lasts)));
            assert_eq!(issued.authority_id, bench.journal.authorities[at].id);
            let svid = WitSvid::parse_insecure(&issued.token).unwrap();
            assert_eq!((svid.id, svid.key_id), (workload(), issued.authority_id.to_string()));
        }
        bench.clock.advance(HOUR * 24);
        let expired = IssueError::Expired { kind: "WIT" };
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), expired);
    }

    #[test]
    fn without_the_flag_no_wit_svid_is_signed_though_the_cluster_has_a_key() {
        let mut bench = Bench::ready();
        let at = bench.add(AuthorityKind::Wit, AuthorityStatus::Active);
        bench.publish(at);
        bench.commit();
        let text = "WIT functionality is disabled".to_owned();
        assert_eq!(sign_wit(&bench, HOUR).unwrap_err(), IssueError::NoAuthority { text });
        assert!(bench.issuer.ready());
    }

    #[test]
    fn nothing_is_signed_before_an_authority_is_active_and_published() {
        let mut bench = Bench::new();
        bench.commit();
        let no_authority = |text: &str| IssueError::NoAuthority { text: text.to_owned() };
        let error = bench.sign_x509(HOUR).unwrap_err();
        assert_eq!(error, no_authority("no active X.509 authority"));

        let at = bench.add(AuthorityKind::X509, AuthorityStatus::Prepared);
        bench.publish(at);
        bench.commit();
        assert_eq!(bench.sign_x509(HOUR).unwrap_err(), error, "a prepared one does not sign");

        bench.journal.authorities[at].status = AuthorityStatus::Active;
        let published = bench.bundle.clone();
        bench.bundle = Bundle::empty(published.trust_domain.clone());
        bench.commit();
        let unpublished = no_authority("active X.509 authority is not in the bundle");
        assert_eq!(bench.sign_x509(HOUR).unwrap_err(), unpublished);

        bench.bundle = published;
        bench.commit();
        assert!(bench.sign_x509(HOUR).is_ok());
        assert!(!bench.issuer.ready(), "JWT is still missing");
        let reason = bench.issuer.not_ready_reason();
        assert_eq!(reason, Some(no_authority("no active JWT authority")));
    }

    #[test]
    fn with_jwt_svids_disabled_a_replica_is_ready_without_a_jwt_key() {
        let random = SeededRandom::new(1);
        let keys = Arc::new(ClusterKeys::generate(&random).unwrap().0);
        let policy = AuthorityPolicy { jwt_svids: false, ..Default::default() };
        let mut bench = Bench::with_policy(Arc::clone(&keys), keys, policy);
        assert!(!bench.issuer.ready());
        let at = bench.add(AuthorityKind::X509, AuthorityStatus::Active);
        bench.publish(at);
        bench.commit();
        assert!(bench.issuer.ready());
        assert_eq!(bench.issuer.not_ready_reason(), None);
        bench.sign_x509(HOUR).unwrap();
        let text = "no active JWT authority".to_owned();
        assert_eq!(bench.sign_jwt(&["a"], HOUR).unwrap_err(), IssueError::NoAuthority { text });
    }

    #[test]
    fn serials_are_128_random_bits_and_none_comes_twice() {
        /// Draws nothing but zeros at first.
        #[derive(Debug)]
        struct Stuck(std::sync::atomic::AtomicU8);
        impl Random for Stuck {
            fn fill(&self, bytes: &mut [u8]) {
                let drawn = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                bytes.fill(drawn.saturating_sub(3));
            }
        }
        assert_eq!(random_serial(&Stuck(0.into())), [1; 16], "zero is no serial");

        const SERIALS: usize = 1_000;
        let random = steeple_spiffe_core::random::SystemRandom;
        let mut set_bits = [0_usize; 128];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..SERIALS {
            let serial = u128::from_be_bytes(random_serial(&random));
            assert!(seen.insert(serial));
            for (bit, count) in set_bits.iter_mut().enumerate() {
                *count += usize::from((serial >> bit) & 1 == 1);
            }
        }
        // Ten standard deviations either way.
        let fair = SERIALS / 2 - 160..=SERIALS / 2 + 160;
        assert!(set_bits.iter().all(|count| fair.contains(count)), "{set_bits:?}");
        let bench = Bench::ready();
        let issued: std::collections::BTreeSet<String> =
            (0..50).map(|_| bench.sign_x509(HOUR).unwrap().serial.as_str().to_owned()).collect();
        assert_eq!(issued.len(), 50);
    }

    #[test]
    fn a_downstream_ca_is_signed_below_the_authority_and_never_outlives_it() {
        let bench = Bench::ready();
        let (downstream, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let ca_ttl = AuthorityPolicy::default().ca_ttl;
        for (asked, given) in [(HOUR, HOUR), (Duration::ZERO, ca_ttl), (ca_ttl * 2, ca_ttl)] {
            let spki = downstream.public_key_spki();
            let chain = bench.issuer.sign_downstream_ca(spki, asked).unwrap();
            let [certificate] = chain.as_slice() else { panic!("the root is in the bundle") };
            let facts = certificate_facts(certificate).unwrap();
            assert_eq!(facts.not_after, START.plus(given), "{asked:?}");
            assert_eq!(
                (facts.is_ca, facts.uris.as_slice()),
                (true, &["spiffe://example.org".to_owned()][..])
            );

            let issuer = IssuerIdentity::from_certificate(certificate).unwrap();
            let random = SeededRandom::new(9);
            check_chain(&issuer, &downstream, &chain, &bench.bundle, START, &random).unwrap();
        }
        bench.clock.advance(ca_ttl);
        let error =
            bench.issuer.sign_downstream_ca(downstream.public_key_spki(), HOUR).unwrap_err();
        assert_eq!(error, IssueError::Expired { kind: "X.509" });
    }

    #[test]
    fn the_successor_signs_as_soon_as_it_is_active() {
        let mut bench = Bench::ready();
        let first = bench.sign_x509(HOUR).unwrap().authority_id;
        let at = bench.add(AuthorityKind::X509, AuthorityStatus::Prepared);
        bench.publish(at);
        bench.commit();
        assert_eq!(bench.sign_x509(HOUR).unwrap().authority_id, first);

        bench.journal.authorities[0].status = AuthorityStatus::Old;
        bench.journal.authorities[at].status = AuthorityStatus::Active;
        bench.commit();
        let issued = bench.sign_x509(HOUR).unwrap();
        assert_eq!(issued.authority_id, bench.journal.authorities[at].id);
        verify_chain(&issued.chain_der, &bench.bundle, START).unwrap();
    }

    #[test]
    fn an_ended_authority_and_a_clock_that_is_behind_sign_nothing() {
        let bench = Bench::ready();
        bench.clock.advance(AuthorityPolicy::default().ca_ttl);
        assert_eq!(bench.sign_x509(HOUR).unwrap_err(), IssueError::Expired { kind: "X.509" });
        assert_eq!(bench.sign_jwt(&["a"], HOUR).unwrap_err(), IssueError::Expired { kind: "JWT" });

        let bench = Bench::ready();
        let limit = AuthorityPolicy::default().skew_limit();
        let mut revision = 10;
        let mut move_cluster_time = |by: Duration| {
            revision += 1;
            let time = START.plus(by);
            let revision = Revision::new(0, revision);
            bench.views.apply(&ChangeBatch { revision, time, changes: Vec::new() });
        };
        move_cluster_time(limit);
        assert!(bench.sign_x509(HOUR).is_ok());
        move_cluster_time(limit + Duration::from_millis(1));
        let skew = IssueError::Skew { limit_ms: limit.as_millis() };
        assert_eq!(bench.sign_x509(HOUR).unwrap_err(), skew);
        assert!(!bench.issuer.ready());
    }

    #[test]
    fn a_clock_that_is_far_from_a_quorums_signs_nothing_and_the_median_outweighs_cluster_time() {
        let limit = AuthorityPolicy::default().skew_limit();
        let limit_ms = i64::try_from(limit.as_millis()).unwrap();
        for (ahead_ms, signs) in [
            (0, true),
            (limit_ms, true),
            (-limit_ms, true),
            (limit_ms + 1, false),
            (-limit_ms - 1, false),
        ] {
            let bench = Bench::ready();
            bench.issuer.inner.cluster_clock.note_ahead_ms(ahead_ms, bench.clock.as_ref());
            // A leader with a wrong clock has taken cluster time far ahead.
            let (revision, time) = (Revision::new(0, 11), START.plus(limit * 9));
            bench.views.apply(&ChangeBatch { revision, time, changes: Vec::new() });
            let off = IssueError::ClockOff { ahead_ms, limit };
            assert_eq!(bench.sign_x509(HOUR).is_ok(), signs, "{ahead_ms}");
            assert_eq!(bench.issuer.ready(), signs, "{ahead_ms}");
            if !signs {
                assert_eq!(bench.sign_jwt(&["a"], HOUR).unwrap_err(), off);
            }
        }
    }

    #[test]
    fn without_the_cluster_key_the_issuer_is_sealed() {
        let random = SeededRandom::new(3);
        let keys = || Arc::new(ClusterKeys::generate(&random).unwrap().0);
        let mut bench = Bench::with_keys(keys(), keys());
        let at = bench.add(AuthorityKind::X509, AuthorityStatus::Active);
        bench.publish(at);
        bench.commit();
        let kek_id = bench.journal.authorities[at].sealed_key.kek_id.clone();
        assert_eq!(bench.sign_x509(HOUR).unwrap_err(), IssueError::Sealed { kek_id });
    }

    #[test]
    fn every_key_type_makes_authorities_that_sign() {
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096] {
            let mut bench = Bench::new();
            bench.minter.policy = Arc::new(AuthorityPolicy {
                ca_key_type: key_type,
                jwt_key_type: key_type,
                ..AuthorityPolicy::default()
            });
            for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
                let at = bench.add(kind, AuthorityStatus::Active);
                bench.publish(at);
            }
            bench.commit();
            let issued = bench.sign_x509(HOUR).unwrap();
            verify_chain(&issued.chain_der, &bench.bundle, START).unwrap();
            bench.sign_jwt(&["a"], HOUR).unwrap();
        }
    }
}

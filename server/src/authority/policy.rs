//! What the configuration says about authorities and lifetimes, and the times derived from it.
//!
//! Owns the formulas that SPIRE and `docs/reference/cluster.md` give for thresholds and margins, so
//! that planner, issuer and tests use the same ones. Reads no clock.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::WIT_LEVEL;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::svid::x509::CaSubject;
use steeple_spiffe_core::{KeyType, Timestamp};

/// Certificates begin this long before they are signed (SPIRE: 10 s), for verifiers whose clocks
/// are behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10);

/// An authority is prepared at most this long before its predecessor ends (SPIRE: 30 days).
const PREPARE_BEFORE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// An authority is activated at most this long before its predecessor ends (SPIRE: 7 days).
const ACTIVATE_BEFORE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// An ended authority stays in the bundle at most this long, unless clocks may differ by more.
const PRUNE_MARGIN_MAX: Duration = Duration::from_secs(3600);

/// A replica whose clock is off by more than this never signs.
const SKEW_LIMIT_MAX: Duration = Duration::from_secs(30);

/// Lifetime of WIT-SVIDs unless the entry or the request says otherwise (SPIRE: not configurable).
pub(crate) const WIT_SVID_TTL: Duration = Duration::from_secs(3600);

/// Peers of other trust domains wait at least this long between two fetches, and after one that failed
/// (SPIRE: both a minute).
pub(crate) const PEER_MINUTE: Duration = Duration::from_secs(60);

/// The shortest `ca_ttl` there may be: a leader that is elected anew (2 s) finds the authority that signs
/// still alive, since the hand-over is due a sixth of its life before the end.
pub(crate) const CA_TTL_MIN: Duration = Duration::from_secs(12);

/// How long agents may take to fetch a bundle: a stock agent's longest back-off (8 min) and a
/// bundle's refresh hint (5 min). `max_staleness` comes on top.
pub(crate) const AGENT_FETCH_BOUND: Duration = Duration::from_secs((8 + 5) * 60);

/// What an operator decides about authorities and the lifetimes of what they sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityPolicy {
    /// Lifetime of authorities (`ca_ttl`).
    pub ca_ttl: Duration,
    /// Key type of X.509 authorities and of the server's own SVID (`ca_key_type`).
    pub ca_key_type: KeyType,
    /// Key type of JWT authorities (`jwt_key_type`).
    pub jwt_key_type: KeyType,
    /// Key type of WIT authorities (`experimental.wit_key_type`).
    pub wit_key_type: KeyType,
    /// Lifetime of X.509-SVIDs unless the entry or the request says otherwise.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of JWT-SVIDs unless the entry or the request says otherwise.
    pub default_jwt_svid_ttl: Duration,
    /// Lifetime of agents' SVIDs (`agent_ttl`, else the X.509-SVID default).
    pub agent_ttl: Duration,
    /// The `iss` claim of JWT-SVIDs, if any.
    pub jwt_issuer: Option<String>,
    /// The `iss` claim of WIT-SVIDs, if any (`experimental.wit_issuer`).
    pub wit_issuer: Option<String>,
    /// Whether subjects of workloads' X.509-SVIDs name the SPIFFE id (`CredentialComposer "uniqueid"`).
    pub unique_ids: bool,
    /// Subject of X.509 authorities; `None` is SPIRE's default.
    pub ca_subject: Option<CaSubject>,
    /// What the bundle endpoint tells peers to wait between two fetches (`refresh_hint`; zero tells none);
    /// `None`: there is no endpoint.
    pub refresh_hint: Option<Duration>,
    /// Whether there are to be JWT authorities (not with `disable_jwt_svids`).
    pub jwt_svids: bool,
    /// Whether there are to be WIT authorities (feature flag `wit-svid`).
    pub wit_svids: bool,
}

impl Default for AuthorityPolicy {
    /// SPIRE's defaults.
    fn default() -> Self {
        Self {
            ca_ttl: Duration::from_secs(24 * 3600),
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            wit_key_type: KeyType::EcP256,
            default_x509_svid_ttl: Duration::from_secs(3600),
            default_jwt_svid_ttl: Duration::from_secs(5 * 60),
            agent_ttl: Duration::from_secs(3600),
            jwt_issuer: None,
            wit_issuer: None,
            unique_ids: false,
            ca_subject: None,
            refresh_hint: None,
            jwt_svids: true,
            wit_svids: false,
        }
    }
}

impl AuthorityPolicy {
    /// The kinds of authorities that there are to be, in the order they are looked after: X.509 comes
    /// before JWT, and JWT before WIT, as in SPIRE.
    pub fn kinds(&self) -> &'static [AuthorityKind] {
        match (self.jwt_svids, self.wit_svids) {
            (true, true) => &AuthorityKind::ALL,
            (true, false) => &[AuthorityKind::X509, AuthorityKind::Jwt],
            (false, true) => &[AuthorityKind::X509, AuthorityKind::Wit],
            (false, false) => &[AuthorityKind::X509],
        }
    }

    /// The policy as far as a cluster of a feature level can follow it: below level 7 its log holds no
    /// WIT authority.
    pub fn at_level(self: &Arc<Self>, feature_level: u32) -> Arc<Self> {
        if !self.wit_svids || feature_level >= WIT_LEVEL {
            return Arc::clone(self);
        }
        Arc::new(Self { wit_svids: false, ..Self::clone(self) })
    }

    /// How far a replica's clock may be off before it refuses to sign: min(30 s, `ca_ttl` / 8).
    pub fn skew_limit(&self) -> Duration {
        SKEW_LIMIT_MAX.min(self.ca_ttl / 8)
    }

    /// How long an ended authority stays in the bundle: max(min(1 h, `ca_ttl` / 24), 2 × skew
    /// limit), so that no verifier loses it while its clock says that it is still good.
    pub fn prune_margin(&self) -> Duration {
        PRUNE_MARGIN_MAX.min(self.ca_ttl / 24).max(self.skew_limit() * 2)
    }

    /// How long workloads go on for sure if no server answers from now on: an X.509-SVID that is about to
    /// be renewed has half of its life left (SPIRE's agents renew at half, as ours do), and none outlives
    /// the authority that signs now. `shortest` is the shortest lifetime in use.
    pub fn outage_margin(shortest: Duration, active: &Authority, now: Timestamp) -> Duration {
        shortest.min(active.not_after.since(now)) / 2
    }

    /// How long peers of other trust domains may take to fetch a bundle, one failed attempt included.
    /// They fetch anonymously, so time is all there is to know. `None`: nobody can fetch it.
    pub fn peers_fetch_bound(&self) -> Option<Duration> {
        self.fetch_bound_in(PEER_MINUTE)
    }

    /// How long after an authority was made peers of other trust domains are taken to have it: half a
    /// minute for its commit, then [`Self::peers_fetch_bound`]. `minute` is theirs, a minute
    /// unless a test makes it shorter. `None`: nobody can fetch it.
    pub fn peers_known_within(&self, minute: Duration) -> Option<Duration> {
        self.fetch_bound_in(minute).map(|bound| minute / 2 + bound)
    }

    fn fetch_bound_in(&self, minute: Duration) -> Option<Duration> {
        // Who is told nothing waits a tenth of the shortest life (SPIRE's clients).
        let told =
            self.refresh_hint.map(|hint| if hint.is_zero() { self.ca_ttl / 10 } else { hint });
        told.map(|pause| pause.max(minute) + minute)
    }

    /// How long a scheduled rotation waits at most for those who may not know the next authority.
    pub fn longest_wait(&self) -> Duration {
        prepare_before(self.ca_ttl).saturating_sub(activate_regardless_before(self.ca_ttl))
    }

    /// The longest SVID lifetime that rotation never cuts short.
    pub fn uncut_svid_ttl(&self) -> Duration {
        activate_before(self.ca_ttl)
    }
}

/// When an authority is due for each step of a scheduled rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Its successor is prepared.
    pub prepare_at: Timestamp,
    /// Its successor signs in its place, if all know it.
    pub activate_at: Timestamp,
    /// Its successor signs in its place even if some may not know it.
    pub activate_at_latest: Timestamp,
    /// It leaves the bundle.
    pub leave_at: Timestamp,
}

impl Times {
    /// Of an authority under a policy.
    pub fn of(authority: &Authority, policy: &AuthorityPolicy) -> Self {
        let lifetime = authority.not_after.since(authority.issued_at);
        let before = |time: Duration| authority.not_after.minus(time);
        Self {
            prepare_at: before(prepare_before(lifetime)),
            activate_at: before(activate_before(lifetime)),
            activate_at_latest: before(activate_regardless_before(lifetime)),
            leave_at: authority.not_after.plus(policy.prune_margin()),
        }
    }
}

/// How long before its end an authority of this lifetime gets a prepared successor.
pub(super) fn prepare_before(lifetime: Duration) -> Duration {
    PREPARE_BEFORE_MAX.min(lifetime / 2)
}

/// How long before its end an authority of this lifetime gets a successor though the bundle is full: as
/// long before the hand-over as that is before the end, so that the successor is seen before it signs.
pub(super) fn prepare_in_haste_before(lifetime: Duration) -> Duration {
    prepare_before(lifetime).min(activate_before(lifetime) * 2)
}

/// How long before its end an authority of this lifetime hands over to its successor.
pub(super) fn activate_before(lifetime: Duration) -> Duration {
    ACTIVATE_BEFORE_MAX.min(lifetime / 6)
}

/// How long before its end an authority hands over even if some may not know the successor yet: a
/// late hand-over hurts those, none at all hurts everyone.
pub(super) fn activate_regardless_before(lifetime: Duration) -> Duration {
    activate_before(lifetime).min(lifetime / 12)
}

//! Acts on the plan of rotation, on the leader.
//!
//! Owns one round: bring the view up to what is committed, plan a step, carry it out through the
//! log, wait until the view shows it, plan again. A command that lost a race (journal moved) or
//! whose outcome is unknown ends the round; the next one plans from what is then committed, so
//! nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::{
    Command, ProposeError, Rejection, Revision, Role, StoreHandle, Unavailable,
};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{Clock, Timestamp};
use tokio::time::Instant;
use tonic::Code;

use super::mint::{MintError, Minted, Minter};
use super::planner::{Evidence, Step, plan, plan_without};
use super::slots::Slots;
use crate::metrics::record_call;
use crate::view::Views;

/// Steps of one round: at formation four (two kinds, prepared and activated), plus a prune and room
/// for races. A plan that never ends would be a defect; the next round goes on anyway.
const STEPS_MAX: usize = 8;

/// How long a round waits for a confirmed read and for the view to follow.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A replica in contact that trails by more entries than this may not have applied a prepared
/// authority (the same measure that autopilot calls "caught up").
const LAG_MAX: u64 = 1_000;

/// How long agents may take to fetch a bundle: a stock agent's longest back-off (8 min) and a
/// bundle's refresh hint (5 min). `max_staleness` comes on top.
const AGENT_FETCH_BOUND: Duration = Duration::from_secs((8 + 5) * 60);

/// The feature level from which on authorities below an upstream authority can be published.
const UPSTREAM_LEVEL: u32 = 5;

/// Why a round ended early. All are tried again at the next one.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// No confirmed read: there may be another leader.
    #[error("read registry")]
    Unavailable(#[from] Unavailable),
    /// The views did not follow in time.
    #[error("views did not reach revision {0} in time")]
    ViewsBehind(Revision),
    /// The cluster has no row of its own yet.
    #[error("cluster has not formed")]
    NotFormed,
    /// The authority could not be made.
    #[error("make authority")]
    Mint(#[from] MintError),
    /// The authority above signs below a tainted root still.
    #[error("upstream authority signs below a tainted root still")]
    StillTainted,
    /// The command's fate is unknown, or this is no longer the leader.
    #[error("propose rotation step")]
    Propose(#[from] ProposeError),
    /// The command was refused, for instance because the journal had moved.
    #[error("rotation step was rejected")]
    Rejected(#[from] Rejection),
}

/// The leader's rotation.
#[derive(Clone, Debug)]
pub struct Rotator {
    /// The registry.
    pub handle: StoreHandle,
    /// What this replica has applied.
    pub views: Views,
    /// Makes new authorities.
    pub minter: Minter,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// How long a cut-off replica may serve an old bundle.
    pub max_staleness: Duration,
}

impl Rotator {
    /// Carries out every step that is due. `term` is the term in which this replica leads: a command
    /// of an older leader is refused.
    pub async fn round(&self, term: u64) -> Result<(), RotateError> {
        let confirmed = self.handle.read_barrier(Instant::now() + READ_TIMEOUT).await?;
        self.follow(confirmed.revision).await?;
        // An upstream authority that signs nothing holds up its own kind alone.
        let mut unsigned = None;
        for _ in 0..STEPS_MAX {
            let journal = self.views.journal();
            let now = self.now();
            let evidence = |prepared: &Authority| self.evidence(prepared, now);
            let policy = &self.minter.policy;
            let step = match &unsigned {
                None => plan(&journal, policy, now, &evidence),
                Some(_) => plan_without(AuthorityKind::X509, &journal, policy, now, &evidence),
            };
            let Some(step) = step else { break };
            let may_wait = step == Step::Prepare(AuthorityKind::X509);
            match self.carry_out(step, journal.revision, term, now).await {
                Err(error @ RotateError::Mint(_)) if may_wait => unsigned = Some(error),
                // Of two errors the first is told: without an authority of its kind nothing verifies.
                Err(error) => return Err(unsigned.unwrap_or(error)),
                Ok(()) => {}
            }
        }
        unsigned.map_or(Ok(()), Err)
    }

    /// Takes one step through the log, and waits until the view shows it.
    pub(super) async fn carry_out(
        &self,
        step: Step,
        expected_journal: u64,
        term: u64,
        now: Timestamp,
    ) -> Result<(), RotateError> {
        let description = step.to_string();
        let begun = Instant::now();
        let metric = metric_of(&step);
        let command = match step {
            Step::Prepare(kind) => self.mint(kind, now).await?.prepare(expected_journal),
            Step::Activate(kind, id) => Command::ActivateAuthority { expected_journal, kind, id },
            Step::Prune(ids) => Command::PruneAuthorities { expected_journal, ids },
        };
        let applied = self.handle.propose_duty(command, term).await?;
        applied.outcome?;
        record_call(metric, Code::Ok, begun);
        tracing::info!(step = %description, revision = %applied.revision, "Authority journal moved");
        self.follow(applied.revision).await
    }

    async fn mint(&self, kind: AuthorityKind, now: Timestamp) -> Result<Minted, RotateError> {
        let cluster = self.views.cluster().ok_or(RotateError::NotFormed)?;
        let below = kind == AuthorityKind::X509 && self.minter.upstream.is_some();
        if below && cluster.feature_level < UPSTREAM_LEVEL {
            // Found out now: what the upstream authority signs could not be published.
            let level = cluster.feature_level;
            return Err(MintError::NeedsLevel { needs: UPSTREAM_LEVEL, level }.into());
        }
        let journal = self.views.journal();
        let active = Slots::of(&journal, kind).current;
        Ok(self.minter.mint_successor(kind, cluster.cluster_id, now, active).await?)
    }

    pub(super) async fn follow(&self, revision: Revision) -> Result<(), RotateError> {
        if self.views.wait_for(revision, Instant::now() + READ_TIMEOUT).await {
            Ok(())
        } else {
            Err(RotateError::ViewsBehind(revision))
        }
    }

    /// The time that the leader's next entry will carry: its own clock, unless committed time is
    /// ahead of it.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now().max(self.views.cluster_time())
    }

    /// Whether replicas and agents can be expected to know a prepared authority: every voter in
    /// contact has caught up (an absent one neither serves nor signs until it has), and agents have
    /// had the time that the slowest needs for a fetch.
    fn evidence(&self, prepared: &Authority, now: Timestamp) -> Evidence {
        let status = self.handle.status();
        let behind = status.members.iter().any(|member| {
            let caught_up = member.lag.is_some_and(|lag| lag <= LAG_MAX);
            member.role == Role::Voter && member.reachable == Some(true) && !caught_up
        });
        let fetched_by = prepared.issued_at.plus(AGENT_FETCH_BOUND + self.max_staleness);
        if behind || now < fetched_by { Evidence::Incomplete } else { Evidence::Complete }
    }
}

/// SPIRE's name for a step, so that its dashboards show ours.
fn metric_of(step: &Step) -> &'static str {
    match step {
        Step::Prepare(AuthorityKind::X509) => "spire_server_ca_manager_x509_ca_prepare",
        Step::Prepare(AuthorityKind::Jwt) => "spire_server_ca_manager_jwt_key_prepare",
        Step::Activate(AuthorityKind::X509, _) => "spire_server_ca_manager_x509_ca_activate",
        Step::Activate(AuthorityKind::Jwt, _) => "spire_server_manager_jwt_key_activate",
        Step::Prune(_) => "spire_server_ca_manager_bundle_prune",
    }
}

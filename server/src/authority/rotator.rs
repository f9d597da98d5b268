//! Acts on the plan of rotation, on the leader.
//!
//! Owns one round: bring the view up to what is committed, plan a step, carry it out through the
//! log, wait until the view shows it, plan again. A command that lost a race (journal moved) or
//! whose outcome is unknown ends the round; the next one plans from what is then committed, so
//! nothing is done twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::{
    Command, ProposeError, Rejection, Revision, StoreHandle, UPSTREAM_LEVEL, Unavailable,
};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::{AuthorityId, Clock, Timestamp};
use tokio::time::Instant;
use tonic::Code;

use super::evidence::{Report, Survey};
use super::mint::{MintError, Minted, Minter};
use super::planner::{Evidence, Step, kind_name, plan, plan_without};
use super::policy::AuthorityPolicy;
use super::slots::Slots;
use super::told;
use crate::metrics::record_call;
use crate::view::Views;

/// Steps of one round: at formation six (three kinds, prepared and activated), plus a prune and room
/// for races. A plan that never ends would be a defect; the next round goes on anyway.
const STEPS_MAX: usize = 8;

/// How long a round waits for a confirmed read and for the view to follow.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What is told of a step when it is committed.
enum Done {
    /// The authority.
    Prepared(Box<Authority>),
    /// A counter of SPIRE's; who signs from then on tells the rest.
    Counts(&'static str),
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
    /// Finds out who knows a prepared authority.
    pub survey: Survey,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

impl Rotator {
    /// Carries out every step that is due. `term` is the term in which this replica leads: a command
    /// of an older leader is refused.
    pub async fn round(&self, term: u64) -> Result<(), RotateError> {
        let confirmed = self.handle.read_barrier(Instant::now() + READ_TIMEOUT).await?;
        self.follow(confirmed.revision).await?;
        let mut reports = BTreeMap::new();
        // An upstream authority that signs nothing holds up its own kind alone.
        let mut unsigned = None;
        for _ in 0..STEPS_MAX {
            let journal = self.views.journal();
            let now = self.now();
            let without = unsigned.is_some().then_some(AuthorityKind::X509);
            let next = self.next(&journal, now, without, &mut reports);
            let Some(step) = next.await else { break };
            if let Step::Activate(kind, id) = &step
                && let Some((Evidence::Incomplete, report)) = reports.get(id)
            {
                let waited_for = report.waits_for(now).unwrap_or_default();
                let kind = kind_name(*kind);
                tracing::warn!(
                    authority_id = id.as_str(),
                    "{kind} authority begins to sign though some may not know it: {waited_for}"
                );
            }
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

    /// The next step, of kinds other than `without`. Members and agents are asked about an authority once
    /// a round, when it is due.
    async fn next(
        &self,
        journal: &Journal,
        now: Timestamp,
        without: Option<AuthorityKind>,
        reports: &mut BTreeMap<AuthorityId, (Evidence, Report)>,
    ) -> Option<Step> {
        loop {
            let known = |prepared: &Authority| {
                reports.get(&prepared.id).map_or(Evidence::Complete, |(evidence, _)| *evidence)
            };
            let policy = &self.policy();
            let step = match without {
                None => plan(journal, policy, now, &known)?,
                Some(kind) => plan_without(kind, journal, policy, now, &known)?,
            };
            let Step::Activate(kind, id) = &step else { return Some(step) };
            let slots = Slots::of(journal, *kind);
            // At formation nothing signs, and nobody is there to know it.
            let (Some(_), Some(prepared)) = (slots.current, slots.next) else { return Some(step) };
            if reports.contains_key(id) {
                return Some(step);
            }
            let report = self.survey.of(prepared).await;
            let evidence = report.judge(now);
            reports.insert(id.clone(), (evidence, report));
        }
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
        let (command, done) = match step {
            Step::Prepare(kind) => {
                let minted = self.mint(kind, now).await?;
                (minted.prepare(expected_journal), Done::Prepared(Box::new(minted.authority)))
            }
            Step::Activate(kind, id) => {
                let done = Done::Counts(told::activate_metric(kind));
                (Command::ActivateAuthority { expected_journal, kind, id }, done)
            }
            Step::Prune(ids) => {
                let done = Done::Counts("spire_server_ca_manager_bundle_prune");
                (Command::PruneAuthorities { expected_journal, ids }, done)
            }
        };
        let applied = self.handle.propose_duty(command, term).await?;
        applied.outcome?;
        match done {
            Done::Prepared(authority) => told::prepared(&authority, begun),
            Done::Counts(metric) => record_call(metric, Code::Ok, begun),
        }
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

    /// What is to be done, as far as every member of the cluster can follow.
    pub(crate) fn policy(&self) -> Arc<AuthorityPolicy> {
        let level = self.views.cluster().map_or(0, |cluster| cluster.feature_level);
        self.minter.policy.at_level(level)
    }

    /// The time that the leader's next entry will carry: its own clock, unless committed time is
    /// ahead of it.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now().max(self.views.cluster_time())
    }
}

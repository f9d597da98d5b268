//! One replica: tables, views, issuer, what it has seen of agents, and its clock.

use std::sync::Arc;

use steeple_federation::Timing;
use steeple_raft_store::change::Journal;
use steeple_raft_store::testing::{Committed, Replica};
use steeple_raft_store::{ChangeBatch, ClusterClock, ClusterId, ClusterKeys, Revision};
use steeple_spiffe_core::authority::Authority;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::{Clock, SpiffeId, Timestamp, TrustDomain};

use super::super::evidence::{Arrivals, ChallengeBoard, Sightings, What, Witness};
use super::super::issuer::{IssuedX509, Issuer};
use super::super::policy::AuthorityPolicy;
use crate::keys::test_signature;
use crate::refresher::{Known, Live};
use crate::view::Views;

/// What all replicas share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) keys: Arc<ClusterKeys>,
    pub(super) trust_domain: TrustDomain,
    pub(super) policy: Arc<AuthorityPolicy>,
    pub(super) random: Arc<dyn Random>,
    pub(super) cluster_id: ClusterId,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// In contact, and up to date whenever it is asked.
    Well,
    /// In contact; it applies nothing until then, and gives out what it knows.
    Stalled { until: Timestamp },
    /// Out of contact. What it knows it serves for `max_staleness`.
    Cut { since: Timestamp, until: Timestamp },
    /// Not running.
    Down { until: Timestamp },
}

pub(super) struct Member {
    pub(super) replica: Replica,
    pub(super) views: Views,
    pub(super) issuer: Issuer,
    pub(super) condition: Condition,
    /// How far its clock is ahead, in milliseconds.
    pub(super) skew_ms: i64,
    /// When it last had everything that was committed.
    pub(super) current_at: Timestamp,
    /// Whether any client has connected since it started.
    pub(super) was_asked: bool,
    /// The server's own SVID, which its bundle endpoint presents.
    pub(super) server: Option<IssuedX509>,
    clock: Arc<FixedClock>,
    cluster_clock: ClusterClock,
    sightings: Sightings,
    arrivals: Arrivals,
    witness: Witness,
    common: Common,
}

impl Member {
    /// Starts on tables that hold what it has applied; `state` is their epoch and cluster time.
    pub(super) fn start(
        common: &Common,
        replica: Replica,
        state: (u32, Timestamp),
        now: Timestamp,
        skew_ms: i64,
    ) -> Self {
        let shown = Timestamp::from_unix_ms(now.unix_ms() + skew_ms);
        let clock = Arc::new(FixedClock::new(shown));
        let as_clock = || -> Arc<dyn Clock> { Arc::<FixedClock>::clone(&clock) };
        let cluster_clock = ClusterClock::default();
        let revision = Revision::new(state.0, replica.applied());
        let views = Views::of_changes(revision, state.1, replica.changes());
        let (issuer, _follows_the_views) = Issuer::start(
            Arc::clone(&common.keys),
            views.clone(),
            common.trust_domain.clone(),
            Arc::clone(&common.policy),
            as_clock(),
            cluster_clock.clone(),
            Arc::clone(&common.random),
        );
        let (sightings, arrivals) = (Sightings::default(), Arrivals::default());
        arrivals.note(&views.journal(), clock.boot_time());
        let keys = Arc::clone(&common.keys);
        let (seen, came) = (sightings.clone(), arrivals.clone());
        let witness =
            Witness::new(views.clone(), keys, seen, came, as_clock(), ChallengeBoard::default());
        Self {
            replica,
            views,
            issuer,
            condition: Condition::Well,
            skew_ms,
            current_at: now,
            was_asked: false,
            server: None,
            clock,
            cluster_clock,
            sightings,
            arrivals,
            witness,
            common: common.clone(),
        }
    }

    /// Its clock goes on, and is compared with the others'.
    pub(super) fn advance(&self, by: std::time::Duration, median_ms: Option<i64>) {
        self.clock.advance(by);
        if let Some(median_ms) = median_ms {
            self.cluster_clock.note_ahead_ms(self.skew_ms - median_ms, self.clock.as_ref());
        }
    }

    /// What its own clock shows.
    pub(super) fn time(&self) -> Timestamp {
        self.clock.now()
    }

    /// The time that it goes by.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now().max(self.views.cluster_time())
    }

    pub(super) fn is_in_contact(&self) -> bool {
        match self.condition {
            Condition::Well | Condition::Stalled { .. } => true,
            Condition::Cut { .. } | Condition::Down { .. } => false,
        }
    }

    /// Applies one command of the log.
    pub(super) fn apply(&mut self, committed: &Committed) -> ChangeBatch {
        let (_, batch) = self.replica.apply(committed);
        self.views.apply(&batch);
        self.arrivals.note(&self.views.journal(), self.clock.boot_time());
        batch
    }

    /// What its fetching goes by.
    pub(super) fn known(&self) -> Known {
        Known {
            views: self.views.clone(),
            of_file: Arc::default(),
            clock: Arc::<FixedClock>::clone(&self.clock),
            timing: Timing::default(),
            live: Live::default(),
        }
    }

    pub(super) fn journal(&self) -> Arc<Journal> {
        self.views.journal()
    }

    pub(super) fn bundle(&self) -> Option<Arc<Bundle>> {
        self.views.bundle(&self.common.trust_domain)
    }

    /// Gives an agent its bundle, and remembers it.
    pub(super) fn give(&self, agent: Option<&SpiffeId>) -> Option<Arc<Bundle>> {
        let looked_at = self.clock.boot_time();
        let bundle = self.bundle()?;
        if let Some(agent) = agent {
            self.sightings.given(agent, &bundle, looked_at, None);
        }
        Some(bundle)
    }

    /// What it replies to a question about an authority.
    pub(super) fn reply(&self, prepared: &Authority) -> What {
        let Some(found) = self.witness.found(prepared.kind, &prepared.id) else {
            return What::Said(steeple_api::pb::member::v1::EvidenceAnswer {
                not_ready: "it has not applied the authority yet".to_owned(),
                ..Default::default()
            });
        };
        let mut answer = self.witness.seen(&found);
        let signs = test_signature(&self.common.keys, self.common.cluster_id, &found);
        answer.not_ready = signs.err().unwrap_or_default();
        What::Said(answer)
    }
}

//! Confirmed reads: that what the views say is what the cluster had decided when we asked.
//!
//! Owns the read barrier as services use it (barrier, then wait until the views have caught up) and
//! the age of the last one. What may be served without one is decided in [`super::staleness`].

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use steeple_raft_store::ids::Revision;
use steeple_raft_store::{Contact, StoreHandle, Unavailable};
use steeple_spiffe_core::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::staleness::{self, Limits, Observation, Standing};
use crate::mutants::{self, Mutant};
use crate::view::Views;

/// How often contact is looked at: lost contact must show within 2 s.
const CONTACT_INTERVAL: Duration = Duration::from_millis(250);

/// A read is confirmed at least this often, asked for or not, so that the age of the last confirmed
/// state says how long the replica has been cut off and not how long no one asked.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// How long a caller is told to wait before it tries another replica.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What an issuance is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// A read confirmed by the cluster after the request had come in.
    Confirmed(Revision),
    /// The last confirmed state: renewals only.
    Stale {
        /// How old it is.
        age: Duration,
    },
}

/// Confirms reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reads {
    store: StoreHandle,
    views: Views,
    clock: Arc<dyn Clock>,
    limits: Limits,
    barrier_timeout: Duration,
    confirmed_at: Arc<Mutex<Option<Duration>>>,
}

impl Reads {
    /// Reads through a store, confirmed into its views. `barrier_timeout` bounds what an issuance
    /// waits.
    pub fn new(
        store: StoreHandle,
        views: Views,
        clock: Arc<dyn Clock>,
        limits: Limits,
        barrier_timeout: Duration,
    ) -> Self {
        let confirmed_at = Arc::default();
        Self { store, views, clock, limits, barrier_timeout, confirmed_at }
    }

    /// Confirms a read: on return the views hold everything that was acknowledged anywhere before
    /// the call.
    ///
    /// # Errors
    ///
    /// The cluster could not be asked before the deadline; nothing is known.
    pub async fn confirm(&self, deadline: Instant) -> Result<Revision, Unavailable> {
        let started = Instant::now();
        let confirmed = self.store.read_barrier(deadline).await?;
        if !self.views.wait_for(confirmed.revision, deadline).await {
            return Err(self.unavailable(format!(
                "this replica is behind: views have not reached revision {}",
                confirmed.revision
            )));
        }
        metrics::histogram!("spire_server_cluster_read_barrier_elapsed_time")
            .record(started.elapsed().as_secs_f64() * 1000.0);
        let mut at = self.confirmed_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let still = mutants::on(Mutant::ClockStandsStill);
        let started = if still { mutants::still_clock() } else { confirmed.started_at_boot };
        *at = (*at).max(Some(started));
        Ok(confirmed.revision)
    }

    /// What an issuance may be based on: a confirmed read, or the last confirmed state when the
    /// replica has been cut off for long enough.
    ///
    /// # Errors
    ///
    /// Neither is to be had.
    pub async fn for_issuance(&self, deadline: Instant) -> Result<Basis, Unavailable> {
        match self.agent_service()? {
            Some(age) => Ok(Basis::Stale { age }),
            None => {
                let deadline = deadline.min(Instant::now() + self.barrier_timeout);
                self.confirm(deadline).await.map(Basis::Confirmed)
            }
        }
    }

    /// Whether agents are served: `None` = strictly, `Some(age)` = from the last confirmed state.
    ///
    /// # Errors
    ///
    /// Agents are refused for now.
    pub fn agent_service(&self) -> Result<Option<Duration>, Unavailable> {
        match self.standing() {
            Standing::Strict => Ok(None),
            Standing::RenewOnly { age } => Ok(Some(age)),
            Standing::SendingAway { .. } | Standing::CutOff | Standing::TooOld => {
                Err(self.unavailable(self.contact_text()))
            }
        }
    }

    /// What the replica may serve to agents now.
    pub fn standing(&self) -> Standing {
        let now = self.clock.boot_time();
        let (lost_for, leader_elsewhere) = match self.store.contact() {
            Contact::InContact => (None, false),
            Contact::Lost { since, elsewhere, .. } => (Some(now.saturating_sub(since)), elsewhere),
        };
        let confirmed_age = self.confirmed_age();
        staleness::stand(Observation { lost_for, leader_elsewhere, confirmed_age }, self.limits)
    }

    /// Time since the start of the last confirmed read; `None` = none since this process started.
    pub fn confirmed_age(&self) -> Option<Duration> {
        let at = *self.confirmed_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let still = mutants::on(Mutant::ClockStandsStill);
        let now = if still { mutants::still_clock() } else { self.clock.boot_time() };
        at.map(|at| now.saturating_sub(at))
    }

    /// Waits until this replica has applied a revision that the caller has seen elsewhere.
    ///
    /// # Errors
    ///
    /// It has not by the deadline.
    pub async fn reach(&self, revision: Revision, deadline: Instant) -> Result<(), Unavailable> {
        if self.views.wait_for(revision, deadline).await {
            return Ok(());
        }
        Err(self.unavailable(format!("this replica has not applied revision {revision} yet")))
    }

    /// Watches contact until the shutdown: keeps the age of the last confirmed read honest, and
    /// raises `go_away` when agents should look for another replica.
    pub async fn run(self, go_away: watch::Sender<u64>, shutdown: CancellationToken) {
        let mut served = true;
        let mut confirmed: Option<Instant> = None;
        loop {
            // The first at once, and again until one succeeds: before that the replica is not ready.
            let due = confirmed.is_none_or(|at| at.elapsed() >= CONFIRM_INTERVAL);
            if due || self.confirmed_age().is_none() {
                let now = Instant::now();
                confirmed = Some(now);
                if let Err(error) = self.confirm(now + self.barrier_timeout).await {
                    tracing::debug!(error = error.text, "Read not confirmed");
                }
            }
            self.publish_metrics();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(CONTACT_INTERVAL) => {}
            }
            let serves = matches!(self.standing(), Standing::Strict | Standing::RenewOnly { .. });
            if served && !serves {
                go_away.send_modify(|generation| *generation += 1);
            }
            served = serves;
        }
    }

    fn publish_metrics(&self) {
        let age = self.confirmed_age().map_or(f64::INFINITY, |age| age.as_secs_f64());
        metrics::gauge!("spire_server_cluster_staleness").set(age);
        let lost_for = match self.store.contact() {
            Contact::InContact => Duration::ZERO,
            Contact::Lost { since, .. } => self.clock.boot_time().saturating_sub(since),
        };
        metrics::gauge!("spire_server_cluster_quorum_contact_age").set(lost_for.as_secs_f64());
    }

    fn contact_text(&self) -> String {
        match self.store.contact() {
            Contact::InContact => "contact with the cluster was lost a moment ago".to_owned(),
            Contact::Lost { text, .. } => text,
        }
    }

    fn unavailable(&self, text: String) -> Unavailable {
        Unavailable { text, retry_after: RETRY_AFTER }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use steeple_raft_store::testing::{TestStore, config, seams_with};
    use steeple_raft_store::{MemoryDisk, Storage};
    use steeple_spiffe_core::random::SystemRandom;
    use steeple_spiffe_core::time::{FixedClock, Timestamp};

    use super::*;

    /// A member of one on a clock of ours; its views follow it until the token is cancelled.
    async fn member() -> (Arc<FixedClock>, TestStore, Views, CancellationToken) {
        let clock = Arc::new(FixedClock::new(Timestamp::from_unix_s(1_800_000_000)));
        let storage = Storage::Memory(MemoryDisk::new());
        let seams = seams_with(storage, clock.clone(), Arc::new(SystemRandom));
        let store = TestStore::open(config(PathBuf::new()), seams).await.unwrap();
        let (views, task) = Views::start(store.handle.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(task.run(shutdown.clone()));
        (clock, store, views, shutdown)
    }

    #[tokio::test]
    async fn a_replica_that_was_suspended_knows_how_old_its_state_is() {
        let (clock, store, views, shutdown) = member().await;
        let _ends = shutdown.drop_guard();
        let (second, minutes) = (Duration::from_secs(1), |n: u64| Duration::from_secs(60 * n));
        let limits = Limits { renew_only_delay: second, max_staleness: minutes(10) };
        let reads = Reads::new(store.handle.clone(), views, clock.clone(), limits, second);
        assert_eq!(reads.confirmed_age(), None, "never confirmed");
        reads.confirm(Instant::now() + minutes(1)).await.unwrap();
        let cut_off = || {
            let (lost_for, confirmed_age) = (Some(minutes(2)), reads.confirmed_age());
            let observed = Observation { lost_for, leader_elsewhere: false, confirmed_age };
            staleness::stand(observed, limits)
        };
        assert_eq!(cut_off(), Standing::RenewOnly { age: Duration::ZERO });
        // The machine sleeps: no instant of the runtime passes, its boot-time clock goes on.
        clock.advance(minutes(9));
        assert_eq!(cut_off(), Standing::RenewOnly { age: minutes(9) });
        clock.advance(minutes(2));
        assert_eq!(cut_off(), Standing::TooOld);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_asks_for_its_first_confirmed_read_without_waiting() {
        let (clock, store, views, shutdown) = member().await;
        let _ends = shutdown.clone().drop_guard();
        let second = Duration::from_secs(1);
        let limits = Limits { renew_only_delay: second, max_staleness: second };
        let reads = Reads::new(store.handle.clone(), views, clock, limits, second);
        let started = Instant::now();
        tokio::spawn(reads.clone().run(watch::channel(0).0, shutdown));
        // Paused time goes on when nothing else has anything to do.
        while reads.confirmed_age().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(started.elapsed() < CONTACT_INTERVAL, "{:?}", started.elapsed());
    }
}

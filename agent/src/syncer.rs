//! Keeps the store in step with the servers.
//!
//! Owns when a sync happens (every interval, at once when a server's push or a workload without an
//! entry asks, later after failures) and its order: entries, own bundle, federated bundles, then the
//! store, and then the word to the server that the bundle is what workloads get. What a refusal means
//! for the agent is `rotate::verdict`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::{Random, TrustDomain};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{debug, error, info};

use crate::backoff::Backoff;
use crate::life::{Ending, Life};
use crate::limits::{
    ACKNOWLEDGE_TIMEOUT, SYNC_BACKOFF_MAX, SYNC_ON_DEMAND_SPACING, SYNC_ON_DEMAND_WAIT,
};
use crate::store::{Store, Synced};
use crate::upstream::{
    CallError, Upstream, Watch, acknowledge, chain, fetch_bundle_with_receipt, fetch_entries,
    fetch_federated,
};

/// How many syncs have begun and which one ended last.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    begun: u64,
    ended: u64,
}

/// A sync failed, and at which step.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct SyncError {
    step: &'static str,
    /// The call that failed.
    pub source: CallError,
}

impl SyncError {
    fn at(step: &'static str) -> impl FnOnce(CallError) -> Self {
        move |source| Self { step, source }
    }
}

/// Asks for syncs.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    wanted: Arc<Notify>,
    progress: watch::Receiver<Progress>,
}

impl SyncHandle {
    /// Asks for a sync soon.
    pub fn request(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a sync that begins after this call has ended, well or not, or for
    /// [`SYNC_ON_DEMAND_WAIT`].
    pub async fn fresh(&self) {
        let mut progress = self.progress.clone();
        let before = progress.borrow().begun;
        self.request();
        let done = progress.wait_for(|progress| progress.ended > before);
        // Too late or the agent ends: the caller looks at what there is.
        drop(tokio::time::timeout(SYNC_ON_DEMAND_WAIT, done).await);
    }
}

/// The task.
#[derive(Debug)]
pub struct Syncer {
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    life: Arc<Life>,
    random: Arc<dyn Random>,
    trust_domain: TrustDomain,
    interval: Duration,
    wanted: Arc<Notify>,
    progress: watch::Sender<Progress>,
}

impl Syncer {
    /// A task that syncs every `interval`, and the handle to ask for more.
    pub fn new(
        store: Arc<Store>,
        upstream: Arc<Upstream>,
        life: Arc<Life>,
        random: Arc<dyn Random>,
        interval: Duration,
    ) -> (Self, SyncHandle) {
        let wanted = Arc::new(Notify::new());
        let (progress, receiver) = watch::channel(Progress::default());
        let handle = SyncHandle { wanted: Arc::clone(&wanted), progress: receiver };
        let trust_domain = store.own_bundle().trust_domain.clone();
        (Self { store, upstream, life, random, trust_domain, interval, wanted, progress }, handle)
    }

    /// Runs until the shutdown or until the agent's life ends.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Ending> {
        let max = SYNC_BACKOFF_MAX.min(self.interval * 48).max(self.interval);
        let mut backoff = Backoff::new(self.interval, max);
        let mut pause = self.interval;
        loop {
            let last = Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {
                    tokio::time::sleep_until(last + SYNC_ON_DEMAND_SPACING).await;
                }
            }
            let result = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                result = self.sync() => result,
            };
            match result {
                Ok(()) => {
                    backoff.reset();
                    pause = self.interval;
                }
                Err(failure) => {
                    let error = chain(&failure);
                    error!(error, subsystem_name = "manager", "Synchronize failed");
                    self.life.judge(&failure.source).await?;
                    pause = backoff.pause(self.random.unit_f64());
                }
            }
        }
    }

    /// One sync.
    pub async fn sync(&self) -> Result<(), SyncError> {
        let mut number = 0;
        self.progress.send_modify(|progress| {
            progress.begun += 1;
            number = progress.begun;
        });
        let result = self.sync_once().await;
        self.progress.send_modify(|progress| progress.ended = number);
        if let Some(receipt) = result? {
            self.acknowledge(receipt).await;
        }
        Ok(())
    }

    /// Says that a bundle is applied. A failure costs time alone: each sync says what is held.
    async fn acknowledge(&self, receipt: u64) {
        let call = self.upstream.call(|channel| acknowledge(channel, receipt));
        match tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, call).await {
            Ok(Ok(())) => debug!("Bundle acknowledged"),
            Ok(Err(failure)) => debug!(error = %failure, "Bundle could not be acknowledged"),
            Err(_elapsed) => debug!("Bundle could not be acknowledged in time"),
        }
    }

    /// Returns the receipt that is to be acknowledged at once.
    async fn sync_once(&self) -> Result<Option<u64>, SyncError> {
        let agent_id = self.life.agent_id();
        let known = self.store.entries();
        let fetch = |channel| fetch_entries(channel, &agent_id, &known);
        let entries = self.upstream.call(fetch).await;
        let entries = entries.map_err(SyncError::at("failed to fetch authorized entries"))?;
        let held = self.store.receipt();
        let fetch = |channel| fetch_bundle_with_receipt(channel, &self.trust_domain, held);
        let answer = self.upstream.call(fetch).await;
        let (bundle, receipt) = answer.map_err(SyncError::at("failed to fetch bundle"))?;
        let domains: BTreeSet<TrustDomain> = entries
            .values()
            .flat_map(|entry| entry.federates_with.iter())
            .filter(|domain| **domain != self.trust_domain)
            .cloned()
            .collect();
        let federated = if domains.is_empty() {
            Default::default()
        } else {
            let fetch = |channel| fetch_federated(channel, domains.clone());
            let federated = self.upstream.call(fetch).await;
            federated.map_err(SyncError::at("failed to fetch federated bundles"))?
        };
        let acknowledged = self.store.apply(Synced { entries, bundle, receipt, federated });
        self.life.keep_bundle(&self.store.own_bundle()).await;
        Ok(acknowledged)
    }
}

/// Holds a push stream open and asks for a sync on each message. Against a server that has none it
/// looks again now and then: servers are upgraded one by one.
pub async fn follow_updates(
    upstream: Arc<Upstream>,
    sync: SyncHandle,
    random: Arc<dyn Random>,
    shutdown: CancellationToken,
) {
    const RETRY_START: Duration = Duration::from_secs(1);
    const RETRY_MAX: Duration = Duration::from_secs(60);
    let mut backoff = Backoff::new(RETRY_START, RETRY_MAX);
    let mut revision = 0;
    loop {
        let round = follow_once(&upstream, &sync, &mut revision, &mut backoff);
        let pause = tokio::select! {
            () = shutdown.cancelled() => return,
            code = round => match code {
                Some(Code::Unimplemented) => RETRY_MAX,
                Some(_) | None => backoff.pause(random.unit_f64()),
            },
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn follow_once(
    upstream: &Upstream,
    sync: &SyncHandle,
    revision: &mut u64,
    backoff: &mut Backoff,
) -> Option<Code> {
    let mut watch = match Watch::open(upstream, *revision).await {
        Ok(watch) => watch,
        Err(failure) => {
            debug!(error = %failure, "Updates are not pushed; polling");
            return Some(failure.status.code());
        }
    };
    info!("Following updates of the server");
    loop {
        match watch.changed().await {
            Ok(Some(new)) => {
                *revision = new;
                backoff.reset();
                sync.request();
            }
            Ok(None) => return None,
            Err(status) => {
                debug!(code = ?status.code(), error = status.message(), "Update stream ended");
                return Some(status.code());
            }
        }
    }
}

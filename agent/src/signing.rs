//! Gets workload SVIDs signed: the missing at once, the due in time.
//!
//! Owns the loop between the store's plan and the servers, the size of batches and the pauses after
//! failures. How soon one SVID may follow another is the store's: a server whose certificates are due
//! when they arrive must not keep this loop busy. A waiting workload cuts a pause short, within a bound.

use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::{Clock, KeyType, Random};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::backoff::Backoff;
use crate::life::{Ending, Life};
use crate::limits::{
    SIGN_BACKOFF_MAX, SIGN_BACKOFF_START, SIGN_CHECK_INTERVAL, SYNC_ON_DEMAND_SPACING,
};
use crate::rotate::Condition;
use crate::store::Store;
use crate::upstream::{BatchSize, CallError, Upstream, sign_x509};

/// The task.
#[derive(Debug)]
pub struct SigningTask {
    /// What is missing.
    pub store: Arc<Store>,
    /// Who signs.
    pub upstream: Arc<Upstream>,
    /// What a refusal means.
    pub life: Arc<Life>,
    /// When an SVID is due.
    pub condition: Condition,
    /// Of which type keys are.
    pub key_type: KeyType,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
}

impl SigningTask {
    /// Runs until the shutdown or until the agent's life ends.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Ending> {
        let mut backoff = Backoff::new(SIGN_BACKOFF_START, SIGN_BACKOFF_MAX);
        let mut batch = BatchSize::default();
        let mut pause = Duration::ZERO;
        let mut failed = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = self.store.work_arrived() => {
                    if failed {
                        tokio::time::sleep(SYNC_ON_DEMAND_SPACING).await;
                    }
                }
            }
            let result = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                result = self.sign_all(&mut batch) => result,
            };
            failed = match result {
                Ok(failures) => failures > 0,
                Err(failure) => {
                    error!(error = %failure, subsystem_name = "manager", "Failed to fetch X509-SVIDs");
                    batch.halve();
                    self.life.judge(&failure).await?;
                    true
                }
            };
            pause = if failed {
                backoff.pause(self.random.unit_f64())
            } else {
                backoff.reset();
                let ending = self.store.next_renewal(self.clock.now());
                ending.unwrap_or(SIGN_CHECK_INTERVAL).min(SIGN_CHECK_INTERVAL)
            };
        }
    }

    /// Batches until nothing is left to sign; stops at a batch with failures, whose items are asked
    /// for again after a pause. Returns how many failed.
    async fn sign_all(&self, batch: &mut BatchSize) -> Result<usize, CallError> {
        loop {
            let (condition, now) = (self.condition, self.clock.now());
            let orders = self.store.next_work(condition, now, &*self.random, batch.get());
            if orders.is_empty() {
                return Ok(0);
            }
            let signed = sign_x509(&self.upstream, orders, self.key_type, &*self.clock).await?;
            batch.double();
            self.store.put_svids(signed.svids);
            if signed.failures > 0 {
                return Ok(signed.failures);
            }
        }
    }
}

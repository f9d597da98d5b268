//! All configured workload attestors as one question: which selectors has this caller?
//!
//! Owns the rules around them (`spire-semantics` 10): each runs on a blocking thread within a
//! deadline, one that fails loses its selectors only, and what was read counts only if the caller is
//! still the process that was asked about.

use std::sync::Arc;

use steeple_spiffe_core::SelectorSet;
use tracing::error;

use super::peer::Peer;
use super::unix::UnixAttestor;
use crate::limits::WORKLOAD_ATTEST_TIMEOUT;

/// A caller has no selectors because nothing worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadAttestError {
    /// Every attestor failed.
    #[error("workload attestation failed")]
    AllFailed,
    /// The caller ended meanwhile.
    #[error("caller exited during attestation")]
    CallerGone,
}

/// The configured attestors.
#[derive(Clone, Debug)]
pub struct WorkloadAttestors {
    unix: Option<Arc<UnixAttestor>>,
}

impl WorkloadAttestors {
    /// With the `unix` attestor, if it is configured.
    pub fn new(unix: Option<UnixAttestor>) -> Self {
        Self { unix: unix.map(Arc::new) }
    }

    /// The caller's selectors.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<SelectorSet, WorkloadAttestError> {
        let Some(unix) = &self.unix else { return Err(WorkloadAttestError::AllFailed) };
        let (attestor, pinned) = (Arc::clone(unix), Arc::clone(peer));
        let reading = tokio::task::spawn_blocking(move || {
            let selectors = attestor.attest(pinned.pid());
            (selectors, pinned.is_same())
        });
        let pid = peer.pid();
        let Ok(Ok((selectors, is_same))) =
            tokio::time::timeout(WORKLOAD_ATTEST_TIMEOUT, reading).await
        else {
            error!(pid, plugin_name = "unix", "Failed to collect all selectors for PID: timed out");
            return Err(WorkloadAttestError::AllFailed);
        };
        if !is_same {
            return Err(WorkloadAttestError::CallerGone);
        }
        selectors.map_err(|failure| {
            let error = crate::upstream::chain(&failure);
            error!(pid, plugin_name = "unix", error, "Failed to collect all selectors for PID");
            WorkloadAttestError::AllFailed
        })
    }
}

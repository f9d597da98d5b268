//! What ends this agent's life, and what prolongs it.
//!
//! Owns the reactions of `spire-semantics` 8.5: a refused certificate leads to attestation again or,
//! where the method doesn't allow it, to an end without the certificate; a ban always to the latter;
//! servers of an unknown authority to nothing but a word to the operator: what is cached is good
//! until it expires, and the servers may come back. Servers whose bundle has lost the root of the
//! certificate let nobody in with it: who may attests again.

use std::sync::Arc;

use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::bundle::Bundle;
use tracing::{debug, error, info, warn};

use crate::rotate::{OwnSvid, OwnSvidError, Rotator, Verdict, is_shut_out, verdict};
use crate::upstream::{CallError, Upstream};

/// Why the agent ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ending {
    /// An operator banned it.
    #[error("agent is banned: {0}")]
    Banned(String),
    /// Its certificate is refused and it can't attest again.
    #[error("agent needs to re-attest: {0}")]
    Refused(String),
}

/// The agent's own certificate and the powers over it.
#[derive(Debug)]
pub struct Life {
    own: Arc<OwnSvid>,
    upstream: Arc<Upstream>,
    rotator: Arc<Rotator>,
}

impl Life {
    /// Of the agent with this certificate.
    pub fn new(own: Arc<OwnSvid>, upstream: Arc<Upstream>, rotator: Arc<Rotator>) -> Self {
        Self { own, upstream, rotator }
    }

    /// The agent's id.
    pub fn agent_id(&self) -> SpiffeId {
        self.own.id()
    }

    /// Reacts to a failed call of a running agent. `Ok` means: go on and try again later.
    pub async fn judge(&self, failure: &CallError) -> Result<(), Ending> {
        let mut verdict = verdict(failure, self.upstream.generation());
        if verdict == Verdict::Reattest && self.own.can_reattest() {
            warn!(error = %failure, "Agent needs to re-attest, attempting to re-attest");
            match self.rotator.rotate(failure.generation).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let text = crate::upstream::chain(&error);
                    error!(error = text, "Failed to re-attest");
                    verdict = self.after_failed_attestation(&error);
                }
            }
        }
        self.come_back_in(verdict, failure).await;
        self.end(verdict, failure).await
    }

    /// Reacts to a failed call during the start, when any refusal ends the agent.
    pub async fn judge_at_start(&self, failure: &CallError) -> Result<(), Ending> {
        let verdict = verdict(failure, self.upstream.generation());
        self.come_back_in(verdict, failure).await;
        self.end(verdict, failure).await
    }

    /// Attests again if the servers do not know the root of the certificate any more: the agent was away
    /// between its taint and its revocation. Decided by their bundle, never by the failure alone. What
    /// fails here is tried again after the next failed call.
    async fn come_back_in(&self, verdict: Verdict, failure: &CallError) {
        let may = verdict == Verdict::Retry && self.own.can_reattest();
        if !may || !is_shut_out(&failure.status) {
            return;
        }
        match self.rotator.is_root_gone().await {
            Ok(false) => {}
            Ok(true) => {
                warn!(error = %failure, "The servers' bundle has no authority of the agent SVID any more, attempting to re-attest");
                if let Err(failure) = self.rotator.rotate(failure.generation).await {
                    error!(error = crate::upstream::chain(&failure), "Failed to re-attest");
                }
            }
            Err(failure) => debug!(error = %failure, "Servers were not asked for their bundle"),
        }
    }

    /// Keeps the bundle for the next start. A failure costs nothing now.
    pub async fn keep_bundle(&self, bundle: &Bundle) {
        let ders: Vec<Vec<u8>> =
            bundle.x509_authorities.iter().map(|root| root.certificate_der.clone()).collect();
        let own = Arc::clone(&self.own);
        let kept = tokio::task::spawn_blocking(move || own.keep_bundle(&ders)).await;
        if let Ok(Err(failure)) = kept {
            let error = crate::upstream::chain(&failure);
            error!(error, "Could not store bundle");
        }
    }

    /// The certificate is refused already; attestation that is refused too won't get better. All else
    /// is tried again.
    fn after_failed_attestation(&self, error: &OwnSvidError) -> Verdict {
        match error.call_error() {
            Some(call) if call.status.code() == tonic::Code::PermissionDenied => Verdict::Reattest,
            Some(_) | None => Verdict::Retry,
        }
    }

    async fn end(&self, verdict: Verdict, failure: &CallError) -> Result<(), Ending> {
        let text = failure.to_string();
        match verdict {
            Verdict::Retry => Ok(()),
            Verdict::Distrusted => {
                error!(
                    error = text,
                    "No server has a certificate that this agent's bundle verifies; workloads are served \
                     from the cache, and it is tried again. If the servers' authorities were replaced \
                     meanwhile: put the current bundle in the place of the configured trust bundle, \
                     remove agent-data.json from data_dir and start the agent anew, with a new join \
                     token if it attests with one",
                );
                Ok(())
            }
            Verdict::Banned => {
                info!("Agent is banned: removing SVID and shutting down");
                self.forget().await;
                Err(Ending::Banned(text))
            }
            Verdict::Reattest => {
                error!(error = text, "Agent needs to re-attest: removing SVID and shutting down");
                self.forget().await;
                Err(Ending::Refused(text))
            }
        }
    }

    async fn forget(&self) {
        let own = Arc::clone(&self.own);
        let deleted = tokio::task::spawn_blocking(move || own.delete()).await;
        if let Ok(Err(failure)) = deleted {
            let error = crate::upstream::chain(&failure);
            error!(error, "Failed to remove SVID");
        }
    }
}

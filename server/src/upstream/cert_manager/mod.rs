//! `UpstreamAuthority "cert-manager"`: an issuer of cert-manager in a Kubernetes cluster, asked by
//! `CertificateRequest` objects.
//!
//! Owns SPIRE's keys, the patience with a request, and which requests are cleaned up. What the file
//! says is checked at the start; Kubernetes is asked for the first time by the leader's first look.

mod api;
mod error;
mod request;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use steeple_spiffe_core::{Clock, TrustDomain};
use tokio::time::Instant;

use self::api::Api;
pub use self::error::CertManagerError;
use self::request::State;
pub use self::settings::CertManagerSettings;
use super::authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};

/// How long a request may take to be signed (SPIRE: 300 looks, a quarter of a second apart).
const PATIENCE: Duration = Duration::from_secs(75);

/// The pause between two looks at a request (SPIRE: likewise).
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a whole certificate may take: the patience, and a few calls before and after it.
const MINT_TIMEOUT: Duration = Duration::from_secs(110);

/// How long the clean-up after a certificate may hold it up.
const TIDY_TIMEOUT: Duration = Duration::from_secs(5);

/// From this age on what has ended is removed whoever asked for it: a member that asked has seen how it
/// ended.
const ENDED_AGE: Duration = Duration::from_secs(2 * 60);

/// From this age on nobody waits for a request any more, and the key that it is for is gone.
const ABANDONED_AGE: Duration = Duration::from_secs(10 * 60);

/// Has cert-manager sign.
#[derive(Debug)]
pub struct CertManager {
    settings: CertManagerSettings,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    /// How long a request may take to be signed.
    patience: Duration,
    /// Whether this process has cleaned up what others left behind.
    is_tidy: AtomicBool,
}

impl CertManager {
    /// Checks what can be checked without asking Kubernetes.
    ///
    /// # Errors
    ///
    /// The kubeconfig cannot be used, or there is none and this is no pod; the trust domain cannot be a
    /// label.
    pub fn configure(
        settings: CertManagerSettings,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CertManagerError> {
        request::check_label(trust_domain.as_str())?;
        api::check(&settings)?;
        let is_tidy = AtomicBool::new(false);
        Ok(Self { settings, trust_domain, clock, patience: PATIENCE, is_tidy })
    }

    async fn sign(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, CertManagerError> {
        let api = Api::connect(&self.settings).await?;
        let object = request::object(&self.settings, self.trust_domain.as_str(), csr, ttl);
        let created = api.create(&object).await?;
        let name = request::name(&created).ok_or_else(|| api.nonsense("it has no name"))?;
        let namespace = self.settings.namespace.as_str();
        tracing::info!(namespace, name, "Waiting for CertificateRequest to be signed");
        let signed = self.wait(&api, name).await;
        // An error here is no reason to refuse what was signed.
        let tidied = tokio::time::timeout(TIDY_TIMEOUT, self.tidy(&api, Some(name))).await;
        match tidied {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "Old CertificateRequests are not removed");
            }
            Err(_elapsed) => tracing::warn!("Old CertificateRequests are not removed in time"),
        }
        signed
    }

    /// Looks at a request until it has ended one way or the other. An API server that does not answer
    /// for a moment is asked again.
    async fn wait(&self, api: &Api, name: &str) -> Result<MintedCa, CertManagerError> {
        let deadline = Instant::now() + self.patience;
        let mut last_seen = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = match api.get(name).await {
                Ok(object) => match request::state(&object, &self.settings) {
                    State::Signed => return self.read(api, name, &object),
                    State::Failed(why) => return Err(self.ended("has failed", name, why)),
                    State::Denied(why) => return Err(self.ended("has been denied", name, why)),
                    State::Pending(why) => why,
                },
                Err(error) if error.may_pass() => error.to_string(),
                Err(error) => return Err(error),
            };
            if seen != last_seen {
                tracing::info!(name, seen, "CertificateRequest is not signed yet");
                last_seen = seen;
            }
            if Instant::now() >= deadline {
                return Err(CertManagerError::NotInTime {
                    patience: self.patience,
                    namespace: self.settings.namespace.clone(),
                    name: name.to_owned(),
                    seen: last_seen,
                });
            }
        }
    }

    fn read(&self, api: &Api, name: &str, object: &Value) -> Result<MintedCa, CertManagerError> {
        let minted = request::signed(object);
        minted.map_err(|reason| api.nonsense(&format!("request {name}: {reason}")))
    }

    fn ended(&self, how: &'static str, name: &str, why: String) -> CertManagerError {
        let namespace = self.settings.namespace.clone();
        CertManagerError::Ended { how, namespace, name: name.to_owned(), why }
    }

    /// Removes the requests of this trust domain that are of no use any more: one of our own that has
    /// ended, and what is too old for anybody to wait for.
    async fn tidy(&self, api: &Api, own: Option<&str>) -> Result<(), CertManagerError> {
        let now = self.clock.now();
        for object in api.list(&request::selector(self.trust_domain.as_str())).await? {
            let Some(name) = request::name(&object) else { continue };
            let has_ended = match request::state(&object, &self.settings) {
                State::Signed | State::Failed(_) | State::Denied(_) => true,
                State::Pending(_) => false,
            };
            let age = request::created(&object).map_or(Duration::ZERO, |then| now.since(then));
            let is_ours = own == Some(name);
            let has_ended = has_ended && (is_ours || age >= ENDED_AGE);
            if has_ended || (!is_ours && age >= ABANDONED_AGE) {
                tracing::debug!(name, "Deleting stale CertificateRequest");
                api.delete(name).await?;
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl UpstreamAuthority for CertManager {
    fn name(&self) -> &'static str {
        "cert-manager"
    }

    fn mint_timeout(&self) -> Duration {
        MINT_TIMEOUT
    }

    async fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        Ok(self.sign(csr, preferred_ttl).await?)
    }

    async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        if !self.is_tidy.load(Ordering::Relaxed) {
            let api = Api::connect(&self.settings).await?;
            self.tidy(&api, None).await?;
            self.is_tidy.store(true, Ordering::Relaxed);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;

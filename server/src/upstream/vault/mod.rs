//! `UpstreamAuthority "vault"`: the PKI engine of a HashiCorp Vault or an OpenBao.
//!
//! Owns SPIRE's keys and its texts. What the file says is checked at the start (`settings`); Vault
//! itself is asked for the first time by the leader's first look (`session`), so that a mistake in it is
//! told then and not when the next authority is due.

mod session;
mod settings;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use steeple_federation::HttpsError;
use steeple_spiffe_core::Clock;
use steeple_spiffe_core::tls::TlsError;
use tokio::sync::Mutex;

use self::session::{Access, Session};
pub use self::settings::{Credential, Environment, VaultAuth, VaultSettings};
use super::authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};

/// Vault cannot be used. Texts begin as SPIRE's do.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// `vault_addr` is no address.
    #[error("vault_addr {address:?} cannot be used: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What the method of authentication needs is given nowhere.
    #[error("{key} is empty: set it, or {name} in the environment")]
    Missing {
        /// In the file.
        key: &'static str,
        /// In the environment.
        name: &'static str,
    },
    /// A certificate without its key, or the other way round.
    #[error("both client cert and client key are required")]
    HalfAPair,
    /// The file of roots cannot be used.
    #[error("failed to load CA certificate: {0}")]
    CaCertificate(String),
    /// The client certificate or its key cannot be used.
    #[error("failed to parse client cert and private-key: {0}")]
    ClientCertificate(String),
    /// The TLS library refused what the files hold.
    #[error("use certificates for TLS with Vault")]
    Tls(#[from] TlsError),
    /// The service account's token cannot be read.
    #[error("failed to read k8s service account token: {0}")]
    ServiceAccountToken(String),
    /// The request is none.
    #[error("{0}")]
    Request(String),
    /// Vault cannot be reached.
    #[error("{doing} at {address}")]
    Call {
        /// What was asked.
        doing: String,
        /// Of whom.
        address: String,
        /// Why it came to nothing.
        #[source]
        source: HttpsError,
    },
    /// Vault refuses.
    #[error("{doing} at {address}: {status}: {reason}")]
    Refused {
        /// What was asked.
        doing: String,
        /// Of whom.
        address: String,
        /// How it is classed.
        status: StatusCode,
        /// What Vault says.
        reason: String,
    },
    /// Vault's answer makes no sense.
    #[error("{doing} at {address}: {reason}")]
    Answer {
        /// What was asked.
        doing: String,
        /// Of whom.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Has Vault sign.
#[derive(Debug)]
pub struct Vault {
    access: Access,
    /// One at a time: whoever finds it taken does not wait for a look.
    session: Mutex<Option<Session>>,
}

impl Vault {
    /// Checks what can be checked without asking Vault.
    ///
    /// # Errors
    ///
    /// No address, nothing to authenticate with, or files that cannot be used.
    pub fn configure(
        settings: VaultSettings,
        environment: Environment<'_>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, VaultError> {
        let access = Access::new(settings.resolve(environment)?, clock)?;
        Ok(Self { access, session: Mutex::new(None) })
    }

    async fn sign(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, VaultError> {
        let mut slot = self.session.lock().await;
        let kept = slot.take().filter(Session::is_usable);
        let was_kept = kept.is_some();
        let session = match kept {
            Some(session) => session,
            None => self.access.log_in().await?,
        };
        let session = slot.insert(session);
        match self.access.sign(session, csr, ttl).await {
            // Revoked, or forgotten by a Vault that was restored: whoever may sign may log in.
            Err(error) if was_kept && error.is_denied() => {
                let session = slot.insert(self.access.log_in().await?);
                self.access.sign(session, csr, ttl).await
            }
            signed => signed,
        }
    }

    /// Keeps a session open between two signatures, which may be half a day apart: its token is renewed
    /// before it ends, and what is wrong is known long before an authority is due.
    async fn look_after(&self) -> Result<(), VaultError> {
        let Ok(mut slot) = self.session.try_lock() else { return Ok(()) };
        match slot.take().filter(Session::is_usable) {
            Some(session) if session.is_due() => match self.access.renew(&session).await {
                Ok(renewed) => *slot = Some(renewed),
                Err(error) if error.is_denied() => {
                    tracing::info!(%error, "Going to re-authenticate to the Vault");
                }
                Err(error) => {
                    *slot = Some(session);
                    return Err(error);
                }
            },
            Some(session) => *slot = Some(session),
            None => *slot = Some(self.access.log_in().await?),
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl UpstreamAuthority for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    async fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        Ok(self.sign(csr, preferred_ttl).await?)
    }

    async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        self.look_after().await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;

//! The seam to upstream authorities.
//!
//! Owns what the cluster asks of one. Implementations check nothing that they are told by the other
//! side: `crate::authority` does, alike for all.

use std::fmt;
use std::time::Duration;

use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};

#[cfg(feature = "kubernetes")]
use super::cert_manager::CertManagerError;
use super::disk::DiskError;
use super::spire::SpireError;
use super::standing::Standing;
use super::vault::VaultError;

/// How long one certificate may take, unless the authority says otherwise.
pub(super) const MINT_TIMEOUT: Duration = Duration::from_secs(30);

/// Someone who signs CA certificates for this cluster.
#[tonic::async_trait]
pub trait UpstreamAuthority: fmt::Debug + Send + Sync {
    /// Its name in the configuration: `disk`.
    fn name(&self) -> &'static str;

    /// How long one certificate may take at most.
    fn mint_timeout(&self) -> Duration {
        MINT_TIMEOUT
    }

    /// Has a CA certificate signed for a request in DER. The lifetime is a wish.
    async fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError>;

    /// Publishes a JWT key above, and tells all that are published there. `None`: it publishes none, as
    /// most.
    async fn publish_jwt_key(
        &self,
        _key: &JwtAuthority,
    ) -> Result<Option<Vec<JwtAuthority>>, UpstreamError> {
        Ok(None)
    }

    /// How what it signs with on this machine stands, looked at anew. Reads files, so it is not for threads
    /// that serve connections. `None`, as with most: it signs elsewhere.
    fn look(&self) -> Option<Standing> {
        None
    }

    /// What is published above now; asked every few seconds on the leader. `None`, as with most: it says
    /// so with a certificate alone (as in SPIRE: else a revoked root would be back at once).
    async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        Ok(None)
    }
}

/// What an upstream authority publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTrust {
    /// Its roots, with their taints.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT keys: its own and those that were published there.
    pub jwt_authorities: Vec<JwtAuthority>,
}

/// A CA certificate as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintedCa {
    /// The certificate and what is between it and a root, nearest first. In DER.
    pub chain: Vec<Vec<u8>>,
    /// The roots, in DER.
    pub roots: Vec<Vec<u8>>,
}

/// Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The files cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The server above cannot be reached, or refuses.
    #[error(transparent)]
    Spire(#[from] SpireError),
    /// Vault cannot be reached, or refuses.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Kubernetes cannot be reached, or cert-manager does not sign.
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    CertManager(#[from] CertManagerError),
    /// It did not answer in time.
    #[error("upstream authority did not answer within {0:?}")]
    Timeout(Duration),
    /// It failed a short while ago and is left alone for now.
    #[error("upstream authority failed; it is asked again in {0:?}")]
    Paused(Duration),
}

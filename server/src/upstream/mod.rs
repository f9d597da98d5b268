//! Upstream authorities: someone above the cluster who signs its X.509 authorities.
//!
//! Owns the seam (`authority`), its implementations (`disk`, `spire`, `vault`, `cert_manager`), the patience
//! with one that does not answer (`handle`), and what is to be said of files (`standing`). What is made of a
//! signed certificate, and when one is asked for, is the business of `crate::authority`: nothing here
//! touches the registry.

mod authority;
#[cfg(feature = "kubernetes")]
mod cert_manager;
mod disk;
#[cfg(test)]
pub(crate) mod fake;
mod files;
mod handle;
mod spire;
mod standing;
mod vault;

pub use authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};
#[cfg(feature = "kubernetes")]
pub use cert_manager::{CertManager, CertManagerError, CertManagerSettings};
pub use disk::{Disk, DiskError, DiskSettings};
pub use handle::Upstream;
pub use spire::{Spire, SpireError, SpireSettings};
pub use standing::{Standing, Trouble, watch};
pub use vault::{Credential, Environment, Vault, VaultAuth, VaultError, VaultSettings};

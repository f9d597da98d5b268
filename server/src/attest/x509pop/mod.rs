//! The attestor `x509pop`: an agent shows a certificate and proves that it holds its key.
//!
//! Wire format, challenge and selectors are SPIRE's, so that stock agents attest here. Reading
//! order: `attestor` (configuration and the exchange), `certificate` (what a leaf says), `chains`
//! (all ways it leads to a trusted root), `challenge` (the proof).

mod attestor;
mod certificate;
mod chains;
mod challenge;
#[cfg(test)]
mod tests;

pub use attestor::{X509Pop, X509PopConfigError, X509PopSettings};
pub(super) use certificate::hex;

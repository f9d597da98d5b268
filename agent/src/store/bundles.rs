//! Bundles: the own trust domain's and the federated ones.
//!
//! The own bundle is shared as one atomic pointer, since TLS connections verify servers against it
//! from other threads. Federated bundles live under the cache's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::tls::BundleSource;

/// What became of a bundle that a server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in use in the place of another.
    Changed,
    /// It is what was in use.
    Same,
    /// It is no use; the one of before stays.
    Refused,
}

/// The bundle of the agent's own trust domain. Cheap to read from anywhere.
#[derive(Debug)]
pub struct OwnBundle {
    trust_domain: TrustDomain,
    bundle: ArcSwap<Bundle>,
}

impl OwnBundle {
    /// Starts with what the agent was bootstrapped with.
    pub fn new(bundle: Bundle) -> Self {
        Self { trust_domain: bundle.trust_domain.clone(), bundle: ArcSwap::from_pointee(bundle) }
    }

    /// The bundle.
    pub fn load(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Takes a new bundle. One of another trust domain or without any X.509 authority is refused: with
    /// it the agent could never verify a server again.
    pub fn replace(&self, bundle: Bundle) -> Taken {
        if bundle.trust_domain != self.trust_domain || bundle.x509_authorities.is_empty() {
            return Taken::Refused;
        }
        if **self.bundle.load() == bundle {
            return Taken::Same;
        }
        self.bundle.store(Arc::new(bundle));
        Taken::Changed
    }
}

impl OwnBundle {
    /// Whether a chain whose last certificate names this authority key id hangs below a tainted
    /// root.
    pub fn is_tainted_root(&self, root_key_id: &[u8]) -> bool {
        !root_key_id.is_empty() && tainted_roots(&self.bundle.load()).contains(root_key_id)
    }
}

impl BundleSource for OwnBundle {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (*trust_domain == self.trust_domain).then(|| self.load())
    }
}

/// Federated bundles by trust domain.
pub type Bundles = BTreeMap<TrustDomain, Arc<Bundle>>;

/// Whether a bundle has the root with this subject key id.
pub fn has_root(bundle: &Bundle, root_key_id: &[u8]) -> bool {
    roots(bundle).contains(root_key_id)
}

/// Subject key ids of the X.509 authorities.
pub(super) fn roots(bundle: &Bundle) -> BTreeSet<Vec<u8>> {
    key_ids(bundle.x509_authorities.iter())
}

/// Subject key ids of the tainted X.509 authorities.
pub(super) fn tainted_roots(bundle: &Bundle) -> BTreeSet<Vec<u8>> {
    key_ids(bundle.x509_authorities.iter().filter(|authority| authority.tainted))
}

fn key_ids<'a>(authorities: impl Iterator<Item = &'a X509Authority>) -> BTreeSet<Vec<u8>> {
    authorities
        .filter_map(|authority| certificate_facts(&authority.certificate_der).ok())
        .map(|facts| facts.subject_key_id)
        .filter(|id| !id.is_empty())
        .collect()
}

/// Key ids of the JWT authorities.
pub(super) fn keys(bundle: &Bundle) -> BTreeSet<String> {
    bundle.jwt_authorities.iter().map(|authority| authority.key_id.clone()).collect()
}

/// Key ids of the tainted JWT authorities.
pub(super) fn tainted_keys(bundle: &Bundle) -> BTreeSet<String> {
    let tainted = bundle.jwt_authorities.iter().filter(|authority| authority.tainted);
    tainted.map(|authority| authority.key_id.clone()).collect()
}

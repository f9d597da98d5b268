//! The identity of an echo or of a neighbour: a certificate that names a server, as the real one's does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::{
    IssuerIdentity, LeafSubject, LeafTemplate, self_signed_ca, sign_leaf,
};
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_spiffe_core::tls::{
    BundleSource, Identity, PublicIdentity, public_server_config, server_config,
};
use steeple_spiffe_core::{KeyType, LocalSigner, Signer as _, SpiffeId, TrustDomain};
use steeple_testkit::client::server_id;

/// How long the certificates are good, before now and after it.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Serial numbers of the authority and of the leaf.
const SERIALS: [[u8; 16]; 2] = [[1; 16], [2; 16]];

/// TLS of the server API.
pub(super) fn api_tls() -> Result<Arc<ServerConfig>> {
    let accept = Arc::new(|_: &SpiffeId| true);
    Ok(server_config(made()?, Arc::new(NoBundles), accept, Arc::new(SystemClock))?)
}

/// TLS of the bundle endpoint.
pub(super) fn endpoint_tls() -> Result<Arc<ServerConfig>> {
    Ok(public_server_config(PublicIdentity::Spiffe(made()?), Arc::new(SystemClock))?)
}

/// The callers of an echo have no certificate to look at.
#[derive(Debug)]
struct NoBundles;

impl BundleSource for NoBundles {
    fn bundle(&self, _trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        None
    }
}

fn made() -> Result<Arc<ArcSwap<Identity>>> {
    Ok(Arc::new(ArcSwap::new(signed(&server_id()?)?.0)))
}

/// An identity for an id, and the authority that vouches for it, in DER.
pub(crate) fn signed(id: &SpiffeId) -> Result<(Arc<Identity>, Vec<u8>)> {
    let now = SystemClock.now();
    let (not_before, not_after) = (now.minus(LIFETIME), now.plus(LIFETIME));
    let [of_authority, of_leaf] = SERIALS;
    let (authority, _pkcs8) = LocalSigner::generate(KeyType::EcP256).context("generate a key")?;
    let (leaf, pkcs8) = LocalSigner::generate(KeyType::EcP256).context("generate a key")?;
    let domain = id.trust_domain();
    let root = self_signed_ca(domain, None, &authority, of_authority, not_before, not_after)?;
    let template = LeafTemplate {
        spiffe_id: id,
        dns_names: &[],
        subject: LeafSubject::Default,
        unique_id: false,
        public_key_spki: leaf.public_key_spki(),
        serial: of_leaf,
        not_before,
        not_after,
    };
    let certificate = sign_leaf(&IssuerIdentity::from_certificate(&root)?, &authority, &template)?;
    Ok((Identity::new(vec![certificate], &pkcs8)?, root))
}

//! The dialling side.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::{TLS12, TLS13};

use super::error::TlsError;
use super::identity::{CurrentIdentity, Identity};
use super::verifier::{AcceptId, BundleSource, ClockTime, PeerVerifier, Trust, provider};
use crate::id::SpiffeId;
use crate::time::Clock;

/// A client that presents the current identity, if it has one, and talks to servers whose chain
/// verifies against the bundle of their trust domain and whose id is expected.
pub fn client_config(
    identity: Option<Arc<ArcSwap<Identity>>>,
    bundles: Arc<dyn BundleSource>,
    expect: AcceptId,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let trust = Trust::Bundles { bundles, accept: expect };
    build(trust, identity, Arc::new(ClockTime(clock)))
}

/// A client for an agent's first contact when it was told to bootstrap insecurely: any chain will
/// do whose leaf names exactly the given id. The server is **not** authenticated.
pub fn insecure_bootstrap_client_config(
    expect_server_id: SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    // The time decides nothing here: the chain's lifetime is not looked at.
    build(Trust::InsecureName(expect_server_id), None, Arc::new(DefaultTimeProvider))
}

fn build(
    trust: Trust,
    identity: Option<Arc<ArcSwap<Identity>>>,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = PeerVerifier::new(trust, &provider);
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(CurrentIdentity(identity))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    // The server's certificate names no host, so that a host name would only tell listeners where
    // we go.
    config.enable_sni = false;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

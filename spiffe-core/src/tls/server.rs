//! The listening side.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};

use super::error::TlsError;
use super::identity::{CurrentIdentity, Identity};
use super::verifier::{AcceptId, BundleSource, ClockTime, PeerVerifier, Trust, provider};
use super::web::{
    ACME_TLS_ALPN, AcmeIdentity, CurrentAcmeIdentity, CurrentWebIdentity, WebIdentity,
};
use crate::time::Clock;

/// A server that presents the current identity and takes clients with a certificate (verified
/// against the bundle of their trust domain, then offered to `accept`) or without one.
pub fn server_config(
    identity: Arc<ArcSwap<Identity>>,
    bundles: Arc<dyn BundleSource>,
    accept: AcceptId,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = PeerVerifier::new(Trust::Bundles { bundles, accept }, &provider);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(CurrentIdentity(identity)));
    // No resumption in either protocol version: see the module's header.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What a server that takes anybody presents.
#[derive(Clone, Debug)]
pub enum PublicIdentity {
    /// An X.509-SVID.
    Spiffe(Arc<ArcSwap<Identity>>),
    /// A certificate of the web.
    Web(Arc<ArcSwap<WebIdentity>>),
    /// A certificate of the web that is ordered by ACME, and the answers to its challenges.
    Acme(Arc<ArcSwap<AcmeIdentity>>),
}

/// A server of HTTP/2 and HTTP/1.1 that presents the current identity and asks nobody for a certificate:
/// the bundle endpoint (SPIFFE Federation 5).
///
/// # Errors
///
/// [`TlsError::Config`].
pub fn public_server_config(
    identity: PublicIdentity,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let resolver: Arc<dyn ResolvesServerCert> = match identity {
        PublicIdentity::Spiffe(current) => Arc::new(CurrentIdentity(current)),
        PublicIdentity::Web(current) => Arc::new(CurrentWebIdentity(current)),
        PublicIdentity::Acme(current) => {
            protocols.push(ACME_TLS_ALPN.to_vec());
            Arc::new(CurrentAcmeIdentity(current))
        }
    };
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols;
    Ok(Arc::new(config))
}

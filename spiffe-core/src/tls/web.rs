//! The dialling side towards servers of the web: known by the name of their host, not by a SPIFFE id.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::TlsError;
use super::verifier::{ClockTime, PeerVerifier, Trust, provider};
use crate::key::Secret;
use crate::time::Clock;

/// Whose certificates are good for a server of the web.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebTrust {
    /// Those that the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).
    System,
    /// These roots, in DER, and no other.
    Roots(Vec<Vec<u8>>),
    /// Anybody's: the server is **not** authenticated.
    Nobody,
}

/// A client of servers of the web; with a chain (leaf first) and its key where they ask for one.
///
/// # Errors
///
/// The machine trusts nobody, a root is no certificate, or the key does not fit the chain.
pub fn web_client_config(
    trust: &WebTrust,
    identity: Option<(Vec<Vec<u8>>, Secret)>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let (provider, time) = (provider(), Arc::new(ClockTime(clock)));
    let anybody = PeerVerifier::new(Trust::Anybody, &provider);
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?;
    let builder = match trust {
        WebTrust::System => builder.with_root_certificates(system_roots()?),
        WebTrust::Roots(ders) => builder.with_root_certificates(roots(ders)?),
        WebTrust::Nobody => builder.dangerous().with_custom_certificate_verifier(anybody),
    };
    let Some((chain, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose().to_vec()));
    builder.with_client_auth_cert(chain, key).map_err(TlsError::BadKey)
}

fn roots(ders: &[Vec<u8>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for der in ders {
        store.add(CertificateDer::from(der.as_slice())).map_err(TlsError::BadRoot)?;
    }
    Ok(store)
}

/// What the machine trusts. One that cannot be read is left out, as everywhere.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(store) }
}

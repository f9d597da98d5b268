//! Servers of the web, which are known by the name of their host and not by a SPIFFE id: the dialling
//! side towards them, and what such a server presents.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::TlsError;
use super::verifier::{ClockTime, PeerVerifier, Trust, provider};
use crate::key::Secret;
use crate::svid::x509::{X509Error, certificate_facts};
use crate::time::{Clock, Timestamp};

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

/// A certificate of the web with its private key.
pub struct WebIdentity {
    certified: Arc<CertifiedKey>,
    not_after: Timestamp,
}

/// Why a certificate and a key of the web are no identity.
#[derive(Debug, thiserror::Error)]
pub enum WebIdentityError {
    /// No certificate where one should be.
    #[error("no PEM block of a certificate")]
    NoCertificate,
    /// A certificate that is none.
    #[error("certificate cannot be read")]
    Certificate(#[source] X509Error),
    /// No private key where one should be.
    #[error("no PEM block of a private key (PKCS#8, PKCS#1 or SEC 1, not encrypted)")]
    NoKey,
    /// They do not fit.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl WebIdentity {
    /// Joins a chain (leaf first) and the leaf's private key, both in PEM.
    ///
    /// # Errors
    ///
    /// [`WebIdentityError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, WebIdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or(WebIdentityError::NoCertificate)?;
        let leaf = chain.first().ok_or(WebIdentityError::NoCertificate)?;
        let facts = certificate_facts(leaf).map_err(WebIdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).ok().ok_or(WebIdentityError::NoKey)?;
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(TlsError::BadKey)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_mismatch| TlsError::KeyMismatch)?;
        Ok(Arc::new(Self { certified: Arc::new(certified), not_after: facts.not_after }))
    }

    /// When the leaf expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for WebIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebIdentity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Presents whatever certificate is current when a handshake asks.
#[derive(Debug)]
pub(super) struct CurrentWebIdentity(pub(super) Arc<ArcSwap<WebIdentity>>);

impl ResolvesServerCert for CurrentWebIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

//! Servers of the web, which are known by the name of their host and not by a SPIFFE id: the dialling
//! side towards them, and what such a server presents.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::error::{TlsError, reason};
use super::verifier::{ClockTime, PeerVerifier, Trust, provider};
use crate::id::SpiffeId;
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
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        WebTrust::System => named_server(system_roots()?, &provider)?,
        WebTrust::Roots(ders) => named_server(roots(ders)?, &provider)?,
        WebTrust::Nobody => anybody,
    };
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
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

/// A server that shows an X509-SVID where a certificate with the name of its host is expected: most
/// likely it is to be known by its SPIFFE id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("server certificate contains SPIFFE ID \"{id}\" and not the name of the host")]
pub struct SpiffeServer {
    /// The id, which nothing vouches for.
    pub id: SpiffeId,
    /// Why the certificate was refused.
    #[source]
    pub cause: rustls::Error,
}

fn named_server(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<NamedServer>, TlsError> {
    let inner =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    inner.map(|inner| Arc::new(NamedServer(inner))).map_err(|_empty| TlsError::NoSystemRoots)
}

/// The verifier of rustls, which decides alone; a refusal says more where there is more to say.
#[derive(Debug)]
struct NamedServer(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let inner = &self.0;
        let verified =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|cause| explained(end_entity, server_name, cause))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A refusal, as [`SpiffeServer`] if the certificate lacks the name and has a SPIFFE id.
fn explained(
    leaf: &CertificateDer<'_>,
    name: &ServerName<'_>,
    cause: rustls::Error,
) -> rustls::Error {
    let named = ParsedCertificate::try_from(leaf).and_then(|leaf| verify_server_name(&leaf, name));
    let uris = certificate_facts(leaf).map(|facts| facts.uris).unwrap_or_default();
    let id = uris.first().and_then(|uri| SpiffeId::parse(uri).ok());
    match (named, id) {
        (Err(_), Some(id)) => reason(SpiffeServer { id, cause }).into(),
        (Ok(()), _) | (_, None) => cause,
    }
}

/// A certificate of the web with its private key.
pub struct WebIdentity {
    certified: Arc<CertifiedKey>,
    not_before: Timestamp,
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
        let key = PrivateKeyDer::from_pem_slice(key).ok().ok_or(WebIdentityError::NoKey)?;
        Self::join(chain, &key)
    }

    /// Joins a chain (leaf first) in PEM and the leaf's private key (PKCS#8 in DER).
    ///
    /// # Errors
    ///
    /// [`WebIdentityError`].
    pub fn from_pkcs8(chain: &[u8], key: &Secret) -> Result<Arc<Self>, WebIdentityError> {
        Self::join(chain, &PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose())))
    }

    fn join(chain: &[u8], key: &PrivateKeyDer<'_>) -> Result<Arc<Self>, WebIdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or(WebIdentityError::NoCertificate)?;
        let leaf = chain.first().ok_or(WebIdentityError::NoCertificate)?;
        let facts = certificate_facts(leaf).map_err(WebIdentityError::Certificate)?;
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(TlsError::BadKey)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_mismatch| TlsError::KeyMismatch)?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        Ok(Arc::new(Self { certified: Arc::new(certified), not_before, not_after }))
    }

    /// The leaf, in DER.
    pub fn leaf(&self) -> &[u8] {
        self.certified.cert.first().map(AsRef::as_ref).unwrap_or_default()
    }

    /// Whether the leaf is good for a host of that name.
    pub fn covers(&self, host: &str) -> bool {
        let leaf = CertificateDer::from(self.leaf());
        let parsed = ParsedCertificate::try_from(&leaf).ok();
        let name = ServerName::try_from(host).ok();
        parsed.zip(name).is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok())
    }

    /// When the leaf's lifetime begins.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
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

/// The protocol by which an ACME server finds out who answers at a name (RFC 8737).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// What a server presents whose certificate is ordered by ACME.
#[derive(Clone, Debug, Default)]
pub struct AcmeIdentity {
    /// The certificate; `None`: there is none yet, and handshakes fail.
    pub certificate: Option<Arc<WebIdentity>>,
    /// The answer to a challenge, while there is one.
    pub challenge: Option<AcmeChallenge>,
}

/// The answer to a challenge of an ACME server: a certificate which says that this server knows of
/// it (RFC 8737, 3).
#[derive(Clone)]
pub struct AcmeChallenge {
    domain: String,
    certified: Arc<CertifiedKey>,
}

impl AcmeChallenge {
    /// Joins the certificate for a name, in DER, and its private key (PKCS#8 in DER). Whether they
    /// fit is not looked at: webpki reads no certificate with the extension that makes it an
    /// answer.
    ///
    /// # Errors
    ///
    /// [`TlsError::BadKey`].
    pub fn new(domain: String, certificate: Vec<u8>, key: &Secret) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose()));
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(TlsError::BadKey)?;
        let chain = vec![CertificateDer::from(certificate)];
        Ok(Self { domain, certified: Arc::new(CertifiedKey::new(chain, key)) })
    }

    /// The certificate, in DER.
    pub fn leaf(&self) -> &[u8] {
        self.certified.cert.first().map(AsRef::as_ref).unwrap_or_default()
    }
}

impl fmt::Debug for AcmeChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeChallenge").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// Presents the certificate, or the answer to a challenge to whoever speaks nothing but
/// [`ACME_TLS_ALPN`].
#[derive(Debug)]
pub(super) struct CurrentAcmeIdentity(pub(super) Arc<ArcSwap<AcmeIdentity>>);

impl ResolvesServerCert for CurrentAcmeIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.load();
        let asks = hello.alpn().is_some_and(|protocols| protocols.eq([ACME_TLS_ALPN]));
        if !asks {
            return current.certificate.as_ref().map(|found| Arc::clone(&found.certified));
        }
        let challenge = current.challenge.as_ref()?;
        let name = hello.server_name()?;
        let is_it = name.eq_ignore_ascii_case(&challenge.domain);
        is_it.then(|| Arc::clone(&challenge.certified))
    }
}

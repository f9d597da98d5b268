//! The dialling side towards servers of the web: known by the name of their host, not by a SPIFFE id.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::error::TlsError;
use super::verifier::{ClockTime, provider};
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
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?;
    let builder = match trust {
        WebTrust::System => builder.with_root_certificates(system_roots()?),
        WebTrust::Roots(ders) => builder.with_root_certificates(roots(ders)?),
        WebTrust::Nobody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { algorithms }))
        }
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

/// Takes any certificate; the server still has to own its key.
struct Anybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Anybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anybody").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

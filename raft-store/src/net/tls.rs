//! Peer certificates: issued by each member for itself, checked by all.
//!
//! Owns the cluster CA (an Ed25519 key pair derived from the cluster key), the certificate of this
//! member and the TLS settings of both ends. Whoever holds a cluster key can sign: so the only
//! question a handshake answers is which member speaks. Verifiers pin the public keys of the CAs of
//! all accepted cluster keys and ignore validity times, since a wrong clock must not cut the peer
//! network. TLS 1.3 only, both sides authenticated, nothing resumed. Whether the named member may
//! make a call is the server's question, asked at each call.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, TrustAnchor, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as TlsName, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use crate::net::name::PeerName;

/// The seed of a cluster CA's key pair.
pub(crate) type CaSeed = Zeroizing<[u8; 32]>;

/// Why peer certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// No cluster key is held.
    #[error("no cluster key")]
    NoKey,
    /// A certificate could not be signed.
    #[error("issue peer certificate")]
    Issue(#[from] rcgen::Error),
    /// The settings were refused.
    #[error("set up peer TLS")]
    Tls(#[from] rustls::Error),
}

/// The peer credentials of this member. Its name changes once: when it learns its cluster id.
pub(crate) struct PeerTls {
    provider: Arc<CryptoProvider>,
    verifier: Arc<PinnedCas>,
    /// The CA that signs our certificate: the current cluster key's.
    issuer: Issuer<'static, KeyPair>,
    own: Arc<OwnCertificate>,
}

impl PeerTls {
    /// For the member of that name. The first seed signs; all are accepted.
    ///
    /// # Errors
    ///
    /// If there is no seed, or a certificate cannot be made.
    pub(crate) fn new(seeds: &[CaSeed], name: &PeerName) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let keys = seeds.iter().map(ca_key).collect::<Result<Vec<_>, _>>()?;
        let anchors = keys.iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
        let verifier =
            Arc::new(PinnedCas { anchors, algorithms: provider.signature_verification_algorithms });
        let signing = keys.into_iter().next().ok_or(TlsError::NoKey)?;
        let issuer = Issuer::new(ca_params(), signing);
        let certificate = issue(&provider, &issuer, name)?;
        let own = Arc::new(OwnCertificate { current: ArcSwap::new(Arc::new(certificate)) });
        Ok(Self { provider, verifier, issuer, own })
    }

    /// Gives this member another name: handshakes from now on carry it.
    ///
    /// # Errors
    ///
    /// If the certificate cannot be made; the old one stays.
    pub(crate) fn rename(&self, name: &PeerName) -> Result<(), TlsError> {
        self.own.current.store(Arc::new(issue(&self.provider, &self.issuer, name)?));
        Ok(())
    }

    /// For the peer listener.
    ///
    /// # Errors
    ///
    /// If rustls refuses the settings.
    pub(crate) fn server(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(self.verifier.clone())
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the verifier.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For dialling a peer. Who must answer is checked by the caller, see [`peer_name`].
    ///
    /// # Errors
    ///
    /// If rustls refuses the settings.
    pub(crate) fn client(&self) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone())
            .with_client_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").field("cas", &self.verifier.anchors.len()).finish_non_exhaustive()
    }
}

/// Who a chain names that a handshake has verified.
///
/// # Errors
///
/// If there is not exactly one URI, or it names no member.
pub(crate) fn peer_name(chain: Option<&[CertificateDer<'_>]>) -> Result<PeerName, rustls::Error> {
    match chain.and_then(<[_]>::first) {
        Some(leaf) => name_of(leaf),
        None => Err(rustls::Error::NoCertificatesPresented),
    }
}

/// HTTP/2: what gRPC speaks.
const ALPN: &[u8] = b"h2";

/// The name that all cluster CAs carry; it tells them apart from nothing, keys do.
const CA_NAME: &str = "steeple cluster";

/// PKCS#8 of an Ed25519 private key is this and the 32-byte seed (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

fn ca_key(seed: &CaSeed) -> Result<KeyPair, TlsError> {
    let mut der = Zeroizing::new(ED25519_PKCS8.to_vec());
    der.extend_from_slice(seed.as_slice());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    Ok(KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params
}

/// What a verifier keeps of a CA: no certificate of it is ever sent.
fn anchor(key: &KeyPair) -> Result<TrustAnchor<'static>, TlsError> {
    let certificate = ca_params().self_signed(key)?;
    let anchor = webpki::anchor_from_trusted_cert(certificate.der())
        .map_err(|error| rustls::Error::General(format!("cluster CA: {error}")))?;
    Ok(anchor.to_owned())
}

fn issue(
    provider: &CryptoProvider,
    issuer: &Issuer<'static, KeyPair>,
    name: &PeerName,
) -> Result<CertifiedKey, TlsError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into()?)];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, issuer)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider.key_provider.load_private_key(der)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// Our certificate, for both roles. Swapped when the name changes.
#[derive(Debug)]
struct OwnCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl rustls::server::ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl rustls::client::ResolvesClientCert for OwnCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies both ends of a handshake against the pinned CAs.
#[derive(Debug)]
struct PinnedCas {
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedCas {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        usage: webpki::KeyUsage,
    ) -> Result<(), rustls::Error> {
        // Validity times are ignored: checked "now" is a moment at which it is valid by its own word.
        let now = not_before(leaf)?;
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(refused)?;
        let algorithms = self.algorithms.all;
        certificate
            .verify_for_usage(algorithms, &self.anchors, &[], now, usage, None, None)
            .map_err(refused)?;
        name_of(leaf)?;
        Ok(())
    }
}

fn refused(error: webpki::Error) -> rustls::Error {
    // The one that an operator meets: signed by a CA of another cluster key.
    let other_key =
        matches!(error, webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey);
    if other_key {
        return CertificateError::UnknownIssuer.into();
    }
    CertificateError::Other(rustls::OtherError(Arc::new(error))).into()
}

impl ServerCertVerifier for PinnedCas {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, webpki::KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinnedCas {
    fn root_hint_subjects(&self) -> &[TlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, webpki::KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, rustls::Error> {
    match X509Certificate::from_der(leaf.as_ref()) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

fn not_before(leaf: &CertificateDer<'_>) -> Result<UnixTime, rustls::Error> {
    let seconds = parse(leaf)?.validity().not_before.timestamp();
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

fn name_of(leaf: &CertificateDer<'_>) -> Result<PeerName, rustls::Error> {
    let certificate = parse(leaf)?;
    let san = certificate.subject_alternative_name().ok().flatten();
    let names = san.map(|extension| extension.value.general_names.as_slice());
    match names {
        Some([GeneralName::URI(uri)]) => PeerName::parse(uri)
            .ok_or_else(|| CertificateError::ApplicationVerificationFailure.into()),
        Some(_) | None => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}

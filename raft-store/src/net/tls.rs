//! Peer certificates: issued by each member for itself, checked by all.
//!
//! Owns the cluster CA (an Ed25519 key pair derived from the cluster key), the certificate of this
//! member and the TLS settings of both ends. Whoever holds a cluster key can sign: so the only
//! question a handshake answers is which member speaks. Verifiers pin the public keys of the CAs of
//! all accepted cluster keys and ignore validity times, since a wrong clock must not cut the peer
//! network. A member has a certificate of each key it holds. It presents that of the key that seals,
//! unless the other end said that it accepts others only: any key that both hold lets them meet, in
//! whatever order a new key reaches the members and an old one leaves them. TLS 1.3 only, both sides
//! authenticated, nothing resumed. Whether the named member may make a call is the server's question,
//! asked at each call.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The peer credentials of this member. Its name changes once, when it learns its cluster id; its keys
/// when their file is read again.
pub(crate) struct PeerTls {
    provider: Arc<CryptoProvider>,
    own: Arc<OwnCertificates>,
    state: Mutex<State>,
}

/// What certificates are made of.
struct State {
    name: PeerName,
    verifier: Arc<PinnedCas>,
    /// The first is preferred.
    issuers: Vec<ClusterCa>,
}

/// What signs certificates of a cluster key.
struct ClusterCa {
    key_id: String,
    hint: TlsName,
    issuer: Issuer<'static, KeyPair>,
}

impl PeerTls {
    /// For the member of that name. All seeds are accepted, the first one's certificate is preferred.
    ///
    /// # Errors
    ///
    /// If there is no seed, or a certificate cannot be made.
    pub(crate) fn new(seeds: &[(String, CaSeed)], name: &PeerName) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let state = State::of(&provider, seeds, name.clone())?;
        let own = OwnCertificates { all: ArcSwap::from_pointee(state.certificates(&provider)?) };
        Ok(Self { provider, own: Arc::new(own), state: Mutex::new(state) })
    }

    /// Gives this member another name: handshakes from now on carry it.
    ///
    /// # Errors
    ///
    /// If the certificate cannot be made; the old one stays.
    pub(crate) fn rename(&self, name: &PeerName) -> Result<(), TlsError> {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.name, name.clone());
        match state.certificates(&self.provider) {
            Ok(certificates) => self.own.all.store(Arc::new(certificates)),
            Err(error) => {
                state.name = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes other keys: handshakes from now on accept and present those. Returns the id of the preferred
    /// one. Where nothing changed, nothing is made anew.
    ///
    /// # Errors
    ///
    /// If there is no seed, or a certificate cannot be made; what there was stays.
    pub(crate) fn renew(&self, seeds: &[(String, CaSeed)]) -> Result<String, TlsError> {
        let mut state = self.state();
        if !state.issuers.iter().map(|ca| &ca.key_id).eq(seeds.iter().map(|(id, _)| id)) {
            let renewed = State::of(&self.provider, seeds, state.name.clone())?;
            self.own.all.store(Arc::new(renewed.certificates(&self.provider)?));
            *state = renewed;
        }
        Ok(state.issuers.first().map(|ca| ca.key_id.clone()).unwrap_or_default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment at the end: nothing is half done when a holder panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verifier(&self) -> Arc<PinnedCas> {
        Arc::clone(&self.state().verifier)
    }

    /// For the peer listener.
    ///
    /// # Errors
    ///
    /// If rustls refuses the settings.
    pub(crate) fn server(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(self.verifier())
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
            .with_custom_certificate_verifier(self.verifier())
            .with_client_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls")
            .field("cas", &self.verifier().anchors.len())
            .finish_non_exhaustive()
    }
}

impl State {
    fn of(
        provider: &CryptoProvider,
        seeds: &[(String, CaSeed)],
        name: PeerName,
    ) -> Result<Self, TlsError> {
        let mut anchors = Vec::with_capacity(seeds.len());
        let mut issuers = Vec::with_capacity(seeds.len());
        for (id, seed) in seeds {
            let key = ca_key(seed)?;
            anchors.push(anchor(&key, CA_NAME)?);
            let hint = hint(&key, id)?;
            let issuer = Issuer::new(ca_params(CA_NAME), key);
            issuers.push(ClusterCa { key_id: id.clone(), hint, issuer });
        }
        if issuers.is_empty() {
            return Err(TlsError::NoKey);
        }
        let hints = issuers.iter().map(|ca| ca.hint.clone()).collect();
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(PinnedCas { anchors, hints, algorithms });
        Ok(Self { name, verifier, issuers })
    }

    fn certificates(&self, provider: &CryptoProvider) -> Result<Vec<OwnCertificate>, TlsError> {
        let each = self.issuers.iter().map(|ca| {
            let certificate = Arc::new(issue(provider, &ca.issuer, &self.name)?);
            Ok(OwnCertificate { hint: ca.hint.clone(), certificate })
        });
        each.collect()
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

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params
}

/// What a verifier keeps of a CA: no certificate of it is ever sent.
fn anchor(key: &KeyPair, name: &str) -> Result<TrustAnchor<'static>, TlsError> {
    let certificate = ca_params(name).self_signed(key)?;
    let anchor = webpki::anchor_from_trusted_cert(certificate.der())
        .map_err(|error| rustls::Error::General(format!("cluster CA: {error}")))?;
    Ok(anchor.to_owned())
}

/// How an end says in a handshake that it accepts certificates of a key: a name that holds its id, in
/// the list of accepted authorities. The CAs themselves all have one name.
fn hint(key: &KeyPair, key_id: &str) -> Result<TlsName, TlsError> {
    let named = anchor(key, &format!("{CA_NAME} {key_id}"))?;
    Ok(TlsName::in_sequence(&named.subject))
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

/// Our certificates, for both roles, the preferred one first. Swapped when name or keys change.
#[derive(Debug)]
struct OwnCertificates {
    all: ArcSwap<Vec<OwnCertificate>>,
}

#[derive(Debug)]
struct OwnCertificate {
    /// Names its key.
    hint: TlsName,
    certificate: Arc<CertifiedKey>,
}

impl OwnCertificates {
    /// The first that the other end accepts by its own word; the preferred one if it said nothing that
    /// we know: then it is the one to refuse, in its words.
    fn choose(&self, accepted: &[&[u8]]) -> Option<Arc<CertifiedKey>> {
        let all = self.all.load();
        let fits = all.iter().find(|own| accepted.contains(&own.hint.as_ref()));
        fits.or_else(|| all.first()).map(|own| Arc::clone(&own.certificate))
    }
}

impl rustls::server::ResolvesServerCert for OwnCertificates {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let accepted = hello.certificate_authorities().unwrap_or_default();
        self.choose(&accepted.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }
}

impl rustls::client::ResolvesClientCert for OwnCertificates {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.choose(root_hint_subjects)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies both ends of a handshake against the pinned CAs.
#[derive(Debug)]
struct PinnedCas {
    anchors: Vec<TrustAnchor<'static>>,
    /// Tell the other end which keys these are of.
    hints: Vec<TlsName>,
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
    fn root_hint_subjects(&self) -> Option<&[TlsName]> {
        Some(&self.hints)
    }

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
        &self.hints
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

//! Decides whether the peer of a handshake is whom we talk to.
//!
//! One verifier serves both directions: chain to an authority of the peer's trust domain, then a
//! question to the caller whether this id is welcome. The signature of the handshake itself is
//! checked by the crypto provider's algorithms.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::error::{Refusal, chain_refused, reason};
use crate::bundle::Bundle;
use crate::id::SpiffeId;
use crate::svid::x509::{X509Svid, verify_chain};
use crate::time::{Clock, Timestamp};
use crate::trust_domain::TrustDomain;

/// Where the bundle of a trust domain is looked up, at each handshake.
pub trait BundleSource: Send + Sync + fmt::Debug {
    /// The current bundle; `None` when the trust domain is not known.
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
}

/// Whether a peer whose chain verified is welcome.
pub type AcceptId = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// The provider of every configuration of ours.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Our clock as rustls asks for it.
#[derive(Debug)]
pub(super) struct ClockTime(pub(super) Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(crate::svid::x509::unix_time(self.0.now()))
    }
}

/// How a peer's chain is judged.
pub(super) enum Trust {
    /// It chains to an authority of its trust domain, and its id is accepted.
    Bundles { bundles: Arc<dyn BundleSource>, accept: AcceptId },
    /// Any chain whose leaf names exactly this id: the first contact of an agent that was told to
    /// bootstrap without a bundle.
    InsecureName(SpiffeId),
    /// Any chain, of whatever kind: a server of the web whose name is not to be checked.
    Anybody,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundles { bundles, .. } => {
                f.debug_struct("Bundles").field("bundles", bundles).finish_non_exhaustive()
            }
            Self::InsecureName(id) => f.debug_tuple("InsecureName").field(id).finish(),
            Self::Anybody => f.write_str("Anybody"),
        }
    }
}

/// The verifier of both directions.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { trust, algorithms: provider.signature_verification_algorithms })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if let Trust::Anybody = self.trust {
            return Ok(());
        }
        let chain: Vec<Vec<u8>> =
            std::iter::once(leaf).chain(above).map(|der| der.to_vec()).collect();
        let svid = X509Svid::parse_chain(&chain).map_err(chain_refused)?;
        let id = match &self.trust {
            Trust::Bundles { bundles, accept } => {
                let trust_domain = svid.id.trust_domain();
                let bundle = bundles.bundle(trust_domain).ok_or_else(|| {
                    rustls::Error::from(reason(Refusal::NoBundle(trust_domain.to_string())))
                })?;
                let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                let id = verify_chain(&chain, &bundle, Timestamp::from_unix_s(now))
                    .map_err(chain_refused)?;
                if accept(&id) {
                    return Ok(());
                }
                id
            }
            Trust::InsecureName(expected) if svid.id == *expected => return Ok(()),
            Trust::InsecureName(_) | Trust::Anybody => svid.id,
        };
        Err(reason(Refusal::UnexpectedId(id.to_string())).into())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
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

impl ClientCertVerifier for PeerVerifier {
    /// A caller without a certificate is let in: attestation begins without one. Whoever serves a
    /// call checks that its caller has what the call needs.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: they would tell strangers our authorities, and clients have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
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

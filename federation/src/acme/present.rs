//! What handshakes present, kept current from the records: on every replica.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use steeple_spiffe_core::tls::{AcmeIdentity, WebIdentity};
use steeple_spiffe_core::{Clock, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::answer::answer;
use super::record::Certificate;
use super::settings::AcmeSettings;
use super::state::{AcmeState, Digest, Records};

/// How often the gauge is set, and records that could not be read are read again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

const DAY_S: f64 = 86_400.0;

/// Follows the records.
#[derive(Debug)]
pub struct Presenter {
    settings: AcmeSettings,
    state: Arc<dyn AcmeState>,
    clock: Arc<dyn Clock>,
    current: Arc<ArcSwap<AcmeIdentity>>,
    /// Which challenge is answered, for whoever asks whether it is.
    answered: Arc<watch::Sender<Option<Digest>>>,
    not_after: Option<Timestamp>,
    said: bool,
}

impl Presenter {
    /// Presents nothing yet.
    pub fn new(
        settings: AcmeSettings,
        state: Arc<dyn AcmeState>,
        clock: Arc<dyn Clock>,
        answered: Arc<watch::Sender<Option<Digest>>>,
    ) -> Self {
        let current = Arc::default();
        Self { settings, state, clock, current, answered, not_after: None, said: false }
    }

    /// What handshakes are to read.
    pub fn current(&self) -> Arc<ArcSwap<AcmeIdentity>> {
        Arc::clone(&self.current)
    }

    /// Follows until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let follow = async {
            let mut seen = None;
            loop {
                self.measure();
                let records = match self.state.load() {
                    Ok(records) => records,
                    Err(error) => {
                        tracing::debug!(%error, "Could not read the records of ACME");
                        tokio::time::sleep(LOOK_AGAIN).await;
                        continue;
                    }
                };
                let versions = records.versions();
                if seen.replace(versions) != Some(versions) {
                    self.take(&records);
                    self.measure();
                }
                tokio::time::timeout(LOOK_AGAIN, self.state.changed(versions)).await.ok();
            }
        };
        shutdown.run_until_cancelled(follow).await;
    }

    fn take(&mut self, records: &Records) {
        let certificate = records.certificate.value.as_ref();
        let certificate = certificate.and_then(|found| usable(found, &self.settings));
        let order = records.attempt.value.as_ref().and_then(|attempt| attempt.order.as_ref());
        let digest = order
            .filter(|order| order.domain == self.settings.domain_name)
            .and_then(|order| order.challenge);
        let challenge =
            digest.and_then(|digest| match answer(&self.settings.domain_name, &digest) {
                Ok(challenge) => Some(challenge),
                Err(error) => {
                    let error: &dyn Error = &error;
                    tracing::error!(error, "Could not make the answer to an ACME challenge");
                    None
                }
            });
        self.say(certificate.as_deref());
        self.not_after = certificate.as_ref().map(|found| found.not_after());
        let answered = challenge.is_some().then_some(digest).flatten();
        self.current.store(Arc::new(AcmeIdentity { certificate, challenge }));
        self.answered.send_replace(answered);
    }

    /// One line for each certificate, and one while there is none.
    fn say(&mut self, certificate: Option<&WebIdentity>) {
        let domain_name = &self.settings.domain_name;
        match certificate {
            Some(found) if self.not_after != Some(found.not_after()) => {
                let not_after = found.not_after().unix_s();
                tracing::info!(
                    domain_name,
                    not_after,
                    "Bundle endpoint presents a certificate of ACME"
                );
            }
            None if !self.said => tracing::warn!(
                domain_name,
                "Bundle endpoint has no certificate yet: clients are refused until the leader has one from the ACME server"
            ),
            Some(_) | None => {}
        }
        self.said = true;
    }

    fn measure(&self) {
        let left = self.not_after.map(|not_after| not_after.since(self.clock.now()));
        let days = left.map_or(0.0, |left| left.as_secs_f64() / DAY_S);
        metrics::gauge!("spire_server_bundle_endpoint_certificate_days_left").set(days);
    }
}

/// The certificate, if it is from the configured server and for the configured name.
pub(super) fn usable(found: &Certificate, settings: &AcmeSettings) -> Option<Arc<WebIdentity>> {
    if found.directory_url != settings.directory_url || found.domain != settings.domain_name {
        return None;
    }
    WebIdentity::from_pkcs8(found.chain_pem.as_bytes(), &found.key).ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{DigitallySignedStruct, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use steeple_spiffe_core::Secret;
    use steeple_spiffe_core::time::SystemClock;
    use steeple_spiffe_core::tls::{
        ACME_TLS_ALPN, PublicIdentity, WebTrust, public_server_config, web_client_config,
    };
    use tokio::net::TcpStream;

    use super::super::answer::new_key;
    use super::super::fake::{DOMAIN, FakeState, Log, settings};
    use super::super::record::{Attempt, PendingOrder};
    use super::super::state::Record;
    use super::*;
    use crate::endpoint::{Document, Documents, Endpoint};

    #[derive(Debug)]
    struct Nothing;

    impl Documents for Nothing {
        fn current(&self) -> Option<Arc<Document>> {
            None
        }
    }

    /// Takes anything: webpki reads no answer to a challenge.
    #[derive(Debug)]
    struct Anything;

    type Signed = Result<HandshakeSignatureValid, rustls::Error>;

    impl ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            _leaf: &CertificateDer<'_>,
            _chain: &[CertificateDer<'_>],
            _name: &ServerName<'_>,
            _ocsp: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _leaf: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Signed {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _leaf: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Signed {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    /// The leaf that is presented to a client that believes anybody.
    async fn leaf(at: SocketAddr, name: &'static str, protocols: &[&[u8]]) -> Option<Vec<u8>> {
        let config = web_client_config(&WebTrust::Nobody, None, Arc::new(SystemClock));
        let mut config = config.unwrap();
        config.dangerous().set_certificate_verifier(Arc::new(Anything));
        config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
        let stream = TcpStream::connect(at).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name.try_into().unwrap(), stream).await.ok()?;
        Some(stream.get_ref().1.peer_certificates()?[0].to_vec())
    }

    fn certificate() -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
        Certificate {
            directory_url: settings().directory_url,
            domain: DOMAIN.to_owned(),
            chain_pem: params.self_signed(&key).unwrap().pem(),
            key: Secret::new(key.serialize_der()),
        }
    }

    fn attempt(challenge: Option<Digest>) -> Record {
        let order = PendingOrder {
            directory_url: settings().directory_url,
            domain: DOMAIN.to_owned(),
            url: "order".to_owned(),
            key: new_key().unwrap(),
            challenge,
        };
        Record::Attempt(Attempt { order: Some(order), ..Attempt::default() })
    }

    #[tokio::test]
    async fn handshakes_get_the_certificate_and_acmes_alone_the_answer() {
        let (state, stop) = (FakeState::new(&Log::default()), CancellationToken::new());
        let answered = Arc::new(watch::Sender::new(None));
        let mut board = answered.subscribe();
        let shared: Arc<dyn AcmeState> = Arc::<FakeState>::clone(&state);
        let presenter = Presenter::new(settings(), shared, Arc::new(SystemClock), answered);
        let current = presenter.current();
        let identity = PublicIdentity::Acme(presenter.current());
        let tls = public_server_config(identity, Arc::new(SystemClock)).unwrap();
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = endpoint.address();
        tokio::spawn(presenter.run(stop.clone()));
        tokio::spawn(endpoint.run(tls, Arc::new(Nothing), stop.clone()));
        let web: &[&[u8]] = &[b"h2", b"http/1.1"];
        let acme: &[&[u8]] = &[ACME_TLS_ALPN];
        assert_eq!(leaf(at, DOMAIN, web).await, None, "there is no certificate yet");
        assert_eq!(leaf(at, DOMAIN, acme).await, None, "nor a challenge");

        state.save(attempt(Some([7; 32])), 0).await.unwrap();
        board.wait_for(|answered| *answered == Some([7; 32])).await.unwrap();
        let answer = leaf(at, DOMAIN, acme).await.unwrap();
        assert!(answer.windows(32).any(|part| part == [7; 32]), "it holds the digest");
        assert_eq!(leaf(at, "other.example.test", acme).await, None, "another name");
        assert_eq!(leaf(at, DOMAIN, web).await, None, "the answer is no certificate");
        assert_eq!(leaf(at, DOMAIN, &[b"h2", ACME_TLS_ALPN]).await, None, "one protocol alone");

        let certificate = certificate();
        let expected = usable(&certificate, &settings()).unwrap().leaf().to_vec();
        state.save(Record::Certificate(certificate), 0).await.unwrap();
        state.save(attempt(None), 1).await.unwrap();
        board.wait_for(Option::is_none).await.unwrap();
        assert!(current.load().challenge.is_none());
        assert_eq!(leaf(at, DOMAIN, web).await, Some(expected.clone()));
        assert_eq!(leaf(at, DOMAIN, &[]).await, Some(expected));
        assert_eq!(leaf(at, DOMAIN, acme).await, None, "no challenge any more");
        stop.cancel();
    }
}

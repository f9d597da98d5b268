//! Against a real server of certificates that looks at the endpoint's own port.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{PublicIdentity, WebTrust, public_server_config, web_client_config};
use steeple_testkit::{Pebble, PebbleSpec, pebble, ports, skip};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fake::{DOMAIN, FakeState, Log};
use super::{AcmeSettings, AcmeState, InstantAcme, Orderer, Presenter, standing};
use crate::endpoint::{Document, Documents, Endpoint};

const SOON: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Nothing;

impl Documents for Nothing {
    fn current(&self) -> Option<Arc<Document>> {
        None
    }
}

/// The endpoint with what is kept of its certificate.
struct Served {
    state: Arc<FakeState>,
    settings: AcmeSettings,
    port: u16,
    stop: CancellationToken,
}

async fn serve(settings: AcmeSettings, port: u16) -> Served {
    let (state, stop) = (FakeState::new(&Log::default()), CancellationToken::new());
    let answered = Arc::new(watch::Sender::new(None));
    let clock = Arc::new(SystemClock);
    let shared: Arc<dyn AcmeState> = Arc::<FakeState>::clone(&state);
    let presenter = Presenter::new(settings.clone(), shared, clock, answered);
    let identity = PublicIdentity::Acme(presenter.current());
    let tls = public_server_config(identity, Arc::new(SystemClock)).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let endpoint = Endpoint::bind(address).await.unwrap();
    tokio::spawn(presenter.run(stop.clone()));
    tokio::spawn(endpoint.run(tls, Arc::new(Nothing), stop.clone()));
    Served { state, settings, port, stop }
}

impl Served {
    /// A handshake by a client that trusts the server's root alone.
    async fn handshake(&self, root: &[u8]) -> std::io::Result<Vec<u8>> {
        let trust = WebTrust::Roots(vec![root.to_vec()]);
        let config = web_client_config(&trust, None, Arc::new(SystemClock)).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(DOMAIN.try_into().unwrap(), stream).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    }

    fn orderer(&self, acme: &InstantAcme) -> Orderer {
        Orderer {
            settings: self.settings.clone(),
            acme: Arc::new(acme.clone()),
            state: Arc::<FakeState>::clone(&self.state),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// Leads until the records are as they should be.
    async fn lead_until(&self, acme: &InstantAcme, done: impl Fn(&super::Records) -> bool) {
        let mut records = self.state.records.subscribe();
        let orderer = self.orderer(acme);
        let waited = tokio::time::timeout(SOON, async {
            tokio::select! {
                () = orderer.lead() => {}
                found = records.wait_for(|records| done(records)) => drop(found.unwrap()),
            }
        });
        let waited = waited.await;
        assert!(waited.is_ok(), "{:?}", self.state.records());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_validates_at_the_endpoint_and_its_certificate_is_renewed() {
    let programs = match pebble::install() {
        Ok(programs) => programs,
        Err(error) => return skip::record("pebble", &format!("{error:#}")),
    };
    let folder = tempfile::tempdir().unwrap();
    let [port] = ports::lease().unwrap();
    let spec = PebbleSpec { tls_port: port, validity: Duration::from_secs(12) };
    let pebble = Pebble::start(&programs, folder.path(), &spec).await.unwrap();
    let trust = WebTrust::Roots(vec![pebble.server_root().to_vec()]);
    let acme = InstantAcme::new(&trust, Arc::new(SystemClock)).unwrap();
    let settings = |tos_accepted| AcmeSettings {
        directory_url: pebble.directory_url(),
        domain_name: DOMAIN.into(),
        email: Some("admin@example.test".into()),
        tos_accepted,
    };

    // Terms that are not agreed to: it says so, and what to do.
    let refused = serve(settings(false), port).await;
    let has_failed = |records: &super::Records| {
        records.attempt.value.as_ref().is_some_and(|attempt| attempt.failures > 0)
    };
    refused.lead_until(&acme, has_failed).await;
    let said = standing(&refused.state.records(), &refused.settings, super::fake::START).error;
    assert!(said.contains("ACME server refuses: "), "{said}");
    assert!(said.to_lowercase().contains("terms of service"), "{said}");
    assert!(said.contains("set tos_accepted = true"), "{said}");
    refused.stop.cancel();

    let served = loop {
        // The port of before is let go within moments.
        if TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            break serve(settings(true), port).await;
        }
        tokio::task::yield_now().await;
    };
    let root = pebble.issuing_root().await.unwrap();
    let none = served.handshake(&root).await.unwrap_err().to_string();
    assert!(none.contains("fatal alert"), "{none}");
    let leaves = Mutex::new(Vec::new());
    for version in 1..=2 {
        served.lead_until(&acme, |records| records.certificate.version >= version).await;
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            match served.handshake(&root).await {
                Ok(leaf) if !leaves.lock().unwrap().contains(&leaf) => {
                    leaves.lock().unwrap().push(leaf);
                    break;
                }
                Ok(_) | Err(_) => assert!(tokio::time::Instant::now() < deadline),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    served.stop.cancel();
}

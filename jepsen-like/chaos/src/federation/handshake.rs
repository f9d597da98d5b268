//! Mutual TLS between the workloads of both sides, once a second in each direction, with what each
//! presents and holds at that moment.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use rustls_pki_types::ServerName;
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{AcceptId, BundleSource, Identity, client_config, server_config};
use steeple_spiffe_core::{SpiffeId, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::guest::{Guest, Presented};
use super::ledger::{Kind, View};
use super::side::Which;
use super::{Shared, lock};

/// Between two.
const EVERY: Duration = Duration::from_secs(1);

/// None takes longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes under way between the two ends.
const PIPE_BYTES: usize = 16 << 10;

/// What came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Handshakes {
    /// Both ends took the other.
    pub(super) good: u64,
    /// An end refused, as it is due beyond a cut that was too long.
    pub(super) refused: u64,
    /// One of the workloads had no SVID that lives.
    pub(super) without: u64,
    /// An end refused, and should not have.
    pub(super) failed: Vec<String>,
}

/// Shakes hands until told to stop.
pub(super) async fn run(
    guests: [Guest; 2],
    ledger: Shared,
    done: Arc<Mutex<Handshakes>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let [one, other] = &guests;
    loop {
        tokio::select! {
            _stopped = stop.wait_for(|stop| *stop) => return,
            _due = ticks.tick() => {}
        }
        for [client, server] in [[one, other], [other, one]] {
            let (Some(ours), Some(theirs)) = (client.presents(), server.presents()) else {
                lock(&done).without += 1;
                continue;
            };
            let was_closed = is_closed(&ledger);
            let ends =
                [End::of(client.which, &ours, &ledger), End::of(server.which, &theirs, &ledger)];
            let shaken = tokio::time::timeout(PATIENCE, shake(ends)).await;
            let shaken = shaken.context("it takes too long").and_then(|shaken| shaken);
            // What ended meanwhile is no fault of anybody's.
            let is_over = client.presents().is_none() || server.presents().is_none();
            let mut done = lock(&done);
            match shaken {
                Ok(()) => done.good += 1,
                Err(_refused) if was_closed || is_closed(&ledger) => done.refused += 1,
                Err(_ended) if is_over => done.without += 1,
                Err(error) => {
                    let (from, to) = (client.which.name(), server.which.name());
                    done.failed.push(format!("a handshake from {from} to {to}: {error:#}"));
                }
            }
        }
    }
}

fn is_closed(ledger: &Shared) -> bool {
    let ledger = lock(ledger);
    Which::BOTH.into_iter().any(|which| ledger.is_closed(which))
}

/// What one end presents, and whom it believes.
struct End {
    identity: Presented,
    other: Which,
    roots: Vec<Vec<u8>>,
}

impl End {
    fn of(which: Which, identity: &Presented, ledger: &Shared) -> Self {
        let view = View { of: which.other(), by: which, kind: Kind::X509 };
        let held = lock(ledger).held(view).cloned().unwrap_or_default();
        Self {
            identity: identity.clone(),
            other: which.other(),
            roots: held.into_values().collect(),
        }
    }

    fn identity(&self) -> Result<Arc<ArcSwap<Identity>>> {
        let identity = Identity::new(self.identity.chain.clone(), &self.identity.key)?;
        Ok(Arc::new(ArcSwap::new(identity)))
    }

    fn bundles(&self) -> Result<Arc<dyn BundleSource>> {
        let x509 = self
            .roots
            .iter()
            .map(|der| X509Authority { certificate_der: der.clone(), tainted: false });
        let empty = Bundle::empty(TrustDomain::parse(self.other.name())?);
        Ok(Arc::new(One(Arc::new(Bundle { x509_authorities: x509.collect(), ..empty }))))
    }

    fn accept(&self) -> Result<AcceptId> {
        let expected = SpiffeId::parse(&self.other.workload())?;
        Ok(Arc::new(move |id: &SpiffeId| *id == expected))
    }
}

#[derive(Debug)]
struct One(Arc<Bundle>);

impl BundleSource for One {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.0.trust_domain == *trust_domain).then(|| Arc::clone(&self.0))
    }
}

/// Both ends have to take the other, and a byte has to come through.
async fn shake([client, server]: [End; 2]) -> Result<()> {
    let clock = || Arc::new(SystemClock);
    let connector =
        client_config(Some(client.identity()?), client.bundles()?, client.accept()?, clock())?;
    let acceptor = server_config(server.identity()?, server.bundles()?, server.accept()?, clock())?;
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let name = ServerName::try_from("localhost").context("a name")?;
    let ours = async {
        let mut stream = TlsConnector::from(connector).connect(name, near).await?;
        stream.write_u8(7).await?;
        stream.read_u8().await
    };
    let theirs = async {
        let mut stream = TlsAcceptor::from(acceptor).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    };
    let (ours, theirs) = tokio::join!(ours, theirs);
    theirs.context("the server")?;
    ensure!(ours.context("the client")? == 7, "another byte came back");
    Ok(())
}

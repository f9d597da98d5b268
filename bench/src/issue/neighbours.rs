//! Trust domains that serve their bundles: a listener each, within this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use steeple_spiffe_core::bundle::document::{DocumentOptions, to_json};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{PublicIdentity, public_server_config};
use steeple_spiffe_core::{SpiffeId, TrustDomain};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::echo::identity;

/// A trust domain that is fetched from.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) bundle: Bundle,
    pub(super) port: u16,
    asked: Arc<AtomicU64>,
}

impl Neighbour {
    /// How many documents it has sent.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// So many of them that state a refresh hint, for as long as this process runs.
pub(super) async fn start(count: usize, hint: Duration) -> Result<Vec<Neighbour>> {
    let mut neighbours = Vec::new();
    for number in 0..count {
        let name = format!("neighbour-{number}.test");
        neighbours.push(neighbour(TrustDomain::parse(&name)?, hint).await?);
    }
    Ok(neighbours)
}

async fn neighbour(trust_domain: TrustDomain, hint: Duration) -> Result<Neighbour> {
    let (identity, root) = identity::signed(&SpiffeId::server(trust_domain.clone()))?;
    let identity = PublicIdentity::Spiffe(Arc::new(ArcSwap::new(identity)));
    let tls = TlsAcceptor::from(public_server_config(identity, Arc::new(SystemClock))?);
    let bundle = Bundle {
        x509_authorities: vec![X509Authority { certificate_der: root, tainted: false }],
        refresh_hint_s: i64::try_from(hint.as_secs()).context("a hint")?,
        sequence_number: 1,
        ..Bundle::empty(trust_domain)
    };
    let options = DocumentOptions { include_sequence: true, jwks_only: false };
    let document = Bytes::from(to_json(&bundle, options));
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let port = listener.local_addr().context("a port")?.port();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(tls.clone(), stream, document.clone(), Arc::clone(&count)));
        }
    });
    Ok(Neighbour { bundle, port, asked })
}

/// Serves a connection until the caller leaves it.
async fn serve(tls: TlsAcceptor, stream: TcpStream, document: Bytes, asked: Arc<AtomicU64>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |_request: http::Request<Incoming>| {
        asked.fetch_add(1, Ordering::Relaxed);
        let response = http::Response::new(Full::new(document.clone()));
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

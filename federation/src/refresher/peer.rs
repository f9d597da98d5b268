//! A peer of tests: authorities and endpoints as good or as bad as a test wants them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::tls::{PublicIdentity, WebIdentity, public_server_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// When tests take place: 2027-01-15, 08:00 UTC. Certificates begin then.
pub(crate) const NOW: Timestamp = Timestamp::from_unix_s(1_800_000_000);

/// An X.509 authority with its key.
pub(crate) struct Authority {
    pub(crate) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

/// An authority whose certificate names this URI.
pub(crate) fn authority(uri: &str, lifetime: Duration) -> Authority {
    let mut params = params(uri, lifetime);
    // Two of one name would be taken for one another, and told apart by a bad signature.
    let number = AUTHORITIES.fetch_add(1, Ordering::SeqCst);
    params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn params(uri: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(2027, 1, 15) + Duration::from_secs(8 * 3600);
    params.not_after = params.not_before + lifetime;
    params
}

impl Authority {
    /// An endpoint's certificate: by a SPIFFE id and, where names are given, by names of hosts.
    pub(crate) fn endpoint(&self, id: &str, names: &[&str], lifetime: Duration) -> WebIdentity {
        let mut params = params(id, lifetime);
        let names = names.iter().map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
        params.subject_alt_names.extend(names);
        if id.is_empty() {
            params.subject_alt_names.remove(0);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let made = WebIdentity::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes());
        Arc::into_inner(made.unwrap()).unwrap()
    }
}

/// Soon enough that no patience with a single read ends it.
const DRIP_EVERY: Duration = Duration::from_millis(50);

/// What a peer does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection, of which TLS is told nothing.
    Torn(Vec<u8>),
    /// These bytes, and nothing more.
    Stuck(Vec<u8>),
    /// These bytes, then a blank now and then, without end.
    Drip(Vec<u8>),
}

impl Reply {
    /// An answer with a body.
    pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(
            format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
                .into_bytes(),
        )
    }
}

/// A running endpoint, for as long as the test's runtime lives.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    /// Whoever listens there.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, asked: Arc::default() }
    }

    /// Answers each request by its number, from 0.
    pub(crate) async fn start(
        identity: WebIdentity,
        reply: impl Fn(usize, SocketAddr) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let identity = PublicIdentity::Web(Arc::new(ArcSwap::from_pointee(identity)));
        let tls = public_server_config(identity, Arc::new(FixedClock::new(NOW))).unwrap();
        let acceptor = TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, reply) = (Arc::clone(&asked), Arc::new(reply));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                let reply = Arc::clone(&reply);
                tokio::spawn(async move {
                    let number = || count.fetch_add(1, Ordering::SeqCst);
                    serve(acceptor, stream, || reply(number(), address)).await
                });
            }
        });
        Self { address, asked }
    }

    /// How many requests came in.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Serves one request. A client that goes away ends it.
async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    reply: impl FnOnce() -> Reply,
) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    match reply() {
        Reply::Bytes(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()
        }
        Reply::Torn(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.flush().await.ok()
        }
        Reply::Stuck(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.flush().await.ok()?;
            stream.read_u8().await.ok().map(drop)
        }
        Reply::Drip(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            loop {
                stream.flush().await.ok()?;
                tokio::time::sleep(DRIP_EVERY).await;
                stream.write_all(b" ").await.ok()?;
            }
        }
    }
}

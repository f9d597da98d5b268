//! The endpoint by a client that no one here wrote, over real TLS.

use std::sync::Mutex;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use rcgen::{CertificateParams, KeyPair};
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::{
    PublicIdentity, WebIdentity, WebTrust, public_server_config, web_client_config,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[derive(Debug, Default)]
struct Held(Mutex<Option<Arc<Document>>>);

impl Documents for Held {
    fn current(&self) -> Option<Arc<Document>> {
        self.0.lock().expect("lock").clone()
    }
}

struct Scene {
    address: SocketAddr,
    held: Arc<Held>,
    client: rustls::ClientConfig,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn scene() -> Scene {
    scene_with(REQUEST_TIMEOUT).await
}

async fn scene_with(request_timeout: Duration) -> Scene {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("name");
    let certificate = params.self_signed(&key).expect("certificate");
    let identity =
        WebIdentity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    let identity = PublicIdentity::Web(Arc::new(ArcSwap::new(identity.expect("identity"))));
    let tls = public_server_config(identity, Arc::new(SystemClock)).expect("TLS");
    let trust = WebTrust::Roots(vec![certificate.der().to_vec()]);
    let client = web_client_config(&trust, None, Arc::new(SystemClock)).expect("TLS");
    let endpoint = Endpoint::bind("127.0.0.1:0".parse().expect("address")).await.expect("bind");
    let endpoint = Endpoint { request_timeout, ..endpoint };
    let address = endpoint.address();
    let (held, shutdown) = (Arc::new(Held::default()), CancellationToken::new());
    let documents: Arc<dyn Documents> = Arc::clone(&held) as _;
    let serving = tokio::spawn(endpoint.run(tls, documents, shutdown.clone()));
    Scene { address, held, client, shutdown, serving }
}

impl Scene {
    async fn dial(&self, protocol: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = self.client.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let name = "localhost".try_into().expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.expect("handshake")
    }

    fn hold(&self, sequence_number: u64) -> Arc<Document> {
        let own = TrustDomain::parse("example.org").expect("name");
        let bundle = Bundle { sequence_number, ..Bundle::empty(own) };
        let document = Arc::new(Document::of(&bundle, Duration::from_secs(300)));
        *self.held.0.lock().expect("lock") = Some(Arc::clone(&document));
        document
    }
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("https://localhost/").body(Empty::new()).expect("request")
}

#[tokio::test]
async fn both_versions_of_http_get_what_is_current() {
    let scene = scene().await;
    let one = TokioIo::new(scene.dial(b"http/1.1").await);
    let (mut one, connection) = hyper::client::conn::http1::handshake(one).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let missing = one.send_request(get()).await.expect("answer");
    assert_eq!(missing.status(), 500);
    missing.into_body().collect().await.expect("body");
    let two = TokioIo::new(scene.dial(b"h2").await);
    let two = hyper::client::conn::http2::handshake(TokioExecutor::new(), two).await;
    let (mut two, connection) = two.expect("HTTP/2");
    tokio::spawn(connection);
    for sequence in [1, 2] {
        let document = scene.hold(sequence);
        for answer in [one.send_request(get()).await, two.send_request(get()).await] {
            let answer = answer.expect("answer");
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.expect("body").to_bytes();
            assert_eq!(&body, document.body());
        }
    }
    // Open and idle: they do not hold the stop up.
    scene.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(3), scene.serving).await.expect("end").expect("end");
}

#[tokio::test]
async fn heads_are_bounded_and_one_connection_too_many_ends_the_oldest() {
    let scene = scene().await;
    scene.hold(1);
    let mut endless = scene.dial(b"http/1.1").await;
    endless.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nx: ").await.expect("write");
    // The server may have ended it before all is written.
    endless.write_all(&vec![b'a'; 4 * HEAD_BYTES_MAX as usize]).await.ok();
    let mut answer = Vec::new();
    endless.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut crowded = scene.dial(b"http/1.1").await;
    let fields: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    crowded.write_all(head.as_bytes()).await.expect("write");
    let mut answer = Vec::new();
    crowded.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut oldest = TcpStream::connect(scene.address).await.expect("connect");
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(TcpStream::connect(scene.address).await.expect("connect"));
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), oldest.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    let (mut one, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(scene.dial(b"http/1.1").await))
            .await
            .expect("HTTP/1.1");
    tokio::spawn(connection);
    assert_eq!(one.send_request(get()).await.expect("answer").status(), 200);
    scene.shutdown.cancel();
}

#[tokio::test]
async fn whoever_asks_nothing_after_the_handshake_is_let_go() {
    let scene = scene_with(Duration::from_secs(1)).await;
    scene.hold(1);
    let two = TokioIo::new(scene.dial(b"h2").await);
    let two = hyper::client::conn::http2::handshake(TokioExecutor::new(), two).await;
    let (mut asks, connection) = two.expect("HTTP/2");
    tokio::spawn(connection);
    assert_eq!(asks.send_request(get()).await.expect("answer").status(), 200);

    let mut greets = scene.dial(b"h2").await;
    let preface_and_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    greets.write_all(preface_and_settings).await.expect("write");
    greets.flush().await.expect("write");
    let silent = [scene.dial(b"http/1.1").await, scene.dial(b"h2").await, greets];
    for (number, mut stream) in silent.into_iter().enumerate() {
        let mut read = Vec::new();
        let ended = stream.read_to_end(&mut read);
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        assert!(ended.is_ok(), "{number} is still there");
    }
    // Whoever has asked once may ask again.
    assert_eq!(asks.send_request(get()).await.expect("answer").status(), 200);
    scene.shutdown.cancel();
}

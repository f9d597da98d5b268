//! TLS configurations against each other, in memory: who is let in, who is not, and that identity
//! and trust can change under a configuration that is in use.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::X509Svid;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::tls::{
    BundleSource, Identity, TlsError, client_config, insecure_bootstrap_client_config,
    server_config,
};
use steeple_spiffe_core::{Clock, KeyType, SpiffeId, TrustDomain};

use crate::fixture::{Ca, bundle, id, key, now, seconds, trust_domain};

/// A bundle that tests swap.
#[derive(Debug)]
struct Trusted(Mutex<Arc<Bundle>>);

impl Trusted {
    fn of(ca: &Ca) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bundle(vec![ca.authority()], vec![]))))
    }

    fn set(&self, ca: &Ca) {
        *self.0.lock().expect("no panic") = bundle(vec![ca.authority()], vec![]);
    }
}

impl BundleSource for Trusted {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        let bundle = Arc::clone(&self.0.lock().expect("no panic"));
        (bundle.trust_domain == *trust_domain).then_some(bundle)
    }
}

fn identity(ca: &Ca, path: &str) -> Arc<Identity> {
    let (leaf, secret) = ca.leaf(path);
    Identity::new(vec![leaf], &secret).expect("an identity")
}

fn current(identity: Arc<Identity>) -> Arc<ArcSwap<Identity>> {
    Arc::new(ArcSwap::new(identity))
}

fn clock() -> Arc<FixedClock> {
    Arc::new(FixedClock::new(now()))
}

fn server(ca: &Ca, trusted: &Arc<Trusted>, clock: &Arc<FixedClock>) -> Arc<ServerConfig> {
    let accept = Arc::new(|id: &SpiffeId| id.is_agent());
    let identity = current(identity(ca, "/spire/server"));
    let clock: Arc<dyn Clock> = clock.clone();
    server_config(identity, trusted.clone(), accept, clock).expect("a configuration")
}

fn client(identity: Option<Arc<Identity>>, trusted: &Arc<Trusted>) -> Arc<ClientConfig> {
    let expect = Arc::new(|id: &SpiffeId| id.is_server());
    let identity = identity.map(current);
    client_config(identity, trusted.clone(), expect, clock()).expect("a configuration")
}

/// What a handshake ended in.
struct Done {
    server: ServerConnection,
    client: ClientConnection,
}

/// Runs a handshake to its end in memory; the error is that of the side that refused.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<Done, rustls::Error> {
    let name = ServerName::try_from("ignored.example").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        feed(&mut wire.as_slice(), |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        feed(&mut wire.as_slice(), |bytes| client.read_tls(bytes));
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Done { server, client })
}

fn feed(bytes: &mut &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(bytes).expect("memory");
    }
}

fn peer(certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Option<SpiffeId> {
    let chain: Vec<Vec<u8>> = certificates?.iter().map(|der| der.to_vec()).collect();
    Some(X509Svid::parse_chain(&chain).expect("an SVID").id)
}

#[test]
fn both_sides_know_each_other_after_the_handshake() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let trusted = Trusted::of(&ca);
    let agent = identity(&ca, "/spire/agent/x");
    let done = handshake(&client(Some(agent), &trusted), &server(&ca, &trusted, &clock())).unwrap();
    assert_eq!(peer(done.server.peer_certificates()), Some(id("/spire/agent/x")));
    assert_eq!(peer(done.client.peer_certificates()), Some(id("/spire/server")));
    assert_eq!(done.server.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(done.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(done.server.server_name(), None, "no host name is sent");
}

#[test]
fn client_without_a_certificate_is_let_in() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let trusted = Trusted::of(&ca);
    let done = handshake(&client(None, &trusted), &server(&ca, &trusted, &clock())).unwrap();
    assert_eq!(peer(done.server.peer_certificates()), None);
}

#[test]
fn strangers_and_unwelcome_ids_are_refused() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let stranger = Ca::new(KeyType::EcP256, 2);
    let trusted = Trusted::of(&ca);
    let server_config = server(&ca, &trusted, &clock());
    let refusal = |client: &Arc<ClientConfig>, server: &Arc<ServerConfig>| {
        handshake(client, server).err().expect("a refusal").to_string()
    };

    let forged = client(Some(identity(&stranger, "/spire/agent/x")), &trusted);
    assert!(refusal(&forged, &server_config).contains("UnknownIssuer"));
    let unwelcome = client(Some(identity(&ca, "/workload")), &trusted);
    let text = refusal(&unwelcome, &server_config);
    assert!(
        text.contains("unexpected peer \"spiffe://example.org/workload\"")
            || text.contains("UnexpectedId(\"spiffe://example.org/workload\")"),
        "{text}"
    );
    let impostor = server(&stranger, &trusted, &clock());
    assert!(refusal(&client(None, &trusted), &impostor).contains("UnknownIssuer"));

    let expect_other: Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync> = Arc::new(|_| false);
    let picky = client_config(None, trusted.clone(), expect_other, clock()).unwrap();
    assert!(refusal(&picky, &server_config).contains("spiffe://example.org/spire/server"));
}

#[test]
fn expired_certificates_are_refused_by_our_clock() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let trusted = Trusted::of(&ca);
    let clock = clock();
    let server = server(&ca, &trusted, &clock);
    let agent = client(Some(identity(&ca, "/spire/agent/x")), &trusted);
    assert!(handshake(&agent, &server).is_ok());
    clock.advance(seconds(3700));
    let text = handshake(&agent, &server).err().expect("a refusal").to_string();
    assert!(text.contains("expired"), "{text}");
}

#[test]
fn identity_and_trust_change_under_a_configuration_and_no_session_is_resumed() {
    let (old, new) = (Ca::new(KeyType::EcP256, 1), Ca::new(KeyType::EcP384, 2));
    let trusted_by_server = Trusted::of(&old);
    let trusted_by_client = Trusted::of(&old);
    let own = current(identity(&old, "/spire/server"));
    let accept: Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync> = Arc::new(|id| id.is_agent());
    let server = server_config(own.clone(), trusted_by_server.clone(), accept, clock()).unwrap();
    let client = client(Some(identity(&old, "/spire/agent/x")), &trusted_by_client);
    for _ in 0..3 {
        let done = handshake(&client, &server).unwrap();
        assert_eq!(done.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    // The old authority is revoked: the same client and server configurations must refuse it.
    trusted_by_server.set(&new);
    assert!(handshake(&client, &server).is_err(), "a session must not outlive its authority");
    trusted_by_server.set(&old);
    own.store(identity(&new, "/spire/server"));
    assert!(handshake(&client, &server).is_err(), "the client does not trust the new one yet");
    trusted_by_client.set(&new);
    assert!(handshake(&client, &server).is_ok());
}

#[test]
fn insecure_bootstrap_takes_any_authority_but_only_the_expected_id() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let trusted = Trusted::of(&ca);
    let server = server(&ca, &trusted, &clock());
    let right = SpiffeId::server(trust_domain());
    assert!(handshake(&insecure_bootstrap_client_config(right).unwrap(), &server).is_ok());
    let wrong = SpiffeId::server(TrustDomain::parse("other.org").unwrap());
    assert!(handshake(&insecure_bootstrap_client_config(wrong).unwrap(), &server).is_err());
}

#[test]
fn identity_needs_a_key_that_fits_its_certificate() {
    let ca = Ca::new(KeyType::EcP256, 1);
    let (leaf, secret) = ca.leaf("/x");
    let (_, other) = key(KeyType::EcP256);
    assert!(matches!(Identity::new(vec![leaf.clone()], &other), Err(TlsError::KeyMismatch)));
    assert!(matches!(Identity::new(vec![], &secret), Err(TlsError::BadChain(_))));
    let garbage = steeple_spiffe_core::Secret::new(vec![1]);
    assert!(matches!(Identity::new(vec![leaf.clone()], &garbage), Err(TlsError::BadKey(_))));
    let identity = Identity::new(vec![leaf], &secret).unwrap();
    assert_eq!(identity.svid().id, id("/x"));
    let printed = format!("{identity:?}");
    assert!(printed.contains("/x") || printed.contains("\"x\""), "{printed}");
}

//! Fetches from peers of every kind, over real TLS.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::bundle::X509Authority;
use steeple_spiffe_core::bundle::document::{self, DocumentOptions};
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::tls::WebTrust;
use steeple_spiffe_core::{
    Bundle, EndpointProfile, EndpointUrl, FederationRelationship, SpiffeId, TrustDomain,
};

use super::fetch::{Fetch as _, FetchError, HttpsFetcher, Source};
use super::peer::{Authority, NOW, Peer, Reply, authority};
use crate::https::ANSWER_BYTES_MAX;

const HOUR: Duration = Duration::from_secs(3600);
const SERVER: &str = "spiffe://bar.test/spire/server";
const DOING: &str = "failed to fetch federated bundle from endpoint: ";

fn td() -> TrustDomain {
    TrustDomain::parse("bar.test").unwrap()
}

fn bundle(authorities: &[&Authority]) -> Bundle {
    let authority =
        |one: &&Authority| X509Authority { certificate_der: one.der.clone(), tainted: false };
    let x509_authorities = authorities.iter().map(authority).collect();
    Bundle { x509_authorities, refresh_hint_s: 300, sequence_number: 7, ..Bundle::empty(td()) }
}

fn json(bundle: &Bundle) -> String {
    document::to_json(bundle, DocumentOptions { include_sequence: true, jwks_only: false })
}

fn served(bundle: &Bundle) -> Reply {
    Reply::answer(200, "Content-Type: application/json\r\n", &json(bundle))
}

/// Fetches from a peer as `https_spiffe` with this id, trusting this bundle.
async fn by_id(peer: &Peer, id: &str, trusted: Option<&Bundle>) -> Result<Bundle, FetchError> {
    let endpoint_id = SpiffeId::parse(id).unwrap();
    let source = Source {
        relationship: relationship(peer, EndpointProfile::HttpsSpiffe { endpoint_id }),
        endpoint_bundle: trusted.cloned().map(Arc::new),
    };
    fetcher(WebTrust::Roots(Vec::new()), 30).fetch(source).await
}

/// Fetches from a peer as `https_web`, trusting this authority.
async fn by_name(peer: &Peer, trusted: &Authority) -> Result<Bundle, FetchError> {
    let relationship = relationship(peer, EndpointProfile::HttpsWeb);
    let source = Source { relationship, endpoint_bundle: None };
    fetcher(WebTrust::Roots(vec![trusted.der.clone()]), 30).fetch(source).await
}

fn fetcher(web: WebTrust, seconds: u64) -> HttpsFetcher {
    HttpsFetcher::with(Arc::new(FixedClock::new(NOW)), web, Duration::from_secs(seconds))
}

fn relationship(peer: &Peer, profile: EndpointProfile) -> Arc<FederationRelationship> {
    let url = format!("https://{}/bundle", peer.address);
    Arc::new(FederationRelationship {
        trust_domain: td(),
        endpoint_url: EndpointUrl::parse(&url).unwrap(),
        profile,
    })
}

/// What went wrong, with all causes, without the address of the peer.
fn told(peer: &Peer, fetched: Result<Bundle, FetchError>) -> String {
    let error = fetched.expect_err("it is refused");
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(&peer.address.to_string(), "PEER")
}

async fn peer_of(root: &Authority, reply: Reply) -> Peer {
    Peer::start(root.endpoint(SERVER, &[], HOUR), move |_, _| reply.clone()).await
}

#[tokio::test]
async fn both_profiles_get_the_bundle() {
    let root = authority("spiffe://bar.test", HOUR);
    let expected = bundle(&[&root, &authority("spiffe://bar.test", HOUR)]);
    let peer = peer_of(&root, served(&expected)).await;
    assert_eq!(by_id(&peer, SERVER, Some(&bundle(&[&root]))).await.unwrap(), expected);

    let document = served(&expected);
    let named = root.endpoint("", &["127.0.0.1"], HOUR);
    let peer = Peer::start(named, move |_, _| document.clone()).await;
    assert_eq!(by_name(&peer, &root).await.unwrap(), expected);
}

#[tokio::test]
async fn only_the_one_id_below_the_known_bundle_is_believed() {
    let root = authority("spiffe://bar.test", HOUR);
    let stranger = authority("spiffe://bar.test", HOUR);
    let known = bundle(&[&root]);
    let peer = peer_of(&root, served(&known)).await;
    let get = format!("{DOING}failed to fetch bundle: Get \"https://PEER/bundle\": ");
    let invalid = format!("{get}invalid peer certificate: ");

    let other = by_id(&peer, "spiffe://bar.test/other", Some(&known)).await;
    assert_eq!(told(&peer, other), format!("{get}unexpected ID \"{SERVER}\""));
    let foreign = by_id(&peer, SERVER, Some(&bundle(&[&stranger]))).await;
    let unknown = "x509svid: could not verify leaf certificate: x509: certificate signed by unknown \
                   authority; if the authorities of its trust domain were replaced while it was not \
                   fetched, set its bundle by \"bundle set\"";
    assert!(foreign.as_ref().is_err_and(|error| FetchError::is_lost_trust(error.class())));
    assert_eq!(told(&peer, foreign), format!("{get}{unknown}"));
    let none = by_id(&peer, SERVER, None).await;
    let text = "can't perform SPIFFE Authentication: local copy of bundle not found";
    assert_eq!(told(&peer, none), text);
    // The id's trust domain decides whose bundle counts, whatever else is at hand.
    let elsewhere = by_id(&peer, "spiffe://c.test/spire/server", Some(&known)).await;
    assert_eq!(told(&peer, elsewhere), text);
    let of_c = Bundle { trust_domain: TrustDomain::parse("c.test").unwrap(), ..known.clone() };
    let elsewhere = by_id(&peer, "spiffe://c.test/spire/server", Some(&of_c)).await;
    let expected = format!("{invalid}no bundle for trust domain \"bar.test\"");
    assert_eq!(told(&peer, elsewhere), expected);
    assert_eq!(peer.asked(), 0, "nobody else was asked anything");
}

#[tokio::test]
async fn an_endpoint_whose_certificate_has_ended_is_refused() {
    let root = authority("spiffe://bar.test", HOUR);
    let identity = root.endpoint(SERVER, &[], Duration::ZERO);
    let known = bundle(&[&root]);
    let reply = served(&known);
    let peer = Peer::start(identity, move |_, _| reply.clone()).await;
    let source = Source {
        relationship: relationship(
            &peer,
            EndpointProfile::HttpsSpiffe { endpoint_id: SpiffeId::parse(SERVER).unwrap() },
        ),
        endpoint_bundle: Some(Arc::new(known)),
    };
    let clock = FixedClock::new(NOW.plus(Duration::from_secs(60)));
    let late = HttpsFetcher::with(Arc::new(clock), WebTrust::System, HOUR).fetch(source).await;
    let text = told(&peer, late);
    assert!(text.contains("invalid peer certificate: certificate expired: "), "{text}");
}

#[tokio::test]
async fn a_server_of_the_web_with_a_spiffe_id_gets_the_hint() {
    let root = authority("spiffe://bar.test", HOUR);
    let peer = peer_of(&root, served(&bundle(&[&root]))).await;
    let expected = format!(
        "{DOING}failed to authenticate bundle endpoint using web authentication but the server \
         certificate contains SPIFFE ID \"{SERVER}\": maybe use https_spiffe instead of https_web: "
    );
    // Whether its authority is known or not.
    for trusted in [&root, &authority("urn:web", HOUR)] {
        let text = told(&peer, by_name(&peer, trusted).await);
        assert!(text.starts_with(&expected), "{text}");
    }
    // The name is right, and the authority is not: there is nothing to hint at.
    let reply = served(&bundle(&[&root]));
    let named = root.endpoint(SERVER, &["127.0.0.1"], HOUR);
    let peer = Peer::start(named, move |_, _| reply.clone()).await;
    let text = told(&peer, by_name(&peer, &authority("urn:web", HOUR)).await);
    assert!(text.ends_with(": invalid peer certificate: UnknownIssuer"), "{text}");
    let text = by_name(&peer, &root).await.map(|bundle| bundle.sequence_number);
    assert_eq!(text.unwrap(), 7);
}

#[tokio::test]
async fn answers_that_are_no_bundle_are_told_in_spires_words() {
    let root = authority("spiffe://bar.test", HOUR);
    let known = bundle(&[&root]);
    let text = json(&known);
    let ok = |body: &str| Reply::answer(200, "", body);
    let cut = text[..text.len() / 2].to_owned();
    let two_certificates = text.replace("\"x5c\": [", "\"x5c\": [\"AA==\",");
    let twice = text.replacen("\"keys\"", "\"keys\": [], \"keys\"", 1);
    let endless = "x".repeat(ANSWER_BYTES_MAX + 1);
    let short = format!("HTTP/1.1 200 x\r\nContent-Length: 99999\r\n\r\n{text}");
    type Case<'a> = (&'a str, Reply, &'a str);
    let table: [Case<'_>; 13] = [
        (
            "status",
            Reply::answer(503, "", "out of\norder"),
            "unexpected status 503 fetching bundle: out of order",
        ),
        ("no document", ok("<html>"), "failed to decode bundle: malformed bundle document: "),
        ("empty", ok(""), "failed to decode bundle: malformed bundle document: "),
        ("cut document", ok(&cut), "failed to decode bundle: malformed bundle document: "),
        ("a member twice", ok(&twice), "failed to decode bundle: malformed bundle document: "),
        ("no keys", ok("{}"), "failed to decode bundle: no authorities found"),
        (
            "another type",
            ok("{\"keys\": 1}"),
            "failed to decode bundle: malformed bundle document: keys is not a list",
        ),
        (
            "two certificates",
            ok(&two_certificates),
            "expected a single certificate in x509-svid entry 0; got 2",
        ),
        (
            "no key id",
            ok("{\"keys\": [{\"use\": \"jwt-svid\"}]}"),
            "missing key ID in jwt-svid entry 0",
        ),
        (
            "huge",
            ok(&endless),
            "failed to fetch bundle: Get \"https://PEER/bundle\": answer has more than 1048576 bytes",
        ),
        (
            "cut answer",
            Reply::Bytes(short.clone().into_bytes()),
            "failed to fetch bundle: Get \"https://PEER/bundle\": answer is cut short or malformed: ",
        ),
        (
            "cut connection",
            Reply::Torn(short.into_bytes()),
            "failed to fetch bundle: Get \"https://PEER/bundle\": answer is cut short or malformed: \
             the server ended the connection before its answer was whole",
        ),
        (
            "no HTTP",
            Reply::Bytes(b"220 smtp ready\r\n".to_vec()),
            "failed to fetch bundle: Get \"https://PEER/bundle\": answer is cut short or malformed: ",
        ),
    ];
    for (what, reply, expected) in table {
        let peer = peer_of(&root, reply).await;
        let text = told(&peer, by_id(&peer, SERVER, Some(&known)).await);
        assert!(text.starts_with(&format!("{DOING}{expected}")), "{what}: {text}");
        assert!(!text.contains("docs.rs"), "{what}: {text}");
    }
}

#[tokio::test]
async fn silent_and_slow_peers_are_given_up() {
    let root = authority("spiffe://bar.test", HOUR);
    let known = bundle(&[&root]);
    let begun = b"HTTP/1.1 200 x\r\nContent-Length: 99999\r\n\r\n{".to_vec();
    let endless_head = b"HTTP/1.1 200 x\r\nX-Padding: ".to_vec();
    // It takes the connection, and says nothing in TLS either.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peers = vec![Peer::at(mute.local_addr().unwrap())];
    for reply in [
        Reply::Stuck(Vec::new()),
        Reply::Stuck(begun.clone()),
        Reply::Drip(begun),
        Reply::Drip(endless_head),
    ] {
        peers.push(peer_of(&root, reply).await);
    }
    let known = &known;
    let given_up = peers.iter().map(|peer| async move {
        let endpoint_id = SpiffeId::parse(SERVER).unwrap();
        let source = Source {
            relationship: relationship(peer, EndpointProfile::HttpsSpiffe { endpoint_id }),
            endpoint_bundle: Some(Arc::new(known.clone())),
        };
        let fetched = fetcher(WebTrust::System, 1).fetch(source).await;
        let expected = format!(
            "{DOING}failed to fetch bundle: Get \"https://PEER/bundle\": no answer within 1s"
        );
        assert_eq!(told(peer, fetched), expected);
    });
    futures::future::join_all(given_up).await;
}

#[tokio::test]
async fn redirects_are_followed_to_https_alone_and_not_for_ever() {
    let root = authority("spiffe://bar.test", HOUR);
    let known = bundle(&[&root]);
    let document = served(&known);
    let there = Peer::start(root.endpoint(SERVER, &[], HOUR), move |number, _| match number {
        0 => Reply::answer(302, "Location: /moved\r\n", ""),
        _ => document.clone(),
    });
    let there = there.await;
    assert_eq!(by_id(&there, SERVER, Some(&known)).await.unwrap(), known);
    assert_eq!(there.asked(), 2);

    let get = format!("{DOING}failed to fetch bundle: Get ");
    for (location, expected) in [
        (
            "Location: http://127.0.0.1/\r\n",
            "redirect to \"http://127.0.0.1/\" refused: bundle endpoint URL must use the https scheme",
        ),
        (
            "Location: https://u@127.0.0.1/\r\n",
            "redirect to \"https://u@127.0.0.1/\" refused: bundle endpoint URL must not contain user info",
        ),
        ("", "301 response missing Location header"),
    ] {
        let peer = peer_of(&root, Reply::answer(301, location, "")).await;
        let text = told(&peer, by_id(&peer, SERVER, Some(&known)).await);
        assert_eq!(text, format!("{get}\"https://PEER/bundle\": {expected}"));
    }
    let peer = peer_of(&root, Reply::answer(307, "Location: /again\r\n", "")).await;
    let text = told(&peer, by_id(&peer, SERVER, Some(&known)).await);
    assert_eq!(text, format!("{get}\"https://PEER/again\": stopped after 10 redirects"));
    assert_eq!(peer.asked(), 11);

    // Whoever is redirected to has to be the same.
    let impostor = root.endpoint("spiffe://bar.test/other", &[], HOUR);
    let document = served(&known);
    let impostor = Peer::start(impostor, move |_, _| document.clone()).await;
    let location = format!("Location: https://{}/\r\n", impostor.address);
    let peer = peer_of(&root, Reply::answer(301, &location, "")).await;
    let text = told(&peer, by_id(&peer, SERVER, Some(&known)).await);
    assert!(text.ends_with("unexpected ID \"spiffe://bar.test/other\""), "{text}");
    assert_eq!(impostor.asked(), 0);
}

#[tokio::test]
async fn a_port_without_anybody_is_told_as_such() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", closed.local_addr().unwrap());
    drop(closed);
    let endpoint_url = EndpointUrl::parse(&url).unwrap();
    let profile = EndpointProfile::HttpsSpiffe { endpoint_id: SpiffeId::parse(SERVER).unwrap() };
    let relationship = FederationRelationship { trust_domain: td(), endpoint_url, profile };
    let source = Source {
        relationship: Arc::new(relationship),
        endpoint_bundle: Some(Arc::new(bundle(&[&authority("spiffe://bar.test", HOUR)]))),
    };
    let error = fetcher(WebTrust::System, 30).fetch(source).await.unwrap_err();
    let expected = format!("{DOING}failed to fetch bundle: Get \"{url}\"");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.source().unwrap().to_string(), "connection failed");
    assert_eq!(error.class(), "dial");
}

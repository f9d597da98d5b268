//! Refusals of peer TLS, as tables: who may shake hands with whom, and how it is told.

use std::sync::Arc;

use steeple_spiffe_core::time::SystemClock;
use tonic::transport::server::Connected;
use zeroize::Zeroizing;

use crate::ids::{ClusterId, MemberId};
use crate::net::dial::{DialError, Expected, dial};
use crate::net::listener;
use crate::net::name::PeerName;
use crate::net::refusals::Refusals;
use crate::net::tls::{CaSeed, PeerTls};
use crate::net::transport::{Tcp, Transport};

fn seeds(seeds: &[u8]) -> Vec<(String, CaSeed)> {
    seeds.iter().map(|seed| (format!("{seed:016x}"), Zeroizing::new([*seed; 32]))).collect()
}

fn member(cluster: u128, member: u64) -> PeerName {
    PeerName::Member { cluster: ClusterId(cluster), member: MemberId(member) }
}

fn newcomer(name: &str, member: u64) -> PeerName {
    PeerName::Newcomer { cluster_name: name.to_owned(), member: MemberId(member) }
}

fn tls(keys: &[u8], name: &PeerName) -> Arc<PeerTls> {
    Arc::new(PeerTls::new(&seeds(keys), name).unwrap())
}

/// Dials a listener; what the dialler found, and whom the listener let in.
async fn meet(
    server: Arc<PeerTls>,
    client: &PeerTls,
    expected: Expected,
) -> (Result<PeerName, DialError>, Option<PeerName>) {
    let (address, incoming) = Tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (sender, mut ready) = listener::ready_queue();
    let refusals = Arc::new(Refusals::default());
    let accepting =
        listener::accept(incoming, server, refusals.clone(), Arc::new(SystemClock), sender);
    let accepting = tokio::spawn(accepting);
    let dialled = dial(&Tcp, client, &address.to_string(), expected).await;
    // A refused handshake is never ready: the refusal is counted instead.
    let accepted = tokio::select! {
        accepted = ready.recv() => accepted,
        () = refused(&refusals) => None,
    };
    accepting.abort();
    let name = accepted.map(|peer| peer.unwrap().connect_info());
    (dialled.map(|(_, found)| found), name)
}

/// Returns once a peer was refused.
async fn refused(refusals: &Refusals) {
    while refusals.count() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn members_of_one_cluster_key_meet_and_know_each_other_by_name() {
    let names = [(member(7, 1), member(7, 2)), (newcomer("prod", 1), member(7, 2))];
    for (ours, theirs) in names {
        let (found, let_in) = meet(tls(&[1], &theirs), &tls(&[1], &ours), Expected::Anyone).await;
        assert_eq!((found.unwrap(), let_in), (theirs, Some(ours)));
    }
}

#[tokio::test]
async fn only_keys_that_both_accept_let_members_meet() {
    // Whether the dialler meets the listener, by the keys that each holds; the first one is preferred.
    let cases: [(&[u8], &[u8], bool); 6] = [
        (&[1], &[1], true),
        (&[1], &[2], false),
        (&[1, 2], &[2, 1], true),
        (&[1, 2], &[2], true),
        (&[1], &[2, 1], true),
        (&[1, 2], &[3], false),
    ];
    for (server, client, meets) in cases {
        let (found, let_in) =
            meet(tls(server, &member(7, 2)), &tls(client, &member(7, 1)), Expected::Anyone).await;
        assert_eq!(found.is_ok() && let_in.is_some(), meets, "{server:?} {client:?}");
    }
}

#[tokio::test]
async fn another_cluster_key_is_told_in_plain_words() {
    let (found, let_in) =
        meet(tls(&[1], &member(7, 2)), &tls(&[2], &member(7, 1)), Expected::Anyone).await;
    let text = found.unwrap_err().to_string();
    assert!(
        text.ends_with("cluster key differs; give both members the same cluster key file"),
        "{text}"
    );
    assert_eq!(let_in, None);
}

#[tokio::test]
async fn a_dialler_meets_only_whom_it_expects() {
    let expected = Expected::Member { cluster: ClusterId(7), member: MemberId(2) };
    let cases = [
        ("the member", member(7, 2), true),
        ("another member", member(7, 3), false),
        ("its namesake of another cluster", member(8, 2), false),
        ("it, before it knew its cluster", newcomer("prod", 2), false),
    ];
    for (what, server, meets) in cases {
        let (found, _) = meet(tls(&[1], &server), &tls(&[1], &member(7, 1)), expected).await;
        match found {
            Ok(_) => assert!(meets, "{what}"),
            Err(DialError::SomeoneElse { found, .. }) => {
                assert!(!meets, "{what}");
                assert_eq!(found, server);
            }
            Err(other) => panic!("{what}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_renamed_member_is_met_under_its_new_name() {
    let server = tls(&[1], &newcomer("prod", 2));
    server.rename(&member(7, 2)).unwrap();
    let (found, _) = meet(server, &tls(&[1], &member(7, 1)), Expected::Anyone).await;
    assert_eq!(found.unwrap(), member(7, 2));
}

#[tokio::test]
async fn keys_are_taken_and_dropped_without_a_restart() {
    let (us, them) = (member(7, 1), member(7, 2));
    let meets = |server: Arc<PeerTls>, client: Arc<PeerTls>| async move {
        let (found, let_in) = meet(server, &client, Expected::Anyone).await;
        found.is_ok() && let_in.is_some()
    };
    let (server, client) = (tls(&[1], &them), tls(&[1], &us));
    assert_eq!(server.renew(&seeds(&[2, 1])).unwrap(), format!("{:016x}", 2));
    assert!(meets(server.clone(), client.clone()).await, "only one of them has the new key");
    client.renew(&seeds(&[2])).unwrap();
    assert!(meets(server.clone(), client.clone()).await, "only one of them has the old key");
    server.renew(&seeds(&[2])).unwrap();
    assert!(meets(server.clone(), client).await, "the old key is gone");
    assert!(
        !meets(server.clone(), tls(&[1], &us)).await,
        "whoever has the old key alone is refused"
    );
    assert!(server.renew(&[]).is_err());
    assert!(meets(server, tls(&[2], &us)).await, "what could not be taken changes nothing");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_not_let_in() {
    let (address, incoming) = Tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (sender, mut ready) = listener::ready_queue();
    let refusals = Arc::new(Refusals::default());
    let accepting = tokio::spawn(listener::accept(
        incoming,
        tls(&[1], &member(7, 2)),
        refusals.clone(),
        Arc::new(SystemClock),
        sender,
    ));
    let mut plain = Tcp.dial(&address.to_string()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    tokio::select! {
        accepted = ready.recv() => panic!("let in: {accepted:?}"),
        () = refused(&refusals) => {}
    }
    accepting.abort();
}

#[tokio::test]
async fn an_address_where_no_one_listens_is_told() {
    let (address, incoming) = Tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    drop(incoming);
    let tls = tls(&[1], &member(7, 1));
    let error = dial(&Tcp, &tls, &address.to_string(), Expected::Anyone).await.err().unwrap();
    assert_eq!(error.to_string(), format!("{address}: connection refused"));
}

#[tokio::test]
async fn who_is_refused_before_it_has_a_name_is_known_by_its_address() {
    let (address, mut incoming) = Tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let dialled = tokio::net::TcpStream::connect(address).await.unwrap();
    let accepted = futures::StreamExt::next(&mut incoming).await.unwrap().unwrap();
    assert_eq!(listener::origin(&accepted), dialled.local_addr().unwrap().to_string());
}

//! What the agent tells servers of the bundles that it was given.

use steeple_api::pb::types::Entry;

use crate::authority::Authority;
use crate::fake_server::{FakeServer, Listening};
use crate::scene::{Scene, Settings, eventually, next};

/// An agent's scene with one entry that federates.
fn scene(polls: bool) -> (Scene, Listening, Settings) {
    let scene = Scene::new();
    let federates_with = vec!["partner.test".to_owned()];
    scene.server.add_entry(Entry { federates_with, ..scene.server.entry("web") });
    scene.server.state().pushes = !polls;
    let listening = scene.server.listen(None);
    let settings = Settings { servers: vec![listening.address], polls, ..Settings::default() };
    (scene, listening, settings)
}

fn acknowledged(server: &FakeServer) -> Vec<u64> {
    server.state().acknowledged.clone()
}

fn new_root(server: &FakeServer) {
    let next = Authority::new("example.org");
    server.change(|state| state.next = Some(next));
}

#[tokio::test]
async fn a_bundle_is_acknowledged_when_workloads_get_it_and_not_before() {
    let (scene, _listening, settings) = scene(false);
    let server = &scene.server;
    let agent = scene.serving(&settings).await;
    assert_eq!(acknowledged(server).len(), 1, "the first, before it serves");
    let mut stream = agent.x509_stream().await.expect("stream");
    let first = next(&mut stream).await.expect("first").svids[0].bundle.clone();

    // The first sync, and the one that an opened push stream causes.
    eventually("no sync is under way", || server.calls("GetFederatedBundle") == 2).await;

    // The agent is answered, and held up before it can apply the answer.
    let asked = server.calls("GetFederatedBundle");
    server.state().withholds_partner = true;
    new_root(server);
    eventually("the sync is held up", || server.calls("GetFederatedBundle") > asked).await;
    let given = server.state().receipt.expect("it asks");
    let served = agent.x509().await.expect("svids").svids[0].bundle.clone();
    assert_eq!(served, first, "workloads get the one of before");
    assert_eq!(acknowledged(server).len(), 1, "answered is not applied");

    server.change(|state| state.withholds_partner = false);
    while next(&mut stream).await.expect("update").svids[0].bundle == first {}
    eventually("it is acknowledged", || acknowledged(server).len() == 2).await;
    assert_eq!(acknowledged(server)[1], given, "the answer that is applied");
    drop(agent);
}

#[tokio::test]
async fn an_agent_that_polls_acknowledges_once_a_change_and_says_with_each_poll_what_it_holds() {
    let (scene, _listening, settings) = scene(true);
    let server = &scene.server;
    let agent = scene.serving(&settings).await;
    new_root(server);
    eventually("the new bundle is acknowledged", || acknowledged(server).len() == 2).await;
    let (asked, last) = (server.calls("GetBundle"), acknowledged(server)[1]);
    eventually("several polls", || server.calls("GetBundle") > asked + 5).await;
    assert_eq!(acknowledged(server).len(), 2, "a poll that brings nothing new is no call more");
    assert!(server.state().held > Some(last), "but it says what is held");
    drop(agent);
}

#[tokio::test]
async fn a_server_that_does_not_ask_hears_nothing_and_one_that_was_put_back_does_not_matter() {
    let (scene, _listening, settings) = scene(true);
    let server = &scene.server;
    server.state().receipt = None;
    let agent = scene.serving(&settings).await;
    new_root(server);
    let asked = server.calls("GetBundle");
    eventually("several polls", || server.calls("GetBundle") > asked + 3).await;
    assert_eq!(server.calls("Acknowledge"), 0);

    // Upgraded, and put back just when it would have been told.
    server.state().receipt = Some(0);
    eventually("it is told", || server.calls("Acknowledge") > 0).await;
    server.state().receipt = None;
    server.add_entry(server.entry("api"));
    eventually("syncs go on", || scene.log().contains("spiffe://example.org/api")).await;
    drop(agent);
}

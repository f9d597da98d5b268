//! How an agent joins, stays and ends.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use steeple_api::pb::types::permission_denied_details::Reason;

use crate::authority::Authority;
use crate::fake_server::{FakeServer, Listening};
use crate::scene::{Scene, Settings, eventually};

fn has_svid(scene: &Scene) -> bool {
    let text = fs::read_to_string(scene.path("data/agent-data.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let svid = json.get("svid").and_then(serde_json::Value::as_array);
    svid.is_some_and(|svid| !svid.is_empty())
}

async fn scene() -> (Scene, Listening, Settings) {
    let scene = Scene::new();
    scene.server.add_entry(scene.server.entry("web"));
    let listening = scene.server.listen(None);
    let settings =
        Settings { servers: vec![listening.address], polls: true, ..Settings::default() };
    (scene, listening, settings)
}

#[tokio::test]
async fn a_restarted_agent_uses_its_certificate_and_not_its_token() {
    let (scene, _listening, settings) = scene().await;
    let agent = scene.serving(&settings).await;
    assert!(agent.stop().await.success());
    fs::remove_file(scene.path("agent.log")).expect("remove");
    let agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_ok());
    assert_eq!(scene.server.calls("AttestAgent"), 1);
    assert!(scene.log().contains("SVID loaded"));
}

#[tokio::test]
async fn without_its_key_a_certificate_is_of_no_use() {
    let (scene, _listening, mut settings) = scene().await;
    settings.memory_keys = true;
    let agent = scene.serving(&settings).await;
    assert!(agent.stop().await.success());
    let _agent = scene.start(&settings, &[]);
    eventually("why it is of no use", || scene.log().contains("join token was not provided")).await;
}

#[tokio::test]
async fn a_banned_agent_forgets_its_certificate_and_exits() {
    let (scene, _listening, settings) = scene().await;
    let mut agent = scene.serving(&settings).await;
    assert!(has_svid(&scene));
    scene.server.state().refuse = Some(Reason::AgentBanned);
    assert_eq!(agent.exit().await.code(), Some(1));
    assert!(!has_svid(&scene));
    assert!(scene.log().contains("Agent is banned: removing SVID and shutting down"));
}

#[tokio::test]
async fn an_evicted_agent_ends_if_it_cannot_attest_again() {
    let (scene, _listening, settings) = scene().await;
    let mut agent = scene.serving(&settings).await;
    scene.server.state().refuse = Some(Reason::AgentNotAttested);
    assert_eq!(agent.exit().await.code(), Some(1));
    assert!(!has_svid(&scene));
}

#[tokio::test]
async fn an_evicted_agent_that_may_attests_again_and_serves_on() {
    let (scene, _listening, settings) = scene().await;
    scene.server.state().can_reattest = true;
    let agent = scene.serving(&settings).await;
    scene.server.state().refuse = Some(Reason::AgentNotAttested);
    eventually("a second attestation", || scene.server.calls("AttestAgent") >= 2).await;
    scene.server.state().refuse = None;
    scene.server.add_entry(scene.server.entry("api"));
    eventually("the new entry is known", || scene.log().contains("spiffe://example.org/api")).await;
    assert!(has_svid(&scene));
    assert_eq!(agent.x509().await.expect("svids").svids.len(), 2);
}

/// Servers that sign agents below another root than their own certificate's.
async fn below_another_root(can_reattest: bool) -> (Scene, Listening, Settings) {
    let (scene, listening, settings) = scene().await;
    let other = Authority::new("example.org");
    scene.server.change(|state| {
        state.can_reattest = can_reattest;
        (state.next, state.signs_agents) = (Some(Arc::clone(&other)), Some(other));
    });
    (scene, listening, settings)
}

/// That root is revoked, and no connection of before is left.
fn restarted_without_that_root(scene: &Scene, listening: Listening) -> Listening {
    let address = listening.address;
    drop(listening);
    scene.server.change(|state| (state.next, state.signs_agents) = (None, None));
    scene.server.listen(Some(address))
}

#[tokio::test]
async fn an_agent_below_a_root_that_has_left_the_bundle_attests_again_and_serves_on() {
    let (scene, listening, settings) = below_another_root(true).await;
    let agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_ok());
    let listening = restarted_without_that_root(&scene, listening);
    eventually("it is shut out and attests", || scene.server.calls("AttestAgent") == 2).await;
    scene.server.add_entry(scene.server.entry("api"));
    eventually("the new entry is known", || scene.log().contains("spiffe://example.org/api")).await;
    assert!(scene.log().contains("Successfully reattested node"), "{}", scene.log());
    assert_eq!(scene.server.calls("AttestAgent"), 2, "once is enough");
    drop((agent, listening));
}

#[tokio::test]
async fn an_agent_that_finds_at_its_start_that_its_root_has_left_attests_again() {
    let (scene, listening, settings) = below_another_root(true).await;
    assert!(scene.serving(&settings).await.stop().await.success());
    fs::remove_file(scene.path("agent.log")).expect("remove");
    let _listening = restarted_without_that_root(&scene, listening);
    let agent = scene.serving(&settings).await;
    assert_eq!(scene.server.calls("AttestAgent"), 2);
    assert!(agent.x509().await.is_ok());
}

#[tokio::test]
async fn an_agent_with_a_token_goes_on_with_what_it_has_when_its_root_has_left_the_bundle() {
    let (scene, listening, settings) = below_another_root(false).await;
    let mut agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_ok());
    let _listening = restarted_without_that_root(&scene, listening);
    let failed = || scene.log().matches("Synchronize failed").count();
    eventually("it is shut out", || failed() >= 2).await;
    assert_eq!(scene.server.calls("AttestAgent"), 1);
    assert!(has_svid(&scene) && agent.is_running());
    assert_eq!(agent.x509().await.expect("from the cache").svids.len(), 1);
}

#[tokio::test]
async fn a_plain_refusal_is_an_ordinary_failure() {
    let (scene, _listening, settings) = scene().await;
    let agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_ok());
    scene.server.state().refuse = Some(Reason::Unknown);
    eventually("a failed sync", || scene.log().contains("Synchronize failed")).await;
    assert!(has_svid(&scene));
    assert!(agent.x509().await.is_ok());
}

#[tokio::test]
async fn an_unknown_token_is_tried_again() {
    let (scene, _listening, settings) = scene().await;
    let agent = scene.start(&settings, &["-joinToken", "wrong"]);
    let text = "failed to attest: join token does not exist or has already been used";
    eventually("the server's text", || scene.log().contains(text)).await;
    drop(agent);
}

#[tokio::test]
async fn a_bundle_file_that_is_put_in_place_later_is_found() {
    let (scene, _listening, settings) = scene().await;
    let settings = Settings { bundle_comes_later: true, ..settings };
    let agent = scene.start(&settings, &["-joinToken", "token"]);
    let failed = "Failed to retrieve attestation result";
    eventually("a failed attempt", || scene.log().contains(failed)).await;
    assert!(scene.log().contains("could not parse trust bundle"), "{}", scene.log());
    fs::rename(scene.path("later.pem"), scene.path("bundle.pem")).expect("rename");
    agent.wait_until_serving().await;
}

#[tokio::test]
async fn a_start_without_a_token_is_tried_again_as_in_spire() {
    let (scene, _listening, settings) = scene().await;
    let mut agent = scene.start(&settings, &[]);
    let failed = "Failed to retrieve attestation result";
    eventually("two failed attempts", || scene.log().matches(failed).count() >= 2).await;
    assert!(scene.log().contains("join token was not provided"), "{}", scene.log());
    assert!(agent.is_running());
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_of_its_life_with_a_new_key() {
    let (scene, _listening, settings) = scene().await;
    scene.server.state().agent_ttl = Duration::from_secs(6);
    let agent = scene.serving(&settings).await;
    let keys = || fs::read_to_string(scene.path("data/keys.json")).expect("keys");
    assert_eq!(keys().matches("agent-svid-").count(), 1);
    scene.server.state().agent_ttl = Duration::from_secs(3600);
    eventually("a renewal", || scene.log().contains("Successfully rotated agent SVID")).await;
    assert_eq!(keys().matches("agent-svid-").count(), 2);
    scene.server.add_entry(scene.server.entry("api"));
    eventually("syncs go on", || scene.log().contains("spiffe://example.org/api")).await;
    drop(agent);
}

#[tokio::test]
async fn servers_of_an_unknown_authority_are_told_with_the_fix_and_workloads_served_on() {
    let (scene, listening, settings) = scene().await;
    let agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_ok());
    let address = listening.address;
    drop(listening);
    let stranger = FakeServer::new();
    eventually("the old server is gone", || scene.log().contains("Synchronize failed")).await;
    let strange = stranger.listen(Some(address));
    let reason = "x509: certificate signed by unknown authority";
    let fix = "remove agent-data.json";
    let told = || scene.log().matches(fix).count();
    eventually("the reason and the fix, twice", || scene.log().contains(reason) && told() >= 2)
        .await;
    assert!(has_svid(&scene));
    assert_eq!(agent.x509().await.expect("from the cache").svids.len(), 1);

    // The old servers come back.
    drop(strange);
    scene.server.add_entry(scene.server.entry("api"));
    let _listening = scene.server.listen(Some(address));
    eventually("syncs go on", || scene.log().contains("spiffe://example.org/api")).await;
    assert_eq!(agent.x509().await.expect("both").svids.len(), 2);
}

#[tokio::test]
async fn a_start_among_servers_of_an_unknown_authority_is_tried_again() {
    let (scene, listening, settings) = scene().await;
    let agent = scene.serving(&settings).await;
    assert!(agent.stop().await.success());
    let address = listening.address;
    drop(listening);
    fs::remove_file(scene.path("agent.log")).expect("remove");
    let strange = FakeServer::new().listen(Some(address));
    let agent = scene.start(&settings, &[]);
    let failed = "Failed to initialize manager";
    eventually("a failed first sync", || scene.log().contains(failed)).await;
    assert!(has_svid(&scene));
    drop(strange);
    let _listening = scene.server.listen(Some(address));
    agent.wait_until_serving().await;
}

#[tokio::test]
async fn the_signal_that_configures_spires_plugins_anew_ends_nothing() {
    let (scene, _listening, settings) = scene().await;
    let agent = scene.serving(&settings).await;
    agent.signal(nix::sys::signal::Signal::SIGUSR1);
    eventually("a line in the log", || scene.log().contains("SIGUSR1 has no effect")).await;
    assert!(agent.x509().await.is_ok());
    assert!(agent.stop().await.success());
}

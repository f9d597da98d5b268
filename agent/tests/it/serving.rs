//! What workloads get, and when.

use std::time::Duration;

use steeple_api::pb;
use steeple_spiffe_core::svid::x509::{certificate_facts, verify_chain};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::{Clock as _, LocalSigner, Signer as _};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::fake_server::{FakeServer, Listening};
use crate::scene::{Agent, DEADLINE, Scene, Settings, eventually, ids, next, with_header, within};

async fn scene_with(entries: &[&str]) -> (Scene, Listening, Settings) {
    let scene = Scene::new();
    for id in entries {
        scene.server.add_entry(scene.server.entry(id));
    }
    let listening = scene.server.listen(None);
    let settings = Settings { servers: vec![listening.address], ..Settings::default() };
    (scene, listening, settings)
}

#[tokio::test]
async fn a_workload_gets_a_certificate_that_verifies_with_its_key() {
    let (scene, _listening, settings) = scene_with(&["web", "api"]).await;
    let agent = scene.serving(&settings).await;
    let response = agent.x509().await.expect("svids");
    assert_eq!(ids(&response), ["spiffe://example.org/api", "spiffe://example.org/web"]);
    let svid = &response.svids[0];
    let bundle = scene.server.authority.bundle();
    let chain = vec![svid.x509_svid.clone()];
    let id = verify_chain(&chain, &bundle, SystemClock.now()).expect("chain verifies");
    assert_eq!(id.to_string(), svid.spiffe_id);
    let key = LocalSigner::from_pkcs8(&svid.x509_svid_key).expect("PKCS#8 key");
    let leaf = certificate_facts(&svid.x509_svid).expect("leaf");
    assert_eq!(leaf.spki, key.public_key_spki());
    assert_eq!(svid.bundle, bundle.x509_authorities[0].certificate_der);
    assert!(agent.stop().await.success());
}

#[tokio::test]
async fn callers_without_header_or_entry_get_spires_codes_and_texts() {
    let (scene, _listening, settings) = scene_with(&[]).await;
    let agent = scene.serving(&settings).await;
    let mut client = agent.client().await;
    let bare = client.fetch_x509svid(Request::new(pb::workload::X509svidRequest {})).await;
    let status = bare.expect_err("no header");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "security header missing from request");
    let status = agent.x509().await.expect_err("no entry");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "no identity issued");
    assert!(scene.log().contains("No identity issued"));
    let request = with_header(pb::workload::X509BundlesRequest {});
    let status = client.fetch_x509_bundles(request).await.expect_err("no entry");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    let request = with_header(pb::workload::JwtsvidRequest::default());
    let status = client.fetch_jwtsvid(request).await.expect_err("no audience");
    let want = (Code::InvalidArgument, "audience must be specified");
    assert_eq!((status.code(), status.message()), want);
}

#[tokio::test]
async fn an_entry_created_a_moment_ago_is_served_without_waiting_for_a_poll() {
    let (scene, _listening, settings) = scene_with(&[]).await;
    scene.server.state().pushes = false;
    let agent = scene.serving(&settings).await;
    assert!(agent.x509().await.is_err());
    scene.server.add_entry(scene.server.entry("late"));
    let response = agent.x509().await.expect("served at once");
    assert_eq!(ids(&response), ["spiffe://example.org/late"]);
}

#[tokio::test]
async fn a_pushed_change_reaches_an_open_stream_and_the_last_removal_ends_it() {
    let (scene, _listening, settings) = scene_with(&["web"]).await;
    let agent = scene.serving(&settings).await;
    let mut stream = agent.x509_stream().await.expect("stream");
    let first = next(&mut stream).await.expect("first");
    let mut changed = scene.server.entry("web");
    changed.revision_number = 1;
    changed.hint = "blue".to_owned();
    scene.server.add_entry(changed);
    let renewed = loop {
        let message = next(&mut stream).await.expect("update");
        if message.svids[0].x509_svid != first.svids[0].x509_svid {
            break message;
        }
    };
    assert_eq!(renewed.svids[0].hint, "blue");
    scene.server.add_entry(scene.server.entry("zeta"));
    while next(&mut stream).await.expect("update").svids.len() < 2 {}
    scene.server.change(|state| state.entries.clear());
    let status = loop {
        match next(&mut stream).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
}

#[tokio::test]
async fn polling_brings_changes_from_a_server_without_push() {
    let (scene, _listening, mut settings) = scene_with(&["web"]).await;
    scene.server.state().pushes = false;
    settings.polls = true;
    let agent = scene.serving(&settings).await;
    let mut stream = agent.x509_stream().await.expect("stream");
    next(&mut stream).await.expect("first");
    scene.server.add_entry(scene.server.entry("api"));
    while next(&mut stream).await.expect("update").svids.len() < 2 {}
    assert_eq!(scene.server.calls("Watch"), 1);
}

#[tokio::test]
async fn a_dead_or_leaderless_server_does_not_matter_while_another_works() {
    let scene = Scene::new();
    scene.server.add_entry(scene.server.entry("web"));
    let good = scene.server.listen(None);
    let leaderless = FakeServer::of(scene.server.authority.clone());
    leaderless.state().unavailable = true;
    let without_leader = leaderless.listen(None);
    let dead = scene.server.listen(None).address;
    let servers = vec![dead, without_leader.address, good.address];
    let agent = scene.serving(&Settings { servers, ..Settings::default() }).await;
    assert_eq!(agent.x509().await.expect("svids").svids.len(), 1);
}

/// A token for an audience that no cache knows.
async fn token(agent: &Agent<'_>, audience: &str) -> Duration {
    let request = with_header(pb::workload::JwtsvidRequest {
        audience: vec![audience.to_owned()],
        spiffe_id: String::new(),
    });
    let mut client = agent.client().await;
    let asked = Instant::now();
    within(client.fetch_jwtsvid(request)).await.expect("token");
    asked.elapsed()
}

/// Two replicas and which of them the agent asks.
async fn two_replicas() -> (Scene, [(FakeServer, Listening); 2], Settings) {
    let (scene, first, mut settings) = scene_with(&["web"]).await;
    let other = FakeServer::of(scene.server.authority.clone());
    other.add_entry(other.entry("web"));
    let second = other.listen(None);
    settings.servers = vec![first.address, second.address];
    let servers = [(scene.server.clone(), first), (other, second)];
    (scene, servers, settings)
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_call_seconds_while_another_works() {
    let (scene, servers, settings) = two_replicas().await;
    let agent = scene.serving(&settings).await;
    token(&agent, "warm").await;
    let used = servers.iter().position(|(server, _)| server.calls("NewJWTSVID") == 1);
    let used = used.expect("one of them was asked");
    let (other, hung) = (&servers[1 - used].0, &servers[used].1);
    let watched = other.calls("Watch");

    let thaw = hung.freeze();
    let took = token(&agent, "while one hangs").await;
    assert!(took < Duration::from_secs(8), "a token took {took:?}");
    assert_eq!(other.calls("NewJWTSVID"), 1);
    let took = token(&agent, "from now on").await;
    assert!(took < Duration::from_secs(1), "the server that works is kept, but it took {took:?}");
    eventually("pushes come from the server that works", || other.calls("Watch") > watched).await;
    drop(thaw);
}

#[tokio::test]
async fn a_slow_server_that_is_alive_is_waited_for_and_asked_once() {
    let (scene, servers, settings) = two_replicas().await;
    // Longer than the silence and the probe together.
    for (server, _) in &servers {
        server.state().jwt_takes = Duration::from_secs(4);
    }
    let agent = scene.serving(&settings).await;
    token(&agent, "slow").await;
    let asked: Vec<usize> = servers.iter().map(|(server, _)| server.calls("NewJWTSVID")).collect();
    assert_eq!(asked.iter().sum::<usize>(), 1, "{asked:?}");
}

#[tokio::test]
async fn cached_identities_are_served_while_no_server_can_be_reached() {
    let (scene, listening, mut settings) = scene_with(&["web"]).await;
    settings.polls = true;
    let agent = scene.serving(&settings).await;
    let before = agent.x509().await.expect("svids");
    let mut client = agent.client().await;
    let request = || {
        with_header(pb::workload::JwtsvidRequest {
            audience: vec!["db".to_owned()],
            spiffe_id: String::new(),
        })
    };
    let token = client.fetch_jwtsvid(request()).await.expect("token").into_inner();
    let address = listening.address;
    drop(listening);
    // A server that went away: its connections are gone with the task that served them.
    scene.server.state().unavailable = true;
    eventually("the agent notices", || scene.log().contains("Synchronize failed")).await;
    assert_eq!(agent.x509().await.expect("cached").svids[0].x509_svid, before.svids[0].x509_svid);
    let cached = client.fetch_jwtsvid(request()).await.expect("cached").into_inner();
    assert_eq!(cached.svids[0].svid, token.svids[0].svid);
    let validate = with_header(pb::workload::ValidateJwtsvidRequest {
        audience: "db".to_owned(),
        svid: token.svids[0].svid.clone(),
    });
    client.validate_jwtsvid(validate).await.expect("valid");

    scene.server.state().unavailable = false;
    scene.server.add_entry(scene.server.entry("api"));
    let _again = scene.server.listen(Some(address));
    let mut stream = agent.x509_stream().await.expect("stream");
    while next(&mut stream).await.expect("update").svids.len() < 2 {}
}

#[tokio::test]
async fn a_token_that_holds_is_served_at_once_while_its_renewal_takes_long() {
    let (scene, _listening, settings) = scene_with(&["web"]).await;
    scene.server.state().jwt_ttl = Duration::from_secs(20);
    let agent = scene.serving(&settings).await;
    let mut client = agent.client().await;
    let mut fetch = async || {
        let request = with_header(pb::workload::JwtsvidRequest {
            audience: vec!["db".to_owned()],
            spiffe_id: String::new(),
        });
        let asked = Instant::now();
        let reply = within(client.fetch_jwtsvid(request)).await.expect("token").into_inner();
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "a token took {took:?}");
        reply.svids[0].svid.clone()
    };
    let first = fetch().await;
    scene.server.state().jwt_takes = Duration::from_secs(4);
    // From half of its life on it is to be renewed: nobody waits for that, and it comes.
    let deadline = Instant::now() + DEADLINE;
    while fetch().await == first {
        assert!(Instant::now() < deadline, "never renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.server.calls("NewJWTSVID"), 2, "one renewal at a time");
}

#[tokio::test]
async fn tokens_are_cached_validated_and_refused_for_other_audiences() {
    let (scene, _listening, settings) = scene_with(&["web"]).await;
    let agent = scene.serving(&settings).await;
    let mut client = agent.client().await;
    let fetch = |audience: &[&str], id: &str| {
        with_header(pb::workload::JwtsvidRequest {
            audience: audience.iter().map(|a| (*a).to_owned()).collect(),
            spiffe_id: id.to_owned(),
        })
    };
    let first = client.fetch_jwtsvid(fetch(&["a", "b"], "")).await.expect("token").into_inner();
    let again = client.fetch_jwtsvid(fetch(&["b", "a"], "")).await.expect("token").into_inner();
    assert_eq!(first.svids[0].svid, again.svids[0].svid);
    assert_eq!(first.svids[0].spiffe_id, "spiffe://example.org/web");
    assert_eq!(scene.server.calls("NewJWTSVID"), 1);

    for (id, code, text) in [
        ("spiffe://example.org/other", Code::PermissionDenied, "no identity issued"),
        (
            "nonsense",
            Code::InvalidArgument,
            "invalid requested SPIFFE ID: scheme is missing or invalid",
        ),
    ] {
        let status = client.fetch_jwtsvid(fetch(&["a"], id)).await.expect_err(id);
        assert_eq!((status.code(), status.message()), (code, text));
    }

    let validate = |audience: &str, svid: &str| {
        with_header(pb::workload::ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        })
    };
    let token = &first.svids[0].svid;
    let valid = client.validate_jwtsvid(validate("b", token)).await.expect("valid").into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/web");
    let claims = valid.claims.expect("claims").fields;
    assert!(claims.contains_key("iss") && claims.contains_key("aud"), "{claims:?}");
    for (audience, svid, text) in [
        ("", token.as_str(), "audience must be specified"),
        ("a", "", "svid must be specified"),
        ("c", token.as_str(), "expected audience in [\"c\"] (audience=[\"a\" \"b\"])"),
    ] {
        let status = client.validate_jwtsvid(validate(audience, svid)).await.expect_err(text);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
}

#[tokio::test]
async fn bundles_hold_the_own_and_the_federated_trust_domains() {
    let scene = Scene::new();
    let mut entry = scene.server.entry("web");
    entry.federates_with = vec!["partner.test".to_owned(), "missing.test".to_owned()];
    scene.server.add_entry(entry);
    let listening = scene.server.listen(None);
    let settings = Settings { servers: vec![listening.address], ..Settings::default() };
    let agent = scene.serving(&settings).await;
    let mut client = agent.client().await;
    let want = ["spiffe://example.org", "spiffe://partner.test"];
    let request = with_header(pb::workload::X509BundlesRequest {});
    let mut stream = client.fetch_x509_bundles(request).await.expect("stream").into_inner();
    let bundles = within(stream.message()).await.expect("ok").expect("message").bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), want);
    let request = with_header(pb::workload::JwtBundlesRequest {});
    let mut stream = client.fetch_jwt_bundles(request).await.expect("stream").into_inner();
    let bundles = within(stream.message()).await.expect("ok").expect("message").bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), want);
    let keys = String::from_utf8(bundles[want[0]].clone()).expect("text");
    assert!(keys.starts_with("{\n    \"keys\": ["), "{keys}");
    assert!(!keys.contains("\"use\""), "{keys}");
    let federated = agent.x509().await.expect("svids").federated_bundles;
    assert_eq!(federated.keys().collect::<Vec<_>>(), ["spiffe://partner.test"]);
}

#[tokio::test]
async fn foreign_tokens_are_valid_while_their_bundle_is_held_and_show_few_claims() {
    let scene = Scene::new();
    let mut entry = scene.server.entry("web");
    entry.federates_with = vec!["partner.test".to_owned()];
    scene.server.add_entry(entry);
    let listening = scene.server.listen(None);
    let agent = "allowed_foreign_jwt_claims = [\"iss\"]";
    let settings = Settings { servers: vec![listening.address], agent, ..Settings::default() };
    let agent = scene.serving(&settings).await;
    let mut client = agent.client().await;
    let partner = scene.server.state().partner.clone().expect("it is held");
    let (id, audience) = (partner.id("/w"), ["db".to_owned()]);
    let svid = partner.token(&id, &audience, Duration::from_secs(60)).token;
    let validate = || {
        with_header(pb::workload::ValidateJwtsvidRequest {
            audience: "db".to_owned(),
            svid: svid.clone(),
        })
    };
    let valid = client.validate_jwtsvid(validate()).await.expect("valid").into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://partner.test/w");
    let claims = valid.claims.expect("claims").fields;
    assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp", "iss", "sub"]);

    let request = with_header(pb::workload::JwtBundlesRequest {});
    let mut stream = client.fetch_jwt_bundles(request).await.expect("stream").into_inner();
    let mut domains = async || {
        let answer = within(stream.message()).await.expect("ok").expect("message");
        answer.bundles.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(domains().await, ["spiffe://example.org", "spiffe://partner.test"]);
    scene.server.change(|state| state.partner = None);
    assert_eq!(domains().await, ["spiffe://example.org"]);
    let refused = client.validate_jwtsvid(validate()).await.expect_err("its keys are gone");
    let text = "no keys found for trust domain \"partner.test\"";
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
}

#[tokio::test]
async fn long_lists_come_by_revision_and_large_batches_are_halved() {
    let scene = Scene::new();
    scene.server.change(|state| {
        state.batch_max = 200;
        for number in 0..1100 {
            let mut entry = scene.server.entry(&format!("e{number:04}"));
            entry.selectors[0].value = format!("uid:{}", 5_000_000 + number);
            state.entries.insert(entry.id.clone(), entry);
        }
    });
    scene.server.add_entry(scene.server.entry("web"));
    let listening = scene.server.listen(None);
    let settings = Settings { servers: vec![listening.address], ..Settings::default() };
    let agent = scene.serving(&settings).await;
    let response = agent.x509().await.expect("svids");
    assert_eq!(ids(&response), ["spiffe://example.org/web"]);
    let bodies = scene.server.calls("entry bodies");
    assert_eq!(bodies, 1101);
    let mut changed = scene.server.entry("web");
    changed.revision_number = 1;
    changed.hint = "new".to_owned();
    scene.server.add_entry(changed);
    let mut stream = agent.x509_stream().await.expect("stream");
    while next(&mut stream).await.expect("update").svids[0].hint != "new" {}
    assert_eq!(scene.server.calls("entry bodies"), 1102, "only what changed is asked for");
}

#[tokio::test]
async fn health_is_served_on_the_socket() {
    let (scene, _listening, settings) = scene_with(&[]).await;
    let agent = scene.serving(&settings).await;
    let mut client = pb::health::health_client::HealthClient::new(agent.channel().await);
    let request = pb::health::HealthCheckRequest::default();
    let status = within(client.check(request)).await.expect("health").into_inner().status;
    assert_eq!(status, i32::from(pb::health::health_check_response::ServingStatus::Serving));
    let request = pb::health::HealthCheckRequest { service: "x".to_owned() };
    let status = client.check(request).await.expect_err("per-service");
    assert_eq!(status.message(), "per-service health is not supported");
    assert!(!scene.log().contains("No identity issued"), "the own probe is not logged");
}

#[tokio::test]
async fn an_svid_that_lives_for_seconds_is_renewed_in_time_and_not_in_a_loop() {
    let (scene, _listening, settings) = scene_with(&["web"]).await;
    scene.server.state().svid_ttl = Duration::from_secs(5);
    let agent = scene.serving(&settings).await;
    let mut stream = agent.x509_stream().await.expect("stream");
    let mut end = None;
    let started = Instant::now();
    for _ in 0..4 {
        let response = next(&mut stream).await.expect("svids");
        let now = SystemClock.now();
        assert!(end.is_none_or(|end| now <= end), "the last one ended before its successor came");
        end = Some(certificate_facts(&response.svids[0].x509_svid).expect("leaf").not_after);
    }
    let calls = scene.server.calls("BatchNewX509SVID");
    let spent = started.elapsed();
    // Three renewals: one per 3 to 5 s, as certificates end at whole seconds.
    assert!(spent > Duration::from_secs(8), "4 SVIDs in {spent:?}");
    assert!(calls <= 5, "{calls} calls in {spent:?}");
}

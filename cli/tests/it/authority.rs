//! `localauthority x509|jwt show|prepare|activate|taint|revoke`, `upstreamauthority taint|revoke`.
//!
//! Owns what each sends, prints and refuses.

use steeple_api::pb::cluster::v1::{Authority, RotationResponse};
use steeple_api::pb::server::localauthority::v1::*;
use tonic::{Code, Status};

use crate::driver::line;
use crate::fake::Fake;

/// When the authorities of the recordings ended.
const END: i64 = 1_795_472_031;

const X509: [&str; 4] = [
    "c6f4a68b8dcb1b1ba0aaa82db6e85092a852928c",
    "a4c45154d4ff6c4afa3107f75617b1d487edf68e",
    "d52353fba5c264dec40bca1a8a40dd4bc4972fe1",
    "41eea3cbcc1df8eb854597dbec548423c7ba41c9",
];
const JWT: [&str; 3] = [
    "l3p3uybJ9t4pk6HUOlnsQRytg0TAbpgt",
    "uCdyAvyk7662rViFDjzLt9gt5u23cjwZ",
    "3m3isTk952TQhRb0gtKzNa657MgVNE6k",
];

fn state(id: &str, expires_at: i64) -> Option<AuthorityState> {
    let upstream_authority_subject_key_id = String::new();
    let authority_id = id.to_owned();
    Some(AuthorityState { authority_id, expires_at, upstream_authority_subject_key_id })
}

#[tokio::test]
async fn show_has_a_block_for_each_place() {
    let fake = Fake::start();
    let show = || line("spire-server localauthority x509 show");
    let method = "get_x509_authority_state";
    let active = state(X509[0], END);
    let prepared = state(X509[1], END + 1);
    let both = GetX509AuthorityStateResponse { active, prepared, old: None };
    fake.answer(method, both);
    show().on(&fake).await.matches("localauthority-x509-show");
    let rotated = GetX509AuthorityStateResponse {
        active: state(X509[1], END + 1),
        prepared: None,
        old: state(X509[0], END),
    };
    fake.answer(method, rotated.clone()).answer(method, rotated.clone());
    show().on(&fake).await.matches("localauthority-x509-show-old");
    let json = line("spire-server localauthority x509 show -output json");
    json.on(&fake).await.matches("localauthority-x509-show-json");
    let mut below = rotated;
    below.active.as_mut().unwrap().upstream_authority_subject_key_id = "abcd".to_owned();
    fake.answer(method, below);
    let stdout = show().on(&fake).await.success();
    assert!(stdout.contains("UTC\n  Upstream authority Subject Key ID: abcd\n\nPrep"), "{stdout}");

    let rotated = GetJwtAuthorityStateResponse {
        active: state(JWT[1], END + 1),
        prepared: None,
        old: state(JWT[0], END),
    };
    let method = "get_jwt_authority_state";
    fake.answer(method, rotated.clone()).answer(method, rotated);
    let pretty = line("spire-server localauthority jwt show");
    pretty.on(&fake).await.matches("localauthority-jwt-show");
    let json = line("spire-server localauthority jwt show -output json");
    json.on(&fake).await.matches("localauthority-jwt-show-json");
}

#[tokio::test]
async fn prepare_shows_what_was_made() {
    let fake = Fake::start();
    let answer = |id, end| PrepareX509AuthorityResponse { prepared_authority: state(id, end) };
    fake.answer("prepare_x509_authority", answer(X509[1], END + 1));
    let pretty = line("spire-server localauthority x509 prepare").on(&fake).await;
    pretty.matches("localauthority-x509-prepare");
    let call = fake.only_call();
    assert!(call.metadata.contains_key("steeple-request-id"), "it changes something");
    fake.answer("prepare_x509_authority", answer(X509[2], END + 9));
    let json = line("spire-server localauthority x509 prepare -output json").on(&fake).await;
    json.matches("localauthority-x509-prepare-json");

    let answer = |id, end| PrepareJwtAuthorityResponse { prepared_authority: state(id, end) };
    fake.answer("prepare_jwt_authority", answer(JWT[1], END + 1));
    let pretty = line("spire-server localauthority jwt prepare").on(&fake).await;
    pretty.matches("localauthority-jwt-prepare");
    fake.answer("prepare_jwt_authority", answer(JWT[2], END + 16));
    let json = line("spire-server localauthority jwt prepare -output json").on(&fake).await;
    json.matches("localauthority-jwt-prepare-json");
}

#[tokio::test]
async fn each_step_sends_the_id_and_shows_the_authority() {
    let fake = Fake::start();
    let step = |words: &str, id: &str| {
        line(&format!("spire-server localauthority {words} -authorityID {id}"))
    };
    let activated = |id, end| ActivateX509AuthorityResponse { activated_authority: state(id, end) };
    fake.answer("activate_x509_authority", activated(X509[1], END + 1));
    let outcome = step("x509 activate -force", X509[1]).on(&fake).await;
    outcome.matches("localauthority-x509-activate");
    let call = fake.only_call();
    assert!(call.metadata.contains_key("steeple-request-id"));
    let sent: &ActivateX509AuthorityRequest = call.message();
    assert_eq!(sent.authority_id, X509[1]);
    fake.refuse("rotation", Status::unimplemented("unknown service"));
    fake.answer("activate_x509_authority", activated(X509[3], END + 10));
    let outcome = step("x509 activate -output json", X509[3]).on(&fake).await;
    outcome.matches("localauthority-x509-activate-json");

    let tainted = TaintX509AuthorityResponse { tainted_authority: state(X509[0], END) };
    fake.answer("taint_x509_authority", tainted);
    step("x509 taint", X509[0]).on(&fake).await.matches("localauthority-x509-taint");
    let revoked = RevokeX509AuthorityResponse { revoked_authority: state(X509[0], 0) };
    fake.answer("revoke_x509_authority", revoked);
    let outcome = step("x509 revoke -output json", X509[0]).on(&fake).await;
    outcome.matches("localauthority-x509-revoke-json");

    let activated = ActivateJwtAuthorityResponse { activated_authority: state(JWT[1], END + 1) };
    fake.answer("rotation", rotation(JWT[1], true));
    fake.answer("activate_jwt_authority", activated);
    step("jwt activate", JWT[1]).on(&fake).await.matches("localauthority-jwt-activate");
    let tainted = TaintJwtAuthorityResponse { tainted_authority: state(JWT[0], 0) };
    fake.answer("taint_jwt_authority", tainted);
    step("jwt taint", JWT[0]).on(&fake).await.matches("localauthority-jwt-taint");
    let revoked = RevokeJwtAuthorityResponse { revoked_authority: state(JWT[0], 0) };
    fake.answer("revoke_jwt_authority", revoked);
    let outcome = step("jwt revoke -output json", JWT[0]).on(&fake).await;
    outcome.matches("localauthority-jwt-revoke-json");
}

/// A rotation to an authority that all know, or that one agent does not.
fn rotation(prepared: &str, complete: bool) -> RotationResponse {
    let prepared = Authority { id: prepared.to_owned(), ..Default::default() };
    let waits_for = if complete { "" } else { "1 of 9 agents: spiffe://example.org/spire/agent/a" };
    let prepared = Some(prepared);
    RotationResponse { prepared, complete, waits_for: waits_for.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn what_some_do_not_know_is_not_activated_without_force() {
    let fake = Fake::start();
    let words = |id: &str| format!("spire-server localauthority x509 activate -authorityID {id}");
    fake.answer("rotation", rotation(X509[1], false));
    let outcome = line(&words(X509[1])).on(&fake).await;
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            1,
            "Error: could not activate X.509 authority: not all know it yet, waiting for 1 of 9 agents: \
             spiffe://example.org/spire/agent/a; run \"cluster rotate x509 -wait\", or use -force\n"
        )
    );
    assert_eq!(fake.only_call().method, "rotation", "nothing was activated");
    // Of another the server says that it cannot be activated.
    fake.answer("rotation", rotation(X509[1], false));
    fake.refuse("activate_x509_authority", Status::invalid_argument("unexpected authority ID"));
    let outcome = line(&words(X509[2])).on(&fake).await;
    assert!(outcome.stderr.ends_with("unexpected authority ID\n"), "{}", outcome.stderr);
}

#[tokio::test]
async fn refusals_are_told_in_spires_words() {
    let fake = Fake::start();
    let prepared = "only Old local authorities can be tainted: unsupported local authority status: \
                    PREPARED";
    fake.refuse("taint_x509_authority", Status::invalid_argument(prepared));
    let words = format!("spire-server localauthority x509 taint -authorityID {}", X509[1]);
    line(&words).on(&fake).await.matches("localauthority-x509-taint-failed");
    let current = "invalid authority ID: unable to use current authority";
    fake.refuse("revoke_jwt_authority", Status::invalid_argument(current));
    let words = format!("spire-server localauthority jwt revoke -authorityID {}", JWT[0]);
    line(&words).on(&fake).await.matches("localauthority-jwt-revoke-failed");

    let none = "upstream authority is not configured";
    fake.refuse("taint_x509_upstream_authority", Status::failed_precondition(none));
    let words = "spire-server upstreamauthority taint -subjectKeyID AbCd";
    line(words).on(&fake).await.matches("upstreamauthority-taint-failed");
    fake.refuse("revoke_x509_upstream_authority", Status::failed_precondition(none));
    let words = "spire-server upstreamauthority revoke -subjectKeyID abcd";
    line(words).on(&fake).await.matches("upstreamauthority-revoke-failed");

    let initializing = || Status::new(Code::Unavailable, "server is initializing");
    let desc = "rpc error: code = Unavailable desc = server is initializing";
    for (words, method, doing) in [
        ("x509 show", "get_x509_authority_state", "could not get X.509 authorities: "),
        ("jwt show", "get_jwt_authority_state", ""),
        ("x509 prepare", "prepare_x509_authority", "could not prepare X.509 authority: "),
        ("jwt prepare", "prepare_jwt_authority", "could not prepare JWT authority: "),
    ] {
        fake.refuse(method, initializing());
        let outcome = line(&format!("spire-server localauthority {words}")).on(&fake).await;
        assert_eq!((outcome.code, outcome.stderr), (1, format!("Error: {doing}{desc}\n")));
    }
}

#[tokio::test]
async fn an_id_is_asked_for_before_the_server_is() {
    let fake = Fake::start();
    for kind in ["x509", "jwt"] {
        for verb in ["activate", "taint", "revoke"] {
            let outcome =
                line(&format!("spire-server localauthority {kind} {verb}")).on(&fake).await;
            assert_eq!(outcome.stderr, "Error: an authority ID is required\n");
        }
    }
    for verb in ["taint", "revoke"] {
        let outcome = line(&format!("spire-server upstreamauthority {verb}")).on(&fake).await;
        let text = "Error: the Subject Key ID of the X.509 upstream authority is required\n";
        assert_eq!(outcome.stderr, text);
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn upstream_steps_show_the_id_that_the_server_says() {
    let fake = Fake::start();
    for (verb, done) in [("taint", "Tainted"), ("revoke", "Revoked")] {
        let upstream_authority_subject_key_id = "abcd".to_owned();
        if verb == "taint" {
            let answer = TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id };
            fake.answer("taint_x509_upstream_authority", answer);
        } else {
            let answer = RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id };
            fake.answer("revoke_x509_upstream_authority", answer);
        }
        let words = format!("spire-server upstreamauthority {verb} -subjectKeyID ABCD");
        let stdout = line(&words).on(&fake).await.success();
        assert_eq!(stdout, format!("{done} X.509 upstream authority:\n  Subject Key ID: abcd\n"));
    }
}

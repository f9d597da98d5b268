//! `cluster rotate`.
//!
//! Owns what each step sends, and what is told of one that cannot be taken yet.

use steeple_api::pb::cluster::v1::*;
use steeple_api::pb::server::localauthority::v1::*;

use tonic::Status;

use crate::driver::{NOW, line};
use crate::fake::{Call, Fake};

const END: &str = "2026-01-03 03:04:05 +0000 UTC";
const EARLY: &str = "2026-01-03 02:04:05 +0000 UTC";
const LATEST: &str = "2026-01-03 04:04:05 +0000 UTC";

fn named(id: &str) -> Option<Authority> {
    Some(Authority { id: id.to_owned(), not_after: NOW + 24 * 3600, ..Default::default() })
}

/// `old` signs; nothing is prepared.
fn quiet() -> RotationResponse {
    RotationResponse {
        active: named("old"),
        agents: 9,
        prepare_at: NOW + 24 * 3600,
        activate_at: NOW + 24 * 3600,
        leave_at: NOW + 24 * 3600,
        published: 2,
        published_max: 3,
        place_free_at: NOW + 24 * 3600,
        may_prepare: true,
        may_prepare_at: NOW + 24 * 3600,
        assumed_at: NOW + 24 * 3600,
        known_from: NOW + 24 * 3600,
        activate_at_latest: NOW + 25 * 3600,
        ..Default::default()
    }
}

/// Nothing is prepared, and nothing may be.
fn full() -> RotationResponse {
    RotationResponse { may_prepare: false, ..quiet() }
}

/// `new` is prepared.
fn prepared(without: u32) -> RotationResponse {
    let waits_for = if without == 0 { "" } else { "1 of 9 agents: a" };
    RotationResponse {
        prepared: named("new"),
        complete: without == 0,
        waits_for: waits_for.to_owned(),
        agents_without: without,
        published: 3,
        may_prepare: false,
        ..quiet()
    }
}

/// `new` signs.
fn rotated() -> RotationResponse {
    // An older one goes before that which was replaced.
    let place_free_at = NOW + 3600;
    RotationResponse { active: named("new"), published: 3, place_free_at, ..quiet() }
}

#[tokio::test]
async fn all_steps_that_may_be_taken_are_taken_and_told() {
    let fake = Fake::start();
    let rotate = |words: &str| line(&format!("spire-server cluster rotate x509 {words}"));
    fake.answer("rotation", quiet())
        .answer("rotation", prepared(0))
        .answer("rotation", prepared(0));
    fake.answer("prepare_x509_authority", PrepareX509AuthorityResponse::default());
    fake.answer("activate_x509_authority", ActivateX509AuthorityResponse::default());
    fake.answer("rotation", rotated());
    let told = rotate("").on(&fake).await.success();
    let end = format!("X.509 authority new signs. The one before it leaves the bundle at {END}.\n");
    let published = "X.509 authority new is prepared: published, but it signs nothing yet.\n";
    assert_eq!(told, format!("{published}{end}"));
    let calls = fake.calls();
    let activated = calls.iter().find(|call| call.method == "activate_x509_authority").unwrap();
    assert_eq!(activated.message::<ActivateX509AuthorityRequest>().authority_id, "new");

    // With -wait it looks again; with JSON what happens is not in the way of the answer.
    // Seconds that are left are no news.
    for left in ["", "; member m: for 12 s more", "; member m: for 10 s more"] {
        let waits_for = format!("1 of 9 agents: a{left}");
        fake.answer("rotation", RotationResponse { waits_for, ..prepared(1) });
    }
    fake.answer("rotation", rotated());
    let outcome = rotate("-wait -output json").on(&fake).await;
    let waited = "8 of 9 agents have it; waiting for 1 of 9 agents: a; member m: for 12 s more\n";
    assert_eq!(outcome.stderr, format!("{published}{waited}{end}"));
    assert!(outcome.stdout.starts_with("{\"activate_at\":"), "{}", outcome.stdout);
}

#[tokio::test]
async fn a_step_is_asked_for_what_was_seen_alone_and_whoever_is_faster_is_followed() {
    let fake = Fake::start();
    let rotate = |words: &str| line(&format!("spire-server cluster rotate x509 {words}"));
    let at = |journal_revision| RotationResponse { journal_revision, ..quiet() };
    let moved = || Status::unavailable("the journal has moved");
    // Something else moved it; then another rotation did, and let its authority sign as well.
    fake.answer("rotation", at(5)).refuse("prepare_x509_authority", moved());
    fake.answer("rotation", at(6)).refuse("prepare_x509_authority", moved());
    fake.answer("rotation", prepared(0)).answer("rotation", prepared(0));
    fake.refuse("activate_x509_authority", Status::invalid_argument("unexpected authority ID"));
    fake.answer("rotation", rotated());
    assert!(rotate("").on(&fake).await.success().contains("authority new signs"));
    let expected = |call: &Call| call.metadata.get("steeple-expected-journal").cloned();
    let asked: Vec<_> = fake.calls().iter().filter_map(expected).collect();
    assert_eq!(asked, ["5", "6"]);

    // What failed though nothing moved has failed.
    fake.answer("rotation", at(6)).answer("rotation", at(6));
    let short = Status::failed_precondition("upstream authority signs nothing that ends after");
    fake.refuse("prepare_x509_authority", short);
    let text = rotate("-wait").on(&fake).await.failure();
    assert!(text.contains("FailedPrecondition") && text.contains("ends after"), "{text}");
}

#[tokio::test]
async fn without_a_quorum_it_fails_or_waits_for_one() {
    let fake = Fake::start();
    let alone = || Status::unavailable("no leader: 1 of 3 voters reachable");
    let told = "rpc error: code = Unavailable desc = no leader: 1 of 3 voters reachable";
    for words in ["", "-plan"] {
        fake.refuse("rotation", alone());
        let command = line(&format!("spire-server cluster rotate x509 {words}"));
        assert_eq!(command.on(&fake).await.failure(), format!("Error: {told}\n"));
    }
    // Lost at each step, and told once a time.
    fake.refuse("rotation", alone()).refuse("rotation", alone()).answer("rotation", prepared(0));
    fake.answer("rotation", prepared(0)).refuse("activate_x509_authority", alone());
    fake.answer("rotation", rotated());
    let told = format!("{told}; trying again\n");
    let outcome = line("spire-server cluster rotate x509 -wait").on(&fake).await.success();
    assert!(outcome.starts_with(&told) && outcome.matches(&told).count() == 1, "{outcome}");
    assert!(outcome.contains("authority new signs"), "{outcome}");
}

#[tokio::test]
async fn below_an_upstream_authority_nothing_is_said_of_places_in_the_bundle() {
    let fake = Fake::start();
    let below = |seen| RotationResponse { below_upstream: true, ..seen };
    fake.answer("rotation", below(full()));
    let rotate = |words: &str| line(&format!("spire-server cluster rotate x509 {words}"));
    let text = rotate("").on(&fake).await.failure();
    assert_eq!(
        text,
        format!(
            "Error: no X.509 authority was prepared: 2 of 3 authorities have not ended yet, and room for one \
             is needed by the schedule; the next may be prepared at {END}: run the command again then, or \
             with -wait; to replace the one that signs all the same, \"localauthority x509 prepare\" and \
             \"activate\" do\n"
        )
    );
    fake.answer("rotation", below(prepared(0))).answer("rotation", below(prepared(0)));
    fake.answer("activate_x509_authority", ActivateX509AuthorityResponse::default());
    fake.answer("rotation", below(rotated()));
    let told = rotate("").on(&fake).await.success();
    assert!(told.ends_with(&format!("new signs. The one before it ends at {END}.\n")), "{told}");
    fake.answer("rotation", below(full()));
    let plan = rotate("-plan").on(&fake).await.success();
    assert!(plan.contains("when there is room for it and for the one by schedule"), "{plan}");
    assert!(!plan.contains("leaves"), "{plan}");
}

#[tokio::test]
async fn what_cannot_be_done_yet_is_told_with_its_time() {
    let fake = Fake::start();
    let rotate = |words: &str| line(&format!("spire-server cluster rotate jwt {words}"));
    fake.answer("rotation", prepared(1)).answer("rotation", prepared(1));
    let told = rotate("").on(&fake).await.success();
    assert_eq!(
        told,
        format!(
            "JWT authority new is prepared: published, but it signs nothing yet.\n\
             8 of 9 agents have it; waiting for 1 of 9 agents: a\n\
             Nothing more is needed: it signs by itself from {END} on, once all have it, and at \
             {LATEST} in any case. To let it sign sooner run the command again, or with -wait; at {END} \
             all are taken to have it.\n"
        )
    );
    // Where the schedule does not wait for so long, that time is not spoken of.
    let hasty = RotationResponse { activate_at_latest: NOW + 3600, ..prepared(1) };
    fake.answer("rotation", hasty.clone()).answer("rotation", hasty);
    let told = rotate("").on(&fake).await.success();
    assert!(
        told.ends_with(
            "in any case. To let it sign sooner run the command again, or with -wait.\n"
        )
    );
    // A member that is gone is waited for, and the agents are counted all the same.
    for (agents, have) in [(9, "9 of 9 agents have it"), (0, "there are no agents")] {
        let gone = RotationResponse {
            complete: false,
            agents,
            agents_unsure: agents,
            waits_for: "member m: it does not answer".to_owned(),
            ..prepared(0)
        };
        fake.answer("rotation", gone.clone()).answer("rotation", gone);
        let told = rotate("").on(&fake).await.success();
        assert!(told.contains(&format!("{have}; waiting for member m: it does not answer\n")));
    }
    fake.answer("rotation", full());
    let text = rotate("").on(&fake).await.failure();
    assert_eq!(
        text,
        format!(
            "Error: no JWT authority was prepared: 2 of 3 places in the bundle are taken, and one is needed \
             by the schedule; the next may be prepared at {END}: run the command again then, or with -wait; \
             where an old one is not trusted any more, \"localauthority jwt taint\" and \"revoke\" free \
             its place\n"
        )
    );
    assert!(fake.calls().iter().all(|call| call.method == "rotation"), "nothing was done");
    fake.answer("rotation", RotationResponse::default());
    let text = rotate("").on(&fake).await.failure();
    assert_eq!(text, "Error: nothing signs yet: no JWT authority is active\n");
    fake.answer("rotation", prepared(0));
    fake.answer("rotation", RotationResponse { prepared: None, ..quiet() });
    let outcome = rotate("-wait").on(&fake).await;
    let lost = "JWT authority new is not prepared any more: it was tainted, revoked or replaced";
    assert_eq!((outcome.code, outcome.stderr), (1, format!("Error: {lost}\n")));
    let text = rotate("-plan -wait").on(&fake).await.failure();
    assert_eq!(text, "Error: -plan and -wait exclude each other\n");
}

#[tokio::test]
async fn a_plan_names_each_step_and_its_time() {
    let fake = Fake::start();
    let early = NOW + 23 * 3600;
    let by = |known: &str| format!("{known}at {END} at the latest");
    let unseen = by("when all agents have fetched the bundle; ");
    let from = |at: &str| format!("when it is known, at {at} at the earliest");
    // What it would be behind the end of what signs: the schedule is faster.
    let late = RotationResponse { activate_at_latest: early, ..prepared(1) };
    let waits = format!("{}; waiting for 1 of 9 agents: a", by(""));
    let at = "when the bundle has a place for it and for the one by schedule after it";
    for (seen, prepare, known, activate) in [
        (quiet(), "now".to_owned(), unseen.clone(), from(END)),
        (prepared(0), "done: new".to_owned(), "done".to_owned(), "now".to_owned()),
        (prepared(1), "done: new".to_owned(), waits.clone(), from(END)),
        (late, "done: new".to_owned(), waits.replace(END, EARLY), from(EARLY)),
        (full(), format!("at {END}, {at}"), unseen, from(END)),
    ] {
        fake.answer("rotation", seen);
        let plan = line("spire-server cluster rotate x509 -plan").on(&fake).await.success();
        let lines: Vec<&str> =
            plan.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
        let signs = format!("old, until {END}");
        let leaves = format!("at {END}");
        let by_itself = format!("prepared at {END}, activated at {END}");
        assert_eq!(lines, [&signs, &prepare, &known, &activate, &leaves, &by_itself]);
        assert_eq!(fake.only_call().method, "rotation");
    }
}

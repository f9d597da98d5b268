//! `cluster status`, `members`, `transfer`, `check`, `upgrade`, `keygen`.
//!
//! Owns what each sends and prints, and when `status` fails.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use steeple_api::pb::cluster::v1::*;
use tonic::Status;

use crate::driver::{NOW, line};
use crate::fake::Fake;

fn members() -> Vec<Member> {
    use member::{Reachability, Role};
    let member = |n: u8, role: Role| Member {
        id: format!("{:016x}", 0xa0 + u64::from(n)),
        name: format!("server-{}", n - 1),
        address: format!("server-{}.peers:8082", n - 1),
        role: role.into(),
        leader: n == 2,
        this_member: n == 1,
        reachability: Reachability::Reachable.into(),
        applied_lag: Some(u64::from(2 - n.min(2))),
        version: "0.1.0".to_owned(),
        observed_age_s: Some(0.5),
        clock_offset_s: Some(f64::from(n) / 8.0 - 0.25),
        settings_hash: "0011223344556677".to_owned(),
        key_ids: vec!["k1".to_owned(), "k2".to_owned()],
        feature_level_max: 2,
        disk: Some(DiskHealth {
            last_sync_s: Some(0.001),
            slowest_sync_s: 0.0123,
            waiting_s: 0.0,
            free_bytes: None,
        }),
    };
    let silent = Member {
        name: String::new(),
        reachability: Reachability::Unknown.into(),
        applied_lag: None,
        version: String::new(),
        observed_age_s: None,
        clock_offset_s: None,
        settings_hash: String::new(),
        key_ids: Vec::new(),
        feature_level_max: 0,
        disk: None,
        ..member(3, Role::Learner)
    };
    vec![member(1, Role::Voter), member(2, Role::Voter), silent]
}

fn this_member() -> ThisMember {
    ThisMember {
        id: "00000000000000a1".to_owned(),
        state: this_member::State::Member.into(),
        state_text: String::new(),
        commit_index: 42,
        applied_index: 41,
        revision: 41,
        staleness_s: Some(0.3),
        version: "0.1.0".to_owned(),
    }
}

fn healthy() -> StatusResponse {
    use authority::{Kind, Status};
    let authority = |kind: Kind, status: Status, id: &str, tainted| Authority {
        kind: kind.into(),
        id: id.to_owned(),
        status: status.into(),
        issued_at: NOW,
        not_after: NOW + 24 * 3600,
        tainted,
    };
    StatusResponse {
        cluster_id: "000102030405060708090a0b0c0d0e0f".to_owned(),
        cluster_name: "prod".to_owned(),
        trust_domain: "example.org".to_owned(),
        epoch: 0,
        feature_level: 1,
        this_member: Some(this_member()),
        quorum: Some(Quorum {
            leader_id: "00000000000000a2".to_owned(),
            term: 7,
            voters: 3,
            voters_reachable: 3,
            needed: 2,
            in_contact: true,
            lost_for_s: 0.0,
            text: String::new(),
        }),
        members: members(),
        authorities: vec![
            authority(Kind::X509, Status::Active, "0a0b", false),
            authority(Kind::Jwt, Status::Old, "kid-1", true),
        ],
        warnings: vec![],
        restored: None,
        snapshots: None,
        cluster_keys: Vec::new(),
        federated_bundles: Vec::new(),
    }
}

fn forming() -> StatusResponse {
    StatusResponse {
        cluster_id: String::new(),
        feature_level: 0,
        this_member: Some(ThisMember {
            state: this_member::State::Forming.into(),
            state_text: "waiting for founders: 2 of 3, missing server-2.peers:8082 (no such host)"
                .to_owned(),
            commit_index: 0,
            applied_index: 0,
            revision: 0,
            staleness_s: None,
            ..this_member()
        }),
        quorum: Some(Quorum {
            voters: 3,
            voters_reachable: 1,
            needed: 2,
            lost_for_s: 12.5,
            text: "no leader: 1 of 3 voters reachable".to_owned(),
            ..Default::default()
        }),
        members: vec![],
        authorities: vec![],
        warnings: vec![Warning {
            code: "no_leader".to_owned(),
            message: "no leader is known".to_owned(),
            fix: "check that the members reach each other on their peer addresses".to_owned(),
        }],
        ..healthy()
    }
}

#[tokio::test]
async fn status_is_one_screen_and_fails_on_warnings() {
    for (response, golden) in
        [(healthy(), "cluster-status"), (forming(), "cluster-status-unhealthy")]
    {
        let fake = Fake::start();
        fake.answer("status", response);
        line("spire-server cluster status").on(&fake).await.matches(golden);
    }
}

#[tokio::test]
async fn status_as_json_is_the_reply_and_fails_alike() {
    for (response, code) in [(healthy(), 0), (forming(), 1)] {
        let fake = Fake::start();
        fake.answer("status", response);
        let outcome = line("spire-server cluster status -output json").on(&fake).await;
        assert_eq!(outcome.code, code);
        let value: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(value["this_member"]["id"], "00000000000000a1");
        assert_eq!(value["quorum"]["in_contact"], code == 0);
    }
}

#[tokio::test]
async fn members_are_a_table_or_json() {
    let fake = Fake::start();
    fake.answer("members", MembersResponse { members: members() });
    let stdout = line("spire-server cluster members").on(&fake).await.success();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("*  00000000000000a1  server-0  "), "{stdout}");
    fake.answer("members", MembersResponse { members: members() });
    let command = line("spire-server cluster members -output json");
    command.on(&fake).await.matches("cluster-members-json");
}

#[tokio::test]
async fn transfer_tells_who_leads_and_how_long_nobody_did() {
    let fake = Fake::start();
    let response = || TransferLeadershipResponse {
        leader_id: "00000000000000a2".to_owned(),
        took_s: 0.012_475_317,
    };
    for (words, to, expected) in [
        ("", "", "Leadership handed to 00000000000000a2 in 12.5ms.\n"),
        (
            "-to 00000000000000a2",
            "00000000000000a2",
            "Leadership handed to 00000000000000a2 in 12.5ms.\n",
        ),
        ("-output json", "", "{\"leader_id\":\"00000000000000a2\",\"took_s\":0.012475317}\n"),
    ] {
        fake.answer("transfer_leadership", response());
        let command = line(&format!("spire-server cluster transfer {words}"));
        assert_eq!(command.on(&fake).await.success(), expected);
        let call = fake.only_call();
        assert_eq!(call.message::<TransferLeadershipRequest>().to, to);
        assert!(call.metadata.contains_key("steeple-request-id"));
    }
    fake.refuse("transfer_leadership", Status::unavailable("no leader: 1 of 3 voters reachable"));
    let stderr = line("spire-server cluster transfer").on(&fake).await.failure();
    assert_eq!(
        stderr,
        "Error: rpc error: code = Unavailable desc = no leader: 1 of 3 voters reachable\n"
    );
}

#[tokio::test]
async fn the_membership_is_changed_by_hand() {
    let fake = Fake::start();
    let id = "00000000000000a2";
    let answer = |command: &str| match command {
        "remove" => fake.answer("remove_member", RemoveMemberResponse {}),
        "promote" => fake.answer("promote_member", PromoteMemberResponse {}),
        _ => fake.answer("demote_member", DemoteMemberResponse {}),
    };
    for (command, line_of_it) in [
        ("remove", "Member 00000000000000a2 removed.\n"),
        ("promote", "Member 00000000000000a2 votes.\n"),
        ("demote", "Member 00000000000000a2 follows without a vote.\n"),
    ] {
        answer(command);
        let told = line(&format!("spire-server cluster {command} -id {id}"));
        assert_eq!(told.on(&fake).await.success(), line_of_it);
        assert!(fake.only_call().metadata.contains_key("steeple-request-id"));
        answer(command);
        let json = line(&format!("spire-server cluster {command} -id {id} -output json"));
        assert_eq!(json.on(&fake).await.success(), "{}\n");
        fake.only_call();
        let nobody = line(&format!("spire-server cluster {command}"));
        assert_eq!(nobody.on(&fake).await.failure(), "Error: a member ID is required (use -id)\n");
    }
    for (words, force) in [("", false), ("-force", true)] {
        answer("remove");
        line(&format!("spire-server cluster remove -id {id} {words}")).on(&fake).await.success();
        let call = fake.only_call();
        let request = call.message::<RemoveMemberRequest>();
        assert_eq!((request.id.as_str(), request.force), (id, force));
    }
    fake.refuse("remove_member", Status::failed_precondition("the last voter cannot go"));
    let refused = line(&format!("spire-server cluster remove -id {id}")).on(&fake).await;
    assert_eq!(
        refused.failure(),
        "Error: rpc error: code = FailedPrecondition desc = the last voter cannot go\n"
    );
}

#[tokio::test]
async fn check_prints_a_verdict_a_line_and_fails_if_one_does() {
    use verdict::Outcome::{Fail, Ok, Warn};
    let verdict = |name: &str, outcome: verdict::Outcome| Verdict {
        name: name.to_owned(),
        outcome: outcome.into(),
        text: "what was found".to_owned(),
        hint: if outcome == Ok { String::new() } else { "what to do".to_owned() },
        doc: "docs/x.md".to_owned(),
    };
    for (outcomes, code, last) in [
        (vec![Ok, Warn], 0, ""),
        (vec![Fail], 1, "Error: 1 check failed\n"),
        (vec![Fail, Ok, Fail], 1, "Error: 2 checks failed\n"),
    ] {
        let fake = Fake::start();
        let verdicts: Vec<_> =
            outcomes.iter().map(|outcome| verdict("disk_sync", *outcome)).collect();
        fake.answer("check", CheckResponse { verdicts: verdicts.clone() });
        let told = line("spire-server cluster check").on(&fake).await;
        assert_eq!((told.code, told.stderr.as_str()), (code, last));
        let lines: Vec<_> = told.stdout.lines().collect();
        let first = if outcomes[0] == Ok { "ok  " } else { "FAIL" };
        assert_eq!(lines[0], format!("{first}  disk_sync     what was found"));
        let fixes = lines.iter().filter(|line| line.trim() == "fix: what to do").count();
        assert_eq!(fixes, outcomes.iter().filter(|outcome| **outcome != Ok).count());
        fake.answer("check", CheckResponse { verdicts });
        let json = line("spire-server cluster check -output json").on(&fake).await;
        assert_eq!(json.code, code);
        let value: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(value["verdicts"][0]["name"], "disk_sync");
    }
}

#[tokio::test]
async fn an_upgrade_is_shown_and_finalized() {
    let fake = Fake::start();
    let member = |id: &str, level| MemberLevel {
        id: id.to_owned(),
        version: "0.2.0".to_owned(),
        feature_level_max: level,
    };
    let status = |ready_level, raised_in_s| UpgradeStatusResponse {
        feature_level: 1,
        members: vec![member("00000000000000a1", 2), member("00000000000000a2", 0)],
        ready_level,
        raised_in_s,
    };
    for (response, next) in [
        (status(0, None), "not all members support a higher level"),
        (
            status(2, Some(7200.4)),
            "2, supported by all members: run \"cluster upgrade finalize\", is raised by itself in 2h0m0s",
        ),
    ] {
        fake.answer("upgrade_status", response);
        let stdout = line("spire-server cluster upgrade status").on(&fake).await.success();
        let expected = format!(
            "Feature level : 1\nNext          : {next}\n\nID                VERSION  SUPPORTS\n\
             00000000000000a1  0.2.0    2\n00000000000000a2  0.2.0    -\n"
        );
        assert_eq!(stdout, expected);
        fake.only_call();
    }
    fake.answer("finalize_upgrade", FinalizeUpgradeResponse { from: 1, to: 2 });
    let command = line("spire-server cluster upgrade finalize");
    assert_eq!(command.on(&fake).await.success(), "Feature level raised from 1 to 2.\n");
    assert!(fake.only_call().metadata.contains_key("steeple-request-id"));
    fake.answer("finalize_upgrade", FinalizeUpgradeResponse { from: 2, to: 2 });
    let again = line("spire-server cluster upgrade finalize").on(&fake).await.success();
    let nothing =
        "Nothing to do: the cluster is at feature level 2, the newest that its members support.";
    assert!(again.starts_with(nothing), "{again}");
    fake.refuse("finalize_upgrade", Status::failed_precondition("member a supports none above it"));
    let refused = line("spire-server cluster upgrade finalize").on(&fake).await.failure();
    assert!(refused.contains("FailedPrecondition desc = member a supports none"), "{refused}");
}

fn key(id: &str, use_: cluster_key::Use, authorities: u32, presented_by: usize) -> ClusterKey {
    let members = ["00000000000000a1", "00000000000000a2"].map(str::to_owned);
    let presented_by: Vec<String> = members.iter().take(presented_by).cloned().collect();
    let is_leaving = use_ == cluster_key::Use::Leaving;
    let waits_for = presented_by.iter().filter(|_| is_leaving);
    let waits_for =
        waits_for.map(|member| waiting(member, cluster_key::waiting::Reason::Presents)).collect();
    ClusterKey {
        id: id.to_owned(),
        r#use: use_.into(),
        held_by: members.to_vec(),
        missing_at: Vec::new(),
        authorities,
        presented_by,
        waits_for,
    }
}

fn waiting(member: &str, reason: cluster_key::waiting::Reason) -> cluster_key::Waiting {
    let address = members().into_iter().find(|one| one.id == member).map(|one| one.address);
    cluster_key::Waiting {
        id: member.to_owned(),
        address: address.expect("one of the members"),
        reason: reason.into(),
    }
}

/// A key that waits for a member which says nothing.
fn waits_for_silence(id: &str) -> ClusterKey {
    let silent = waiting("00000000000000a2", cluster_key::waiting::Reason::Silent);
    ClusterKey { waits_for: vec![silent], ..key(id, cluster_key::Use::Leaving, 0, 0) }
}

fn rekeyed(moved: bool, done: bool, keys: Vec<ClusterKey>) -> RekeyResponse {
    let (from, to) = ("0011223344556677".to_owned(), "8899aabbccddeeff".to_owned());
    let from = if moved { from } else { to.clone() };
    RekeyResponse { from, to, moved, done, keys }
}

#[tokio::test]
async fn rekey_waits_until_nothing_depends_on_the_old_key() {
    use cluster_key::Use::{Leaving, New, Seals, Unused};
    let (old, new) = ("0011223344556677", "8899aabbccddeeff");
    let under = |authorities, members| {
        vec![key(new, Seals, 4 - authorities, 2 - members), key(old, Leaving, authorities, members)]
    };
    let done = || rekeyed(false, true, vec![key(new, Seals, 4, 2), key(old, Unused, 0, 0)]);
    let fake = Fake::start();
    fake.answer("rekey", rekeyed(true, false, under(4, 2)));
    fake.answer("rekey", rekeyed(false, false, under(4, 2)));
    fake.refuse("rekey", Status::unavailable("no leader: 1 of 3 voters reachable"));
    fake.answer("rekey", rekeyed(false, false, under(1, 0)));
    let silent = vec![key(new, Seals, 4, 1), waits_for_silence(old)];
    fake.answer("rekey", rekeyed(false, false, silent));
    fake.answer("rekey", done());
    line("spire-server cluster rekey").on(&fake).await.matches("cluster-rekey");
    let calls = fake.calls();
    let asked: Vec<_> = calls
        .iter()
        .map(|call| call.message::<RekeyRequest>())
        .map(|request| (request.to.as_str(), request.plan))
        .collect();
    assert_eq!(asked[0], ("", false));
    assert_eq!(asked[1..], [(new, true); 5]);
    assert!(calls[0].metadata.contains_key("steeple-request-id"));

    let plan = vec![key(old, Seals, 4, 2), key(new, New, 0, 0)];
    fake.answer("rekey", rekeyed(true, false, plan));
    let command = line(&format!("spire-server cluster rekey -to {new} -plan"));
    command.on(&fake).await.matches("cluster-rekey-plan");
    fake.answer("rekey", done());
    line("spire-server cluster rekey -output json").on(&fake).await.matches("cluster-rekey-json");

    fake.answer("rekey", done());
    let again = line(&format!("spire-server cluster rekey -to {new}")).on(&fake).await.success();
    let nothing = format!("Nothing to do: cluster key {new} seals already, and nothing is sealed");
    assert!(again.starts_with(&nothing), "{again}");
    assert!(
        again.contains(&format!("Nothing depends on {old} any more: drop its line")),
        "{again}"
    );

    let text = "not every member is known to hold cluster key k: missing at 00000000000000a2 (a:1)";
    fake.refuse("rekey", Status::failed_precondition(text));
    let stderr = line("spire-server cluster rekey").on(&fake).await.failure();
    assert_eq!(stderr, format!("Error: rpc error: code = FailedPrecondition desc = {text}\n"));
}

#[tokio::test]
async fn status_shows_the_cluster_keys_and_which_line_may_be_dropped() {
    use cluster_key::Use::{New, Seals, Unused};
    let missing = ClusterKey {
        held_by: vec!["00000000000000a1".to_owned()],
        missing_at: vec!["00000000000000a2".to_owned()],
        ..key("ffeeddccbbaa9988", New, 0, 0)
    };
    let keys =
        vec![key("8899aabbccddeeff", Seals, 4, 2), key("0011223344556677", Unused, 0, 0), missing];
    let fake = Fake::start();
    fake.answer("status", StatusResponse { cluster_keys: keys, ..healthy() });
    let stdout = line("spire-server cluster status").on(&fake).await.success();
    let expected = "\n\
CLUSTER KEY       USE             AUTHORITIES  CERTIFICATES  HELD BY  NOT HELD BY\n\
8899aabbccddeeff  seals           4            2             2 of 2   -\n\
0011223344556677  may be dropped  0            0             2 of 2   -\n\
ffeeddccbbaa9988  new             0            0             1 of 2   00000000000000a2\n";
    assert!(stdout.ends_with(expected), "{stdout}");
}

#[tokio::test]
async fn a_key_that_waits_for_a_member_that_does_not_answer_names_it() {
    let (old, new) = ("0011223344556677", "8899aabbccddeeff");
    let keys = || vec![key(new, cluster_key::Use::Seals, 4, 1), waits_for_silence(old)];
    let expected = "\n\
CLUSTER KEY       USE           AUTHORITIES  CERTIFICATES  HELD BY  NOT HELD BY\n\
8899aabbccddeeff  seals         4            1             2 of 2   -\n\
0011223344556677  still needed  0            0             2 of 2   -\n\
0011223344556677 is still needed: 00000000000000a2 (server-1.peers:8082) does not answer; its certificate \
is not known\n";
    let fake = Fake::start();
    fake.answer("status", StatusResponse { cluster_keys: keys(), ..healthy() });
    let stdout = line("spire-server cluster status").on(&fake).await.success();
    assert!(stdout.ends_with(expected), "{stdout}");
    fake.answer("rekey", rekeyed(false, false, keys()));
    let stdout = line("spire-server cluster rekey -plan").on(&fake).await.success();
    assert!(stdout.contains("Would do          : moved already, goes on by itself\n"), "{stdout}");
    assert!(stdout.ends_with(expected), "{stdout}");
}

#[tokio::test]
async fn keygen_prints_a_new_key_of_32_bytes_each_time() {
    let mut keys = Vec::new();
    for _ in 0..2 {
        let stdout = line("spire-server cluster keygen").run().await.success();
        let key = stdout.strip_suffix('\n').expect("one line").to_owned();
        assert_eq!(STANDARD.decode(&key).expect("base64").len(), 32);
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
    let stdout = line("spire-server cluster keygen -output json").run().await.success();
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(value["key"].as_str().expect("a text").len(), 44);
}

#[tokio::test]
async fn status_shows_whose_bundles_are_fetched_and_what_keeps_one() {
    let bundle = |name: &str, from_file| FederatedBundle {
        trust_domain: name.to_owned(),
        bundle_endpoint_url: format!("https://{name}:8443"),
        bundle_endpoint_profile: "https_spiffe".to_owned(),
        endpoint_spiffe_id: format!("spiffe://{name}/spire/server"),
        from_file,
        ..FederatedBundle::default()
    };
    let mut federated_bundles = vec![
        FederatedBundle {
            stored: true,
            sequence_number: 7,
            succeeded_at: NOW,
            authorities_end_at: NOW + 24 * 3600,
            next_try_at: NOW + 75,
            ..bundle("bar.test", true)
        },
        FederatedBundle {
            failing_since: NOW,
            failure: "failed to fetch".to_owned(),
            ..bundle("c.test", false)
        },
        bundle("d.test", false),
    ];
    let fake = Fake::start();
    let response = StatusResponse { federated_bundles: federated_bundles.clone(), ..healthy() };
    fake.answer("status", response);
    let stdout = line("spire-server cluster status").on(&fake).await.success();
    let shown: Vec<_> = stdout.lines().rev().take(6).collect();
    let expected = [
        "c.test cannot be fetched: failed to fetch",
        "LAST FETCHED may be up to an hour later than shown; the leader knows.",
        "d.test          api     no bundle yet                              -         \
         -                              -                              -",
        "c.test          api     fails since 2026-01-02 03:04:05 +0000 UTC  -         \
         -                              -                              -",
        "bar.test        file    ok                                         7         \
         2026-01-02 03:04:05 +0000 UTC  2026-01-03 03:04:05 +0000 UTC  \
         2026-01-02 03:05:20 +0000 UTC",
        "FEDERATED WITH  SOURCE  STATE                                      SEQUENCE  \
         LAST FETCHED                   AUTHORITIES END                NEXT",
    ];
    assert_eq!(shown, expected, "{stdout}");
    // The leader has nothing to excuse.
    federated_bundles[0].succeeded_at_is_exact = true;
    fake.answer("status", StatusResponse { federated_bundles, ..healthy() });
    let stdout = line("spire-server cluster status").on(&fake).await.success();
    assert!(!stdout.contains("LAST FETCHED may"), "{stdout}");
}

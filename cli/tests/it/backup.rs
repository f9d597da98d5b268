//! `cluster snapshot`, `recover` and `agents`: files, a held member's new epoch, agents that it does not
//! know.
//!
//! Owns what each sends and prints, and what is refused before anything is sent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use steeple_api::pb::cluster::v1::*;
use steeple_api::snapshot_file::SnapshotWriter;
use tonic::Status;

use crate::driver::{NOW, line};
use crate::fake::Fake;

fn header() -> SnapshotHeader {
    let member = |n: u8, voter| SnapshotMember {
        id: format!("{:016x}", 0xa0 + u64::from(n)),
        address: format!("server-{}.peers:8082", n - 1),
        voter,
    };
    SnapshotHeader {
        cluster_id: "000102030405060708090a0b0c0d0e0f".to_owned(),
        cluster_name: "prod".to_owned(),
        trust_domain: "example.org".to_owned(),
        epoch: 1,
        feature_level: 1,
        index: 42,
        term: 7,
        revision: (1 << 40) + 42,
        cluster_time: NOW - 60,
        saved_at: NOW,
        confirmed: true,
        members: vec![member(1, true), member(2, true), member(3, false)],
        counts: Some(SnapshotCounts {
            entries: 11,
            agents: 3,
            join_tokens: 2,
            bundles: 1,
            authorities: 4,
            federation_relationships: 0,
        }),
        key_id: "09ee8c5630ea8b8b".to_owned(),
        member_id: "00000000000000a1".to_owned(),
        version: "0.1.0".to_owned(),
        salt: vec![1; 32],
    }
}

fn file(header: &SnapshotHeader) -> Vec<u8> {
    let mut writer = SnapshotWriter::begin(Vec::new(), header).expect("memory");
    writer.frame(&[7; 100]).expect("memory");
    writer.end().expect("memory")
}

fn pieces(bytes: &[u8], unconfirmed: &str) -> Vec<SaveSnapshotResponse> {
    let pieces = bytes.chunks(50).enumerate().map(|(at, bytes)| SaveSnapshotResponse {
        bytes: bytes.to_vec(),
        unconfirmed: if at == 0 { unconfirmed.to_owned() } else { String::new() },
    });
    pieces.collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn save_writes_what_was_sent_and_inspect_shows_it_without_a_server() {
    let fake = Fake::start();
    let path = fake.folder().join("prod.snapshot");
    let place = fake.folder().display().to_string();
    let bytes = file(&header());
    fake.answer("save_snapshot", pieces(&bytes, ""));
    let command = line(&format!("spire-server cluster snapshot save {}", path.display()));
    let saved = command.on(&fake).await.success();
    assert_eq!(std::fs::read(&path).expect("the file is there"), bytes);
    assert_eq!(mode(&path), 0o600);
    let left = std::fs::read_dir(fake.folder()).expect("a folder").count();
    assert_eq!(left, 2, "the socket and the file, no temporary one");

    let inspect = format!("spire-server cluster snapshot inspect {}", path.display());
    let shown = line(&inspect).run().await;
    assert_eq!(shown.stdout, saved);
    shown.without(&place).matches("cluster-snapshot-inspect");
    let json = line(&format!("{inspect} -output json")).run().await.success();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["header"]["index"], "42");
    assert_eq!(value["header"]["counts"]["entries"], "11");
    assert_eq!(value["sha256"].as_str().map(str::len), Some(64));
}

#[tokio::test]
async fn a_snapshot_without_a_quorum_is_saved_with_a_warning() {
    let fake = Fake::start();
    let path = fake.folder().join("s");
    let header = SnapshotHeader { confirmed: false, ..header() };
    let text = "no leader: 1 of 3 voters reachable";
    fake.answer("save_snapshot", pieces(&file(&header), text));
    let command = line(&format!("spire-server cluster snapshot save {}", path.display()));
    let outcome = command.on(&fake).await;
    assert_eq!(outcome.code, 0);
    assert_eq!(
        outcome.stderr,
        format!(
            "Warning: no quorum has confirmed the snapshot, the newest changes may be missing: {text}\n"
        )
    );
    assert!(outcome.stdout.contains("Confirmed         : no: the newest changes may be missing\n"));
}

#[tokio::test]
async fn an_interrupted_save_leaves_the_older_file_alone() {
    let fake = Fake::start();
    let path = fake.folder().join("s");
    std::fs::write(&path, "older").expect("a file");
    let bytes = file(&header());
    let save = format!("spire-server cluster snapshot save {} -force", path.display());
    let command = || line(&save);
    fake.answer("save_snapshot", pieces(&bytes[..bytes.len() - 1], ""));
    let stderr = command().on(&fake).await.failure();
    let expected = format!(
        "Error: {} ends early: it was not copied or written to its end; copy it again or take another\n",
        path.display()
    );
    assert_eq!(stderr, expected);
    fake.refuse("save_snapshot", Status::failed_precondition("this member has no state"));
    let stderr = command().on(&fake).await.failure();
    assert!(stderr.contains("this member has no state"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "older");
}

#[tokio::test]
async fn save_onto_a_folder_asks_for_a_file_in_it() {
    let fake = Fake::start();
    let folder = fake.folder().join("backups");
    std::fs::create_dir(&folder).expect("a folder");
    let shown = folder.display();
    for force in ["", " -force"] {
        let save = format!("spire-server cluster snapshot save {shown}{force}");
        let stderr = line(&save).on(&fake).await.failure();
        let fix = format!("is a folder; name a file in it, for instance {shown}/NAME.snapshot");
        assert_eq!(stderr, format!("Error: {shown} {fix}\n"), "{force}");
    }
    assert!(fake.calls().is_empty(), "nothing is saved for nothing");
}

#[tokio::test]
async fn save_replaces_an_older_file_only_with_force() {
    let fake = Fake::start();
    let path = fake.folder().join("s");
    std::fs::write(&path, "older").expect("a file");
    let save = format!("spire-server cluster snapshot save {}", path.display());
    let stderr = line(&save).on(&fake).await.failure();
    let fix = "exists; give another name, or replace it with -force";
    assert_eq!(stderr, format!("Error: {} {fix}\n", path.display()));
    assert!(fake.calls().is_empty(), "nothing is saved for nothing");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "older");

    let bytes = file(&header());
    fake.answer("save_snapshot", pieces(&bytes, ""));
    line(&format!("{save} -force")).on(&fake).await.success();
    assert_eq!(std::fs::read(&path).expect("the file is there"), bytes);
    let help = line("spire-server cluster snapshot save -help").run().await;
    let text = "  -force\n    \tReplace FILE if it exists\n";
    assert!(help.stderr.contains(text), "{}", help.stderr);
}

#[tokio::test]
async fn what_is_no_whole_snapshot_is_refused_with_the_reason_and_the_fix() {
    let fake = Fake::start();
    let path = fake.folder().join("s");
    let bytes = file(&header());
    let mut flipped = bytes.clone();
    flipped[bytes.len() - 40] ^= 1;
    let mut newer = bytes.clone();
    newer[11] = 9;
    for (bytes, text) in [
        (
            b"{}".to_vec(),
            "is no snapshot; give the file that \"spire-server cluster snapshot save\" wrote",
        ),
        (
            bytes[..bytes.len() - 9].to_vec(),
            "ends early: it was not copied or written to its end; copy it again or take another",
        ),
        (flipped, "is damaged: its SHA-256 differs; copy it again or take another"),
        (newer, "has snapshot format 9, this version reads up to 1; use the version that wrote it"),
    ] {
        std::fs::write(&path, bytes).expect("a file");
        let command = line(&format!("spire-server cluster snapshot inspect {}", path.display()));
        let stderr = command.run().await.failure();
        assert_eq!(stderr, format!("Error: {} {text}\n", path.display()));
    }
    let stderr = line("spire-server cluster snapshot inspect").run().await.failure();
    assert_eq!(stderr, "Error: a file is required: spire-server cluster snapshot inspect FILE\n");
    let stderr = line("spire-server cluster snapshot inspect /absent").run().await.failure();
    assert_eq!(stderr, "Error: open /absent: no such file or directory\n");
}

#[tokio::test]
async fn list_shows_the_newest_first_and_fails_on_what_it_cannot_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().display().to_string();
    for (name, age) in [("a", 60), ("b", 0), ("c", 120)] {
        let header = SnapshotHeader { saved_at: NOW - age, ..header() };
        let path = folder.path().join(format!("prod-{name}.snapshot"));
        std::fs::write(path, file(&header)).expect("a file");
    }
    std::fs::write(folder.path().join("notes.txt"), "x").expect("a file");
    let list = format!("spire-server cluster snapshot list {place}");
    line(&list).run().await.without(&place).matches("cluster-snapshot-list");
    let link = folder.path().join("l.snapshot");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link");
    let outcome = line(&list).run().await.without(&place);
    let stderr =
        "Error: 1 file is no whole snapshot: PATH/l.snapshot; copy it again or take another\n";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, stderr));
    let (rows, last) = (outcome.stdout.lines().count(), outcome.stdout.lines().last());
    assert_eq!(rows, 5, "{}", outcome.stdout);
    assert!(last.is_some_and(|row| row.ends_with("l.snapshot: is a link to nothing")));
    std::fs::remove_file(link).expect("no link");
    std::fs::write(folder.path().join("x.snapshot"), "x").expect("a file");
    let outcome = line(&list).run().await.without(&place);
    let stderr =
        "Error: 1 file is no whole snapshot: PATH/x.snapshot; copy it again or take another\n";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, stderr));
    assert!(outcome.stdout.ends_with("PATH/x.snapshot: is no snapshot\n"), "{}", outcome.stdout);
}

#[tokio::test]
async fn list_marks_every_file_that_is_not_whole_and_the_error_names_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().display().to_string();
    let saved = |age| file(&SnapshotHeader { saved_at: NOW - age, ..header() });
    let mut flipped = saved(0);
    let at = flipped.len() - 40;
    flipped[at] ^= 1;
    let mut cut = saved(120);
    cut.truncate(cut.len() - 9);
    for (name, bytes) in
        [("prod-a", saved(60)), ("prod-b", flipped), ("prod-c", cut), ("x", b"x".to_vec())]
    {
        std::fs::write(folder.path().join(format!("{name}.snapshot")), bytes).expect("a file");
    }
    let list = format!("spire-server cluster snapshot list {place}");
    line(&list).run().await.without(&place).matches("cluster-snapshot-list-damaged");
    let outcome = line(&format!("{list} -output json")).run().await;
    assert_eq!(outcome.code, 1);
    let value: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let problem =
        "ends early: it was not copied or written to its end; copy it again or take another";
    assert_eq!(value["files"][2]["problem"], problem);
}

fn begun() -> NewEpoch {
    NewEpoch {
        cluster_id: "000102030405060708090a0b0c0d0e0f".to_owned(),
        cluster_name: "prod".to_owned(),
        epoch: 2,
        member_id: "00000000000000b7".to_owned(),
        revision: (2 << 40) + 43,
        lost_from: NOW - 60,
        counts: header().counts,
        replaced: "/data/raft.replaced-1767323045".to_owned(),
        replaced_cluster_id: String::new(),
    }
}

#[tokio::test]
async fn restore_sends_the_options_then_the_file_and_says_what_to_do_next() {
    let fake = Fake::start();
    let place = fake.folder().display().to_string();
    let path = fake.folder().join("prod.snapshot");
    std::fs::write(&path, file(&header())).expect("a file");
    fake.answer("restore_snapshot", RestoreSnapshotResponse { begun: Some(begun()) });
    let restore = format!("spire-server cluster snapshot restore {}", path.display());
    let outcome = line(&format!("{restore} -confirm prod")).on(&fake).await;
    outcome.without(&place).matches("cluster-snapshot-restore");
    fake.only_call();
    let other = "101112131415161718191a1b1c1d1e1f".to_owned();
    let replaced = NewEpoch { replaced_cluster_id: other.clone(), ..begun() };
    fake.answer("restore_snapshot", RestoreSnapshotResponse { begun: Some(replaced) });
    let told = line(&format!("{restore} -confirm prod")).on(&fake).await.success();
    assert!(told.contains(&format!("another cluster's of this name, {other}")), "{told}");
    fake.only_call();
    let refusal = "this is cluster \"prod\"; to confirm, type its name: -confirm prod";
    fake.refuse("restore_snapshot", Status::failed_precondition(refusal));
    let stderr = line(&restore).on(&fake).await.failure();
    assert_eq!(stderr, format!("Error: rpc error: code = FailedPrecondition desc = {refusal}\n"));
    fake.only_call();
    std::fs::write(&path, "x").expect("a file");
    let stderr = line(&format!("{restore} -confirm prod")).on(&fake).await.failure();
    assert!(stderr.contains("is no snapshot; give the file"), "{stderr}");
    assert!(fake.calls().is_empty(), "a file that is no snapshot is not sent");
}

#[tokio::test]
async fn recover_says_what_is_kept_and_what_may_be_lost() {
    let fake = Fake::start();
    let reply =
        || RecoverResponse { begun: Some(begun()), last_index: 42, last_term: 7, heard_index: 40 };
    fake.answer("recover", reply());
    let outcome = line("spire-server cluster recover -confirm prod").on(&fake).await;
    outcome.matches("cluster-recover");
    assert_eq!(fake.only_call().message::<RecoverRequest>().confirm, "prod");
    fake.answer("recover", reply());
    let command = line("spire-server cluster recover -confirm prod -output json");
    let json = command.on(&fake).await.success();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&value["last_index"], &value["begun"]["epoch"]), (&"42".into(), &2.into()));
}

#[tokio::test]
async fn unknown_agents_are_adopted_or_refused() {
    let fake = Fake::start();
    for (word, decision, text) in [
        (
            "adopt",
            UnknownAgents::Adopt,
            "Agents that were attested after the restored state are adopted as they call.\n",
        ),
        (
            "refuse",
            UnknownAgents::Refuse,
            "Agents that the restored state does not know have to attest again.\n",
        ),
    ] {
        fake.answer("decide_agents", DecideAgentsResponse {});
        let command = line(&format!("spire-server cluster agents {word}"));
        assert_eq!(command.on(&fake).await.success(), text);
        let call = fake.only_call();
        assert_eq!(call.message::<DecideAgentsRequest>().decision(), decision);
        assert!(call.metadata.contains_key("steeple-request-id"));
    }
}

#[tokio::test]
async fn a_restore_whose_server_ends_says_so_and_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().display();
    std::fs::write(folder.path().join("s"), file(&header())).expect("a file");
    let socket = tokio::net::UnixListener::bind(folder.path().join("sock")).expect("a new folder");
    // Is gone as soon as it hears something, as a server that is killed.
    let server = async move {
        let (stream, _) = socket.accept().await.expect("a connection");
        stream.readable().await.expect("a call");
    };
    let restore = "spire-server cluster snapshot restore";
    let command = line(&format!("{restore} {place}/s -confirm prod -socketPath {place}/sock"));
    let (outcome, ()) = tokio::join!(command.run(), server);
    let stderr = outcome.failure();
    assert!(stderr.starts_with("Error: the server ended before it answered: "), "{stderr}");
    let unknown = "whether the restore took effect is not known\nHint: look at the end of";
    assert!(stderr.contains(unknown), "{stderr}");
}

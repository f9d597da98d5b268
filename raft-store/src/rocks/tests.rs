//! What only the disk can get wrong: crashes between writes, damaged files, foreign folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use prost::bytes::Bytes;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use steeple_spiffe_core::time::Timestamp;

use crate::apply::testing::{START_MS, entry, envelope, init, spiffe};
use crate::apply::{self, Table, Tables, Transaction, WriteSet};
use crate::command::Command;
use crate::error::OpenError;
use crate::ids::MemberId;
use crate::local::Identity;
use crate::mem::MemoryDisk;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::{CommittedLeaderId, Entry, EnvelopeBytes, LogId, TypeConfig, Vote};
use crate::rocks::open;
use crate::storage::Engine;

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term: 1, node_id: 1 }, index)
}

fn command(index: u64, command: &Command) -> Entry {
    let bytes = envelope(command, [0; 16], Timestamp::from_unix_s(1_800_000_000));
    Entry::new(log_id(index), EntryPayload::Normal(EnvelopeBytes(Bytes::from(bytes))))
}

fn some_entries(count: u64) -> Vec<Entry> {
    let mut entries = vec![command(1, &init())];
    for index in 2..=count {
        let item = entry(&format!("e{index}"), &format!("/w{index}"), "unix:uid:1");
        entries.push(command(index, &Command::CreateEntries(vec![item])));
    }
    entries
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let stream = futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    RaftStateMachine::<TypeConfig>::apply(machine, stream).await.unwrap();
}

async fn snapshot_bytes(machine: &mut StateMachine) -> Bytes {
    let mut builder = machine.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap().snapshot.read_at(0, usize::MAX).unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("raft");
    (parent, path)
}

fn claim(engine: &Engine, member: u64) {
    let identity = Identity {
        member_id: MemberId(member),
        cluster_id: None,
        cluster_name: "prod".to_owned(),
        trust_domain: "example.org".to_owned(),
        key_checks: Vec::new(),
    };
    engine.local.found(&identity).unwrap();
}

/// The write-ahead log with data in it.
fn write_ahead_log(path: &Path) -> PathBuf {
    let logs = fs::read_dir(path.join("db")).unwrap().map(|item| item.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[tokio::test]
async fn a_snapshot_has_the_same_bytes_on_disk_and_in_memory_and_installs_in_both() {
    let (_parent, path) = folder();
    let on_disk = open(&path).unwrap();
    let in_memory = MemoryDisk::new().engine();
    let (mut disk, _) = StateMachine::open(&on_disk).unwrap();
    let (mut memory, _) = StateMachine::open(&in_memory).unwrap();
    apply(&mut disk, some_entries(600)).await;
    for entry in some_entries(600) {
        apply(&mut memory, vec![entry]).await;
    }
    let bytes = snapshot_bytes(&mut disk).await;
    assert_eq!(bytes, snapshot_bytes(&mut memory).await);

    let newcomer = MemoryDisk::new().engine();
    let (mut machine, feed) = StateMachine::open(&newcomer).unwrap();
    let snapshot = disk.get_current_snapshot().await.unwrap().unwrap();
    let mut sink = newcomer.snapshots.sink().unwrap();
    std::io::Write::write_all(&mut sink, &bytes).unwrap();
    machine.install_snapshot(&snapshot.meta, sink.finish().unwrap()).await.unwrap();
    assert_eq!(bytes, snapshot_bytes(&mut machine).await);
    assert_eq!(feed.reached_now().index, 600);
    assert!(feed.reached_now().formed);
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_before_anything_is_replaced() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    let (mut machine, _) = StateMachine::open(&engine).unwrap();
    apply(&mut machine, some_entries(10)).await;
    let bytes = snapshot_bytes(&mut machine).await;
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        let mut sink = engine.snapshots.sink().unwrap();
        std::io::Write::write_all(&mut sink, &damaged).unwrap();
        let refused = machine.install_snapshot(&snapshot.meta, sink.finish().unwrap()).await;
        assert!(refused.is_err(), "byte {at}");
    }
    let mut sink = engine.snapshots.sink().unwrap();
    std::io::Write::write_all(&mut sink, &bytes[..bytes.len() - 1]).unwrap();
    let refused = machine.install_snapshot(&snapshot.meta, sink.finish().unwrap()).await;
    assert!(refused.is_err());
    assert_eq!(snapshot_bytes(&mut machine).await, bytes);
}

#[tokio::test]
async fn a_crash_while_a_snapshot_is_loaded_is_mended_at_the_next_start() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    let (mut machine, _) = StateMachine::open(&engine).unwrap();
    apply(&mut machine, some_entries(50)).await;
    let bytes = snapshot_bytes(&mut machine).await;
    engine.tables.begin_replace().unwrap();
    engine.tables.load(vec![(Table::Entries, b"half".to_vec(), b"row".to_vec())]).unwrap();

    let (mut mended, feed) = StateMachine::open(&engine).unwrap();
    assert_eq!(snapshot_bytes(&mut mended).await, bytes);
    assert_eq!(feed.reached_now().index, 50);
}

#[tokio::test]
async fn half_loaded_tables_without_a_snapshot_are_corrupt() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    engine.tables.begin_replace().unwrap();
    let error = StateMachine::open(&engine).unwrap_err();
    assert!(error.to_string().contains("half replaced"), "{error}");
}

#[tokio::test]
async fn log_vote_and_tables_are_found_again_after_a_restart() {
    let (_parent, path) = folder();
    let vote = Vote::new_committed(3, 7);
    {
        let engine = open(&path).unwrap();
        claim(&engine, 7);
        let mut log = LogStore::open(Arc::clone(&engine.log)).unwrap();
        log.save_vote(&vote).await.unwrap();
        log.blocking_append(some_entries(30)).await.unwrap();
        log.truncate_after(Some(log_id(20))).await.unwrap();
        log.purge(log_id(5)).await.unwrap();
        let (mut machine, _) = StateMachine::open(&engine).unwrap();
        apply(&mut machine, some_entries(12)).await;
    }
    let engine = reopen(&path);
    let mut log = LogStore::open(Arc::clone(&engine.log)).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(5)));
    assert_eq!(state.last_log_id, Some(log_id(20)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 15);
    let (mut machine, _) = StateMachine::open(&engine).unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(12)));
}

/// The flusher thread lets go of the folder a moment after its log store.
fn reopen(path: &Path) -> Engine {
    for _ in 0..1000 {
        match open(path) {
            Err(OpenError::Locked { .. }) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
    open(path).unwrap()
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_a_hole_or_a_loss_stops_the_start() {
    let (_parent, path) = folder();
    {
        let engine = open(&path).unwrap();
        claim(&engine, 7);
        let mut log = LogStore::open(Arc::clone(&engine.log)).unwrap();
        for entry in some_entries(200) {
            log.blocking_append([entry]).await.unwrap();
        }
    }
    let tear = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 10);
    let engine = reopen_copy(&path, "torn", &["STEEPLE"], tear).unwrap();
    assert_eq!(engine.log.bounds().unwrap().last.unwrap().index, 199);
    let lost = reopen_copy(&path, "lost", &["STEEPLE", "SYNCED"], tear).unwrap_err();
    assert!(lost.to_string().contains("it has lost what was synced"), "{lost}");
    let hole = reopen_copy(&path, "hole", &["STEEPLE"], |bytes| {
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..middle + 8] {
            *byte ^= 0xff;
        }
    });
    assert!(matches!(hole, Err(OpenError::Corrupt { .. })), "{hole:?}");
}

#[tokio::test]
async fn a_record_damaged_into_one_of_a_recycled_file_stops_the_start_instead_of_hanging_it() {
    let (_parent, path) = folder();
    {
        let engine = open(&path).unwrap();
        claim(&engine, 7);
        let mut log = LogStore::open(Arc::clone(&engine.log)).unwrap();
        for entry in some_entries(1_000) {
            log.blocking_append([entry]).await.unwrap();
        }
    }
    let written = fs::read(write_ahead_log(&path)).unwrap();
    assert!(written.len() > 3 * 32 * 1024, "records are split between blocks");
    let mut headers = vec![0];
    while let Some(at) = headers.last().copied().filter(|at| at + 7 < written.len()) {
        let length = usize::from(u16::from_le_bytes([written[at + 4], written[at + 5]]));
        let next = at + 7 + length;
        let left = 32 * 1024 - next % (32 * 1024);
        headers.push(if left < 7 { next + left } else { next });
    }
    headers.pop();
    for (number, at) in
        [headers[0], headers[headers.len() / 2], headers[headers.len() - 1]].into_iter().enumerate()
    {
        let damaged = reopen_copy(&path, &format!("kind-{number}"), &["STEEPLE"], |bytes| {
            bytes[at + 6] ^= 4;
        });
        let text = damaged.unwrap_err().to_string();
        assert!(text.contains(&format!("has a damaged record at byte {at}")), "{text}");
    }
    let sound = reopen_copy(&path, "sound", &["STEEPLE", "SYNCED"], |_| {}).unwrap();
    assert_eq!(sound.log.bounds().unwrap().last.unwrap().index, 1_000);
}

/// Opens a copy of the folder whose write-ahead log was tampered with.
fn reopen_copy(
    path: &Path,
    name: &str,
    beside: &[&str],
    tamper: impl FnOnce(&mut Vec<u8>),
) -> Result<Engine, OpenError> {
    let copy = path.with_file_name(name);
    fs::create_dir_all(copy.join("db")).unwrap();
    for file in beside {
        fs::copy(path.join(file), copy.join(file)).unwrap();
    }
    for item in fs::read_dir(path.join("db")).unwrap() {
        let item = item.unwrap();
        fs::copy(item.path(), copy.join("db").join(item.file_name())).unwrap();
    }
    let log = write_ahead_log(&copy);
    let mut bytes = fs::read(&log).unwrap();
    tamper(&mut bytes);
    fs::write(&log, bytes).unwrap();
    open(&copy)
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_left_alone() {
    let (_parent, path) = folder();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("photo.jpg"), "x").unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert!(error.to_string().contains("photo.jpg"));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn the_marker_is_read_strictly() {
    for (text, expected) in [
        ("hello\n", "does not begin with the magic line"),
        ("steeple registry\n", "names no format"),
        ("steeple registry\nformat 99\n", "has format 99, this version reads up to 1"),
        ("steeple registry\nformat 1\nmember x\n", "names no member"),
    ] {
        let (_parent, path) = folder();
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("STEEPLE"), text).unwrap();
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_folder_is_open_once() {
    let (_parent, path) = folder();
    let first = open(&path).unwrap();
    let second = open(&path).unwrap_err();
    assert!(matches!(second, OpenError::Locked { .. }), "{second:?}");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn a_folder_that_lost_its_database_is_corrupt_and_not_new() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    claim(&engine, 7);
    drop(engine);
    fs::remove_dir_all(path.join("db")).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_database_of_another_member_is_corrupt() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    claim(&engine, 7);
    drop(engine);
    let marker = "steeple registry\nformat 1\nmember 0000000000000008\n";
    fs::write(path.join("STEEPLE"), marker).unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("its database is of member 0000000000000007"), "{error}");
}

#[test]
fn what_an_earlier_run_left_unfinished_is_removed() {
    let (_parent, path) = folder();
    drop(open(&path).unwrap());
    fs::write(path.join("snapshot.7"), "half").unwrap();
    drop(open(&path).unwrap());
    assert!(!path.join("snapshot.7").exists());
}

#[test]
fn tables_on_disk_scan_one_table_in_key_order() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    let mut writes = WriteSet::new();
    for (table, key) in [(Table::Entries, "b"), (Table::Entries, "a"), (Table::Agents, "c")] {
        writes.insert((table, key.as_bytes().to_vec()), Some(Vec::new()));
    }
    engine.tables.commit(writes).unwrap();
    let keys = |from: &str| {
        let rows = engine.tables.scan(Table::Entries, from.as_bytes(), 9).unwrap();
        rows.into_iter().map(|row| String::from_utf8(row.0).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["a", "b"]);
    assert_eq!(keys("aa"), ["b"]);
}

/// Applies and commits one command for each request id, at one time.
fn run(tables: &dyn Tables, from: u64, ids: std::ops::Range<u64>, now: Timestamp) {
    for (at, id) in ids.enumerate() {
        let mut request = [0; 16];
        request[8..].copy_from_slice(&(id + 1).to_be_bytes());
        let ban = Command::BanAgent(spiffe("/spire/agent/a"));
        let mut txn = Transaction::new(tables);
        apply::apply(&mut txn, from + at as u64, &envelope(&ban, request, now)).unwrap();
        tables.commit(txn.into_writes()).unwrap();
    }
}

/// Once writes fell to a twentieth when outcomes began to be forgotten: each command stepped over the
/// marks of all that had been.
#[test]
fn what_was_forgotten_costs_later_commands_nothing() {
    let (_parent, path) = folder();
    let engine = open(&path).unwrap();
    let tables = engine.tables.as_ref();
    let start = Timestamp::from_unix_ms(START_MS);
    let mut txn = Transaction::new(tables);
    apply::apply(&mut txn, 1, &envelope(&init(), [0; 16], start)).unwrap();
    tables.commit(txn.into_writes()).unwrap();
    run(tables, 2, 0..640, start);

    let later = start.plus(std::time::Duration::from_secs(15 * 60 + 1));
    run(tables, 642, 640..690, later);
    let kept = tables.scan(Table::OutcomesByAge, &[], usize::MAX).unwrap().len();
    assert_eq!(kept, 50, "the rest is forgotten");

    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    run(tables, 692, 690..700, later);
    let marks = context.metric(PerfMetric::InternalDeleteSkippedCount);
    assert!(marks < 10, "ten commands stepped over {marks} marks");
}

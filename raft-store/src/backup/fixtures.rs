//! What released versions have written, kept in `raft-store/fixtures`: this build opens it and finds
//! every row.
//!
//! A folder a version, of two packs of files and two lists of rows: a data folder (with a kept snapshot
//! and a log behind it), and a backup. All of it is made by this test, with the test key. To write those
//! of a new version, run this test with `STEEPLE_WRITE_FIXTURE=1`: what exists is never written again.

use std::fs;
use std::path::{Path, PathBuf};

use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::time::Timestamp;

use super::sealing::Opener;
use super::tests::{Saved, accepted, ask, content, open};
use super::{Origin, Rebuilt, RestoreOptions, restore};
use crate::apply::testing::{admit, authority, entry, serial, serials, spiffe, td, token};
use crate::apply::{Rows, Table};
use crate::change::{Change, UnknownAgents};
use crate::command::{AdoptAgent, BundleWrite, Command, SetPendingSerial, WriteBundles};
use crate::error::OpenError;
use crate::ids::ClusterId;
use crate::raft::state_machine::StateMachine;
use crate::storage::Engine;
use crate::testing::{TestStore, config};
use crate::{rocks, snapshot};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Every row, one a line: table, key and value in hex.
fn listed(rows: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>) -> String {
    let mut lines: Vec<String> = rows
        .into_iter()
        .map(|(table, key, value)| format!("{:02} {} {}\n", table.number(), hex(&key), hex(&value)))
        .collect();
    lines.sort();
    lines.concat()
}

fn rows_of(rows: &dyn Rows) -> String {
    let tables = Table::IN_SNAPSHOTS.iter().chain([&Table::Applied]);
    let all = tables.flat_map(|table| {
        let rows = rows.scan(*table, b"", 10_000).unwrap();
        rows.into_iter().map(|(key, value)| (*table, key, value))
    });
    listed(all.collect::<Vec<_>>())
}

/// A backup as its fixture keeps it.
struct Kept {
    origin: Origin,
    frames: Vec<Vec<u8>>,
}

impl Kept {
    fn of(saved: &Saved) -> Self {
        Self { origin: saved.origin(), frames: saved.frames.clone() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let origin = &self.origin;
        let head = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n",
            origin.cluster_id.0,
            origin.cluster_name,
            origin.trust_domain,
            origin.key_id,
            hex(&origin.salt),
            hex(&origin.binding),
        );
        let mut bytes = head.into_bytes();
        for frame in &self.frames {
            bytes.extend(format!("{}\n", frame.len()).into_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let origin = Origin {
            cluster_id: ClusterId(line(&mut rest).parse().unwrap()),
            cluster_name: line(&mut rest),
            trust_domain: line(&mut rest),
            key_id: line(&mut rest),
            salt: from_hex(&line(&mut rest)),
            binding: from_hex(&line(&mut rest)).try_into().unwrap(),
        };
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let length = line(&mut rest).parse().unwrap();
            let (frame, behind) = rest.split_at(length);
            frames.push(frame.to_vec());
            rest = behind;
        }
        Self { origin, frames }
    }

    fn rows(&self) -> String {
        let keys = config(PathBuf::new()).keys;
        let origin = &self.origin;
        let key = keys.snapshot_key(&origin.key_id, &origin.salt).unwrap().unwrap();
        let mut frames = self.frames.iter().cloned();
        let mut next = || Ok(frames.next());
        let mut rows = Vec::new();
        let opener = Opener::new(key, origin.binding, &mut next).unwrap();
        let read = snapshot::read_from(opener, &mut |more| {
            rows.extend(more);
            Ok(())
        });
        read.unwrap();
        listed(rows)
    }

    fn restore(&self, to: &Path) -> Rebuilt {
        let target = config(to.to_owned());
        // What signs may have ended since.
        let options = RestoreOptions { force: true, ..RestoreOptions::default() };
        let mut frames = self.frames.iter().cloned();
        restore(&ask(&target, "test"), &self.origin, &options, &mut || Ok(frames.next())).unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Takes a line from the front.
fn line(rest: &mut &[u8]) -> String {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
    let (line, behind) = rest.split_at(end);
    *rest = &behind[1..];
    String::from_utf8(line.to_vec()).unwrap()
}

/// Files of a folder in one: name, length and bytes of each.
fn pack(folder: &Path) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let mut items: Vec<_> =
            fs::read_dir(folder.join(&below)).unwrap().map(|item| item.unwrap()).collect();
        items.sort_by_key(|item| item.file_name());
        for item in items {
            let path = below.join(item.file_name());
            // Locks, and what RocksDB tells of its day, are no state.
            if item.file_name() == "LOCK" || item.file_name().to_string_lossy().starts_with("LOG") {
                continue;
            }
            if item.path().is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(item.path()).unwrap();
            packed.extend(format!("{}\n{}\n", path.display(), bytes.len()).into_bytes());
            packed.extend(bytes);
        }
    }
    packed
}

fn unpack(packed: &[u8], folder: &Path) {
    let mut rest = packed;
    while !rest.is_empty() {
        let path = folder.join(line(&mut rest));
        let length: usize = line(&mut rest).parse().unwrap();
        let (bytes, behind) = rest.split_at(length);
        rest = behind;
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Something of everything that a first epoch can hold.
async fn fill(store: &TestStore) {
    let at = Timestamp::from_unix_ms(1_900_000_000_000);
    let other = Bundle::empty(td("other.org"));
    let write = WriteBundles { mode: BundleWrite::Create, bundles: vec![other] };
    accepted(store, Command::WriteBundles(write)).await;
    let mut full = entry("full", "/full", "unix:uid:1");
    full.federates_with = [td("other.org")].into();
    full.expires_at_unix_s = 1_900_000_000;
    full.dns_names = vec!["a.example".to_owned()];
    full.hint = "hint".to_owned();
    let plain = (0..20).map(|n| entry(&format!("e{n}"), &format!("/w{n}"), "unix:uid:2"));
    accepted(store, Command::CreateEntries(plain.chain([full]).collect())).await;
    accepted(store, Command::AdmitAgent(admit("/spire/agent/a", 1, None))).await;
    let pending = SetPendingSerial {
        agent_id: spiffe("/spire/agent/a"),
        seen: serials(Some(1), None),
        pending: serial(2),
        not_after: at,
    };
    accepted(store, Command::SetPendingSerial(pending)).await;
    accepted(store, Command::AdmitAgent(admit("/spire/agent/banned", 3, None))).await;
    accepted(store, Command::BanAgent(spiffe("/spire/agent/banned"))).await;
    let mut aliased = token("unspent", 86_400);
    aliased.alias = Some(Box::new(entry("alias", "/alias", "spiffe_id:x")));
    accepted(store, Command::CreateJoinToken(aliased)).await;
    for (journal, kind, id) in [(0, AuthorityKind::X509, "x"), (2, AuthorityKind::Jwt, "j")] {
        let authority = authority(kind, id);
        accepted(store, Command::PrepareAuthority { expected_journal: journal, authority }).await;
        let (expected_journal, id) = (journal + 1, AuthorityId::new(id));
        accepted(store, Command::ActivateAuthority { expected_journal, kind, id }).await;
    }
}

/// What is added in a restored epoch.
async fn fill_restored(store: &TestStore) {
    accepted(store, Command::DecideAgents(UnknownAgents::Adopt)).await;
    let adopt = AdoptAgent {
        agent_id: spiffe("/spire/agent/x509pop/late"),
        attestation_type: "x509pop".to_owned(),
        serial: serial(4),
        not_after: Timestamp::from_unix_ms(1_900_000_000_000),
        can_reattest: true,
        seen: None,
    };
    accepted(store, Command::AdoptAgent(adopt)).await;
    accepted(store, Command::CreateJoinToken(token("again", 86_400))).await;
    accepted(store, Command::AdmitAgent(admit("/spire/agent/b", 5, None))).await;
    for number in 0..20 {
        let item = entry(&format!("r{number}"), &format!("/r{number}"), "unix:uid:3");
        accepted(store, Command::CreateEntries(vec![item])).await;
    }
}

/// Makes the fixtures of this version.
async fn write(to: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (scratch.path().join("1/raft"), scratch.path().join("2/raft"));
    for place in [&first, &second] {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
    }
    let store = open(&first).await;
    fill(&store).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    store.stop().await.unwrap();
    let backup = Kept::of(&saved);
    backup.restore(&second);
    // The restored registry has a kept snapshot; the rest goes behind it.
    let store = open(&second).await;
    fill_restored(&store).await;
    store.stop().await.unwrap();
    drop(open_engine(&second));
    let packed = pack(&second);
    let rows = rows_of(open_engine(&second).tables.as_ref());
    for table in Table::IN_SNAPSHOTS {
        let number = format!("{:02} ", table.number());
        assert!(rows.lines().any(|line| line.starts_with(&number)), "no row of {table:?}");
    }
    fs::create_dir_all(to).unwrap();
    fs::write(to.join("raft.pack"), packed).unwrap();
    fs::write(to.join("raft.rows"), rows).unwrap();
    fs::write(to.join("backup.pack"), backup.to_bytes()).unwrap();
    fs::write(to.join("backup.rows"), backup.rows()).unwrap();
}

/// The last store's threads let go of the folder a moment after it stopped.
fn open_engine(path: &Path) -> Engine {
    loop {
        match rocks::open(path) {
            Err(OpenError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}

async fn check(fixture: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let raft = scratch.path().join("raft");
    unpack(&fs::read(fixture.join("raft.pack")).unwrap(), &raft);
    let rows = read(fixture, "raft.rows");
    {
        let engine = open_engine(&raft);
        StateMachine::open(&engine).unwrap();
        assert_eq!(rows_of(engine.tables.as_ref()), rows, "{}", fixture.display());
        let kept = engine.snapshots.current().unwrap().expect("a snapshot is kept");
        snapshot::verify(&kept).unwrap();
    }
    // As a member starts: consensus too, and the log behind the snapshot.
    let store = open(&raft).await;
    let entries = rows.lines().filter(|line| line.starts_with("03 ")).count();
    let shown = content(&store).0;
    let is_entry = |change: &&Change| matches!(change, Change::EntryWritten { .. });
    assert_eq!(shown.iter().filter(is_entry).count(), entries);
    accepted(&store, Command::CreateEntries(vec![entry("head", "/head", "unix:uid:9")])).await;
    store.stop().await.unwrap();

    let backup = Kept::from_bytes(&fs::read(fixture.join("backup.pack")).unwrap());
    let rows = read(fixture, "backup.rows");
    assert_eq!(backup.rows(), rows, "{}", fixture.display());
    let other = scratch.path().join("restored");
    assert_eq!(backup.restore(&other).cluster.epoch, 2);
    let store = open(&other).await;
    let entries = rows.lines().filter(|line| line.starts_with("03 ")).count();
    assert_eq!(content(&store).0.iter().filter(is_entry).count(), entries);
    store.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_released_version_wrote_is_opened_and_every_row_found() {
    let this = fixtures().join(VERSION);
    if std::env::var_os("STEEPLE_WRITE_FIXTURE").is_some() && !this.exists() {
        write(&this).await;
    }
    let mut versions: Vec<PathBuf> =
        fs::read_dir(fixtures()).unwrap().map(|item| item.unwrap().path()).collect();
    versions.sort();
    assert!(versions.contains(&fixtures().join("0.1.0")), "{versions:?}");
    for version in versions {
        check(&version).await;
    }
}

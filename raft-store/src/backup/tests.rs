//! Snapshots and rebuilt registries, on real folders: what comes back, what does not, and what a
//! refusal or a crash leaves.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::bytes::Bytes;
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, AuthorityStatus, SealedKey};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority};
use steeple_spiffe_core::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::{Clock, SystemClock, Timestamp};
use tokio::time::Instant;

use crate::apply::testing::{admit, authority, entry, envelope, token};
use crate::backup::epoch::Reseal;
use crate::backup::{
    NewCluster, Origin, Rebuild, RebuildError, Rebuilt, RestoreOptions, SnapshotFacts, SnapshotOut,
    recover, restore,
};
use crate::change::{Change, ClusterState, UnknownAgents};
use crate::cluster_key::ClusterKeys;
use crate::command::{
    AdmitAgent, Command, Refreshed, RelationshipMode, RelationshipWrite, WriteRelationships,
    WriteSealed,
};
use crate::config::Config;
use crate::error::OpenError;
use crate::ids::{ClusterId, RequestId, Revision};
use crate::outcome::Rejection;
use crate::raft::convert::entry_to_bytes;
use crate::raft::{CommittedLeaderId, Entry, EnvelopeBytes, LogId};
use crate::sealed_values::SealedName;
use crate::seams::Storage;
use crate::storage::{Engine, LogRecord};
use crate::testing::{DEADLINE, TestStore, config, seams};

const OTHER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const BINDING: [u8; 32] = [3; 32];

/// A snapshot in memory.
#[derive(Default)]
pub(super) struct Saved {
    facts: Option<SnapshotFacts>,
    pub(super) frames: Vec<Vec<u8>>,
}

impl SnapshotOut for Saved {
    fn begin(&mut self, facts: &SnapshotFacts) -> io::Result<[u8; 32]> {
        self.facts = Some(facts.clone());
        Ok(BINDING)
    }

    fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.frames.push(frame.to_vec());
        Ok(())
    }
}

impl Saved {
    fn facts(&self) -> &SnapshotFacts {
        self.facts.as_ref().unwrap()
    }

    pub(super) fn origin(&self) -> Origin {
        let facts = self.facts();
        Origin {
            cluster_id: facts.cluster.cluster_id,
            cluster_name: facts.cluster.name.clone(),
            trust_domain: facts.cluster.trust_domain.to_string(),
            key_id: facts.key_id.clone(),
            salt: facts.salt.to_vec(),
            binding: BINDING,
        }
    }

    fn restore(
        &self,
        config: &Config,
        origin: &Origin,
        confirmed: &str,
        options: &RestoreOptions<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let mut frames = self.frames.iter().cloned();
        restore(&ask(config, confirmed), origin, options, &mut || Ok(frames.next()))
    }
}

pub(super) fn ask<'a>(config: &'a Config, confirmed: &str) -> Rebuild<'a> {
    let confirmed = confirmed.to_owned();
    Rebuild { config, random: &SystemRandom, now: SystemClock.now(), confirmed }
}

pub(super) async fn open(path: &Path) -> TestStore {
    open_as(config(path.to_owned())).await
}

/// The last store's threads let go of the folder a moment after it stopped.
async fn open_as(config: Config) -> TestStore {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TestStore::open(config.clone(), seams(Storage::Rocks)).await {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

pub(super) async fn accepted(store: &TestStore, command: Command) {
    store.apply(command).await.unwrap().outcome.unwrap();
}

/// A registry with something of everything.
async fn filled(path: &Path) -> TestStore {
    let store = open(path).await;
    for number in 0..1200 {
        let item = entry(&format!("e{number}"), &format!("/w{number}"), "unix:uid:1");
        accepted(&store, Command::CreateEntries(vec![item])).await;
    }
    accepted(&store, Command::AdmitAgent(admit("/spire/agent/a", 1, None))).await;
    accepted(&store, Command::CreateJoinToken(token("unspent", 86_400))).await;
    let sealed =
        SealedKey { kek_id: "k".to_owned(), version: 1, nonce: vec![0; 12], ciphertext: vec![1] };
    let write = WriteSealed { name: SealedName::AcmeAccount, expected: 0, sealed };
    accepted(&store, Command::WriteSealed(Box::new(write))).await;
    let relationship = FederationRelationship {
        trust_domain: TrustDomain::parse("other.org").unwrap(),
        endpoint_url: EndpointUrl::parse("https://other.org").unwrap(),
        profile: EndpointProfile::HttpsWeb,
    };
    let items = vec![RelationshipWrite { relationship, bundle: None }];
    let write = WriteRelationships { mode: RelationshipMode::Create, items };
    accepted(&store, Command::WriteRelationships(write)).await;
    let trust_domain = TrustDomain::parse("other.org").unwrap();
    let refreshed = Refreshed::Failed { class: "dial".to_owned(), text: "refused".to_owned() };
    accepted(&store, Command::RecordRefresh { trust_domain, refreshed }).await;
    for (journal, kind, id) in [(0, AuthorityKind::X509, "x"), (2, AuthorityKind::Jwt, "j")] {
        let authority = authority(kind, id);
        accepted(&store, Command::PrepareAuthority { expected_journal: journal, authority }).await;
        let (expected_journal, id) = (journal + 1, AuthorityId::new(id));
        accepted(&store, Command::ActivateAuthority { expected_journal, kind, id }).await;
    }
    store
}

/// Everything but the cluster's row, as the change stream shows it, and that row.
pub(super) fn content(store: &TestStore) -> (Vec<Change>, ClusterState) {
    let mut changes = store.handle.subscribe().unwrap().snapshot;
    let Change::ClusterWritten(cluster) = changes.remove(0) else { panic!("no cluster row") };
    (changes, (*cluster).clone())
}

/// What a restored registry must hold, from what was saved.
fn raised(changes: Vec<Change>) -> Vec<Change> {
    const JUMP: u32 = 1 << 20;
    let raise = |mut change| {
        if let Change::EntryWritten { entry, .. } = &mut change {
            Arc::make_mut(entry).revision += i64::from(JUMP);
        }
        if let Change::BundleWritten { bundle, .. } = &mut change {
            Arc::make_mut(bundle).sequence_number += u64::from(JUMP);
        }
        if let Change::JournalWritten(journal) = &mut change {
            Arc::make_mut(journal).revision += u64::from(JUMP);
        }
        change
    };
    changes.into_iter().map(raise).collect()
}

fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one/raft"), folder.path().join("other/raft"));
    for place in [&one, &other] {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
    }
    (folder, one, other)
}

fn items(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_restore_begins_an_epoch_of_its_own_even_of_one_snapshot() {
    let (_folder, place, other) = places();
    let store = open(&place).await;
    accepted(&store, Command::CreateEntries(vec![entry("e", "/w", "unix:uid:1")])).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    drop(store);
    let target = config(other.clone());
    let options = RestoreOptions::default();
    let again = |seconds: u64, origin: &Origin| {
        let now = SystemClock.now().plus(Duration::from_secs(seconds));
        let ask = Rebuild { now, ..ask(&target, "test") };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut frames = saved.frames.iter().cloned();
            match restore(&ask, origin, &options, &mut || Ok(frames.next())) {
                // The last store's threads let go of the folder a moment after it stopped.
                Err(RebuildError::Open(OpenError::Locked { .. })) if Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                made => return made.unwrap(),
            }
        }
    };
    let (mut began, mut revisions) = (BTreeSet::new(), Vec::new());
    for epoch in 2..=4 {
        let made = again(u64::from(epoch), &saved.origin());
        assert_eq!((made.cluster.epoch, made.replaced.is_some()), (epoch, epoch > 2));
        assert_eq!(made.replaced_cluster, None);
        began.insert(made.cluster.began_ms());
        // As a member that has run with it leaves it. An agent that has seen an entry as it was in one
        // epoch is to see that it is another.
        let rows = content(&open(&other).await).0;
        for row in &rows {
            if let Change::EntryWritten { entry, .. } = row {
                revisions.push(entry.revision);
            }
        }
    }
    assert_eq!(revisions, [1 << 20, 2 << 20, 3 << 20]);
    assert_eq!(began.len(), 3, "what tells epochs of one number apart");
    // A folder that is another cluster's says nothing of this one's epochs, and the operator hears of it.
    let ours = saved.origin();
    let others = Origin { cluster_id: ClusterId(ours.cluster_id.0 ^ 1), ..saved.origin() };
    let made = again(8, &others);
    assert_eq!((made.cluster.epoch, made.replaced_cluster), (2, Some(ours.cluster_id)));
    // Nor does one that cannot be read.
    fs::write(other.join("db/CURRENT"), "nonsense").unwrap();
    let made = again(9, &ours);
    assert_eq!((made.cluster.epoch, made.replaced_cluster), (2, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_registry_has_all_that_was_saved_in_a_new_epoch() {
    let (_folder, place, other) = places();
    let store = filled(&place).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    let (before, cluster) = content(&store);
    let seen = store.handle.revision();
    // Lost: everything after the save.
    let late = entry("late", "/late", "unix:uid:9");
    accepted(&store, Command::CreateEntries(vec![late])).await;
    let facts = saved.facts();
    assert_eq!((facts.counts.entries, facts.counts.agents, facts.counts.tokens), (1200, 1, 1));
    assert_eq!((facts.counts.authorities, facts.counts.bundles), (2, 1));
    assert!(saved.frames.len() > 2, "several frames");

    let target = config(other.clone());
    let options = RestoreOptions::default();
    let made = saved.restore(&target, &saved.origin(), "test", &options).unwrap();
    assert_eq!((made.cluster.epoch, made.counts.tokens, made.replaced), (2, 1, None));
    assert_eq!(items(other.parent().unwrap()), ["raft"]);

    let restored = open(&other).await;
    let (after, now) = content(&restored);
    assert_eq!(after, raised(before));
    let has = |one: &Change| matches!(one, Change::RelationshipWritten { .. });
    assert!(after.iter().any(has), "{after:?}");
    let has = |one: &Change| matches!(one, Change::RefreshWritten(_));
    assert!(after.iter().any(has), "{after:?}");
    assert_eq!(now.cluster_id, cluster.cluster_id);
    let began = now.restored.unwrap();
    assert_eq!((began.lost_from, began.unknown_agents), (facts.time, UnknownAgents::Undecided));
    assert!(restored.handle.revision() >= Revision::new(2, facts.index + 1));
    assert!(restored.handle.revision() > seen);
    let voters = restored.handle.status().members;
    assert_eq!(voters.iter().map(|member| member.id).collect::<Vec<_>>(), [made.member_id]);
    assert_ne!(made.member_id, store.handle.status().member_id);

    let spend = AdmitAgent { token: Some("unspent".into()), ..admit("/spire/agent/b", 2, None) };
    let spent = restored.apply(Command::AdmitAgent(spend)).await.unwrap();
    assert_eq!(spent.outcome, Err(Rejection::TokenUnknown), "unspent tokens are void");
    let again = RequestId::fresh(seen, &SystemRandom);
    let item = entry("again", "/again", "unix:uid:9");
    let command = Command::CreateEntries(vec![item]);
    let old = restored.handle.propose(command, again, Instant::now() + DEADLINE).await.unwrap();
    assert_eq!(old.outcome, Err(Rejection::RequestForgotten), "requests of the old epoch");
    // It is a registry like any other.
    accepted(&restored, Command::CreateEntries(vec![entry("new", "/new", "unix:uid:2")])).await;
    restored.stop().await.unwrap();
    let reopened = open(&other).await;
    assert_eq!(content(&reopened).0.len(), after.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_is_moved_aside_and_a_failure_leaves_it_alone() {
    let (_folder, place, _) = places();
    let store = open(&place).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    let target = config(place.clone());
    let options = RestoreOptions::default();
    let running = saved.restore(&target, &saved.origin(), "test", &options).unwrap_err();
    assert!(running.to_string().contains("is in use by another process"), "{running}");
    store.stop().await.unwrap();
    drop(open(&place).await.stop().await);
    let marker = fs::read(place.join("STEEPLE")).unwrap();

    // What a crash of an earlier attempt has left is in no one's way.
    let unfinished = place.with_file_name("raft.rebuilding");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("x"), "x").unwrap();
    let mut cut = Saved { facts: saved.facts.clone(), frames: saved.frames.clone() };
    cut.frames.push(vec![1; 40]);
    let error = wait_free(|| cut.restore(&target, &saved.origin(), "test", &options)).unwrap_err();
    let fix = "snapshot does not open: it was changed after it was written; copy it again or take \
               another";
    assert_eq!(error.to_string(), fix);
    assert_eq!(items(place.parent().unwrap()), ["raft"]);
    assert_eq!(fs::read(place.join("STEEPLE")).unwrap(), marker);

    let made = saved.restore(&target, &saved.origin(), "test", &options).unwrap();
    let aside = made.replaced.unwrap();
    assert_eq!(fs::read(aside.join("STEEPLE")).unwrap(), marker);
    let name = aside.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("raft.replaced-"), "{name}");
    assert_eq!(items(place.parent().unwrap()), ["raft".to_owned(), name]);
    open(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restores_within_one_second_keep_each_registry_that_they_replace() {
    let (_folder, place, _) = places();
    let store = open(&place).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    store.stop().await.unwrap();
    let target = config(place.clone());
    let options = RestoreOptions::default();
    let now = SystemClock.now();
    let again = || {
        let ask = Rebuild { now, ..ask(&target, "test") };
        wait_free(|| {
            let mut frames = saved.frames.iter().cloned();
            restore(&ask, &saved.origin(), &options, &mut || Ok(frames.next()))
        })
    };
    let first = format!("raft.replaced-{}", now.unix_s());
    for (name, epoch) in [(first.clone(), 2), (format!("{first}-2"), 3), (format!("{first}-3"), 4)]
    {
        let made = again().unwrap();
        assert_eq!(made.replaced, Some(place.with_file_name(name)));
        assert_eq!(made.cluster.epoch, epoch);
    }
    let kept = [first.clone(), format!("{first}-2"), format!("{first}-3")];
    assert_eq!(items(place.parent().unwrap()), [&["raft".to_owned()][..], &kept].concat());
}

/// The last store's threads let go of the folder a moment after it stopped.
fn wait_free<T>(mut work: impl FnMut() -> Result<T, RebuildError>) -> Result<T, RebuildError> {
    for _ in 0..10_000 {
        match work() {
            Err(RebuildError::Open(OpenError::Locked { .. })) => std::thread::yield_now(),
            other => return other,
        }
    }
    work()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_the_fix_and_changes_nothing() {
    let (_folder, place, other) = places();
    let store = filled(&place).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    let origin = saved.origin();
    let none = || RestoreOptions::default();
    let plain = config(other.clone());
    let elsewhere = Config { cluster_name: "elsewhere".to_owned(), ..plain.clone() };
    let foreign =
        Config { trust_domain: TrustDomain::parse("other.org").unwrap(), ..plain.clone() };
    let pinned = Config { cluster_id: Some(ClusterId(5)), ..plain.clone() };
    let keys = Arc::new(ClusterKeys::parse(OTHER_KEY).unwrap());
    let sealed = Config { keys, ..plain.clone() };
    let reseal: &Reseal<'_> = &|_, _, _| Err("no".to_owned());
    let renamed = |name: &str| RestoreOptions {
        new_cluster: Some(NewCluster { id: ClusterId(9), name: name.to_owned(), reseal }),
        ..RestoreOptions::default()
    };
    let cases = [
        (&plain, "", none(), "to confirm, type its name: -confirm test"),
        (&plain, "tset", none(), "to confirm, type its name: -confirm test"),
        (&foreign, "test", none(), "is of trust domain \"example.org\", the configuration says"),
        (&elsewhere, "test", none(), "make a cluster of its own with -new-cluster elsewhere"),
        (&pinned, "test", none(), "cluster.cluster_id says 0000"),
        (&sealed, "test", none(), "add that key's line to its key file"),
        (&plain, "test", renamed("drill"), "-new-cluster drill needs cluster.name = \"drill\""),
        (&elsewhere, "test", renamed("elsewhere"), "seal the key of authority x"),
    ];
    for (config, confirmed, options, text) in cases {
        let error = saved.restore(config, &origin, confirmed, &options).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
        assert_eq!(items(other.parent().unwrap()), Vec::<String>::new(), "{text}");
    }
    // The authorities end at some time: in the last twelfth of their lives they are refused.
    let ends = content(&store).0.into_iter().find_map(|change| {
        let Change::JournalWritten(journal) = change else { return None };
        Some(journal.authorities[0].not_after)
    });
    let late = |now: Timestamp, force: bool| {
        let mut frames = saved.frames.iter().cloned();
        let ask = Rebuild { now, ..ask(&plain, "test") };
        let options = RestoreOptions { force, ..RestoreOptions::default() };
        restore(&ask, &origin, &options, &mut || Ok(frames.next()))
    };
    let nearly = Timestamp::from_unix_s(ends.unwrap().unix_s() - 7_000);
    let error = late(nearly, false).unwrap_err().to_string();
    assert!(error.contains("the active X.509 authority ends at"), "{error}");
    assert_eq!(late(nearly, true).unwrap().cluster.epoch, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_gets_an_id_a_name_and_sealed_keys_of_its_own_and_later_trust() {
    let (_folder, place, other) = places();
    let store = filled(&place).await;
    let mut saved = Saved::default();
    store.handle.save_snapshot(&mut saved).unwrap();
    let from = saved.origin().cluster_id;
    let reseal: &Reseal<'_> = &|authority, old, new| {
        assert_eq!((old, new), (from, ClusterId(9)));
        Ok(SealedKey { kek_id: "new".to_owned(), ..authority.sealed_key.clone() })
    };
    let mut trust = Bundle::empty(TrustDomain::parse("example.org").unwrap());
    for key_id in ["j", "later"] {
        trust.jwt_authorities.push(JwtAuthority {
            key_id: key_id.to_owned(),
            public_key_der: key_id.as_bytes().to_vec(),
            expires_at: None,
            tainted: false,
        });
    }
    let name = "drill".to_owned();
    let options = RestoreOptions {
        new_cluster: Some(NewCluster { id: ClusterId(9), name, reseal }),
        trust: Some(trust),
        force: false,
    };
    let drill = Config { cluster_name: "drill".to_owned(), ..config(other.clone()) };
    saved.restore(&drill, &saved.origin(), "test", &options).unwrap();
    let store = open_as(drill).await;
    let (changes, cluster) = content(&store);
    assert_eq!((cluster.cluster_id, cluster.name.as_str()), (ClusterId(9), "drill"));
    for change in changes {
        // It orders its own certificate.
        assert!(!matches!(change, Change::SealedWritten { .. }), "{change:?}");
        if let Change::JournalWritten(journal) = &change {
            assert_eq!(journal.authorities.len(), 2);
            for authority in &journal.authorities {
                assert_eq!(authority.status, AuthorityStatus::Active);
                assert_eq!(authority.sealed_key.kek_id, "new");
            }
        }
        if let Change::BundleWritten { bundle, .. } = &change {
            let ids: Vec<_> = bundle.jwt_authorities.iter().map(|key| &key.key_id).collect();
            assert_eq!(ids, ["j", "later"]);
        }
    }
}

/// The disk of a store that has stopped.
async fn engine_of(place: &Path) -> Engine {
    loop {
        match crate::rocks::open(place) {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_that_does_not_read_says_what_to_take_instead() {
    let (_folder, place, _other) = places();
    let store = open(&place).await;
    let index = store.handle.status().last_log_index + 1;
    store.stop().await.unwrap();
    let engine = engine_of(&place).await;
    engine.log.append(&[LogRecord { index, bytes: b"nonsense".to_vec() }]).unwrap();
    engine.log.sync().unwrap();
    drop(engine);
    let said = wait_free(|| recover(&ask(&config(place.clone()), "test"))).unwrap_err().to_string();
    assert!(said.starts_with(&format!("recover from {}: ", place.display())), "{said}");
    assert!(said.contains("recover another member, or restore a snapshot"), "{said}");
    assert_eq!(items(place.parent().unwrap()), ["raft"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_keeps_its_whole_log_and_says_what_may_be_lost() {
    let (_folder, place, other) = places();
    let absent = recover(&ask(&config(other), "test")).unwrap_err();
    assert!(absent.to_string().contains("there is no registry in"), "{absent}");

    let store = open(&place).await;
    accepted(&store, Command::CreateEntries(vec![entry("kept", "/kept", "unix:uid:1")])).await;
    let (before, _) = content(&store);
    let (last, old) = (store.handle.status().last_log_index, store.handle.status().member_id);
    store.stop().await.unwrap();
    // An entry that the dead leader had sent and nobody heard to be committed.
    {
        let engine = engine_of(&place).await;
        let command = Command::CreateEntries(vec![entry("sent", "/sent", "unix:uid:1")]);
        let bytes = envelope(&command, [0; 16], SystemClock.now());
        let id = LogId::new(CommittedLeaderId { term: 99, node_id: 5 }, last + 1);
        let sent = Entry::new(id, EntryPayload::Normal(EnvelopeBytes(Bytes::from(bytes))));
        let record = LogRecord { index: last + 1, bytes: entry_to_bytes(&sent) };
        engine.log.append(&[record]).unwrap();
        engine.log.sync().unwrap();
    }
    let target = config(place.clone());
    let refused = wait_free(|| recover(&ask(&target, "prod"))).unwrap_err();
    assert!(refused.to_string().contains("type its name: -confirm test"), "{refused}");
    assert_eq!(items(place.parent().unwrap()), ["raft"]);
    let made = wait_free(|| recover(&ask(&target, "test"))).unwrap();
    assert_eq!((made.last, made.heard), ((last + 1, 99), last));
    assert!(made.rebuilt.replaced.is_some());
    assert_ne!(made.rebuilt.member_id, old);

    let store = open(&place).await;
    let (after, cluster) = content(&store);
    assert_eq!((cluster.epoch, after.len()), (2, before.len() + 1));
    assert!(after.iter().any(|change| {
        matches!(change, Change::EntryWritten { entry, .. } if entry.id.as_str() == "sent")
    }));
}

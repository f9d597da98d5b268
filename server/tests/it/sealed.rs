//! No private key that rotation makes is ever written down.
//!
//! One member on a real disk rotates through all key types, prunes, taints and revokes, saves snapshots,
//! and says everything that it can say. Each key is opened with the cluster key as soon as its authority
//! is in the journal; every form of it is then looked for in all files and in all lines, also when the
//! authority has long left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steeple_raft_store::testing::{DEADLINE, TestStore, config, seams_with};
use steeple_raft_store::{ClusterKeys, Command, SnapshotFacts, SnapshotOut, Storage};
use steeple_server::authority::evidence::Survey;
use steeple_server::authority::{AuthorityPolicy, Minter, Rotator};
use steeple_server::keys::{SealContext, open_key};
use steeple_server::view::Views;
use steeple_spiffe_core::authority::{Authority, AuthorityKind, SealedKey};
use steeple_spiffe_core::random::SystemRandom;
use steeple_spiffe_core::time::FixedClock;
use steeple_spiffe_core::{AuthorityStatus, KeyType, Timestamp, pem};
use steeple_testkit::leaks::Secrets;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

/// Key types of X.509 and JWT authorities, one pair a rotation.
const KEY_TYPES: [(KeyType, KeyType); 6] = [
    (KeyType::EcP256, KeyType::EcP384),
    (KeyType::EcP384, KeyType::Rsa2048),
    (KeyType::Rsa2048, KeyType::EcP256),
    (KeyType::EcP256, KeyType::Rsa2048),
    (KeyType::Rsa4096, KeyType::EcP256),
    (KeyType::EcP256, KeyType::EcP256),
];

/// Everything that this process has logged.
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().expect("nobody panics under it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A snapshot's frames in a file.
struct SnapshotFile(fs::File);

impl SnapshotOut for SnapshotFile {
    fn begin(&mut self, _facts: &SnapshotFacts) -> io::Result<[u8; 32]> {
        Ok([7; 32])
    }

    fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }
}

struct Bench {
    folder: PathBuf,
    clock: Arc<FixedClock>,
    keys: Arc<ClusterKeys>,
    store: TestStore,
    views: Views,
    rotator: Rotator,
    stop: CancellationToken,
    secrets: Secrets,
    known: BTreeSet<(AuthorityKind, String)>,
    last: Vec<u8>,
}

impl Bench {
    async fn start(folder: &Path) -> Self {
        let clock = Arc::new(FixedClock::new(Timestamp::from_unix_s(1_800_000_000)));
        let settings = config(folder.join("raft"));
        let (keys, trust_domain) = (Arc::clone(&settings.keys), settings.trust_domain.clone());
        let random = Arc::new(SystemRandom);
        let seams = seams_with(Storage::Rocks, Arc::<FixedClock>::clone(&clock), random.clone());
        let store = TestStore::open(settings, seams).await.expect("it opens");
        let stop = CancellationToken::new();
        let (views, task) = Views::start(store.handle.clone());
        tokio::spawn(task.run(stop.clone()));
        let survey = Survey::start(
            store.handle.clone(),
            views.clone(),
            Arc::clone(&keys),
            Arc::<FixedClock>::clone(&clock),
            HOUR / 6,
            None,
        );
        let policy = Arc::new(AuthorityPolicy::default());
        let rotator = Rotator {
            handle: store.handle.clone(),
            views: views.clone(),
            minter: Minter {
                trust_domain,
                policy,
                keys: Arc::clone(&keys),
                random,
                upstream: None,
            },
            survey,
            clock: Arc::<FixedClock>::clone(&clock),
        };
        let (secrets, known, last) = (Secrets::default(), BTreeSet::new(), Vec::new());
        let folder = folder.to_owned();
        Self { folder, clock, keys, store, views, rotator, stop, secrets, known, last }
    }

    /// What is due after some time; keys that it made are known from then on.
    async fn after(&mut self, time: Duration) {
        self.clock.advance(time);
        let term = self.store.handle.leadership().borrow().term;
        self.rotator.round(term).await.expect("a round");
        self.learn();
    }

    fn learn(&mut self) {
        let cluster_id = self.views.cluster().expect("it has formed").cluster_id;
        for one in &self.views.journal().authorities {
            let name = (one.kind, one.id.to_string());
            if one.sealed_key == SealedKey::destroyed() || !self.known.insert(name) {
                continue;
            }
            let context = SealContext { cluster_id, kind: one.kind, authority_id: &one.id };
            let key = open_key(&self.keys, &context, &one.sealed_key).expect("it opens");
            let name = format!("{:?} authority {}", one.kind, one.id);
            self.secrets.add_key(&name, key.expose()).expect("private numbers");
            self.last = key.expose().to_vec();
        }
    }

    /// Taints and revokes the last X.509 authority that signed.
    async fn revoke(&self) {
        let old = |one: &&Authority| {
            one.kind == AuthorityKind::X509 && one.status == AuthorityStatus::Old && !one.tainted
        };
        let journal = self.views.journal();
        let id = journal.authorities.iter().rfind(old).expect("one that signed").id.clone();
        let (kind, expected_journal) = (AuthorityKind::X509, journal.revision);
        let taint = Command::TaintAuthority { expected_journal, kind, id: id.clone() };
        let revoke = Command::RevokeAuthority { expected_journal: expected_journal + 1, kind, id };
        for command in [taint, revoke] {
            let applied = self.store.apply(command).await.expect("it is decided");
            applied.outcome.expect("it is done");
            assert!(self.views.wait_for(applied.revision, Instant::now() + DEADLINE).await);
        }
    }

    fn save(&self, name: &str) {
        let file = fs::File::create(self.folder.join(name)).expect("a file");
        self.store.handle.save_snapshot(&mut SnapshotFile(file)).expect("it is saved");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_any_rotation_is_in_a_table_a_log_a_snapshot_or_a_line() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log);
    log.with_ansi(false).try_init().expect("the one subscriber of this process");
    let place = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::start(place.path()).await;
    bench.after(Duration::ZERO).await;
    for (number, (ca_key_type, jwt_key_type)) in KEY_TYPES.into_iter().enumerate() {
        let policy = AuthorityPolicy { ca_key_type, jwt_key_type, ..AuthorityPolicy::default() };
        bench.rotator.minter.policy = Arc::new(policy);
        // Prepared after twelve hours of a day, active after twenty: eight hours of its own life.
        let rest = if number == 0 { HOUR * 12 } else { HOUR * 4 };
        bench.after(rest + HOUR / 60).await;
        bench.save(&format!("snapshot.{number}"));
        bench.after(HOUR * 8).await;
        if number % 2 == 1 {
            bench.revoke().await;
        }
    }
    let made = 2 * (KEY_TYPES.len() + 1);
    assert_eq!(bench.known.len(), made, "{:?}", bench.views.journal());
    assert!(bench.views.journal().authorities.len() < made, "some have left");

    let Bench { folder, store, views, rotator, stop, secrets, last, .. } = bench;
    stop.cancel();
    drop((views, rotator));
    store.stop().await.expect("it stops");
    let (searched, found) = secrets.found_below(&folder, &[]).expect("files");
    assert!(searched > KEY_TYPES.len() + 4, "{searched} files are not a registry's");
    assert!(found.is_empty(), "{found:#?}");
    let logged = LOGGED.lock().expect("nobody panics under it").clone();
    let said = String::from_utf8_lossy(&logged);
    assert!(said.contains("Authority journal moved"), "{} bytes logged", logged.len());
    assert_eq!(secrets.found_in(&logged), Vec::<String>::new());

    // One that were there would be found.
    fs::write(folder.join("planted"), pem::encode_private_key(&last).as_bytes()).expect("written");
    assert!(!secrets.found_below(&folder, &[]).expect("files").1.is_empty());
}

//! One of three whose folder is damaged while it is stopped, in every way there is: it is never served
//! from and never voted with, it says what to do, and what it is told to do rebuilds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use steeple_raft_store::testing::{seams, state_digest};
use steeple_raft_store::{
    Config, MemoryDisk, OpenError, PipeNetwork, RunError, Seams, Storage, Store, StoreHandle,
    Tuning,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::{
    Cluster, Member, SOON, caught_up, confirmed, eventually, formed, member_config, propose,
};

/// The number of the member whose disk is real.
const NUMBER: u16 = 3;

/// So many writes to a round: the log is folded into snapshots, and more comes behind the last one.
const WRITES: u32 = 60;

fn tuned(config: Config) -> Config {
    let seat_free_after = Duration::from_secs(2);
    let tuning = Tuning { snapshot_after: 50, log_kept: 10, seat_free_after, ..config.tuning };
    Config { tuning, ..config }
}

/// A running member on a real disk.
struct OnDisk {
    handle: StoreHandle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl OnDisk {
    async fn start(network: &PipeNetwork, folder: &Path) -> Result<Self, OpenError> {
        let config = tuned(member_config(NUMBER, &[1, 2, 3]));
        network.heal(&config.advertise);
        let config = Config { data_dir: folder.to_owned(), ..config };
        let transport = std::sync::Arc::new(network.endpoint(&config.advertise));
        let deadline = Instant::now() + SOON;
        let store = loop {
            let seams = Seams { transport: transport.clone(), ..seams(Storage::Rocks) };
            match Store::open(config.clone(), seams).await {
                // The last one's threads let go of the folder a moment after it stopped.
                Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                    tokio::task::yield_now().await;
                }
                opened => break opened?,
            }
        };
        let handle = store.handle();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(store.run(shutdown.clone()));
        Ok(Self { handle, shutdown, task })
    }

    async fn stop(self, network: &PipeNetwork) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
        // Connections of a process end with it.
        network.cut(&member_config(NUMBER, &[]).advertise);
    }
}

async fn write_round(handle: &StoreHandle, round: &str) {
    let writes = (0..WRITES).map(async |n| propose(handle, &format!("{round} {n}")).await.unwrap());
    futures::future::join_all(writes).await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let item = item.unwrap();
            (item.path(), to.join(item.file_name()))
        };
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// The files of a database whose names begin or end so.
fn files(raft: &Path, named: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(raft.join("db")).unwrap().map(|item| item.unwrap().path());
    let named: Vec<PathBuf> = all
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.starts_with(named) || name.ends_with(named))
                && fs::metadata(path).unwrap().len() > 0
        })
        .collect();
    assert!(!named.is_empty(), "{named:?}");
    named
}

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    assert!(bytes.len() > 8, "{}", path.display());
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn flip_at(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x10;
}

fn flip_middle(bytes: &mut [u8]) {
    let at = bytes.len() / 2;
    flip_at(bytes, at);
}

fn flip_near_end(bytes: &mut [u8]) {
    let at = bytes.len() - 5;
    flip_at(bytes, at);
}

fn halve(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}

type Damage = Box<dyn Fn(&Path)>;

/// Edits every file of the database with such a name.
fn each(named: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Damage {
    Box::new(move |raft| files(raft, named).iter().for_each(|path| edit(path, &change)))
}

fn remove(named: &'static str) -> Damage {
    Box::new(move |raft| files(raft, named).iter().for_each(|path| fs::remove_file(path).unwrap()))
}

fn change(file: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Damage {
    Box::new(move |raft| edit(&raft.join(file), &change))
}

/// Every damage, and a word of what is said about it. The old copy is of an earlier time.
fn table(old: PathBuf) -> Vec<(&'static str, Damage, &'static str)> {
    let older = old.clone();
    vec![
        ("a bit in the middle of the log", each(".log", |b| flip_middle(b)), "corrupt"),
        ("a bit of the log's last write", each(".log", |b| flip_near_end(b)), "corrupt"),
        // Less than that may be rows that no one was told of, which a power cut takes, too.
        (
            "a quarter of the log is gone",
            each(".log", |b| b.truncate(b.len() / 4 * 3)),
            "lost what",
        ),
        ("half the log is gone", each(".log", halve), "lost what"),
        ("the log is gone", remove(".log"), "corrupt"),
        ("bits of the sorted files", each(".sst", |b| flip_at(b, 12)), "damaged|corrupt"),
        ("half of each sorted file is gone", each(".sst", halve), "corrupt"),
        ("the sorted files are gone", remove(".sst"), "corrupt"),
        ("a bit of the manifest", each("MANIFEST-", |b| flip_middle(b)), "corrupt"),
        ("half the manifest is gone", each("MANIFEST-", halve), "corrupt"),
        ("the manifest is gone", remove("MANIFEST-"), "corrupt"),
        ("CURRENT says something else", change("db/CURRENT", |b| b.fill(b'x')), "corrupt"),
        ("CURRENT is gone", remove("CURRENT"), "corrupt"),
        ("a bit of the kept snapshot", change("snapshot", |b| flip_middle(b)), "corrupt"),
        ("half the kept snapshot is gone", change("snapshot", halve), "corrupt"),
        ("a bit of the mark of what was synced", change("SYNCED", |b| flip_at(b, 9)), "corrupt"),
        (
            "the database is an old copy",
            Box::new(move |raft: &Path| {
                fs::remove_dir_all(raft.join("db")).unwrap();
                copy_folder(&old.join("db"), &raft.join("db"));
            }),
            "lost what",
        ),
        (
            "all of it is an old copy",
            Box::new(move |raft: &Path| {
                fs::remove_dir_all(raft).unwrap();
                copy_folder(&older, raft);
            }),
            "holds less than it acknowledged",
        ),
    ]
}

/// Starts the member on what it has left and returns what it says as it ends.
async fn said_by(cluster: &Cluster, raft: &Path, damage: &str) -> String {
    match OnDisk::start(&cluster.network, raft).await {
        Err(error) => error.to_string(),
        Ok(member) => match timeout(SOON, member.task).await {
            Ok(ended) => {
                cluster.network.cut(&member_config(NUMBER, &[]).advertise);
                ended.unwrap().unwrap_err().to_string()
            }
            Err(_) => panic!("{damage}: it runs on: {:?}", member.handle.status()),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_folder_is_never_served_or_voted_with_and_its_member_is_rebuilt_by_the_others() {
    let parent = tempfile::tempdir().unwrap();
    let (raft, old) = (parent.path().join("raft"), parent.path().join("old"));
    let network = PipeNetwork::default();
    let mut members = Vec::new();
    for number in [1, 2] {
        let config = tuned(member_config(number, &[1, 2, 3]));
        members.push(Member::start(&network, config, MemoryDisk::new()).await);
    }
    let cluster = Cluster { network, members };
    let third = OnDisk::start(&cluster.network, &raft).await.unwrap();
    formed(&third.handle).await;
    write_round(&third.handle, "first").await;
    third.stop(&cluster.network).await;
    copy_folder(&raft, &old);
    // What is in the write-ahead log goes into sorted files at the next start; more comes behind it.
    let third = OnDisk::start(&cluster.network, &raft).await.unwrap();
    write_round(&cluster.members[0].handle, "second").await;
    caught_up(&third.handle, &cluster.members[0].handle).await;
    // Of the last writes each was synced before the next: behind them are the rows of one alone.
    for n in 0..5 {
        propose(&cluster.members[0].handle, &format!("last {n}")).await.unwrap();
        caught_up(&third.handle, &cluster.members[0].handle).await;
    }
    let leader = cluster.leader().await;
    confirmed(&cluster.members[leader].handle, third.handle.status().member_id).await;
    eventually("a kept snapshot", || raft.join("snapshot").exists().then_some(())).await;
    third.stop(&cluster.network).await;

    for (number, (damage, inflict, said)) in table(old).into_iter().enumerate() {
        let copy = parent.path().join(format!("copy-{number}"));
        copy_folder(&raft, &copy);
        inflict(&copy);
        for start in ["the first start", "and the next"] {
            let text = said_by(&cluster, &copy, damage).await;
            let fits = said.split('|').any(|word| text.contains(word));
            assert!(fits, "{damage}: {start}: {text}");
        }
        propose(&cluster.members[0].handle, damage).await.unwrap();
    }

    // The step that is documented: its folder is moved away.
    fs::rename(&raft, parent.path().join("raft.lost")).unwrap();
    let third = OnDisk::start(&cluster.network, &raft).await.unwrap();
    formed(&third.handle).await;
    propose(&third.handle, "through the rebuilt one").await.unwrap();
    for member in &cluster.members {
        caught_up(&member.handle, &third.handle).await;
    }
    let digest = eventually("one state", || {
        let ours = state_digest(&third.handle).unwrap();
        let same = |other: &Member| state_digest(&other.handle).unwrap() == ours;
        cluster.members.iter().all(same).then_some(ours)
    });
    digest.await;
    third.stop(&cluster.network).await;
}

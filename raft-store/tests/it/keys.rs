//! Another cluster key, member by member: files that change while members run, certificates that follow
//! the key that seals, and members that come too late.

use std::collections::BTreeSet;
use std::sync::Arc;

use steeple_raft_store::testing::seams;
use steeple_raft_store::{
    ClusterKeys, Command, Config, MemberState, MemoryDisk, Outcome, PipeNetwork, Rejection,
    RequestId, Storage, Store,
};
use steeple_spiffe_core::random::{Random as _, SystemRandom};
use tokio::time::Instant;

use crate::cluster::{Cluster, Member, SOON, eventually, formed, member_config, propose};

const OLD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
const FOREIGN: &str = "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=";

fn keys(lines: &[&str]) -> Arc<ClusterKeys> {
    Arc::new(ClusterKeys::parse(&lines.join("\n")).unwrap())
}

fn id(line: &str) -> String {
    keys(&[line]).current_id()
}

fn config(number: u16, peers: &[u16], keys: &Arc<ClusterKeys>) -> Config {
    Config { keys: Arc::clone(keys), ..member_config(number, peers) }
}

/// Three founders, each with a file of its own.
async fn form(files: &[Arc<ClusterKeys>]) -> Cluster {
    let network = PipeNetwork::default();
    let mut members = Vec::new();
    for (number, keys) in (1..).zip(files) {
        let config = config(number, &[1, 2, 3], keys);
        members.push(Member::start(&network, config, MemoryDisk::new()).await);
    }
    for member in &members {
        formed(&member.handle).await;
    }
    Cluster { network, members }
}

async fn move_key(asked: &Member, expected: &str, to: &str) -> Result<Outcome, Rejection> {
    let command = Command::MoveClusterKey { expected: expected.to_owned(), to: to.to_owned() };
    let mut id = [0; 16];
    SystemRandom.fill(&mut id);
    let proposed = asked.handle.propose(command, RequestId(id), Instant::now() + SOON);
    proposed.await.unwrap().outcome
}

/// Waits until every member hears that all of them present certificates of a key.
async fn all_present(cluster: &Cluster, key: &str) {
    eventually("certificates of a key", || {
        let says = |asked: &Member| {
            let members = asked.handle.status().members;
            let presents = |key_id: &str| key_id == key;
            let mut said = members.iter().map(|view| view.observed.as_ref());
            said.all(|seen| seen.is_some_and(|seen| presents(&seen.said.certificate_key_id)))
        };
        cluster.members.iter().all(says).then_some(())
    })
    .await;
}

async fn joining_text(joiner: &Member) -> String {
    eventually("a reason", || match joiner.handle.status().state {
        MemberState::Joining { text } if !text.is_empty() => Some(text),
        MemberState::Forming { .. } | MemberState::Joining { .. } | MemberState::Member => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_comes_and_an_old_one_goes_while_members_run_and_restart() {
    // The order of the lines means nothing, and not all members have both.
    let files = [keys(&[NEW, OLD]), keys(&[OLD]), keys(&[OLD, NEW])];
    let mut cluster = form(&files).await;
    files[1].take_over(&keys(&[NEW, OLD]), &BTreeSet::new());
    propose(&cluster.members[1].handle, "both held").await.unwrap();

    assert_eq!(move_key(&cluster.members[0], "", &id(OLD)).await, Ok(Outcome::Done));
    all_present(&cluster, &id(OLD)).await;
    assert_eq!(move_key(&cluster.members[1], &id(OLD), &id(NEW)).await, Ok(Outcome::Done));
    all_present(&cluster, &id(NEW)).await;
    let again = move_key(&cluster.members[2], &id(OLD), &id(NEW)).await.unwrap_err();
    assert!(matches!(again, Rejection::ClusterKeyMoved { .. }), "{again:?}");

    // The old line goes: by a file that is read again, by a restart, and last where it was the only one.
    files[1].take_over(&keys(&[NEW]), &BTreeSet::from([id(NEW)]));
    for number in [1, 3] {
        let at = cluster.members.iter().position(|one| one.name == format!("m{number}:{number}"));
        let (_, disk) = cluster.members.remove(at.unwrap()).kill(&cluster.network).await;
        cluster.add(config(number, &[1, 2, 3], &keys(&[NEW])), disk).await;
        let back = cluster.members.last().unwrap();
        propose(&back.handle, &format!("back {number}")).await.unwrap();
    }
    let (_, disk) = cluster.members.remove(0).kill(&cluster.network).await;
    cluster.add(config(2, &[1, 2, 3], &keys(&[NEW])), disk).await;
    propose(&cluster.members[2].handle, "without the old key").await.unwrap();
    all_present(&cluster, &id(NEW)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_without_the_key_that_seals_is_told_which_one_it_lacks() {
    let both = keys(&[OLD, NEW]);
    let mut cluster = form(&[both.clone(), keys(&[OLD, NEW]), keys(&[OLD, NEW])]).await;
    move_key(&cluster.members[0], "", &id(NEW)).await.unwrap();
    all_present(&cluster, &id(NEW)).await;

    let late = keys(&[OLD]);
    cluster.add(config(4, &[1], &late), MemoryDisk::new()).await;
    let text = joining_text(&cluster.members[3]).await;
    let (has, lacks) = (id(OLD), id(NEW));
    let expected =
        format!("the newcomer holds the cluster keys {has}, not {lacks}, which seals; give");
    assert!(text.contains(&expected), "{text}");
    // The line is enough, while it asks.
    late.take_over(&both, &BTreeSet::new());
    formed(&cluster.members[3].handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lacks_a_key_goes_on_and_gets_it_back_later() {
    let files = [keys(&[OLD, NEW]), keys(&[OLD, NEW]), keys(&[OLD, NEW])];
    let mut cluster = form(&files).await;
    let (_, disk) = cluster.members.remove(2).kill(&cluster.network).await;
    move_key(&cluster.members[0], "", &id(NEW)).await.unwrap();
    // It was down as the key moved, and its file was put back to what it was.
    let lacking = keys(&[OLD]);
    cluster.add(config(3, &[1, 2, 3], &lacking), disk).await;
    let member = &cluster.members[2];
    propose(&member.handle, "follows").await.unwrap();
    eventually("the key that seals", || (lacking.replicated_id() == Some(id(NEW))).then_some(()))
        .await;
    assert!(!lacking.holds(&id(NEW)));
    lacking.take_over(&keys(&[OLD, NEW]), &BTreeSet::from([id(NEW)]));
    all_present(&cluster, &id(NEW)).await;

    // A start with a foreign key names the one that seals, not the line that came first.
    let (config, disk) = cluster.members.remove(2).kill(&cluster.network).await;
    let config = Config { keys: keys(&[FOREIGN]), ..config };
    let opened = Store::open(config, seams(Storage::Memory(disk))).await;
    let error = opened.map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, format!("sealed: cluster key does not open {}", id(NEW)));
}

//! Disks that stall or fail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use steeple_raft_store::{Contact, MemoryDisk, PipeNetwork, RunError, SyncTimes};
use tokio::time::{Instant, timeout};

use crate::cluster::{
    Cluster, Member, SOON, caught_up, eventually, formed, member_config, propose,
};

/// A disk whose next syncs take so long, or fail.
#[derive(Debug, Default)]
struct Times {
    stall_ms: AtomicU64,
    broken: AtomicBool,
}

impl SyncTimes for Times {
    fn next(&self) -> io::Result<Duration> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("input/output error"));
        }
        Ok(Duration::from_millis(self.stall_ms.load(Ordering::Relaxed)))
    }
}

async fn form() -> (Cluster, Vec<Arc<Times>>) {
    let network = PipeNetwork::default();
    let (mut members, mut disks) = (Vec::new(), Vec::new());
    for number in 1..=3 {
        let times = Arc::<Times>::default();
        let disk = MemoryDisk::simulated(times.clone());
        members.push(Member::start(&network, member_config(number, &[1, 2, 3]), disk).await);
        disks.push(times);
    }
    for member in &members {
        formed(&member.handle).await;
    }
    (Cluster { network, members }, disks)
}

/// Long enough for a leader to notice and to make way.
const STALL: Duration = Duration::from_secs(8);

fn stall(times: &Times) {
    times.stall_ms.store(u64::try_from(STALL.as_millis()).unwrap(), Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_gives_leadership_up_within_five_seconds() {
    let (cluster, disks) = form().await;
    let stalled = cluster.leader().await;
    let others: Vec<&Member> =
        cluster.members.iter().filter(|m| m.id() != cluster.members[stalled].id()).collect();
    stall(&disks[stalled]);
    let begun = Instant::now();
    // Something for the disk to do. The others are a quorum without it.
    propose(&others[0].handle, "meanwhile").await.unwrap();
    eventually("another leader", || {
        others.iter().any(|m| m.handle.leadership().borrow().is_self).then_some(())
    })
    .await;
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}: no stall yet");
    assert!(took < Duration::from_secs(5), "{took:?}");
    disks[stalled].stall_ms.store(0, Ordering::Relaxed);
    propose(&others[0].handle, "afterwards").await.unwrap();
    caught_up(&cluster.members[stalled].handle, &others[0].handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_leader_that_cannot_hand_over_falls_silent_all_the_same() {
    let (cluster, disks) = form().await;
    let stalled = cluster.leader().await;
    let others: Vec<&Member> =
        cluster.members.iter().filter(|m| m.id() != cluster.members[stalled].id()).collect();
    // They take leadership from no one and choose no one.
    others.iter().for_each(|member| member.handle.stand_down());
    stall(&disks[stalled]);
    let begun = Instant::now();
    propose(&others[0].handle, "meanwhile").await.unwrap();
    for member in &others {
        eventually("silence", || {
            matches!(member.handle.contact(), Contact::Lost { .. }).then_some(())
        })
        .await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_sync_fails_ends_and_never_tries_again() {
    let (mut cluster, disks) = form().await;
    let bad = (cluster.leader().await + 1) % 3;
    disks[bad].broken.store(true, Ordering::Relaxed);
    let writer = cluster.members[(bad + 1) % 3].handle.clone();
    propose(&writer, "something to sync").await.unwrap();
    let ended = timeout(SOON, &mut cluster.members[bad].task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(RunError::Consensus(_))), "{ended:?}");
    propose(&writer, "without it").await.unwrap();
}

//! Members whose state went wrong: found by the others, ended, and taken in anew.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::testing::seams;
use steeple_raft_store::{Config, MemoryDisk, OpenError, RunError, Storage, Store, Tuning};
use steeple_spiffe_core::time::{Clock, SystemClock};
use tokio::time::timeout;

use crate::cluster::{Cluster, SOON, caught_up, eventually, member_config, propose};
use crate::observing::form;

/// The table of counters: each command reads its only row.
const COUNTERS: u32 = 2;

/// More than lie between two checkpoints of the state hash.
const WRITES: u32 = 300;

async fn write_much(cluster: &Cluster, from: usize, round: &str) {
    let writer = &cluster.members[from].handle;
    let writes = (0..WRITES).map(async |number| {
        propose(writer, &format!("{round} {number}")).await.unwrap();
    });
    futures::future::join_all(writes).await;
}

/// One that gives a seat away soon.
fn founder(config: &Config) -> Config {
    let tuning = Tuning { seat_free_after: Duration::from_secs(2), ..config.tuning };
    Config { tuning, ..config.clone() }
}

/// One of three rots; exactly this one ends, says what to do, and stays away with that disk.
async fn one_rots(leads: bool) {
    let clocks: [Arc<dyn Clock>; 3] = std::array::from_fn(|_| Arc::new(SystemClock) as Arc<_>);
    let mut cluster = form(clocks, |_, config| *config = founder(config)).await;
    let leader = cluster.leader().await;
    let bad = if leads { leader } else { (leader + 1) % 3 };
    write_much(&cluster, (bad + 1) % 3, "before").await;
    for member in &cluster.members {
        caught_up(&member.handle, &cluster.members[(bad + 1) % 3].handle).await;
        assert_eq!(member.handle.status().mismatch, None);
    }

    cluster.members[bad].disk.rot(COUNTERS, b"").unwrap();
    write_much(&cluster, (bad + 1) % 3, "after").await;
    let ended = timeout(SOON, &mut cluster.members[bad].task).await.unwrap().unwrap();
    let Err(RunError::Fenced { reason }) = ended else { panic!("{ended:?}") };
    let gone = cluster.members.remove(bad);
    assert!(reason.ends_with(&format!(" against {}", gone.id())), "{reason}");
    for other in &cluster.members {
        let noted = eventually("a note of it", || other.handle.status().mismatch).await;
        assert!(!noted.against_this_member, "{noted:?}");
    }
    propose(&cluster.members[0].handle, "without it").await.unwrap();

    let number = u16::try_from(bad).unwrap() + 1;
    let again =
        Store::open(member_config(number, &[1, 2, 3]), seams(Storage::Memory(gone.disk.clone())));
    let refused = again.await.unwrap_err();
    assert!(matches!(&refused, OpenError::Corrupt { reason: r, .. } if *r == reason), "{refused}");

    // Connections of a process end with it.
    cluster.network.cut(&gone.name);
    let name = gone.name.clone();
    drop(gone);
    cluster.network.heal(&name);
    cluster.add(founder(&member_config(number, &[1, 2, 3])), MemoryDisk::new()).await;
    caught_up(&cluster.members[2].handle, &cluster.members[0].handle).await;
    for member in &cluster.members {
        assert!(!member.task.is_finished());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_row_rots_fences_itself_and_no_one_else_does() {
    one_rots(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_row_rots_fences_itself_and_no_one_else_does() {
    one_rots(true).await;
}

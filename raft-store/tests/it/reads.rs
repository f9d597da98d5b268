//! Confirmed reads while a network keeps answers back.

use std::time::Duration;

use steeple_raft_store::Way;
use tokio::time::Instant;

use crate::cluster::{Cluster, SOON, caught_up, eventually, propose};

/// A leader that two followers have left without its knowledge gets what they had answered before: from
/// one it learns what it committed, and sends that on to the other; then comes the other's old answer,
/// which ends at the same entry. It says nothing of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_held_since_before_an_election_confirms_no_read() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let at = cluster.leader().await;
    let old = &cluster.members[at];
    let others = [&cluster.members[(at + 1) % 3], &cluster.members[(at + 2) % 3]];
    let each = |what: fn(&Cluster, &str, &str)| {
        others.iter().for_each(|other| what(&cluster, &old.name, &other.name));
    };
    propose(&old.handle, "told").await.unwrap();
    for other in others {
        caught_up(&other.handle, &old.handle).await;
    }
    each(|cluster, old, other| cluster.network.hold(old, other, Way::Back));
    let last = old.handle.status().last_log_index;
    let stored = old.handle.clone();
    let stored = tokio::spawn(async move { propose(&stored, "stored, but not known to be").await });
    for other in others {
        let has_it = || (other.handle.status().last_log_index > last).then_some(());
        eventually("the entry on a follower", has_it).await;
    }
    // Nothing more from the leader, and nothing to it, but for the answers that are under way.
    each(|cluster, old, other| {
        cluster.network.hold(old, other, Way::There);
        cluster.network.hold(other, old, Way::There);
    });
    let new = eventually("another leader", || {
        others.into_iter().find(|other| other.handle.leadership().borrow().is_self)
    })
    .await;
    propose(&new.handle, "by the next leader").await.unwrap();
    let told = new.handle.revision();
    let reader = old.handle.clone();
    let read = tokio::spawn(async move {
        reader.read_barrier(Instant::now() + Duration::from_millis(1_500)).await
    });
    // Nothing outside shows that consensus has taken the question, nor (below) that the leader has sent
    // its next append. Where a pause is too short the answer comes before what it must not answer for:
    // the test then shows less, and still says nothing wrong.
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.network.release(&old.name, &others[0].name, Way::Back);
    eventually("what the first answer says", || {
        (old.handle.status().commit_index > last).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    cluster.network.release(&old.name, &others[1].name, Way::Back);
    if let Ok(confirmed) = read.await.unwrap() {
        assert!(confirmed.revision >= told, "{confirmed:?} after {told:?} was told");
    }
    each(|cluster, old, other| {
        cluster.network.release(old, other, Way::There);
        cluster.network.release(other, old, Way::There);
    });
    stored.await.unwrap().ok();
    let read = old.handle.read_barrier(Instant::now() + SOON).await.unwrap();
    assert!(read.revision >= told);
}

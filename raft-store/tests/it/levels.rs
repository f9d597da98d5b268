//! Feature levels: where clusters start, how the level is raised, who is kept out.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::testing::{TestStore, config, seams};
use steeple_raft_store::{
    Config, Contact, FEATURE_LEVEL_MAX, MemberState, MemoryDisk, OpenError, RaiseError, Storage,
    Store, StoreHandle, Tuning,
};
use steeple_spiffe_core::time::{Clock, SystemClock};

use crate::cluster::{Cluster, caught_up, eventually, formed, member_config, propose};
use crate::observing::form;

fn supporting(config: &Config, level: u32) -> Config {
    Config {
        tuning: Tuning {
            feature_level_max: level,
            seat_free_after: Duration::from_secs(2),
            ..config.tuning
        },
        ..config.clone()
    }
}

/// Three founders that support these levels.
async fn founders(levels: [u32; 3]) -> Cluster {
    let clocks: [Arc<dyn Clock>; 3] = std::array::from_fn(|_| Arc::new(SystemClock) as Arc<_>);
    form(clocks, |number, config| {
        *config = supporting(config, levels[usize::from(number) - 1]);
    })
    .await
}

async fn level_everywhere(cluster: &Cluster, level: u32) {
    for member in &cluster.members {
        eventually("the level", || (member.handle.level_status().level == level).then_some(()))
            .await;
    }
}

async fn in_contact(handle: &StoreHandle) {
    eventually("contact", || (handle.contact() == Contact::InContact).then_some(())).await;
}

/// Replaces the program of a member, as a rolling upgrade does.
async fn restart(cluster: &mut Cluster, level: u32, after: Duration) {
    let (config, disk) = cluster.members.remove(0).kill(&cluster.network).await;
    let mut config = supporting(&config, level);
    config.tuning.raise_level_after = after;
    cluster.add(config, disk).await;
    caught_up(&cluster.members[2].handle, &cluster.members[0].handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_starts_at_the_highest_level_that_all_founders_support() {
    level_everywhere(&founders([2, 2, 2]).await, 2).await;
    level_everywhere(&founders([2, 1, 2]).await, 1).await;
    let alone = TestStore::start().await;
    assert_eq!(alone.handle.level_status().level, FEATURE_LEVEL_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_is_raised_by_hand_through_any_member_once_every_member_supports_it() {
    let day = Duration::from_secs(24 * 3600);
    let mut cluster = founders([1, 1, 1]).await;
    for upgraded in 1..=3 {
        restart(&mut cluster, 2, day).await;
        if upgraded < 3 {
            let old = cluster.members[0].id();
            let heard = eventually("what all support", || {
                let members = cluster.members[2].handle.level_status().members;
                let heard = members.len() == 3 && members.iter().all(|one| one.supports.is_some());
                heard.then_some(())
            });
            heard.await;
            in_contact(&cluster.members[2].handle).await;
            let refused = cluster.members[2].handle.raise_level().await.unwrap_err();
            assert!(
                matches!(&refused, RaiseError::Refused(text) if text.contains("supports none above")),
                "{refused} {old}"
            );
        }
    }
    for member in &cluster.members {
        let ready = || (member.handle.level_status().ready == Some(2)).then_some(());
        eventually("support by all", ready).await;
    }
    let status = eventually("a time", || {
        let status = cluster.members[0].handle.level_status();
        status.raised_in.map(|_| status)
    });
    assert!(status.await.raised_in.unwrap() > Duration::from_secs(23 * 3600));
    let leader = cluster.leader().await;
    let follower = &cluster.members[(leader + 1) % 3].handle;
    in_contact(follower).await;
    in_contact(&cluster.members[leader].handle).await;
    assert_eq!(follower.raise_level().await.unwrap(), (1, 2));
    level_everywhere(&cluster, 2).await;
    let again = follower.raise_level().await.unwrap_err().to_string();
    assert!(again.contains("the cluster is at feature level 2"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_raise_is_unavailable_whatever_was_heard_of_the_others() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    // One that is left alone goes on taking itself for the leader.
    let left = cluster.members.remove(leader);
    for member in cluster.members {
        member.kill(&cluster.network).await;
    }
    let lost = || (left.handle.contact() != Contact::InContact).then_some(());
    eventually("lost contact", lost).await;
    match left.handle.raise_level().await {
        Err(RaiseError::Unavailable(error)) => {
            assert!(error.text.starts_with("no leader: "), "{}", error.text);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_that_all_have_supported_for_long_enough_is_raised_by_itself() {
    let mut cluster = founders([1, 1, 1]).await;
    for _ in 0..3 {
        restart(&mut cluster, 2, Duration::from_secs(3)).await;
    }
    // Cluster time moves with what is written.
    for member in &cluster.members {
        for number in 0.. {
            let status = member.handle.level_status();
            if status.level == 2 {
                break;
            }
            let text = format!("{} {number}", member.id());
            propose(&member.handle, &text).await.unwrap();
            tokio::task::yield_now().await;
            assert!(number < 1_000_000, "{status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_below_the_level_is_told_so_and_a_folder_above_it_is_not_opened() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    cluster.add(supporting(&member_config(4, &[1, 2, 3]), 1), MemoryDisk::new()).await;
    let text = eventually("a refusal", || match cluster.members[3].handle.status().state {
        MemberState::Joining { text } if text.contains("feature level") => Some(text),
        MemberState::Joining { .. } | MemberState::Forming { .. } | MemberState::Member => None,
    });
    let text = text.await;
    assert!(
        text.contains(&format!(
            "the cluster is at feature level {FEATURE_LEVEL_MAX}, the newcomer supports up to 1"
        )),
        "{text}"
    );

    let disk = MemoryDisk::new();
    let alone = config(std::path::PathBuf::new());
    let store = TestStore::open(alone.clone(), seams(Storage::Memory(disk.clone()))).await.unwrap();
    formed(&store.handle).await;
    store.stop().await.unwrap();
    let older = Store::open(supporting(&alone, 1), seams(Storage::Memory(disk))).await.unwrap_err();
    assert!(
        matches!(older, OpenError::NewerLevel { level: FEATURE_LEVEL_MAX, known: 1 }),
        "{older}"
    );
}

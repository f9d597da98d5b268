//! Members that lost their folder, and what becomes of those that they were before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::{Config, MemoryDisk, Role, Tuning};
use steeple_spiffe_core::time::{Clock, SystemClock};

use crate::cluster::{eventually, propose};
use crate::observing::form;

/// One that gives a seat away soon, and lets nobody vote who has not been there for long.
fn patient(config: &Config) -> Config {
    let (seat_free_after, stable_for) = (Duration::from_secs(2), Duration::from_secs(600));
    Config { tuning: Tuning { seat_free_after, stable_for, ..config.tuning }, ..config.clone() }
}

/// Bug ledger: a learner that was there after the voter whose seat it waited for stayed for ten minutes
/// when its folder was lost as well, since the first holder of its address alone was looked at. Which one
/// is first goes by their random ids, so the folder is lost several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_folder_again_leaves_one_former_self_alone() {
    let clocks: [Arc<dyn Clock>; 3] = std::array::from_fn(|_| Arc::new(SystemClock) as Arc<_>);
    let mut cluster = form(clocks, |_, config| *config = patient(config)).await;
    let leader = cluster.leader().await;
    let followers = (0..3).filter(|index| *index != leader);
    let lost = followers.min_by_key(|index| cluster.members[*index].id()).unwrap();
    let seat = cluster.members[lost].id();
    let mut lost = cluster.members.remove(lost);
    let voters: BTreeSet<_> =
        cluster.members.iter().map(|member| member.id()).chain([seat]).collect();
    for round in 0..4 {
        let (config, _) = lost.kill(&cluster.network).await;
        cluster.add(config, MemoryDisk::new()).await;
        lost = cluster.members.pop().unwrap();
        let handle = &cluster.members[0].handle;
        eventually("the newcomer, alone", || {
            let members = handle.status().members;
            let of =
                |role| members.iter().filter(move |view| view.role == role).map(|view| view.id);
            let is_alone = of(Role::Learner).eq([lost.id()]);
            (is_alone && of(Role::Voter).collect::<BTreeSet<_>>() == voters).then_some(())
        })
        .await;
        propose(handle, &format!("round {round}")).await.unwrap();
    }
}

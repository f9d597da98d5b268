//! What members hear of each other.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::{Config, MemoryDisk, PipeNetwork};
use steeple_spiffe_core::time::{Clock, SystemClock, Timestamp};

use crate::cluster::{Cluster, Member, eventually, formed, member_config, propose};

/// A clock that is ahead of the machine's.
#[derive(Debug)]
pub(crate) struct Ahead(pub(crate) Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(self.0)
    }

    fn boot_time(&self) -> Duration {
        SystemClock.boot_time()
    }
}

/// Three founders, each with its clock and what `edit` makes of its configuration.
pub(crate) async fn form(clocks: [Arc<dyn Clock>; 3], edit: impl Fn(u16, &mut Config)) -> Cluster {
    let network = PipeNetwork::default();
    let mut members = Vec::new();
    for (number, clock) in (1..).zip(clocks) {
        let mut config = member_config(number, &[1, 2, 3]);
        edit(number, &mut config);
        members.push(Member::start_at(&network, config, MemoryDisk::new(), clock).await);
    }
    for member in &members {
        formed(&member.handle).await;
    }
    Cluster { network, members }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_hears_how_every_other_stands() {
    const AHEAD: Duration = Duration::from_secs(5);
    let clocks: [Arc<dyn Clock>; 3] =
        [Arc::new(SystemClock), Arc::new(Ahead(AHEAD)), Arc::new(SystemClock)];
    let cluster = form(clocks, |number, config| {
        config.settings_hash = format!("settings {number}");
        config.version = format!("0.{number}");
    })
    .await;
    propose(&cluster.members[0].handle, "something to apply").await.unwrap();
    let goal = cluster.members[0].handle.status().applied_index;
    for asking in &cluster.members {
        for (number, asked) in (1..).zip(&cluster.members) {
            let observed = eventually("an observation", || {
                let members = asking.handle.status().members;
                let seen = members.into_iter().find(|view| view.id == asked.id())?.observed?;
                (seen.said.applied_index >= goal).then_some(seen)
            })
            .await;
            let said = &observed.said;
            assert_eq!(said.settings_hash, format!("settings {number}"));
            assert_eq!(said.version, format!("0.{number}"));
            assert_eq!(said.key_ids.len(), 1);
            assert!(said.feature_level_max > 0);
            let ahead = |number: u16| if number == 2 { 5_000_i64 } else { 0 };
            let own = cluster.members.iter().position(|member| member.id() == asking.id()).unwrap();
            let expected = ahead(number) - ahead(u16::try_from(own).unwrap() + 1);
            let wrong = (observed.clock_offset_ms - expected).abs();
            let bound = i64::try_from(observed.round_trip.as_millis()).unwrap() / 2 + 2;
            assert!(wrong <= bound, "{observed:?} instead of {expected}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_overs_are_no_elections_and_a_lost_leader_is_one() {
    const HAND_OVERS: u64 = 6;
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let elections = |cluster: &Cluster| -> Vec<u64> {
        cluster.members.iter().map(|member| member.handle.elections()).collect()
    };
    let mut leader = cluster.leader().await;
    let before = elections(&cluster);
    for _ in 0..HAND_OVERS {
        leader = (leader + 1) % 3;
        let next = &cluster.members[leader];
        next.handle.hand_over(Some(next.id())).await.unwrap();
        eventually("the next leader", || next.handle.leadership().borrow().is_self.then_some(()))
            .await;
    }
    // It looks 20 times a second.
    let looked = SystemClock.boot_time() + Duration::from_millis(500);
    eventually("a look", || (SystemClock.boot_time() > looked).then_some(())).await;
    for (now, then) in elections(&cluster).iter().zip(before) {
        // A busy machine may lose a leader meanwhile.
        assert!(now - then < HAND_OVERS / 2, "{now} after {then}");
    }

    let leader = cluster.leader().await;
    let lost = cluster.members.remove(leader);
    let before = elections(&cluster);
    lost.kill(&cluster.network).await;
    eventually("an election", || {
        elections(&cluster).iter().zip(&before).all(|(now, then)| now > then).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_heard_of_a_member_that_is_gone_stays_and_grows_old() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let gone = cluster.members.remove(2);
    let id = gone.id();
    let heard = |member: &Member| {
        let members = member.handle.status().members;
        members.into_iter().find(|view| view.id == id)?.observed.map(|seen| seen.heard_at)
    };
    let before = eventually("an observation", || heard(&cluster.members[0])).await;
    gone.kill(&cluster.network).await;
    let limit = Duration::from_secs(4);
    eventually("two more rounds", || (SystemClock.boot_time() > before + limit).then_some(()))
        .await;
    let after = heard(&cluster.members[0]).unwrap();
    assert!(after < before + limit, "it has not answered since: {before:?}, {after:?}");
}

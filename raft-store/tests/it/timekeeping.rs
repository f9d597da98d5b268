//! Clocks that are wrong: who leads, what is proposed, and what time it is.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::command::{Command, PruneExpired};
use steeple_raft_store::{MemberChangeError, MemberId, ProposeError, RequestId};
use steeple_spiffe_core::random::{Random, SystemRandom};
use steeple_spiffe_core::time::{Clock, SystemClock};
use tokio::time::Instant;

use crate::cluster::{Cluster, Member, SOON, eventually, token};
use crate::observing::{Ahead, form};

const WRONG: Duration = Duration::from_secs(30);

fn prune() -> Command {
    Command::PruneExpired(PruneExpired {
        agents_expired_for_s: None,
        include_non_reattestable: false,
        limit: 1,
    })
}

async fn prune_by(member: &Member) -> Result<(), ProposeError> {
    let term = member.handle.leadership().borrow().term;
    member.handle.propose_duty(prune(), term).await.map(|_| ())
}

/// Three, the last of which is ahead, all with their clocks compared.
async fn one_ahead() -> Cluster {
    let clocks: [Arc<dyn Clock>; 3] =
        [Arc::new(SystemClock), Arc::new(SystemClock), Arc::new(Ahead(WRONG))];
    let cluster = form(clocks, |_, _| ()).await;
    for member in &cluster.members {
        eventually("a comparison", || member.handle.status().clock_ahead_ms).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_wrong_clock_decides_nothing_about_time_and_makes_way() {
    let cluster = one_ahead().await;
    let wrong = &cluster.members[2];
    let ahead_ms = wrong.handle.status().clock_ahead_ms.unwrap();
    assert!((29_000..31_000).contains(&ahead_ms), "{ahead_ms}");
    let leads = |id: MemberId| {
        cluster
            .members
            .iter()
            .find(|member| member.id() == id && member.handle.leadership().borrow().is_self)
    };

    // Each time it leads for less than a round of questions; what it is asked for meanwhile is refused.
    let deadline = Instant::now() + SOON;
    let text = loop {
        assert!(Instant::now() < deadline, "it never led");
        let leader = &cluster.members[cluster.leader().await];
        if leader.id() != wrong.id() {
            leader.handle.transfer_leadership(Some(wrong.id())).await.ok();
        }
        match prune_by(wrong).await {
            Err(ProposeError::Unavailable(unavailable)) => break unavailable.text,
            other => assert_eq!(other, Err(ProposeError::NotLeader)),
        }
    };
    assert!(text.contains("s ahead of the median of a quorum's; set it right"), "{text}");

    // What is written through it meanwhile bears the quorum's time.
    let mut id = [0; 16];
    SystemRandom.fill(&mut id);
    let applied =
        wrong.handle.propose(token("t".to_owned()), RequestId(id), deadline).await.unwrap();
    let beyond = applied.time.since(SystemClock.now());
    assert!(beyond < Duration::from_secs(5), "cluster time is {beyond:?} ahead");

    eventually("another leader", || leads(wrong.id()).is_none().then_some(())).await;
    // Another decides about time, as soon as it leads in earnest.
    loop {
        assert!(Instant::now() < deadline, "no other leads");
        let right = &cluster.members[cluster.leader().await];
        if right.id() == wrong.id() {
            tokio::task::yield_now().await;
            continue;
        }
        match prune_by(right).await {
            Ok(()) => break,
            other => assert_eq!(other, Err(ProposeError::NotLeader)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_handed_by_hand_to_a_member_whose_clock_is_wrong() {
    let cluster = one_ahead().await;
    let (right, wrong) = (&cluster.members[..2], &cluster.members[2]);
    for member in right {
        eventually("all clocks", || {
            let members = member.handle.status().members;
            members.iter().all(|view| view.observed.is_some()).then_some(())
        })
        .await;
    }
    // The first one may be the one that is wrong, until it has compared.
    let leader = eventually("a leader that is right", || {
        right.iter().find(|member| member.handle.leadership().borrow().is_self)
    })
    .await;
    let refused = leader.handle.hand_over(Some(wrong.id())).await.unwrap_err();
    assert!(matches!(refused, MemberChangeError::Refused(_)), "{refused:?}");
    let text = refused.to_string();
    assert!(text.starts_with(&format!("the clock of member {} is ", wrong.id())), "{text}");
    assert!(text.ends_with("set it right first"), "{text}");

    // Chosen freely, it is the other one that is right, there and back.
    for _ in 0..2 {
        wrong.handle.hand_over(None).await.unwrap();
        eventually("a leader that is right", || {
            right.iter().any(|member| member.handle.leadership().borrow().is_self).then_some(())
        })
        .await;
        assert!(!wrong.handle.leadership().borrow().is_self);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_differ_neither_decides_about_time() {
    let mut cluster = one_ahead().await;
    // One of those that agree goes.
    let gone = cluster.members.remove(0);
    gone.kill(&cluster.network).await;
    let texts = eventually("doubt", || {
        let doubts = cluster.members.iter().map(|member| member.handle.status().clock_doubt);
        let doubts = doubts.collect::<Option<Vec<_>>>()?;
        // What the one that is gone said is forgotten by each in its own time.
        doubts.iter().all(|text| text.contains("15.0 s")).then_some(doubts)
    });
    let texts = texts.await;
    assert!(texts[0].contains("15.0 s behind"), "{texts:?}");
    assert!(texts[1].contains("15.0 s ahead"), "{texts:?}");
    let leader = &cluster.members[cluster.leader().await];
    assert!(matches!(prune_by(leader).await, Err(ProposeError::Unavailable(_))));
}

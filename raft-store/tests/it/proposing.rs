//! Proposals, duties, confirmed reads.

use futures::future::join_all;
use steeple_raft_store::testing::{DEADLINE, TestStore};
use steeple_raft_store::{
    Command, Contact, MemberState, Outcome, ProposeError, Rejection, RequestId, Role,
};
use steeple_spiffe_core::SpiffeId;
use tokio::time::Instant;

use crate::cluster::{Cluster, eventually};
use crate::commands::{create, entry};

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

#[tokio::test]
async fn a_member_without_peers_forms_its_cluster_and_says_so() {
    let store = TestStore::start().await;
    let status = store.handle.status();
    assert_eq!(status.state, MemberState::Member);
    assert_eq!(status.leader, Some(status.member_id));
    assert!(status.cluster_id.is_some());
    let [member] = status.members.as_slice() else { panic!("one member") };
    assert_eq!(
        (member.id, member.role, member.reachable),
        (status.member_id, Role::Voter, Some(true))
    );
    assert_eq!(store.handle.contact(), Contact::InContact);
}

#[tokio::test]
async fn a_proposal_is_applied_here_when_it_is_answered() {
    let store = TestStore::start().await;
    let applied = store.apply(create(1)).await.unwrap();
    assert!(matches!(applied.outcome, Ok(Outcome::Entries(_))));
    assert!(store.handle.revision() >= applied.revision);
}

#[tokio::test]
async fn many_proposals_at_once_get_their_own_answers_in_log_order() {
    let store = TestStore::start().await;
    let all = join_all((0..200).map(|number| store.apply(create(number)))).await;
    let mut revisions: Vec<_> = all.into_iter().map(|applied| applied.unwrap().revision).collect();
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 200);
}

#[tokio::test]
async fn a_retried_request_is_answered_as_before() {
    let store = TestStore::start().await;
    let id = RequestId([7; 16]);
    let first = store.handle.propose(create(1), id, soon()).await.unwrap();
    let second = store.handle.propose(create(1), id, soon()).await.unwrap();
    assert_eq!(first, second);
    let other = store.handle.propose(create(2), id, soon()).await.unwrap();
    assert_eq!(other.outcome, Err(Rejection::RequestIdReused));
}

#[tokio::test]
async fn duties_are_only_proposed_in_the_term_they_were_planned_in() {
    let store = TestStore::start().await;
    let term = store.handle.leadership().borrow().term;
    let prune = || {
        Command::PruneExpired(steeple_raft_store::command::PruneExpired {
            agents_expired_for_s: None,
            include_non_reattestable: false,
            limit: 10,
        })
    };
    let applied = store.handle.propose_duty(prune(), term).await.unwrap();
    assert_eq!(applied.outcome, Ok(Outcome::Pruned(0)));
    for other in [term - 1, term + 1] {
        let refused = store.handle.propose_duty(prune(), other).await;
        assert_eq!(refused, Err(ProposeError::NotLeader));
    }
}

#[tokio::test]
async fn a_command_larger_than_an_entry_may_be_is_refused_before_the_log() {
    let store = TestStore::start().await;
    let mut large = entry(1);
    large.hint = "x".repeat(1024 * 1024);
    let before = store.handle.revision();
    let refused = store.apply(Command::CreateEntries(vec![large])).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.handle.revision(), before);
}

#[tokio::test]
async fn a_rejection_is_an_answer() {
    let store = TestStore::start().await;
    let id = SpiffeId::parse("spiffe://example.org/spire/agent/a").unwrap();
    let applied = store.apply(Command::BanAgent(id)).await.unwrap();
    assert_eq!(applied.outcome, Err(Rejection::AgentNotFound));
}

#[tokio::test]
async fn a_confirmed_read_includes_what_was_acknowledged_before_it() {
    let store = TestStore::start().await;
    for number in 0..20 {
        let applied = store.apply(create(number)).await.unwrap();
        let barriers = join_all((0..50).map(|_| store.handle.read_barrier(soon()))).await;
        for confirmed in barriers {
            assert!(confirmed.unwrap().revision >= applied.revision);
        }
    }
}

#[tokio::test]
async fn a_single_voter_hands_leadership_to_no_one() {
    let store = TestStore::start().await;
    let refused = store.handle.transfer_leadership(None).await.unwrap_err();
    assert!(refused.text.contains("no other voter"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_out_of_attempts_in_contact_with_a_leader_names_it() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let follower = &cluster.members[(leader + 1) % 3].handle;
    eventually("contact", || follower.status().leader).await;
    // A duty: no other member takes it.
    let prune = Command::PruneExpired(steeple_raft_store::command::PruneExpired {
        agents_expired_for_s: None,
        include_non_reattestable: false,
        limit: 10,
    });
    let deadline = Instant::now() + std::time::Duration::from_millis(200);
    let proposed = follower.propose(prune, RequestId([7; 16]), deadline).await;
    let Err(ProposeError::Unavailable(error)) = proposed else { panic!("{proposed:?}") };
    let said = " leads, but took no command from this one in time; try again";
    assert!(error.text.ends_with(said), "{error}");
}

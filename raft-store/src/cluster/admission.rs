//! Who is taken in, and where members are said to be: the leader's side of joining and moving.
//!
//! Owns the checks before a newcomer becomes a learner, and every call that changes the membership.
//! One change at a time; a change that consensus is still busy with is an answer "try again".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::timeout;
use tonic::Status;

use crate::cluster::life::Life;
use crate::cluster::plan::Step;
use crate::cluster::records;
use crate::ids::MemberId;
use crate::net::Process;
use crate::net::messages as pb;
use crate::net::messages::join_reply::Result as Answer;
use crate::raft::{Metrics, PeerNode, TypeConfig};

/// Most members that follow without a vote.
const LEARNERS_MAX: usize = 16;

/// A change needs two commits; without a quorum it would wait for ever.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A member that still runs where it was says so within a round trip; where nothing is any more, a
/// moved one does not wait for the network to notice.
const OLD_PLACE_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes a newcomer in as a learner, if this member leads.
///
/// # Errors
///
/// The refusal, in words for the newcomer's operator.
pub(crate) async fn join(
    life: &Life,
    caller: MemberId,
    request: pb::JoinRequest,
) -> Result<pb::JoinReply, Status> {
    check_names(life, &request)?;
    let not_leader = |life: &Life| {
        let leader = life.core.leadership_now().leader;
        let metrics = life.metrics();
        pb::NotLeader { leader: leader.map(|leader| hint(&metrics, leader)) }
    };
    if !life.core.leadership_now().is_self || !life.is_formed() {
        return Ok(pb::JoinReply { result: Some(Answer::NotLeader(not_leader(life))) });
    }
    check_level(life.core.feed.reached_now().feature_level, request.feature_level_max)?;
    check_keys(life.core.config.keys.replicated_id(), &request.key_ids)?;
    let _changing = life.changing.lock().await;
    let metrics = life.metrics();
    if metrics.membership_config.get_node(&caller.0).is_none() {
        check_place(life, &metrics, caller, &request.address).await?;
        let node = PeerNode { address: request.address.clone(), ..PeerNode::default() };
        let nodes = BTreeMap::from([(caller.0, node)]);
        change(life, ChangeMembers::AddNodes(nodes), false).await?;
        tracing::info!(member_id = %caller, address = request.address, "Member added as learner");
    } else if metrics.committed_membership_config.get_node(&caller.0).is_none() {
        // Its first request was answered by nobody, and may still come to nothing: who is told that it
        // is a member asks no more.
        return Err(Status::unavailable(
            "the newcomer is being taken in, which is not committed yet",
        ));
    }
    let cluster = life.network.cluster_id().unwrap_or_default();
    let metrics = life.metrics();
    let members = metrics.membership_config.nodes().map(|(id, node)| {
        let (address, name) = (node.address.clone(), node.name.clone());
        crate::pb::store::Member { id: *id, address, name, demoted: node.demoted }
    });
    let joined = pb::Joined {
        cluster_id: records::cluster_id_to_bytes(cluster).into(),
        epoch: life.network.epoch(),
        members: members.collect(),
    };
    Ok(pb::JoinReply { result: Some(Answer::Joined(joined)) })
}

/// Commits a member's new address, if this member leads.
///
/// # Errors
///
/// If another member holds the address, or the change does not commit.
pub(crate) async fn update_address(
    life: &Life,
    caller: MemberId,
    address: String,
) -> Result<pb::UpdateAddressReply, Status> {
    if !life.core.leadership_now().is_self {
        let leader = life.core.leadership_now().leader;
        let metrics = life.metrics();
        let leader = leader.map(|leader| hint(&metrics, leader));
        return Ok(pb::UpdateAddressReply { not_leader: Some(pb::NotLeader { leader }) });
    }
    let _changing = life.changing.lock().await;
    let metrics = life.metrics();
    let Some(node) = metrics.membership_config.get_node(&caller.0).cloned() else {
        return Err(Status::permission_denied(format!("member {caller} is no member")));
    };
    if node.address != address {
        if caller != life.me() {
            let there = meet(life, caller, &address).await?;
            check_alone(life, &there, &node.address, &address).await?;
        }
        let node = PeerNode { address: address.clone(), ..node };
        change(life, ChangeMembers::SetNodes(BTreeMap::from([(caller.0, node)])), false).await?;
        tracing::info!(member_id = %caller, address, "Member moved");
    }
    Ok(pb::UpdateAddressReply { not_leader: None })
}

/// Makes the change that autopilot has planned. The caller holds the lock.
///
/// # Errors
///
/// If it does not commit.
pub(crate) async fn make(life: &Life, step: Step) -> Result<(), Status> {
    let metrics = life.metrics();
    let mut voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let goal = match step {
        Step::FinishJoint(target) => target.iter().map(|id| id.0).collect(),
        Step::Replace { gone, newcomer } => {
            voters.remove(&gone.0);
            voters.insert(newcomer.0);
            voters
        }
        Step::Promote(learners) => {
            voters.extend(learners.iter().map(|id| id.0));
            voters
        }
        Step::Forget(learner) => {
            let gone = BTreeSet::from([learner.0]);
            return change(life, ChangeMembers::RemoveNodes(gone), false).await;
        }
    };
    change(life, ChangeMembers::ReplaceAllVoters(goal), false).await
}

/// Where the leader is, for one that asked the wrong member.
pub(crate) fn hint(metrics: &Metrics, leader: MemberId) -> pb::LeaderHint {
    let node = metrics.membership_config.get_node(&leader.0);
    let address = node.map(|node| node.address.clone()).unwrap_or_default();
    pb::LeaderHint { member_id: leader.0, address }
}

fn check_names(life: &Life, request: &pb::JoinRequest) -> Result<(), Status> {
    let config = &life.core.config;
    let ours = life.network.cluster_id().map(|id| id.to_string()).unwrap_or_default();
    let theirs = records::cluster_id_from_bytes(&request.cluster_id);
    let theirs = theirs.map_or_else(|| ours.clone(), |id| id.to_string());
    let trust_domain = config.trust_domain.to_string();
    let pairs = [
        ("cluster.name", &config.cluster_name, &request.cluster_name),
        ("trust_domain", &trust_domain, &request.trust_domain),
        ("cluster.cluster_id", &ours, &theirs),
    ];
    match pairs.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        Some((key, ours, theirs)) => Err(Status::failed_precondition(format!(
            "{key} is \"{ours}\" here, the newcomer has \"{theirs}\"; make them the same"
        ))),
        None => Ok(()),
    }
}

/// Whether the newcomer can apply what the cluster has in its log.
fn check_level(level: u32, supports: u32) -> Result<(), Status> {
    // Those of the first build said nothing.
    let supports = supports.max(1);
    if supports >= level {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the cluster is at feature level {level}, the newcomer supports up to {supports}; start the \
         version there that the members run"
    )))
}

/// Whether the newcomer could open what the cluster seals.
fn check_keys(current: Option<String>, held: &[String]) -> Result<(), Status> {
    match current {
        // A newcomer of an older version does not say what it holds.
        Some(key_id) if !held.is_empty() && !held.contains(&key_id) => {
            Err(Status::failed_precondition(format!(
                "the newcomer holds the cluster keys {}, not {key_id}, which seals; give it the key \
                 file that the members have and restart it",
                held.join(", ")
            )))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether there is room for the newcomer, and its address is its own.
async fn check_place(
    life: &Life,
    metrics: &Metrics,
    caller: MemberId,
    address: &str,
) -> Result<(), Status> {
    let membership = metrics.membership_config.membership();
    let learners: BTreeSet<u64> = membership.learner_ids().collect();
    let holders = membership.nodes().filter(|(_, node)| node.address == address).map(|(id, _)| *id);
    // A voter, and a learner that was there after it, if the folder was lost more than once.
    let (gone, voters): (BTreeSet<u64>, BTreeSet<u64>) =
        holders.partition(|id| learners.contains(id));
    if learners.len() - gone.len() >= LEARNERS_MAX {
        return Err(Status::resource_exhausted(format!("{LEARNERS_MAX} learners are the most")));
    }
    meet(life, caller, address).await?;
    let free_after = life.core.config.tuning.seat_free_after;
    for holder in voters.into_iter().map(MemberId) {
        let silent_for = life.silent_for(holder);
        if silent_for < free_after {
            return Err(Status::failed_precondition(format!(
                "{address} is the address of member {holder}, which was heard of {} s ago; its seat is \
                 free after {} s",
                silent_for.as_secs(),
                free_after.as_secs(),
            )));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    // Their address is another's now.
    change(life, ChangeMembers::RemoveNodes(gone), false).await
}

/// Makes sure that a member is where it says, seen from here.
async fn meet(life: &Life, expected: MemberId, address: &str) -> Result<Process, Status> {
    let found = life.network.process_at(address).await.map_err(|error| {
        Status::failed_precondition(format!(
            "the leader does not reach the newcomer at its advertise_address: {error}"
        ))
    })?;
    if found.name.member() == expected {
        return Ok(found);
    }
    let found = found.name;
    Err(Status::failed_precondition(format!(
        "the leader meets {found} at {address}; give the newcomer an advertise_address of its own"
    )))
}

/// Makes sure that a member which has moved is not where it was as well, in another process. One that has
/// two names for one place is met as the same process at both.
async fn check_alone(life: &Life, there: &Process, old: &str, new: &str) -> Result<(), Status> {
    let looked = timeout(OLD_PLACE_TIMEOUT, life.network.process_at(old)).await;
    match looked {
        Ok(Ok(still)) if still.name == there.name && still != *there => {
            Err(Status::already_exists(format!(
                "member {} runs twice, at {old} and at {new}: the data folder of one is a copy; move \
                 DATA_DIR/raft of the one that is not needed away and start it again: it joins as a new \
                 member",
                there.name.member()
            )))
        }
        Ok(Ok(_) | Err(_)) | Err(_) => Ok(()),
    }
}

/// Changes the membership and waits until that is committed. Voters that lose their vote go on
/// following if `retain` is set, and are forgotten otherwise. The caller holds the lock.
///
/// # Errors
///
/// If it does not commit.
pub(crate) async fn change(
    life: &Life,
    members: ChangeMembers<u64, PeerNode>,
    retain: bool,
) -> Result<(), Status> {
    let changing = life.core.raft.change_membership(members, retain);
    match timeout(CHANGE_TIMEOUT, changing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(_) => Err(Status::unavailable("the change of membership was not committed in time")),
    }
}

fn refusal(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Status {
    let RaftError::APIError(error) = error else {
        return Status::unavailable(error.to_string());
    };
    match error {
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            Status::unavailable("another change of membership is under way, try again")
        }
        ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_) => {
            Status::unavailable("the leader has changed, try again")
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            Status::failed_precondition(error.to_string())
        }
    }
}

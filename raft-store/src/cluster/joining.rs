//! Joining: asks any member to be taken in, follows the hint to the leader, waits until it is fed.
//!
//! Owns the newcomer's side; whether it is taken in is the leader's (`admission`).

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::life::{Life, REMIND_EVERY};
use crate::cluster::records;
use crate::error::RunError;
use crate::ids::{ClusterId, MemberId};
use crate::net::messages as pb;
use crate::net::messages::join_reply::Result as Answer;
use crate::status::MemberState;

/// Between rounds over all addresses.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// A newcomer that is not fed for so long asks again: the leader may have died after its answer.
const FED_TIMEOUT: Duration = Duration::from_secs(10);

/// Between looks at whether the first command has arrived.
const FED_PAUSE: Duration = Duration::from_millis(20);

/// Hints that are followed in one round.
const HOPS_MAX: usize = 3;

/// Runs until this member belongs to a cluster and has applied its first command.
///
/// # Errors
///
/// If the disk fails.
pub(crate) async fn run(life: &Life) -> Result<(), RunError> {
    run_at(life, None).await
}

/// As [`run`], asking at one address first.
///
/// # Errors
///
/// If the disk fails.
pub(crate) async fn run_at(life: &Life, first: Option<String>) -> Result<(), RunError> {
    life.core.state.send_replace(MemberState::Joining { text: String::new() });
    let mut reminded: Option<Instant> = None;
    let mut first = first;
    loop {
        match ask_all(life, first.take()).await? {
            Ok(cluster) if fed(life).await => {
                life.records(records::forget_set).await?;
                tracing::info!(cluster_id = %cluster, member_id = %life.me(), "Joined cluster");
                return Ok(());
            }
            Ok(_) => {}
            Err(reasons) => {
                let text = reasons.join("; ");
                life.core.state.send_replace(MemberState::Joining { text: text.clone() });
                if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
                    tracing::info!("waiting to join a cluster: {text}");
                    reminded = Some(Instant::now());
                }
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Asks at every address; the reasons of all refusals if none takes us in.
async fn ask_all(
    life: &Life,
    first: Option<String>,
) -> Result<Result<ClusterId, Vec<String>>, RunError> {
    let own = &life.core.config.advertise;
    let peers = life.core.config.peers.iter().filter(|peer| *peer != own).cloned();
    let mut reasons = Vec::new();
    for address in first.into_iter().chain(peers) {
        match ask(life, address).await {
            Ok(joined) => return enter(life, joined).await.map(Ok),
            // Peers pass the question on to the leader: one refusal is told once.
            Err(reason) if reasons.contains(&reason) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        reasons
            .push("no address to ask; set cluster.peers to those of existing members".to_owned());
    }
    Ok(Err(reasons))
}

/// Asks at one address and follows hints to the leader.
async fn ask(life: &Life, address: String) -> Result<pb::Joined, String> {
    let config = &life.core.config;
    let request = pb::JoinRequest {
        cluster_name: config.cluster_name.clone(),
        trust_domain: config.trust_domain.to_string(),
        address: config.advertise.clone(),
        feature_level_max: config.tuning.feature_level_max,
        cluster_id: config.cluster_id.map(records::cluster_id_to_bytes).unwrap_or_default().into(),
        key_ids: config.keys.ids(),
    };
    let mut address = address;
    for _ in 0..HOPS_MAX {
        let reply = life.network.join(&address, request.clone()).await;
        match reply.map_err(|error| error.to_string())?.result {
            Some(Answer::Joined(joined)) => return Ok(joined),
            Some(Answer::NotLeader(pb::NotLeader { leader: Some(hint) }))
                if !hint.address.is_empty() && hint.address != address =>
            {
                address = hint.address;
            }
            Some(Answer::NotLeader(_)) | None => {
                return Err(format!("{address}: it knows no leader at present"));
            }
        }
    }
    Err(format!("{address}: the leader changes too often"))
}

/// Makes the cluster this member's own; durable first.
async fn enter(life: &Life, joined: pb::Joined) -> Result<ClusterId, RunError> {
    let failed = |text: String| RunError::Formation(text);
    let cluster = records::cluster_id_from_bytes(&joined.cluster_id)
        .ok_or_else(|| failed("the leader named no cluster id".to_owned()))?;
    life.records(move |local| local.adopt_cluster(cluster)).await?;
    life.network.enter(cluster).map_err(|error| failed(crate::net::chain(&error)))?;
    // When it began is learnt with the cluster's row.
    life.network.set_epoch(joined.epoch, None);
    for member in joined.members {
        life.network.addresses.commit(MemberId(member.id), &member.address);
    }
    Ok(cluster)
}

/// Whether the leader has sent us the cluster's state.
async fn fed(life: &Life) -> bool {
    let until = Instant::now() + FED_TIMEOUT;
    while Instant::now() < until {
        if life.is_formed() {
            return true;
        }
        tokio::time::sleep(FED_PAUSE).await;
    }
    false
}

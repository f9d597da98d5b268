//! A cluster of one member without a peer listener: it forms itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::command::{Command, InitCluster};
use crate::core::Core;
use crate::error::{ProposeError, RunError};
use crate::ids::{ClusterId, MemberId};
use crate::membership::{MemberChangeError, Requested};
use crate::raft::PeerNode;
use crate::status::MemberState;

/// Between two attempts at the first command: an election on one member takes longer.
const PAUSE: Duration = Duration::from_millis(20);

/// Forms the cluster if there is none, then waits for the end.
pub(crate) async fn run(
    core: Arc<Core>,
    requests: mpsc::Receiver<Requested>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    tokio::select! {
        biased;
        formed = form(&core) => formed?,
        () = stop.cancelled() => return Ok(()),
    }
    tokio::select! {
        () = refuse_changes(requests) => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Without a peer listener there is no one to promote or to remove.
async fn refuse_changes(mut requests: mpsc::Receiver<Requested>) {
    while let Some(Requested { answer, .. }) = requests.recv().await {
        let text = "this member has no peer listener, so its cluster has no other members; give it \
                    a \"cluster\" block first";
        // Who asked may have gone: then nobody hears the answer.
        answer.send(Err(MemberChangeError::Refused(text.to_owned()))).ok();
    }
    std::future::pending().await
}

async fn form(core: &Core) -> Result<(), RunError> {
    let failed = |text: String| RunError::Formation(text);
    let initialised = core.raft.is_initialized().await.map_err(|e| failed(e.to_string()))?;
    if !initialised {
        if let Some(id) = core.config.cluster_id {
            return Err(failed(format!(
                "cluster_id {id} is configured, so this member must join it, and it has no peers"
            )));
        }
        let cluster_id = founding_id(&[(core.member_id, core.config.advertise.clone())]);
        core.engine.local.adopt_cluster(cluster_id).map_err(|e| failed(e.to_string()))?;
        let node = PeerNode { address: core.config.advertise.clone(), ..PeerNode::default() };
        let members = BTreeMap::from([(core.member_id.0, node)]);
        core.raft.initialize(members).await.map_err(|e| failed(e.to_string()))?;
    }
    core.state.send_replace(MemberState::Member);
    while !core.feed.reached_now().formed {
        name_cluster(core).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Proposes the cluster's first command, if this member leads by now.
async fn name_cluster(core: &Core) -> Result<(), RunError> {
    let failed = |text: String| RunError::Formation(text);
    let leadership = core.leadership_now();
    if !leadership.is_self {
        return Ok(());
    }
    let identity = core.identity().map_err(|error| failed(error.to_string()))?;
    let cluster_id =
        identity.cluster_id.ok_or_else(|| failed("the folder names no cluster".to_owned()))?;
    let command = Command::InitCluster(InitCluster {
        cluster_id,
        name: core.config.cluster_name.clone(),
        trust_domain: core.config.trust_domain.clone(),
        feature_level: core.config.tuning.feature_level_max,
    });
    match core.propose_duty(command, leadership.term).await {
        Ok(applied) if applied.outcome.is_ok() => {
            tracing::info!(%cluster_id, "Cluster formed");
            Ok(())
        }
        // Rejected: it was named by an earlier attempt. Otherwise: try again.
        Ok(_)
        | Err(
            ProposeError::NotLeader
            | ProposeError::Unavailable(_)
            | ProposeError::Indeterminate { .. }
            | ProposeError::Overloaded,
        ) => Ok(()),
        Err(error @ ProposeError::TooLarge { .. }) => Err(failed(error.to_string())),
    }
}

/// The id of a cluster, derived from its founding members.
pub(crate) fn founding_id(founders: &[(MemberId, String)]) -> ClusterId {
    let mut founders = founders.to_vec();
    founders.sort();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"steeple founding set v1");
    for (member, address) in &founders {
        context.update(&member.0.to_be_bytes());
        context.update(&(address.len() as u64).to_be_bytes());
        context.update(address.as_bytes());
    }
    // The first 128 bits of the digest.
    let id =
        context.finish().as_ref().iter().take(16).fold(0_u128, |id, b| (id << 8) | u128::from(*b));
    ClusterId(id)
}

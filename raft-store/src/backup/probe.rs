//! Whether others still run: a cluster is not to be rebuilt beside itself.

use std::sync::Arc;

use futures::future::join_all;

use crate::config::Config;
use crate::error::OpenError;
use crate::ids::MemberId;
use crate::net::messages::{self as pb, introduction::Standing};
use crate::net::{PeerNetwork, PeerNetworkParts};
use crate::seams::Seams;

/// Asks every configured peer, and returns those that answer as members of a cluster: address and
/// epoch.
///
/// # Errors
///
/// If the peer credentials cannot be made.
pub async fn find_running(
    config: Arc<Config>,
    seams: &Seams,
) -> Result<Vec<(String, u32)>, OpenError> {
    let member_id = MemberId(seams.random.u64().max(1));
    let network = PeerNetwork::open(PeerNetworkParts {
        config: Arc::clone(&config),
        transport: Arc::clone(&seams.transport),
        clock: Arc::clone(&seams.clock),
        random: Arc::clone(&seams.random),
        member_id,
        cluster_id: None,
        acks: Arc::default(),
    })?;
    let introduction = pb::Introduction {
        member_id: member_id.0,
        cluster_name: config.cluster_name.clone(),
        trust_domain: config.trust_domain.to_string(),
        address: config.advertise.clone(),
        version: config.version.clone(),
        joins_only: true,
        standing: Some(Standing::Empty(pb::Empty {})),
        ..pb::Introduction::default()
    };
    let others = config.peers.iter().filter(|peer| **peer != config.advertise);
    let asked = others.map(async |address| {
        let answer = network.hello(address, introduction.clone()).await.ok()?;
        match answer.standing {
            Some(Standing::Formed(formed)) => Some((address.clone(), formed.epoch)),
            Some(Standing::Empty(_) | Standing::Adopted(_) | Standing::Initialised(_)) | None => {
                None
            }
        }
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

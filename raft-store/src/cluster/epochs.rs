//! Members of another epoch: a cluster that was restored or recovered, and what is left of the old
//! one, meet on the network.
//!
//! Owns who yields. A member of an older epoch that has no quorum stops: its state is no one's any
//! more. One that has a quorum goes on, refuses the other (`net/server`) and says so until an operator
//! has decided which of the two it is to be. Nothing here changes state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::cluster::life::Life;
use crate::cluster::records;
use crate::contact::Contact;
use crate::error::RunError;
use crate::net::messages::introduction::Standing;
use crate::status::ForeignPeer;

/// Between looks at configured addresses where no member of ours is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The same without contact: then there may be something to find out.
const LOOK_EVERY_LOST: Duration = Duration::from_secs(2);

/// A member of an older epoch stops after so long without contact: an election or a start takes less.
const STOP_AFTER: Duration = Duration::from_secs(10);

/// Between two lines about the same thing.
const ALARM_EVERY: Duration = Duration::from_secs(60);

/// Looks for members of other epochs until one is met before which this one must stop.
///
/// # Errors
///
/// [`RunError::Superseded`].
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    let (ours, began_ms) = own(&life).await?;
    life.network.set_epoch(ours, Some(began_ms));
    let mut alarmed: Option<Instant> = None;
    let mut contact = Instant::now();
    loop {
        let is_lost = life.core.contact() != Contact::InContact;
        tokio::time::sleep(if is_lost { LOOK_EVERY_LOST } else { LOOK_EVERY }).await;
        if life.core.contact() == Contact::InContact {
            contact = Instant::now();
        }
        let Met { older, foreign } = look(&life).await;
        let newest = life.network.newest_epoch();
        let has_twin = life.network.has_twin();
        life.core.note_twin_epoch(has_twin);
        let due = alarmed.is_none_or(|at| at.elapsed() >= ALARM_EVERY);
        if newest > ours {
            life.core.note_newer_epoch(newest);
            if contact.elapsed() >= STOP_AFTER {
                return Err(superseded(&life, newest));
            }
            if due {
                alarmed = Some(Instant::now());
                tracing::error!(
                    epoch = newest,
                    own_epoch = ours,
                    "A newer epoch of this cluster has begun elsewhere: stop that one, or these members"
                );
            }
        } else if has_twin {
            if due {
                alarmed = Some(Instant::now());
                tracing::error!(
                    epoch = ours,
                    "This epoch of the cluster was begun twice, by two restores or recoveries: both take \
                     writes; stop one of the two, move its DATA_DIR/raft away and let it join the other"
                );
            }
        } else if due && let Some(ForeignPeer { address, cluster }) = foreign.first() {
            alarmed = Some(Instant::now());
            tracing::warn!(
                address,
                %cluster,
                "A configured peer belongs to another cluster of this name: if it is to be a member here, \
                 stop it, move its DATA_DIR/raft away and start it to join; else drop it from cluster.peers"
            );
        } else if due && let Some((address, epoch)) = older.first() {
            alarmed = Some(Instant::now());
            tracing::warn!(
                address,
                epoch,
                own_epoch = ours,
                "A member of an older epoch still runs: stop it, move its DATA_DIR/raft away and start it to join"
            );
        }
        life.core.note_foreign_peers(foreign);
    }
}

/// Who was met at configured addresses that are no member's.
#[derive(Default)]
struct Met {
    /// Addresses and epochs of those that an older epoch left behind.
    older: Vec<(String, u32)>,
    foreign: Vec<ForeignPeer>,
}

/// The epoch of this member and when it began, once the cluster's first command has been applied here.
/// It does not change while the process lives.
async fn own(life: &Life) -> Result<(u32, i64), RunError> {
    let mut reached = life.core.feed.reached();
    if reached.wait_for(|reached| reached.formed).await.is_err() {
        // The store has ended, and this task with it.
        std::future::pending::<()>().await;
    }
    let cluster = crate::apply::read_cluster(life.core.engine.tables.as_ref());
    let cluster = cluster.map_err(|error| RunError::Formation(error.to_string()))?;
    Ok(cluster.map_or((0, 0), |cluster| (cluster.epoch, cluster.began_ms())))
}

fn superseded(life: &Life, newer: u32) -> RunError {
    RunError::Superseded {
        cluster: life.network.cluster_id().unwrap_or_default(),
        ours: life.network.epoch(),
        newer,
    }
}

/// Asks who is at configured addresses that no member of ours holds, or at all others without
/// contact. Returns those of an older epoch and of other clusters; newer epochs are noted.
async fn look(life: &Life) -> Met {
    let metrics = life.metrics();
    let is_lost = matches!(life.core.contact(), Contact::Lost { .. });
    let ours: BTreeSet<String> = if is_lost {
        BTreeSet::new()
    } else {
        metrics.membership_config.nodes().map(|(_, node)| node.address.clone()).collect()
    };
    let config = &life.core.config;
    let strangers =
        config.peers.iter().filter(|peer| **peer != config.advertise && !ours.contains(*peer));
    let introduction = life.introduction(None).await;
    let answers = join_all(strangers.map(async |address| {
        let answer = life.network.hello(address, introduction.clone()).await.ok()?;
        let Some(Standing::Formed(formed)) = answer.standing else { return None };
        Some((address.clone(), formed))
    }))
    .await;
    let mut met = Met::default();
    for (address, formed) in answers.into_iter().flatten() {
        match records::cluster_id_from_bytes(&formed.cluster_id) {
            Some(cluster) if life.network.cluster_id() == Some(cluster) => {
                // Zero: it has not applied the first command yet.
                life.network.note_epoch(formed.epoch, formed.epoch_began_unix_ms);
                if formed.epoch != 0 && formed.epoch < life.network.epoch() {
                    met.older.push((address, formed.epoch));
                }
            }
            Some(cluster) => met.foreign.push(ForeignPeer { address, cluster }),
            None => {}
        }
    }
    met
}

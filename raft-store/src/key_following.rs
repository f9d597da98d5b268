//! Follows what the replicated state and the key file say about cluster keys.
//!
//! Owns what a member does when either moves: it seals under the key that seals, presents a peer
//! certificate of that key, notes which keys it holds, and says so when one that is needed is not among
//! them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::apply::{TableError, Tables, read_cluster, read_journal, read_sealed};
use crate::cluster_key::ClusterKeys;
use crate::core::Core;
use crate::error::RunError;
use crate::keys_in_use::KeysInUse;
use crate::net::PeerNetwork;
use crate::offload::offload;
use crate::storage::Engine;

/// Takes over what the tables say, before anything else is started with the keys.
///
/// # Errors
///
/// If the tables cannot be read.
pub(crate) fn start(keys: &ClusterKeys, engine: &Engine) -> Result<(), TableError> {
    let found = read(engine.tables.as_ref())?;
    keys.follow(found.current);
    Ok(())
}

/// Follows for ever.
///
/// # Errors
///
/// Never.
pub(crate) async fn run(
    core: Arc<Core>,
    network: Option<Arc<PeerNetwork>>,
) -> Result<(), RunError> {
    let keys = &core.config.keys;
    let mut rows = core.feed.key_rows();
    let mut held = keys.changes();
    let mut missing = BTreeSet::new();
    loop {
        rows.mark_unchanged();
        held.mark_unchanged();
        if let Err(error) = follow(&core, network.as_deref(), &mut missing).await {
            // Reading the tables fails elsewhere too, where it ends the member.
            tracing::warn!(%error, "failed to follow the cluster key");
        }
        let moved = tokio::select! {
            moved = rows.changed() => moved,
            moved = held.changed() => moved,
        };
        if moved.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(
    core: &Core,
    network: Option<&PeerNetwork>,
    missing: &mut BTreeSet<String>,
) -> Result<(), TableError> {
    let keys = &core.config.keys;
    let engine = core.engine.clone();
    let checks = keys.checks();
    let read = offload(move || {
        let found = read(engine.tables.as_ref())?;
        let (needed, is_known) = (found.needed(), found.current.is_some());
        // By them a start finds out that it was given another key.
        let is_needed = |id: &str| !is_known || needed.contains(id);
        engine.local.note_key_checks(checks, found.current.as_deref(), is_needed)?;
        Ok::<_, TableError>(found)
    });
    let found = read.await.map_err(|error| TableError::Io(std::io::Error::other(error)))??;
    keys.follow(found.current.clone());
    if let Some(network) = network {
        match network.renew_certificates(keys) {
            Ok(id) => core.note_certificate_key(id),
            Err(error) => tracing::error!(%error, "failed to issue the peer certificate anew"),
        }
    }
    warn_of_missing(keys, &found, missing);
    Ok(())
}

fn read(tables: &dyn Tables) -> Result<KeysInUse, TableError> {
    let Some(cluster) = read_cluster(tables)? else { return Ok(KeysInUse::default()) };
    Ok(KeysInUse::of(&cluster, &read_journal(tables)?, &read_sealed(tables)?))
}

/// One line a key, when it begins to be missing.
fn warn_of_missing(keys: &ClusterKeys, found: &KeysInUse, known: &mut BTreeSet<String>) {
    let missing: BTreeSet<String> =
        found.needed().into_iter().filter(|id| !keys.holds(id)).collect();
    for key_id in missing.difference(known) {
        let authorities = found.depending_on(key_id);
        tracing::error!(
            key_id,
            authorities,
            "Cluster key is needed and not held: nothing is lost; put its line back into the key file of this member and send SIGHUP"
        );
    }
    *known = missing;
}

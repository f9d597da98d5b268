//! Saving: a consistent read of the tables, sealed on its way out.

use std::io;

use steeple_spiffe_core::random::Random;

use crate::apply::{Rows, TableError};
use crate::backup::facts::{SnapshotFacts, State};
use crate::backup::sealing::Sealer;
use crate::cluster_key::{ClusterKeys, KeyError};
use crate::pb;
use crate::raft::convert::{log_id_to_pb, stored_membership_to_pb};
use crate::snapshot;
use crate::storage::Engine;

/// Where a snapshot goes.
pub trait SnapshotOut {
    /// Takes the facts and returns a digest of what was made of them; every frame is bound to it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn begin(&mut self, facts: &SnapshotFacts) -> io::Result<[u8; 32]>;

    /// Takes the next frame.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn frame(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is nothing to save.
    #[error("this member has no cluster's state yet; save on another, or wait until it has joined")]
    Empty,
    /// The tables could not be read, or the snapshot not written.
    #[error("save snapshot")]
    Tables(#[from] TableError),
    /// The key could not be derived.
    #[error("save snapshot")]
    Key(#[from] KeyError),
}

/// Writes the state of the tables; they stay writable meanwhile.
pub(crate) fn save(
    engine: &Engine,
    keys: &ClusterKeys,
    random: &dyn Random,
    out: &mut dyn SnapshotOut,
) -> Result<SnapshotFacts, SaveError> {
    let mut salt = [0; 32];
    random.fill(&mut salt);
    // Whoever lost the key that seals needs a snapshot more than anyone.
    let key_id = keys.preferred_id();
    let mut key = keys.snapshot_key(&key_id, &salt)?;
    let mut saved = None;
    engine.tables.read_consistent(&mut |rows: &dyn Rows| {
        let (Some(state), Some(key)) = (State::read(rows)?, key.take()) else { return Ok(()) };
        let meta = pb::store::SnapshotMeta {
            last_log_id: Some(log_id_to_pb(&state.log_id)),
            last_membership: Some(stored_membership_to_pb(&state.membership)),
        };
        let facts = SnapshotFacts {
            index: state.log_id.index,
            term: state.log_id.leader_id.term,
            time: state.time,
            members: state.members(),
            counts: state.counts,
            cluster: state.cluster,
            key_id: key_id.clone(),
            salt,
        };
        let binding = out.begin(&facts)?;
        let mut each = |frame: &[u8]| out.frame(frame);
        let sealer = Sealer::new(key, binding, &mut each);
        snapshot::write_to(rows, meta, sealer)?.finish()?;
        saved = Some(facts);
        Ok(())
    })?;
    saved.ok_or(SaveError::Empty)
}

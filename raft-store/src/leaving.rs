//! Leaving the cluster on the way down (`leave_on_terminate`, `cluster.md` 3 "Leaving").
//!
//! Owns the record that says that this member has left, and what the next start makes of it: the folder
//! is moved aside, and the member starts as a new one. The membership is changed as an operator's
//! request would; whether that is safe is decided by the leader.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::Timestamp;
use tokio::time::{sleep, timeout};

use crate::core::Core;
use crate::error::RunError;
use crate::local::LocalRecords;
use crate::membership::{Asked, MemberChange};
use crate::offload::offload;

/// Name of the record: when it left, in seconds of Unix time.
const RECORD: &str = "left";

/// A hand-over and a change of the membership take two round trips and an election at most. A process
/// that is asked to end must end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Between two requests: a leader that was just elected has yet to hear that the others are healthy.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Takes this member out of its cluster. False if it stays a member: the reason is logged.
///
/// # Errors
///
/// [`RunError::Removed`], if it has left and the next start would not know.
pub(crate) async fn leave(core: &Arc<Core>) -> Result<bool, RunError> {
    let voters = core.metrics().membership_config.voter_ids().collect::<Vec<_>>();
    let mut refused = "it is the last voter".to_owned();
    if voters != [core.member_id.0] {
        let until_removed = async {
            let asked = MemberChange::Remove { member: core.member_id, force: false };
            while let Err(error) = core.ask(Asked::Change(asked)).await {
                refused = error.to_string();
                sleep(ASK_EVERY).await;
            }
        };
        if timeout(LEAVE_TIMEOUT, until_removed).await.is_ok() {
            record(core).await?;
            return Ok(true);
        }
    }
    tracing::warn!(
        member_id = %core.member_id,
        "Stays a member: {refused}; take it out with \"spire-server cluster remove -id {}\"",
        core.member_id
    );
    Ok(false)
}

async fn record(core: &Arc<Core>) -> Result<(), RunError> {
    tracing::info!(member_id = %core.member_id, "Left the cluster");
    let (local, now) = (core.engine.local.clone(), core.clock.now());
    let put = offload(move || local.put(RECORD, now.unix_s().to_string().as_bytes())).await;
    put.map_err(io::Error::other).flatten().map_err(|error| {
        // The next start would take itself for a member until another one says that it is none, and
        // would end each time: what to do is the same as after a removal by others.
        tracing::error!(
            "Left the cluster, but failed to record that: {error}; move DATA_DIR/raft away before \
             the next start"
        );
        let cluster = core.cluster_id().unwrap_or_default();
        RunError::Removed { member: core.member_id, cluster }
    })
}

/// When this member left its cluster, if it did.
pub(crate) fn left(local: &LocalRecords) -> io::Result<Option<Timestamp>> {
    let Some(bytes) = local.get(RECORD)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let unix_s = text.parse().map_err(io::Error::other)?;
    Ok(Some(Timestamp::from_unix_s(unix_s)))
}

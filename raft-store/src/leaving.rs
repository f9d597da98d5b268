//! Leaving the cluster on the way down (`leave_on_terminate`, `cluster.md` 3 "Leaving").
//!
//! Owns the record that says that this member has left, and what the next start makes of it: the folder
//! is moved aside, and the member starts as a new one. The membership is changed as an operator's
//! request would; whether that is safe is decided by the leader.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::core::Core;
use crate::error::RunError;
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
    if let Some(reason) = stays(voters == [core.member_id.0], core.config.founds_alone()) {
        tracing::warn!(member_id = %core.member_id, "Stays a member: {reason}");
        return Ok(false);
    }
    let mut refused = String::new();
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
    tracing::warn!(
        member_id = %core.member_id,
        "Stays a member: {refused}; take it out with \"spire-server cluster remove -id {}\"",
        core.member_id
    );
    Ok(false)
}

/// Why a member does not leave, whatever the others would say.
fn stays(is_last_voter: bool, founds_alone: bool) -> Option<&'static str> {
    if is_last_voter {
        return Some("it is the last voter");
    }
    // That would be a second authority for the trust domain, at an address that agents may know.
    founds_alone.then_some(
        "cluster.peers names no other member, so that it would begin a cluster of its own at its next \
         start instead of joining this one; name the others there, or drop leave_on_terminate",
    )
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
#[cfg(feature = "rocks")]
pub(crate) fn left(
    local: &crate::local::LocalRecords,
) -> io::Result<Option<steeple_spiffe_core::Timestamp>> {
    let Some(bytes) = local.get(RECORD)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let unix_s = text.parse().map_err(io::Error::other)?;
    Ok(Some(steeple_spiffe_core::Timestamp::from_unix_s(unix_s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_begin_another_cluster_stays_and_so_does_the_last_voter() {
        for (is_last, alone, expected) in [
            (true, true, Some("it is the last voter")),
            (true, false, Some("it is the last voter")),
            (false, true, Some("cluster.peers names no other member")),
            (false, false, None),
        ] {
            let found = stays(is_last, alone);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().starts_with(expected.unwrap_or_default()));
        }
    }
}

//! Disk work off the reactor.
//!
//! Owns the one choice of where it runs: on tokio's pool of blocking threads, or, on a runtime of a
//! single thread, in place: that is a simulation or a small test, and a simulation must not depend on
//! how threads are scheduled.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Runs work that may wait for the disk.
///
/// # Errors
///
/// If the work panicked.
pub(crate) async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

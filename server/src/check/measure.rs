//! What has to be tried out: the data folder, a sync, names. Bounded in time; leaves nothing behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// A name that takes longer to resolve is as good as unknown.
const RESOLVE_MAX: Duration = Duration::from_secs(3);

/// Syncs that are timed; one alone may be lucky.
const SYNCS: usize = 3;

/// What an entry of the log is about as large as.
const PROBE_BYTES: usize = 4096;

/// How the data folder does.
#[derive(Debug)]
pub(super) struct Folder {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Bytes that may still be written there.
    pub(super) free: io::Result<u64>,
}

/// Tries the data folder.
pub(super) async fn folder(path: PathBuf) -> Folder {
    let probed = path.clone();
    let free = blocking(move || {
        let room = rustix::fs::statvfs(&probed)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    });
    Folder { free: free.await, path }
}

/// The slowest of a few syncs of a small file in the data folder.
pub(super) async fn sync(path: PathBuf) -> io::Result<Duration> {
    blocking(move || {
        let probe = path.join(".check-sync");
        let slowest = time_syncs(&probe);
        // What is left would be overwritten by the next check.
        std::fs::remove_file(&probe).ok();
        slowest
    })
    .await
}

fn time_syncs(probe: &Path) -> io::Result<Duration> {
    let mut file = File::create(probe)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..SYNCS {
        file.write_all(&[0; PROBE_BYTES])?;
        let begun = Instant::now();
        file.sync_data()?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

/// Addresses whose names do not resolve, with the reason.
pub(super) async fn names(addresses: BTreeSet<String>) -> Vec<(String, String)> {
    let lookups = addresses.into_iter().map(async |address| {
        let reason = match timeout(RESOLVE_MAX, tokio::net::lookup_host(address.as_str())).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(_) => return None,
                None => "it has no address".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Some((address, reason))
    });
    futures::future::join_all(lookups).await.into_iter().flatten().collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(super::folder(folder.path().to_owned()).await.free.unwrap() > 0);
        sync(folder.path().to_owned()).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        assert!(super::folder(gone.clone()).await.free.is_err());
        assert!(sync(gone).await.is_err());
    }

    #[tokio::test]
    async fn names_that_do_not_resolve_are_named() {
        let addresses = ["127.0.0.1:1", "localhost:2", "no-such-host.invalid:3"];
        let bad = names(addresses.map(str::to_owned).into()).await;
        let bad: Vec<_> = bad.into_iter().map(|(address, _)| address).collect();
        assert_eq!(bad, ["no-such-host.invalid:3"]);
    }
}

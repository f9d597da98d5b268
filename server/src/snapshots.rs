//! Snapshots by schedule: the leader saves one whenever the newest in the folder is old enough, and
//! removes the oldest.
//!
//! Owns names, retention and the room that must stay free. What is in a file is
//! `service/backup`'s. A failure is a warning in `cluster status` and is tried again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_api::pb::cluster::v1 as rpc;
use steeple_api::snapshot_file::SnapshotReader;
use steeple_raft_store::StoreHandle;
use steeple_spiffe_core::{Clock, Timestamp};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::{Instant, MissedTickBehavior};

use crate::gate::Reads;
use crate::service::backup::{Said, write};

/// How often the age of the newest file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long the confirmation by a quorum is waited for; without it the file says so.
const CONFIRM_MAX: Duration = Duration::from_secs(5);

/// How files end.
const EXTENSION: &str = ".snapshot";

/// What `cluster.snapshot { }` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleConfig {
    /// `interval`.
    pub interval: Duration,
    /// `keep`: how many files stay.
    pub keep: usize,
    /// `directory`.
    pub directory: PathBuf,
    /// `min_free`, in bytes: room that must be there before a file is written.
    pub min_free: u64,
}

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
enum ScheduleError {
    #[error("{} has {free} bytes free, min_free is {min_free}", directory.display())]
    NoRoom { directory: PathBuf, free: u64, min_free: u64 },
    #[error("write to {}", directory.display())]
    Disk {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Save(#[from] steeple_raft_store::SaveError),
}

/// The schedule of this member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: Arc<ScheduleConfig>,
    cluster_name: String,
    store: StoreHandle,
    reads: Reads,
    clock: Arc<dyn Clock>,
    last: Arc<Mutex<Last>>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    saved: Option<(Timestamp, PathBuf)>,
    failure: Option<String>,
}

impl Schedule {
    /// A schedule that saves nothing until [`Self::lead`].
    pub fn new(
        config: ScheduleConfig,
        cluster_name: String,
        store: StoreHandle,
        reads: Reads,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (config, last) = (Arc::new(config), Arc::default());
        Self { config, cluster_name, store, reads, clock, last }
    }

    /// Saves whenever it is time; ends only by being dropped.
    pub async fn lead(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY.min(self.config.interval));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = self.clock.now();
            let newest = self.newest().await;
            if newest.is_none_or(|saved_at| now.since(saved_at) >= self.config.interval) {
                self.save().await;
            }
            if let Some(age) = self.age().await {
                metrics::gauge!("spire_server_cluster_snapshot_age").set(age.as_secs_f64());
            }
        }
    }

    /// How old the newest snapshot in this member's folder is; `None`: there is none.
    pub async fn age(&self) -> Option<Duration> {
        let saved_at = self.newest().await?;
        Some(self.clock.now().since(saved_at))
    }

    /// Why the last attempt failed, unless it did not.
    pub fn failure(&self) -> Option<String> {
        self.last().failure.clone()
    }

    /// For `cluster status`.
    pub fn to_pb(&self) -> rpc::SnapshotSchedule {
        let last = self.last().clone();
        let (saved_at, file) = last.saved.unwrap_or_default();
        rpc::SnapshotSchedule {
            directory: self.config.directory.display().to_string(),
            saved_at: saved_at.unix_s(),
            file: file.display().to_string(),
            failure: last.failure.unwrap_or_default(),
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn newest(&self) -> Option<Timestamp> {
        let (config, name) = (Arc::clone(&self.config), self.cluster_name.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let path = files(&config.directory, &name).ok()?.pop()?;
            let reader = SnapshotReader::open(io::BufReader::new(File::open(path).ok()?)).ok()?;
            Some(Timestamp::from_unix_s(reader.header().saved_at))
        });
        looked.await.ok().flatten()
    }

    async fn save(&self) {
        let confirmed = self.reads.confirm(Instant::now() + CONFIRM_MAX).await.is_ok();
        let now = self.clock.now();
        let said = Said::now(&self.store, now, confirmed);
        let (config, name) = (Arc::clone(&self.config), self.cluster_name.clone());
        let store = self.store.clone();
        let saving = tokio::task::spawn_blocking(move || save(&config, &name, &store, said, now));
        match saving.await {
            Ok(Ok(path)) => {
                tracing::info!(path = %path.display(), confirmed, "Snapshot saved");
                *self.last() = Last { saved: Some((now, path)), failure: None };
            }
            Ok(Err(error)) => {
                let failure = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(error = failure, "Snapshot was not saved");
                self.last().failure = Some(failure);
            }
            Err(error) => self.last().failure = Some(error.to_string()),
        }
    }
}

/// Saves one file and removes those that are too many.
fn save(
    config: &ScheduleConfig,
    name: &str,
    store: &StoreHandle,
    said: Said,
    now: Timestamp,
) -> Result<PathBuf, ScheduleError> {
    let directory = &config.directory;
    let disk = |source| ScheduleError::Disk { directory: directory.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(disk)?;
    let room = rustix::fs::statvfs(directory).map_err(|errno| disk(errno.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < config.min_free {
        let (directory, min_free) = (directory.clone(), config.min_free);
        return Err(ScheduleError::NoRoom { directory, free, min_free });
    }
    let path = directory.join(file_name(name, now));
    let unfinished = path.with_extension("snapshot.tmp");
    let made = (|| {
        let options =
            File::options().create(true).truncate(true).write(true).mode(0o600).to_owned();
        let mut file = io::BufWriter::new(options.open(&unfinished).map_err(disk)?);
        write(store, said, &mut file)?;
        let file = file.into_inner().map_err(|error| disk(error.into_error()))?;
        file.sync_all().map_err(disk)?;
        fs::rename(&unfinished, &path).map_err(disk)?;
        File::open(directory).and_then(|folder| folder.sync_all()).map_err(disk)
    })();
    if let Err(error) = made {
        // What is left of it is in the way of nothing but room.
        fs::remove_file(&unfinished).ok();
        return Err(error);
    }
    let mut files = files(directory, name).map_err(disk)?;
    let surplus = files.len().saturating_sub(config.keep);
    for old in files.drain(..surplus) {
        fs::remove_file(old).map_err(disk)?;
    }
    Ok(path)
}

fn file_name(cluster: &str, now: Timestamp) -> String {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = OffsetDateTime::from_unix_timestamp(now.unix_s()).ok();
    let time = time.and_then(|time| time.format(form).ok());
    let time = time.unwrap_or_else(|| now.unix_s().to_string());
    format!("{cluster}-{time}{EXTENSION}")
}

/// The files of a schedule, oldest first. Others are left alone.
fn files(directory: &Path, cluster: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let time = name
            .strip_prefix(cluster)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(EXTENSION));
        let is_time = |time: &str| {
            time.len() == "20260102T030405Z".len()
                && time.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z'))
        };
        if time.is_some_and(is_time) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use steeple_raft_store::testing::TestStore;

    use super::*;

    const START: i64 = 1_767_323_045;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_saved_until_there_are_enough_and_others_are_left_alone() {
        let store = TestStore::start().await;
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("backups");
        let config = ScheduleConfig {
            interval: Duration::from_secs(60),
            keep: 3,
            directory: directory.clone(),
            min_free: 1,
        };
        fs::create_dir(&directory).unwrap();
        let others = ["notes.txt", "test-by-hand.snapshot", "other-20260102T030405Z.snapshot"];
        for other in others {
            fs::write(directory.join(other), "x").unwrap();
        }
        for second in 0..5 {
            let now = Timestamp::from_unix_s(START + second);
            let said = Said::now(&store.handle, now, true);
            let path = save(&config, "test", &store.handle, said, now).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let (_, bytes) =
                SnapshotReader::open(File::open(&path).unwrap()).unwrap().check().unwrap();
            assert!(bytes > 100);
        }
        let names: Vec<_> = files(&directory, "test")
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        let expected = ["07", "08", "09"].map(|s| format!("test-20260102T0304{s}Z.snapshot"));
        assert_eq!(names, expected);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3 + others.len());

        let config = ScheduleConfig { min_free: u64::MAX, ..config };
        let now = Timestamp::from_unix_s(START + 9);
        let said = Said::now(&store.handle, now, true);
        let error = save(&config, "test", &store.handle, said, now).unwrap_err();
        assert!(error.to_string().ends_with(&format!("min_free is {}", u64::MAX)), "{error}");
        assert_eq!(files(&directory, "test").unwrap().len(), 3);
    }
}

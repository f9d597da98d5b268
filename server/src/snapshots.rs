//! Snapshots by schedule: the leader saves one whenever the newest in the folder is old enough, and
//! removes the oldest.
//!
//! Owns when it is time, and the room that must stay free. Which files count, and which may go, is
//! `snapshot_files`'; what is in one is `service/backup`'s. A failure is a warning in `cluster status`
//! and is tried again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_api::pb::cluster::v1 as rpc;
use steeple_api::snapshot_file::SteadyFile;
use steeple_raft_store::StoreHandle;
use steeple_spiffe_core::{Clock, Timestamp};
use tokio::time::{Instant, MissedTickBehavior};

use crate::gate::Reads;
use crate::service::backup::{Said, write};
use crate::snapshot_files::SnapshotFiles;

/// How often the age of the newest file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long the confirmation by a quorum is waited for; without it the file says so.
const CONFIRM_MAX: Duration = Duration::from_secs(5);

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
    files: Arc<SnapshotFiles>,
    store: StoreHandle,
    reads: Reads,
    clock: Arc<dyn Clock>,
    last: Arc<Mutex<Last>>,
}

/// What is in this member's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backups {
    /// How old the newest backup is; `None`: there is none.
    pub age: Option<Duration>,
    /// How often one is to be saved.
    pub interval: Duration,
    /// Files that do not count as backups, newest first: name and reason.
    pub doubtful: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    saved: Option<(Timestamp, PathBuf)>,
    failure: Option<String>,
}

impl Schedule {
    /// A schedule that saves nothing until [`Self::lead`]. Files that are ahead of this member's clock
    /// by more than `skew_limit` do not count.
    pub fn new(
        config: ScheduleConfig,
        cluster_name: String,
        skew_limit: Duration,
        store: StoreHandle,
        reads: Reads,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let files = SnapshotFiles::new(config.directory.clone(), cluster_name, skew_limit);
        let (config, last) = (Arc::new(config), Arc::default());
        Self { config, files: Arc::new(files), store, reads, clock, last }
    }

    /// Saves whenever it is time; ends only by being dropped.
    pub async fn lead(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY.min(self.config.interval));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut age = self.look().await.age;
            if age.is_none_or(|age| age >= self.config.interval) {
                self.save().await;
                age = self.look().await.age;
            }
            if let Some(age) = age {
                metrics::gauge!("spire_server_cluster_snapshot_age").set(age.as_secs_f64());
            }
        }
    }

    /// Looks into this member's folder.
    pub async fn look(&self) -> Backups {
        let (files, now) = (Arc::clone(&self.files), self.clock.now());
        let looked = tokio::task::spawn_blocking(move || files.look(now)).await;
        let found = looked.unwrap_or_default();
        let age = found.saved_at.map(|saved_at| now.since(saved_at));
        Backups { age, interval: self.config.interval, doubtful: found.doubtful }
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

    async fn save(&self) {
        let confirmed = self.reads.confirm(Instant::now() + CONFIRM_MAX).await.is_ok();
        let now = self.clock.now();
        let said = Said::now(&self.store, now, confirmed);
        let (config, files) = (Arc::clone(&self.config), Arc::clone(&self.files));
        let store = self.store.clone();
        let saving = tokio::task::spawn_blocking(move || save(&config, &files, &store, said, now));
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
    files: &SnapshotFiles,
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
    let path = files.path(now);
    let unfinished = path.with_extension("snapshot.tmp");
    let made = (|| {
        let options =
            File::options().create(true).truncate(true).write(true).mode(0o600).to_owned();
        let mut file =
            io::BufWriter::new(SteadyFile::new(options.open(&unfinished).map_err(disk)?));
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
    files.remove_surplus(config.keep, now).map_err(disk)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use steeple_api::snapshot_file::SnapshotReader;
    use steeple_raft_store::testing::TestStore;
    use steeple_spiffe_core::time::FixedClock;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::gate::staleness::Limits;
    use crate::view::Views;

    const START: i64 = 1_767_323_045;
    const MINUTE: Duration = Duration::from_secs(60);
    const SKEW: Duration = Duration::from_secs(30);

    fn config(directory: &Path) -> ScheduleConfig {
        ScheduleConfig { interval: MINUTE, keep: 3, directory: directory.to_owned(), min_free: 1 }
    }

    /// Saves one as if it were `seconds` later.
    fn save_at(
        config: &ScheduleConfig,
        store: &TestStore,
        seconds: i64,
    ) -> Result<PathBuf, ScheduleError> {
        let files = SnapshotFiles::new(config.directory.clone(), "test".to_owned(), SKEW);
        let now = Timestamp::from_unix_s(START + seconds);
        save(config, &files, &store.handle, Said::now(&store.handle, now, true), now)
    }

    fn names(directory: &Path) -> Vec<String> {
        let files = SnapshotFiles::new(directory.to_owned(), "test".to_owned(), SKEW);
        let paths = files.paths().unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        paths.iter().map(name).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_saved_until_there_are_enough_and_others_are_left_alone() {
        let store = TestStore::start().await;
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("backups");
        let config = config(&directory);
        fs::create_dir(&directory).unwrap();
        let others = ["notes.txt", "test-by-hand.snapshot", "other-20260102T030405Z.snapshot"];
        for other in others {
            fs::write(directory.join(other), "x").unwrap();
        }
        for second in 0..5 {
            let path = save_at(&config, &store, second).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let (_, bytes) =
                SnapshotReader::open(File::open(&path).unwrap()).unwrap().check().unwrap();
            assert!(bytes > 100);
        }
        let expected = ["07", "08", "09"].map(|s| format!("test-20260102T0304{s}Z.snapshot"));
        assert_eq!(names(&directory), expected);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3 + others.len());

        let config = ScheduleConfig { min_free: u64::MAX, ..config };
        let error = save_at(&config, &store, 9).unwrap_err();
        assert!(error.to_string().ends_with(&format!("min_free is {}", u64::MAX)), "{error}");
        assert_eq!(names(&directory).len(), 3);
    }

    /// A clock was ahead once, and a disk has cut the newest file: neither ends the schedule.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_schedule_goes_on_beside_files_that_are_no_backups() {
        let store = TestStore::start().await;
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        save_at(&config, &store, -120).unwrap();
        save_at(&config, &store, 86_400).unwrap();
        let cut = save_at(&config, &store, -10).unwrap();
        File::options().write(true).open(&cut).unwrap().set_len(100).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(FixedClock::new(Timestamp::from_unix_s(START)));
        let (views, task) = Views::start(store.handle.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(task.run(shutdown.clone()));
        let _ends = shutdown.drop_guard();
        let limits = Limits { renew_only_delay: MINUTE, max_staleness: MINUTE };
        let (handle, name) = (store.handle.clone(), "test".to_owned());
        let reads = Reads::new(handle.clone(), views, Arc::clone(&clock), limits, MINUTE);
        let schedule = Schedule::new(config, name, SKEW, handle, reads, clock);
        assert_eq!(schedule.look().await.age, Some(MINUTE * 2));

        let saved = async {
            while schedule.to_pb().file.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let saved = tokio::time::timeout(MINUTE, saved);
        tokio::select! {
            () = schedule.lead() => {}
            saved = saved => saved.unwrap(),
        }
        let backups = schedule.look().await;
        assert_eq!(backups.age, Some(Duration::ZERO));
        let [ahead, cut]: [String; 2] = backups.doubtful.try_into().unwrap();
        assert_eq!(ahead, "test-20260103T030405Z.snapshot is from the future");
        assert!(cut.starts_with("test-20260102T030355Z.snapshot ends early"), "{cut}");
        assert_eq!(names(folder.path()).len(), 4, "what does not count takes no place");
    }
}

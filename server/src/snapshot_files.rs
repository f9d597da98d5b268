//! The files that a schedule has written: which of them are backups, which is the newest, which may go.
//!
//! Owns names, judgement and retention. When one is written, and what is in it, is the caller's.
//!
//! A file counts once it was read from end to end, which is done once: when it is the newest. It is
//! read again when its inode, size or time of change differs. So a look costs a few system calls, and a
//! new leader reads one file. What this does not see: bytes that rot on the disk after the file was
//! read, and damage to files behind the newest backup that nobody has looked at yet; `cluster snapshot
//! list` reads them all.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_api::snapshot_file::{SnapshotFileError, SnapshotReader};
use steeple_spiffe_core::Timestamp;
use time::OffsetDateTime;
use time::macros::format_description;

/// How files end.
const EXTENSION: &str = ".snapshot";

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// When the newest backup was saved; `None`: there is none.
    pub(crate) saved_at: Option<Timestamp>,
    /// Files that do not count, newest first, each with the reason.
    pub(crate) doubtful: Vec<String>,
}

/// The folder of a schedule. Its calls block.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    directory: PathBuf,
    cluster: String,
    /// So far a file may be ahead of this member's clock: no clock that is further off signs either.
    skew_limit: Duration,
    seen: Mutex<Seen>,
}

/// What is known of the files that were there at the last look.
#[derive(Debug, Default)]
struct Seen {
    judged: BTreeMap<PathBuf, (Stamp, Judgement)>,
    /// What was logged of each, so that it is logged once.
    told: BTreeMap<PathBuf, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Judgement {
    Whole {
        saved_at: Timestamp,
        confirmed: bool,
    },
    Damaged(String),
    /// Not now, or not by this version: nothing is known, so it is left alone.
    Unread(String),
}

/// Differs when someone has changed the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds; unlike the time of modification nobody can set it.
    changed: (i64, i64),
}

impl SnapshotFiles {
    /// The files of a cluster's schedule in a folder, which need not be there yet.
    pub(crate) fn new(directory: PathBuf, cluster: String, skew_limit: Duration) -> Self {
        Self { directory, cluster, skew_limit, seen: Mutex::default() }
    }

    /// Where a file of this time goes.
    pub(crate) fn path(&self, now: Timestamp) -> PathBuf {
        let form = format_description!("[year][month][day]T[hour][minute][second]Z");
        let time = OffsetDateTime::from_unix_timestamp(now.unix_s()).ok();
        let time = time.and_then(|time| time.format(form).ok());
        let time = time.unwrap_or_else(|| now.unix_s().to_string());
        self.directory.join(format!("{}-{time}{EXTENSION}", self.cluster))
    }

    /// Looks for the newest backup. A file that is not whole is none, nor is one from the future: a
    /// clock that was ahead once would stop the schedule until its time has come.
    pub(crate) fn look(&self, now: Timestamp) -> Found {
        let mut found = Found::default();
        // A folder that cannot be read is told of by the next attempt to save.
        let Ok(paths) = self.paths() else { return found };
        let latest = now.plus(self.skew_limit);
        let mut seen = self.seen();
        seen.forget_others(&paths);
        for path in paths.iter().rev() {
            // Behind the newest backup nothing is read, but what is known to be wrong is still told.
            let judged = match found.saved_at {
                None => seen.judge(path),
                Some(_) => seen.known(path),
            };
            match judged {
                None => {}
                Some(Judgement::Whole { saved_at, .. }) if saved_at > latest => {
                    found.doubtful.push(seen.tell(path, "is from the future"));
                }
                Some(Judgement::Whole { saved_at, .. }) => {
                    seen.told.remove(path);
                    found.saved_at = found.saved_at.or(Some(saved_at));
                }
                Some(Judgement::Damaged(reason) | Judgement::Unread(reason)) => {
                    found.doubtful.push(seen.tell(path, &reason));
                }
            }
        }
        found
    }

    /// Removes the oldest beyond `keep`. The newest that a quorum has confirmed stays in any case.
    /// Damaged files take no place and go with those of their time; files from the future, and those
    /// that cannot be read now, take none and stay.
    pub(crate) fn remove_surplus(&self, keep: usize, now: Timestamp) -> io::Result<()> {
        let paths = self.paths()?;
        let latest = now.plus(self.skew_limit);
        let mut seen = self.seen();
        let (mut kept, mut has_confirmed) = (0, false);
        let mut surplus = Vec::new();
        for path in paths.iter().rev() {
            let judged = match has_confirmed {
                true => seen.known(path),
                false => match seen.judge(path) {
                    None => continue,
                    judged @ Some(_) => judged,
                },
            };
            let full = kept >= keep;
            match judged {
                Some(Judgement::Whole { saved_at, .. }) if saved_at > latest => {}
                Some(Judgement::Unread(_)) => {}
                Some(Judgement::Whole { confirmed: true, .. }) if !has_confirmed => {
                    has_confirmed = true;
                    kept += 1;
                }
                Some(Judgement::Damaged(_)) if !full => {}
                Some(Judgement::Damaged(_)) => surplus.push(path),
                // Unknown is what was not read since a confirmed one was found.
                Some(Judgement::Whole { .. }) | None if full => surplus.push(path),
                Some(Judgement::Whole { .. }) | None => kept += 1,
            }
        }
        for old in surplus.into_iter().rev() {
            match fs::remove_file(old) {
                // The leader before us, in a folder that both use, was faster.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The files, oldest first by their names. Others are left alone.
    pub(crate) fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for item in fs::read_dir(&self.directory)? {
            let path = item?.path();
            let name = name_of(&path);
            let time = name
                .strip_prefix(self.cluster.as_str())
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

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn forget_others(&mut self, paths: &[PathBuf]) {
        self.judged.retain(|path, _| paths.binary_search(path).is_ok());
        self.told.retain(|path, _| paths.binary_search(path).is_ok());
    }

    /// What was found when the file was read, unless it has changed since.
    fn known(&self, path: &Path) -> Option<Judgement> {
        let (stamp, judgement) = self.judged.get(path)?;
        let unchanged = Stamp::of(&fs::metadata(path).ok()?) == *stamp;
        unchanged.then(|| judgement.clone())
    }

    /// Reads a file from end to end unless that was done; `None`: it has gone.
    fn judge(&mut self, path: &Path) -> Option<Judgement> {
        if let Some(known) = self.known(path) {
            return Some(known);
        }
        let (stamp, judgement) = match read(path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // The disk, or the network before it, may do better next time.
            Err(error) => return Some(Judgement::Unread(format!("cannot be read: {error}"))),
        };
        self.judged.insert(path.to_owned(), (stamp, judgement.clone()));
        Some(judgement)
    }

    /// Names a file that does not count, in a log line too if that is new.
    fn tell(&mut self, path: &Path, reason: &str) -> String {
        let name = name_of(path);
        if self.told.get(path).is_none_or(|told| told != reason) {
            tracing::warn!(path = %path.display(), reason, "Snapshot file does not count as a backup");
            self.told.insert(path.to_owned(), reason.to_owned());
        }
        // What to do, behind the semicolon, is for the log: here are several in a line.
        format!("{name} {}", reason.split(';').next().unwrap_or_default())
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.len(), changed }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads a file from end to end. The error is the disk's.
fn read(path: &Path) -> io::Result<(Stamp, Judgement)> {
    // Before it is read: what changes meanwhile is read again.
    let metadata = fs::metadata(path)?;
    let stamp = Stamp::of(&metadata);
    // Opening a pipe waits for who writes to it.
    if !metadata.is_file() {
        return Ok((stamp, Judgement::Unread("is no regular file".to_owned())));
    }
    let judgement = match check(File::open(path)?) {
        Ok(whole) => whole,
        Err(SnapshotFileError::Io(error)) => return Err(error),
        // A member of a newer version, in a folder that both use, has written it.
        Err(error @ SnapshotFileError::NewerFormat { .. }) => Judgement::Unread(error.to_string()),
        Err(
            error @ (SnapshotFileError::NotASnapshot
            | SnapshotFileError::Truncated
            | SnapshotFileError::Damaged { .. }),
        ) => Judgement::Damaged(error.to_string()),
    };
    Ok((stamp, judgement))
}

fn check(file: File) -> Result<Judgement, SnapshotFileError> {
    let reader = SnapshotReader::open(BufReader::new(file))?;
    let saved_at = Timestamp::from_unix_s(reader.header().saved_at);
    let confirmed = reader.header().confirmed;
    reader.check()?;
    Ok(Judgement::Whole { saved_at, confirmed })
}

#[cfg(test)]
mod tests {
    use steeple_api::pb::cluster::v1::SnapshotHeader;
    use steeple_api::snapshot_file::SnapshotWriter;

    use super::*;

    const NOW: i64 = 1_767_323_045;
    const SKEW: Duration = Duration::from_secs(30);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_s(NOW + seconds)
    }

    fn files(folder: &Path) -> SnapshotFiles {
        SnapshotFiles::new(folder.to_owned(), "test".to_owned(), SKEW)
    }

    fn bytes(seconds: i64, confirmed: bool) -> Vec<u8> {
        let saved_at = at(seconds).unix_s();
        let header = SnapshotHeader { saved_at, confirmed, ..SnapshotHeader::default() };
        let mut writer = SnapshotWriter::begin(Vec::new(), &header).unwrap();
        writer.frame(&[7; 100]).unwrap();
        writer.end().unwrap()
    }

    /// Writes a file of a time, and returns its name.
    fn save(files: &SnapshotFiles, seconds: i64, confirmed: bool) -> String {
        let path = files.path(at(seconds));
        fs::write(&path, bytes(seconds, confirmed)).unwrap();
        name_of(&path)
    }

    fn names(files: &SnapshotFiles) -> Vec<String> {
        files.paths().unwrap().iter().map(|path| name_of(path)).collect()
    }

    #[test]
    fn a_file_from_the_future_is_told_of_and_is_not_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        assert_eq!(files.look(at(0)), Found::default());
        let ahead = save(&files, 3600, true);
        let doubtful = vec![format!("{ahead} is from the future")];
        assert_eq!(files.look(at(0)), Found { saved_at: None, doubtful: doubtful.clone() });
        save(&files, -60, true);
        assert_eq!(files.look(at(0)), Found { saved_at: Some(at(-60)), doubtful });
        // Clocks may differ a little, and its time comes.
        for now in [3600 - 30, 3600, 7200] {
            let found = Found { saved_at: Some(at(3600)), doubtful: Vec::new() };
            assert_eq!(files.look(at(now)), found, "{now}");
        }
    }

    #[test]
    fn what_is_not_whole_is_no_backup_and_is_told_of_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        save(&files, -120, true);
        let flipped = save(&files, -60, true);
        let mut damaged = bytes(-60, true);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(files.path(at(-60)), damaged).unwrap();
        let flipped = format!("{flipped} is damaged: its SHA-256 differs");
        let found = Found { saved_at: Some(at(-120)), doubtful: vec![flipped.clone()] };
        assert_eq!(files.look(at(0)), found);
        // One that was whole, and is cut later, is looked at again.
        let cut = save(&files, -30, true);
        let found = Found { saved_at: Some(at(-30)), doubtful: vec![flipped.clone()] };
        assert_eq!(files.look(at(0)), found);
        let whole = bytes(-30, true);
        fs::write(files.path(at(-30)), &whole[..whole.len() - 1]).unwrap();
        let cut = format!("{cut} ends early: it was not copied or written to its end");
        let found = Found { saved_at: Some(at(-120)), doubtful: vec![cut, flipped] };
        assert_eq!(files.look(at(0)), found);
        for seconds in [-30, -60] {
            fs::remove_file(files.path(at(seconds))).unwrap();
        }
        assert_eq!(files.look(at(0)), Found { saved_at: Some(at(-120)), doubtful: Vec::new() });
        assert_eq!(files.seen().told, BTreeMap::new());
    }

    #[test]
    fn a_file_is_read_once_and_told_of_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        save(&files, -60, true);
        let ahead = files.path(at(3600));
        save(&files, 3600, true);
        let found = files.look(at(0));
        // What is remembered is believed: nothing is read again.
        let whole = |saved_at| Judgement::Whole { saved_at, confirmed: true };
        let stamp = Stamp::of(&fs::metadata(&ahead).unwrap());
        assert_eq!(files.seen().judged[&ahead], (stamp, whole(at(3600))));
        files.seen().judged.insert(ahead.clone(), (stamp, whole(at(7200))));
        assert_eq!(files.look(at(0)), found);
        assert_eq!(files.seen().judged[&ahead], (stamp, whole(at(7200))));
        assert_eq!(files.seen().told[&ahead], "is from the future");
    }

    #[test]
    fn the_newest_confirmed_file_stays_however_many_unconfirmed_ones_follow() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        save(&files, -600, true);
        let confirmed = save(&files, -500, true);
        let unconfirmed: Vec<_> =
            [-400, -300, -200, -100].map(|seconds| save(&files, seconds, false)).into();
        files.remove_surplus(3, at(0)).unwrap();
        assert_eq!(names(&files), [&[confirmed][..], &unconfirmed[1..]].concat());
        // A newer one takes its place.
        let newer = save(&files, -50, true);
        files.remove_surplus(3, at(0)).unwrap();
        assert_eq!(names(&files), [&unconfirmed[2..], &[newer]].concat());
    }

    #[test]
    fn what_is_no_backup_pushes_none_out() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let ahead = save(&files, 3600, true);
        save(&files, -300, true);
        let kept = save(&files, -200, true);
        let damaged = save(&files, -100, true);
        fs::write(files.path(at(-100)), "cut").unwrap();
        let pipe = name_of(&files.path(at(-50)));
        fs::create_dir(folder.path().join(&pipe)).unwrap();
        files.remove_surplus(1, at(0)).unwrap();
        assert_eq!(names(&files), [&kept, &damaged, &pipe, &ahead].map(String::clone));
        let newest = save(&files, -10, true);
        files.remove_surplus(1, at(0)).unwrap();
        assert_eq!(names(&files), [pipe, newest, ahead], "damage goes with those of its time");
    }
}

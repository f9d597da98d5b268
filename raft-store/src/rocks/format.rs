//! The marker of a registry's folder: what it is, in which format, whose.
//!
//! Written first, locked while the store is open, completed with the member id once the database
//! exists. So an empty folder is told from one that lost its database, and a foreign one from ours.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::ids::MemberId;

const MARKER: &str = "STEEPLE";

/// Names that are tried for a folder that is moved aside. They differ by the second already: more than
/// a few of one second means that something does this in a loop.
const ASIDE_MAX: u32 = 100;

const MAGIC: &str = "steeple registry";
/// The newest format that this build reads, and the one it writes.
const FORMAT: u32 = 1;

/// A folder that is known to be ours, locked.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Whose it is; `None` until the database was made.
    pub(super) member: Option<MemberId>,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing or empty, checks its marker, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { folder: path.to_owned(), source };
        make(path)?;
        let marker = path.join(MARKER);
        if !marker.exists() {
            let mut items = fs::read_dir(path).map_err(failed)?;
            if let Some(item) = items.next() {
                let name = item.map_err(failed)?.file_name();
                let reason = format!("it holds {} but no {MARKER} file", name.display());
                return Err(OpenError::Foreign { folder: path.to_owned(), reason });
            }
            write_marker(path, None).map_err(failed)?;
        }
        let lock = lock(path, &path.join("LOCK"))?;
        let member = read_marker(path, &marker)?;
        Ok(Self { path: path.to_owned(), member, _lock: lock })
    }

    /// Completes the marker: from now on the database must exist.
    pub(super) fn claim(&self, member: MemberId) -> io::Result<()> {
        write_marker(&self.path, Some(member))
    }
}

/// Makes the folder if it is missing.
fn make(path: &Path) -> Result<(), OpenError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| match in_its_place(path) {
        Some(reason) => OpenError::Foreign { folder: path.to_owned(), reason },
        None => OpenError::Io { folder: path.to_owned(), source },
    })
}

/// What is where a folder should be, with the fix, if that is something else.
fn in_its_place(path: &Path) -> Option<String> {
    let found = fs::symlink_metadata(path).ok()?;
    if found.is_dir() {
        return None;
    }
    if !found.is_symlink() {
        return Some("it is no folder but a file, which is to be moved away".to_owned());
    }
    let target = fs::read_link(path).ok()?;
    let target = target.display();
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => None,
        Ok(_) => Some(format!("it is a symbolic link to the file {target}: remove the link")),
        Err(_) => Some(format!(
            "it is a symbolic link to {target}, where nothing is: make that folder or remove the \
             link"
        )),
    }
}

/// Keeps other processes from a registry that may be there, without opening it; `None` if there is
/// none.
pub(crate) fn lock_existing(path: &Path) -> Result<Option<File>, OpenError> {
    let file = path.join("LOCK");
    if file.exists() { lock(path, &file).map(Some) } else { Ok(None) }
}

fn lock(folder: &Path, path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { folder: folder.to_owned(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { folder: folder.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn read_marker(folder: &Path, marker: &Path) -> Result<Option<MemberId>, OpenError> {
    let text = fs::read_to_string(marker)
        .map_err(|source| OpenError::Io { folder: folder.to_owned(), source })?;
    let foreign = |reason: &str| OpenError::Foreign {
        folder: folder.to_owned(),
        reason: format!("its {MARKER} file {reason}"),
    };
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) {
        return Err(foreign("does not begin with the magic line"));
    }
    let format = lines
        .next()
        .and_then(|line| line.strip_prefix("format "))
        .and_then(|number| number.parse::<u32>().ok())
        .ok_or_else(|| foreign("names no format"))?;
    if format > FORMAT {
        return Err(OpenError::NewerFormat {
            folder: folder.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    match lines.next() {
        None => Ok(None),
        Some(line) => line
            .strip_prefix("member ")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(|id| Some(MemberId(id)))
            .ok_or_else(|| foreign("names no member")),
    }
}

fn write_marker(folder: &Path, member: Option<MemberId>) -> io::Result<()> {
    let mut text = format!("{MAGIC}\nformat {FORMAT}\n");
    if let Some(member) = member {
        text.push_str(&format!("member {member}\n"));
    }
    let temporary = folder.join("STEEPLE.new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(MARKER))?;
    sync_folder(folder)
}

/// The folder beside another whose name is the other's with an ending.
pub(crate) fn sibling(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    place.with_file_name(name)
}

/// As [`sibling`], under a name that nothing has: `-2`, `-3` and so on follow the ending if need be.
pub(crate) fn free_sibling(place: &Path, ending: &str) -> io::Result<PathBuf> {
    for number in 1..=ASIDE_MAX {
        let path = match number {
            1 => sibling(place, ending),
            number => sibling(place, &format!("{ending}-{number}")),
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    let first = sibling(place, ending);
    Err(io::Error::other(format!(
        "{} and {} more of that second are there; delete those that are not needed",
        first.display(),
        ASIDE_MAX - 1
    )))
}

/// Moves a folder that is closed aside, and returns where it is.
pub(crate) fn set_aside(place: &Path, ending: &str) -> io::Result<PathBuf> {
    let aside = free_sibling(place, ending)?;
    fs::rename(place, &aside)?;
    sync_folder(place.parent().unwrap_or(Path::new(".")))?;
    Ok(aside)
}

/// Makes renames in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_folder_is_told_with_its_path_and_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").unwrap();
        fs::create_dir(at("there")).unwrap();
        for (name, target) in [("dangling", "gone"), ("astray", "file"), ("link", "there")] {
            std::os::unix::fs::symlink(at(target), at(name)).unwrap();
        }
        let (gone, file) = (at("gone"), at("file"));
        let (gone, file) = (gone.display(), file.display());
        for (name, reason) in [
            ("file", "it is no folder but a file, which is to be moved away".to_owned()),
            (
                "dangling",
                format!(
                    "it is a symbolic link to {gone}, where nothing is: make that folder or \
                     remove the link"
                ),
            ),
            ("astray", format!("it is a symbolic link to the file {file}: remove the link")),
        ] {
            let said = Folder::open(&at(name)).unwrap_err().to_string();
            let expected = format!(
                "folder {} is not a registry: {reason}; choose an empty folder",
                at(name).display()
            );
            assert_eq!(said, expected);
        }
        assert!(Folder::open(&at("link")).is_ok(), "a link to a folder is one");
    }

    #[test]
    fn what_is_moved_aside_within_one_second_gets_a_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("raft");
        let mut names = Vec::new();
        for content in ["one", "two", "three"] {
            fs::create_dir(&place).unwrap();
            fs::write(place.join("x"), content).unwrap();
            let aside = set_aside(&place, "left-1767323045").unwrap();
            assert_eq!(fs::read_to_string(aside.join("x")).unwrap(), content);
            names.push(aside.file_name().unwrap().to_string_lossy().into_owned());
        }
        let expected = ["raft.left-1767323045", "raft.left-1767323045-2", "raft.left-1767323045-3"];
        assert_eq!(names, expected);
        for number in 4..=ASIDE_MAX {
            fs::create_dir(sibling(&place, &format!("left-1767323045-{number}"))).unwrap();
        }
        fs::create_dir(&place).unwrap();
        let error = set_aside(&place, "left-1767323045").unwrap_err();
        assert!(error.to_string().contains("and 99 more of that second are there"), "{error}");
        assert!(place.exists(), "it is left where it is");
    }
}

//! Where the cluster key comes from: a file, the environment, a command's output, or a file beside
//! the data that a cluster of one member makes for itself.
//!
//! Owns the reading and the checks of the file (regular, not readable by everyone). What is derived
//! from a key is raft-store's business. Key bytes live in wiped memory from the first read on.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use steeple_raft_store::ClusterKeys;
use steeple_raft_store::cluster_key::KeyError;
use steeple_spiffe_core::random::Random;
use zeroize::Zeroizing;

use crate::config::KeySource;

/// Name of the key that is made beside the data.
const FILE_BESIDE_DATA: &str = "cluster.key";

/// Most bytes that are read; a few keys of 45 bytes each.
const TEXT_BYTES_MAX: u64 = 16 * 1024;

/// How long a command may take to print the key: a start must not hang on it in silence.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no cluster key.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// The file cannot be read.
    #[error("could not read cluster key file {}; {}", path.display(), unread_fix(source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Everyone may read the file, or write it.
    #[error("cluster key file {} is open to everyone (mode {mode:04o}); run: chmod 0600 {}", path.display(), path.display())]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The variable is not set.
    #[error("cluster.key_env: environment variable {0} is not set")]
    NoVariable(String),
    /// The command failed.
    #[error("cluster.key_command: {program} {reason}")]
    Command {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
    /// The file beside the data is gone, and there is data that only its key opens.
    #[error("cluster key file {} is missing, and the data beside it is sealed under its key; restore the file, or name the key's place in cluster.key_file", .0.display())]
    Lost(PathBuf),
    /// The file beside the data cannot be made.
    #[error("could not write cluster key file {}; make the folder writable or change data_dir", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What was read is no key.
    #[error("cluster key from {origin}")]
    Malformed {
        /// Where it was read.
        origin: String,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// What to do about a file that cannot be read. A new key opens nothing of a cluster that exists.
fn unread_fix(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound {
        return "copy that of another member there, or make a first one with \"spire-server cluster \
                keygen\"; if it lies elsewhere, correct cluster.key_file";
    }
    "make it a file that this user can read, or correct cluster.key_file"
}

/// Reads the cluster key, or makes one beside the data.
///
/// # Errors
///
/// [`ClusterKeyError`], with the fix where we know it.
pub fn load(
    source: &KeySource,
    data_dir: &Path,
    random: &dyn Random,
) -> Result<ClusterKeys, ClusterKeyError> {
    let (text, origin) = match source {
        KeySource::File(path) => (read_file(path)?, path.display().to_string()),
        KeySource::Environment(name) => {
            let value = std::env::var(name);
            let value = value.map_err(|_unset| ClusterKeyError::NoVariable(name.clone()))?;
            (Zeroizing::new(value), format!("environment variable {name}"))
        }
        KeySource::Command(words) => {
            (run_command(words, COMMAND_PATIENCE)?, "cluster.key_command".to_owned())
        }
        KeySource::BesideData => {
            let path = data_dir.join(FILE_BESIDE_DATA);
            if !path.exists() {
                // A new key would open nothing of what is there.
                if data_dir.join("raft/STEEPLE").exists() {
                    return Err(ClusterKeyError::Lost(path));
                }
                make_beside_data(&path, random)?;
            }
            (read_file(&path)?, path.display().to_string())
        }
    };
    ClusterKeys::parse(&text).map_err(|source| ClusterKeyError::Malformed { origin, source })
}

/// Refuses a file that everyone may read or write. A file of a Kubernetes Secret passes: it is a
/// link into a folder that only the pod sees.
fn read_file(path: &Path) -> Result<Zeroizing<String>, ClusterKeyError> {
    const OTHERS: u32 = 0o007;
    let failed = |source| ClusterKeyError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    let link = fs::symlink_metadata(path).map_err(failed)?.file_type().is_symlink();
    if mode & OTHERS != 0 && !link {
        return Err(ClusterKeyError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn run_command(words: &[String], patience: Duration) -> Result<Zeroizing<String>, ClusterKeyError> {
    let Some((program, arguments)) = words.split_first() else {
        let reason = "is empty".to_owned();
        return Err(ClusterKeyError::Command { program: String::new(), reason });
    };
    let failed = |reason: String| ClusterKeyError::Command { program: program.clone(), reason };
    tracing::info!(command = %program, "Waiting for the command that prints the cluster key");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(format!("did not start: {error}")))?;
    let printed = child.stdout.take().map(|stdout| printed_within(stdout, patience));
    if matches!(printed, None | Some(Err(RecvTimeoutError::Timeout))) {
        // It may have ended meanwhile; then there is nothing to end.
        child.kill().ok();
    }
    let status = child.wait().map_err(|error| failed(format!("was lost: {error}")))?;
    match printed {
        Some(Ok(Ok(text))) if status.success() => Ok(text),
        Some(Ok(Err(error))) if status.success() => {
            Err(failed(format!("printed no text: {error}")))
        }
        Some(Err(RecvTimeoutError::Timeout)) => Err(failed(format!(
            "had not printed the key and closed its output after {} s; run it by hand to see what it waits for",
            patience.as_secs()
        ))),
        Some(Ok(_)) => Err(failed(format!("failed: {status}"))),
        None | Some(Err(RecvTimeoutError::Disconnected)) => Err(failed("has no output".into())),
    }
}

/// Reads what a command prints until it closes its output, on a thread of its own: a pipe cannot be
/// read with a deadline.
fn printed_within(
    stdout: ChildStdout,
    patience: Duration,
) -> Result<io::Result<Zeroizing<String>>, RecvTimeoutError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::new());
        let read = stdout.take(TEXT_BYTES_MAX).read_to_string(&mut text);
        // Nobody waits any more once patience has ended.
        sender.send(read.map(|_length| text)).ok();
    });
    receiver.recv_timeout(patience)
}

fn make_beside_data(path: &Path, random: &dyn Random) -> Result<(), ClusterKeyError> {
    let failed = |source| ClusterKeyError::Write { path: path.to_owned(), source };
    let origin = path.display().to_string();
    let (_keys, text) = ClusterKeys::generate(random)
        .map_err(|source| ClusterKeyError::Malformed { origin, source })?;
    // Written beside and renamed, so that a crash leaves no half key.
    let temporary = path.with_extension("key.tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    tracing::warn!(
        path = %path.display(),
        "Made a cluster key; it lies beside the data that it seals: back it up apart from them, and give it to members that are to join"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use steeple_spiffe_core::random::SystemRandom;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let load = || load(&KeySource::BesideData, folder.path(), &SystemRandom);
        let first = load().expect("made");
        let second = load().expect("read");
        assert_eq!(first.ids(), second.ids());
        let mode = fs::metadata(folder.path().join(FILE_BESIDE_DATA)).expect("file").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_not_there_or_is_none_is_named_with_the_fix() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |path: PathBuf| {
            let source = KeySource::File(path);
            load(&source, folder.path(), &SystemRandom).expect_err("no key").to_string()
        };
        let missing = read(folder.path().join("key"));
        assert!(missing.contains("copy that of another member there"), "{missing}");
        assert!(missing.contains("\"spire-server cluster keygen\""), "{missing}");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let below = read(file.join("key"));
        assert!(below.contains("make it a file that this user can read"), "{below}");
    }

    #[test]
    fn a_key_that_everyone_can_read_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (_, text) = ClusterKeys::generate(&SystemRandom).expect("a key");
        fs::write(&path, text.as_bytes()).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened");
        let source = KeySource::File(path.clone());
        let error = load(&source, folder.path(), &SystemRandom).expect_err("refused");
        assert!(error.to_string().contains("chmod 0600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("closed");
        load(&source, folder.path(), &SystemRandom).expect("accepted");
    }

    #[test]
    fn a_command_prints_the_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let (keys, text) = ClusterKeys::generate(&SystemRandom).expect("a key");
        let command = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            load(&KeySource::Command(words), folder.path(), &SystemRandom)
        };
        let printed = command(&["printf", "%s", text.as_str()]).expect("a key");
        assert_eq!(printed.ids(), keys.ids());
        for words in [&["false"][..], &["/no/such/program"], &["printf", "nonsense"]] {
            assert!(command(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_command_that_hangs_is_ended_and_named() {
        let words = ["sleep", "600"].map(str::to_owned);
        let error = run_command(&words, Duration::from_millis(50)).expect_err("ended");
        let text = error.to_string();
        assert!(text.contains("cluster.key_command: sleep had not printed the key"), "{text}");
    }
}

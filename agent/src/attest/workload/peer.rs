//! The process at the other end of a connection, held so that its pid can't come to mean another.
//!
//! A pid is only a number: the process may end and the number be given anew while its facts are
//! read. A pidfd taken from the socket names the process itself (Linux 6.5); without it the start
//! time is compared. Both are asked after the facts were read.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};

/// The caller can't be held.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel doesn't tell who is there.
    #[error("read socket credentials")]
    Credentials(#[source] nix::Error),
    /// The caller lives in a pid namespace that this one can't see into.
    #[error("caller has no pid in this namespace")]
    Invisible,
    /// The caller has already ended.
    #[error("caller exited suspiciously early")]
    Gone,
}

/// A pinned process.
#[derive(Debug)]
pub struct Peer {
    pid: i32,
    uid: u32,
    gid: u32,
    pidfd: Option<OwnedFd>,
    started: u64,
}

impl Peer {
    /// Pins the process that connected to this socket.
    pub fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let pidfd = getsockopt(socket, sockopt::PeerPidfd).ok();
        let credentials =
            getsockopt(socket, sockopt::PeerCredentials).map_err(PeerError::Credentials)?;
        if credentials.pid() <= 0 {
            return Err(PeerError::Invisible);
        }
        let started = start_time(credentials.pid()).ok_or(PeerError::Gone)?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let peer = Self { pid: credentials.pid(), uid, gid, pidfd, started };
        // The start time may have been read from a successor.
        if peer.is_same() { Ok(peer) } else { Err(PeerError::Gone) }
    }

    /// Its pid. What is read by it counts only if [`Self::is_same`] holds afterwards.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its user id when it connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its group id when it connected.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Whether the pid still means the process that connected.
    pub fn is_same(&self) -> bool {
        let pinned = self.pidfd.as_ref().is_none_or(|pidfd| pid_of(pidfd) == Some(self.pid));
        pinned && start_time(self.pid) == Some(self.started)
    }
}

/// The pid behind a pidfd; `None` once the process is gone.
fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

/// When a process started, in clock ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    start_time_in(&fs::read_to_string(path).ok()?)
}

/// Field 22 of `/proc/PID/stat`. The second field is a name in parentheses that may hold anything,
/// parentheses too.
fn start_time_in(stat: &str) -> Option<u64> {
    const AFTER_NAME: usize = 22 - 3;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        for name in ["sleep", "a b", "x) S 1 (y", ")))"] {
            let numbers: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
            let stat = format!("12 ({name}) {}\n", numbers.join(" "));
            assert_eq!(start_time_in(&stat), Some(22), "{name}");
        }
        assert_eq!(start_time_in("12 (x"), None);
    }

    #[test]
    fn a_peer_is_the_process_that_connected() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let peer = Peer::of(&ours).expect("peer");
        assert_eq!(u32::try_from(peer.pid()).expect("pid"), std::process::id());
        assert_eq!(peer.uid(), nix::unistd::geteuid().as_raw());
        assert!(peer.is_same());
    }

    #[test]
    fn a_process_that_ended_is_not_the_same_any_more() {
        let mut child =
            Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("spawn");
        let pid = i32::try_from(child.id()).expect("pid");
        let started = start_time(pid).expect("running");
        let peer = Peer { pid, uid: 0, gid: 0, pidfd: None, started };
        assert!(peer.is_same());
        assert!(!Peer { started: started + 1, pidfd: None, ..peer }.is_same(), "reused pid");
        let peer = Peer { pid, uid: 0, gid: 0, pidfd: None, started };
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(!peer.is_same());
    }
}

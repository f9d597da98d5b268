//! `unix`: user, groups and, if asked for, the binary of a process.
//!
//! Owns the selectors of `spire-config` 10.1. Identities are the effective ones. A binary that can't
//! be read or is too large fails the attestor rather than leaving its selectors out: an entry without
//! them must not match by accident of a limit.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use nix::unistd::{Gid, Group, Uid, User};
use steeple_spiffe_core::selector::SelectorError;
use steeple_spiffe_core::{Selector, SelectorSet};

/// The process could not be attested.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// `/proc` doesn't show it.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// `/proc` shows something else than expected.
    #[error("unexpected content of {path}")]
    Malformed {
        /// Which file.
        path: String,
    },
    /// The binary is larger than `workload_size_limit`.
    #[error("workload {path} exceeds size limit ({size} > {limit})")]
    TooLarge {
        /// Which binary.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A fact makes no selector.
    #[error("make selector")]
    Selector(#[from] SelectorError),
}

/// The attestor with its settings.
#[derive(Clone, Debug)]
pub struct UnixAttestor {
    /// Whether the binary's path and hash are selectors.
    pub discover_workload_path: bool,
    /// Largest binary that is hashed, in bytes; 0 = any, negative = none.
    pub workload_size_limit: i64,
    /// Where `/proc` is.
    pub proc_root: PathBuf,
}

/// What `/proc/PID/status` says.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl UnixAttestor {
    /// The selectors of a process. Blocks: user names come from the system's directory, and hashing
    /// takes its time.
    pub fn attest(&self, pid: i32) -> Result<SelectorSet, UnixError> {
        let path = self.proc_root.join(pid.to_string()).join("status");
        let text = fs::read_to_string(&path).map_err(|source| read_failed(&path, source))?;
        let malformed = || UnixError::Malformed { path: path.display().to_string() };
        let status = parse_status(&text).ok_or_else(malformed)?;

        let mut values = vec![format!("uid:{}", status.uid)];
        values.extend(user_name(status.uid).map(|name| format!("user:{name}")));
        values.push(format!("gid:{}", status.gid));
        values.extend(group_name(status.gid).map(|name| format!("group:{name}")));
        for gid in status.groups {
            values.push(format!("supplementary_gid:{gid}"));
            values.extend(group_name(gid).map(|name| format!("supplementary_group:{name}")));
        }
        if self.discover_workload_path {
            values.extend(self.binary(pid)?);
        }
        let selectors = values.iter().map(|value| Selector::new("unix", value));
        selectors.collect::<Result<_, _>>().map_err(UnixError::from)
    }

    fn binary(&self, pid: i32) -> Result<Vec<String>, UnixError> {
        let link = self.proc_root.join(pid.to_string()).join("exe");
        let path = fs::read_link(&link).map_err(|source| read_failed(&link, source))?;
        let mut values = vec![format!("path:{}", path.display())];
        if let Some(limit) = self.hash_limit() {
            // Opened by the link, not by the path: the file may have been replaced since.
            let file = File::open(&link).map_err(|source| read_failed(&link, source))?;
            let size = file.metadata().map_err(|source| read_failed(&link, source))?.len();
            if size > limit {
                let path = path.display().to_string();
                return Err(UnixError::TooLarge { path, size, limit });
            }
            let hash = sha256(file).map_err(|source| read_failed(&link, source))?;
            values.push(format!("sha256:{hash}"));
        }
        Ok(values)
    }

    /// Largest size that is hashed; `None` = nothing is.
    fn hash_limit(&self) -> Option<u64> {
        match self.workload_size_limit {
            0 => Some(u64::MAX),
            limit => u64::try_from(limit).ok(),
        }
    }
}

fn parse_status(text: &str) -> Option<Status> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<Vec<u32>>>()
    };
    // Real, effective, saved, file system.
    let effective = |ids: Vec<u32>| ids.get(1).copied();
    Some(Status {
        uid: effective(field("Uid:")?)?,
        gid: effective(field("Gid:")?)?,
        groups: field("Groups:").unwrap_or_default(),
    })
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

fn sha256(mut file: File) -> io::Result<String> {
    const CHUNK_BYTES: usize = 64 * 1024;
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        context.update(chunk.get(..count).unwrap_or_default());
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_failed(path: &std::path::Path, source: io::Error) -> UnixError {
    UnixError::Read { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t10\t4000000\t12\t13\nGid:\t20\t4000001\t22\t23\nGroups:\t4000002 4000003 \n";

    fn attestor(folder: &std::path::Path, discover: bool, limit: i64) -> UnixAttestor {
        UnixAttestor {
            discover_workload_path: discover,
            workload_size_limit: limit,
            proc_root: folder.to_owned(),
        }
    }

    fn fake_proc() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("7")).expect("create");
        fs::write(folder.path().join("7/status"), STATUS).expect("write");
        let binary = folder.path().join("binary");
        fs::write(&binary, "abc").expect("write");
        std::os::unix::fs::symlink(&binary, folder.path().join("7/exe")).expect("link");
        (folder, binary)
    }

    fn texts(selectors: &SelectorSet) -> Vec<String> {
        selectors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn effective_ids_and_supplementary_groups_are_selectors() {
        let (folder, _) = fake_proc();
        let selectors = attestor(folder.path(), false, 0).attest(7).expect("attest");
        let want = [
            "unix:gid:4000001",
            "unix:supplementary_gid:4000002",
            "unix:supplementary_gid:4000003",
            "unix:uid:4000000",
        ];
        assert_eq!(texts(&selectors), want);
    }

    #[test]
    fn names_are_selectors_where_they_resolve() {
        let attestor = attestor(std::path::Path::new("/proc"), false, 0);
        let pid = i32::try_from(std::process::id()).expect("pid");
        let selectors = texts(&attestor.attest(pid).expect("attest"));
        let uid = nix::unistd::geteuid();
        assert!(selectors.contains(&format!("unix:uid:{uid}")), "{selectors:?}");
        if let Some(name) = user_name(uid.as_raw()) {
            assert!(selectors.contains(&format!("unix:user:{name}")), "{selectors:?}");
        }
    }

    #[test]
    fn the_binary_is_hashed_only_within_the_limit_and_beyond_it_attestation_fails() {
        let (folder, binary) = fake_proc();
        let path = format!("unix:path:{}", binary.display());
        let hash = "unix:sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let attest = |limit| attestor(folder.path(), true, limit).attest(7);
        for (limit, has_hash) in [(0, true), (3, true), (-1, false)] {
            let selectors = texts(&attest(limit).expect("attest"));
            assert!(selectors.contains(&path), "limit {limit}: {selectors:?}");
            assert_eq!(selectors.iter().any(|s| s == hash), has_hash, "limit {limit}");
        }
        assert!(matches!(attest(2), Err(UnixError::TooLarge { size: 3, limit: 2, .. })));
    }

    #[test]
    fn missing_processes_and_odd_files_are_errors() {
        let (folder, _) = fake_proc();
        let attestor = attestor(folder.path(), false, 0);
        assert!(matches!(attestor.attest(8), Err(UnixError::Read { .. })));
        fs::write(folder.path().join("7/status"), "Uid:\tx y\n").expect("write");
        assert!(matches!(attestor.attest(7), Err(UnixError::Malformed { .. })));
    }
}

//! Leases of loopback ports.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use steeple_spiffe_core::random::{Random, SystemRandom};

/// Ports that Linux gives to no outgoing connection by itself (`ip_local_port_range` begins at 32768):
/// one that a member is to listen on later is not taken by another's connection meanwhile.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_384;

/// More tries than this find no port: nearly all are taken.
const TRIES_MAX: usize = 10_000;

/// The leases of this process, each with the lock that makes it one.
static HELD: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());

/// Picks free ports on 127.0.0.1. None is given twice while this process runs, neither here nor by
/// another process that leases of this user: members that start minutes apart would otherwise now and
/// then be given the same one.
pub fn lease<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = lease_one()?;
    }
    Ok(ports)
}

fn lease_one() -> Result<u16> {
    let folder = std::env::temp_dir().join(format!("steeple-ports-{}", nix::unistd::getuid()));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("create {}", folder.display()))?;
    for _try in 0..TRIES_MAX {
        let offset = u16::try_from(SystemRandom.u64() % u64::from(COUNT)).context("a port")?;
        let port = FIRST + offset;
        let lock = File::create(folder.join(port.to_string())).context("lock a port")?;
        // The lock goes with the process, however it ends.
        if lock.try_lock().is_err() || TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(port, lock);
        return Ok(port);
    }
    anyhow::bail!("no free port on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_not_given_again() {
        // So many that without the locks some are given twice in all but one run of a thousand.
        let leased: Vec<[u16; 3]> = (0..170).map(|_| lease().unwrap()).collect();
        let mut ports: Vec<u16> = leased.into_iter().flatten().collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all);
    }
}

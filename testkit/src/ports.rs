//! Leases of loopback ports.

use std::collections::BTreeSet;
use std::net::TcpListener;

use anyhow::{Context, Result};
use steeple_spiffe_core::random::{Random, SystemRandom};

/// Ports that Linux gives to no outgoing connection by itself (`ip_local_port_range` begins at 32768):
/// one that a member is to listen on later is not taken by another's connection meanwhile.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_384;

/// More tries than this find no port: nearly all are taken.
const TRIES_MAX: usize = 10_000;

/// Picks free ports on 127.0.0.1, no two equal. Another process may still take one before it is used,
/// which shows as a start error.
pub fn lease<const N: usize>() -> Result<[u16; N]> {
    let mut free = BTreeSet::new();
    let mut tries = 0;
    while free.len() < N {
        tries += 1;
        anyhow::ensure!(tries < TRIES_MAX, "no free port on 127.0.0.1");
        let offset = u16::try_from(SystemRandom.u64() % u64::from(COUNT)).context("a port")?;
        let port = FIRST + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            free.insert(port);
        }
    }
    let mut ports = [0; N];
    for (port, leased) in ports.iter_mut().zip(free) {
        *port = leased;
    }
    Ok(ports)
}

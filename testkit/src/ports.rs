//! Leases of loopback ports.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// Picks free ports on 127.0.0.1. They are held all at once and then released, so no two are equal;
/// another process may still take one before it is used, which shows as a start error.
pub fn lease<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind a free port")?;
        *port = listener.local_addr().context("read the port")?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

//! Workload attestation: who is at the other end of the socket.
//!
//! `peer` pins the calling process, `unix` reads what the kernel knows of it, `attestor` runs the
//! configured methods and joins their selectors.

mod attestor;
mod peer;
mod unix;

pub use attestor::{WorkloadAttestError, WorkloadAttestors};
pub use peer::{Peer, PeerError};
pub use unix::{UnixAttestor, UnixError};

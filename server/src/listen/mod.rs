//! Listeners: how connections come in, and who is at their other end.
//!
//! [`tcp`] speaks TLS with SPIFFE identities, [`uds`] is the administrator's socket. Both hand each
//! request to an [`Application`] with the [`Peer`] it came from; what a peer may do is the gate's
//! business. [`connection`] is what both share: HTTP/2, the age limit, GOAWAY and draining.

pub mod connection;
pub mod peer;
pub mod tcp;
pub mod uds;

pub use connection::{Application, ConnectionSignals};
pub use peer::{Peer, PeerCertificate};

//! The network between members: mutual TLS, gRPC (`steeple.raft.v1`), both ends.
//!
//! Owns dialling, peer certificates, the consensus network (client and server side), forwarding to
//! the leader. Leaves to `cluster/` what a member decides from what it hears.
//!
//! ```text
//!   PeerNetwork::open(parts) ─► factory() ─► openraft          (votes, appends, snapshots out)
//!        │ implements Forwarder ─► Core                        (proposals, read index out)
//!        └ serve(core, …) ◄─ peer listener                     (everything in)
//! ```

mod addresses;
mod channels;
mod client;
mod dial;
#[cfg(test)]
mod hostile_tests;
mod listener;
mod name;
mod network;
mod pb;
mod proposals;
mod refusals;
mod reversion;
mod server;
mod snapshot;
mod tls;
#[cfg(test)]
mod tls_tests;
mod transport;
mod wire;

pub(crate) use dial::chain;
pub(crate) use name::PeerName;
pub(crate) use network::{PeerNetwork, PeerNetworkParts, Process};
pub(crate) use pb::raft::v1 as messages;
pub(crate) use server::{Greeter, serve};
pub use transport::{Connection, Duplex, Incoming, PipeNetwork, Pipes, Tcp, Transport, Way};

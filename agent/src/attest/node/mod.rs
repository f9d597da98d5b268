//! Node attestation: the evidence this agent shows to a server.
//!
//! One file per method; each produces the payload and answers challenges in the wire form of
//! `spire-config` 6. Sending it is `upstream::attest`'s work, judging it the server's.

mod join_token;
mod method;
mod x509pop;

pub use join_token::JoinToken;
pub use method::{NodeAttestError, NodeAttestor};
pub use x509pop::X509Pop;

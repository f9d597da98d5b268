//! From protobuf to checked types and back, with SPIRE's texts.
//!
//! Each file owns one subject, both ways: what comes from a request is checked here once
//! (`spec/spire-api.md` 1, "Validation shared by the server"), so that a checked type never holds
//! what SPIRE would refuse. Rules that need the state (does the federated bundle exist, is there a
//! similar entry) are raft-store's; gRPC codes of whole calls are the services'.

pub mod agent;
pub mod bundle;
pub mod entry;
mod entry_mask;
mod error;
pub mod federation;
pub mod id;
pub mod selector;
pub mod svid;

pub use error::ConvertError;

//! Executable models of the registry, written from its rules and not from its code.
//!
//! [`registry`] holds the tables and can take back what it did, so that the checks can try things;
//! `entries` and `agents` decide; [`compare`] says when a reply is the expected one.

mod agents;
pub mod compare;
mod entries;
mod federation;
pub mod registry;

pub(crate) use entries::updated as updated_entry;
pub(crate) use federation::updated as updated_relationship;
pub use registry::{Applied, Limits, Now, Registry};

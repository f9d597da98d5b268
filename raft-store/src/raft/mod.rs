//! The consensus side: openraft's type parameters, its log store and state machine over our storage
//! traits, and the settings it runs with.
//!
//! openraft's types stay inside `raft/`, `net/` and `cluster/`.

#[cfg(test)]
mod conformance;
pub(crate) mod convert;
pub(crate) mod flusher;
pub(crate) mod log_store;
pub(crate) mod no_network;
pub(crate) mod node;
pub(crate) mod runtime;
pub(crate) mod state_machine;
pub(crate) mod type_config;

pub(crate) use type_config::{
    CommittedLeaderId, Entry, EnvelopeBytes, LeaderId, LogId, Membership, Metrics, PeerNode, Raft,
    SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

//! Bytes of commands, rows and outcomes: our things to and from `proto/`.
//!
//! Encoding cannot fail; decoding checks every text, so that a value that decodes is valid. Bytes are
//! frozen: `golden/` holds what earlier builds wrote, and it must decode for ever.

mod authorities;
mod bundles;
mod command;
#[cfg(test)]
mod golden;
mod model;
mod outcome;
mod refreshes;
mod relationships;
mod sealed;

use std::fmt;

pub(crate) use command::{command_from_pb, command_to_pb};
pub(crate) use model::{
    agent_from_pb, agent_to_pb, authority_from_pb, authority_to_pb, bundle_from_pb, bundle_to_pb,
    cluster_from_pb, cluster_to_pb, entry_from_pb, entry_to_pb, journal_from_pb, journal_to_pb,
    kind_from_pb, kind_to_pb, selectors_from_pb, selectors_to_pb, serial_from_pb, serials_from_pb,
    serials_to_pb, spiffe_id_from_pb, update_from_pb, update_to_pb,
};
use model::{sealed_key_from_pb, sealed_key_to_pb};
pub(crate) use outcome::{applied_from_pb, applied_to_pb, decision_from_pb, decision_to_pb};
pub(crate) use refreshes::{refresh_row_from_pb, refresh_row_to_pb};
pub(crate) use relationships::{
    relationship_from_pb, relationship_row_from_pb, relationship_to_pb,
};
pub(crate) use sealed::{sealed_value_from_pb, sealed_value_to_pb};

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError {
    what: &'static str,
    reason: String,
}

impl CodecError {
    pub(crate) fn new(what: &'static str, reason: impl fmt::Display) -> Self {
        Self { what, reason: reason.to_string() }
    }

    pub(crate) fn missing(what: &'static str) -> Self {
        Self { what, reason: "missing".to_owned() }
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "decode {}: {}", self.what, self.reason)
    }
}

impl std::error::Error for CodecError {}

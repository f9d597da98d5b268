//! Apply: what each command does to the tables. Pure and synchronous.
//!
//! Sees the tables through a [`Transaction`]; never a disk, a clock, randomness or the order of a hash
//! map, so every member comes to the same rows from the same log. One file a table. Imports neither
//! `raft/` nor `rocks/`.

mod adoption;
mod agents;
mod authorities;
#[cfg(test)]
mod authority_tests;
#[cfg(test)]
mod bundle_tests;
mod bundles;
mod cluster;
mod dispatch;
mod entries;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod naive;
mod prune;
mod reading;
#[cfg(test)]
mod refresh_tests;
mod refreshes;
#[cfg(test)]
mod relationship_tests;
mod relationships;
mod requests;
mod roots;
#[cfg(test)]
mod rotation_tests;
mod sealed;
#[cfg(test)]
mod sealed_tests;
mod state_hash;
mod step;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod txn;

pub(crate) use crate::outcome::Applied;
pub(crate) use dispatch::{Done, apply, apply_nothing};
pub(crate) use reading::{
    read_cluster, read_counters, read_journal, read_sealed, read_time, snapshot_changes,
};
pub(crate) use state_hash::read_checkpoints;
pub(crate) use table::{SINGLE, Table};
pub use txn::TableError;
pub(crate) use txn::{Row, Rows, TableRow, Tables, Transaction, WriteSet};

//! Snapshots that operators keep, and registries that are made anew of them or of a survivor.
//!
//! ```text
//!   save      tables ─► snapshot stream ─► frames under the cluster key ─► the caller's file
//!   restore   frames ─► tables of a new folder ─┐
//!                                               ├─► new epoch (epoch) ─► takes the old one's place
//!   recover   old tables, whole log ────────────┘
//! ```
//!
//! Owns what is in the frames and the facts beside them, what a new epoch changes, and that a crash
//! leaves the old registry or the new one. The file around the frames, and where it lies, are the
//! caller's. Rebuilding needs the disk; the rest works in memory too.

#[cfg(feature = "rocks")]
mod epoch;
#[cfg(feature = "rocks")]
mod error;
mod facts;
#[cfg(test)]
#[cfg(feature = "rocks")]
mod fixtures;
#[cfg(feature = "rocks")]
mod folder;
#[cfg(feature = "rocks")]
mod probe;
#[cfg(feature = "rocks")]
mod rebuild;
mod save;
mod sealing;
#[cfg(test)]
#[cfg(feature = "rocks")]
mod tests;

#[cfg(feature = "rocks")]
pub(crate) use epoch::begin_in;
#[cfg(feature = "rocks")]
pub use epoch::{NewCluster, Reseal};
#[cfg(feature = "rocks")]
pub use error::RebuildError;
pub use facts::{SnapshotCounts, SnapshotFacts, SnapshotMember};
#[cfg(feature = "rocks")]
pub use probe::find_running;
#[cfg(feature = "rocks")]
pub use rebuild::{Origin, Rebuild, Rebuilt, Recovered, RestoreOptions, recover, restore};
pub(crate) use save::save;
pub use save::{SaveError, SnapshotOut};

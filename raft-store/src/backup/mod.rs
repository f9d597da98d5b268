//! Snapshots that operators keep.
//!
//! ```text
//!   save      tables ─► snapshot stream ─► frames under the cluster key ─► the caller's file
//! ```
//!
//! Owns what is in the frames and the facts beside them. The file around them, and where it lies, are
//! the caller's.

mod facts;
mod save;
mod sealing;

pub use facts::{SnapshotCounts, SnapshotFacts, SnapshotMember};
pub(crate) use save::save;
pub use save::{SaveError, SnapshotOut};

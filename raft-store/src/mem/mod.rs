//! The registry in memory: for simulation and for tests of this and other crates.
//!
//! The same traits as `rocks/`. A [`MemoryDisk`] outlives the store that uses it, as a folder does, and
//! can lose what was never synced, as a power cut does.

mod disk;
mod tables;

pub use disk::{MemoryDisk, StateSum, SyncTimes};
pub(crate) use tables::MemoryTables;

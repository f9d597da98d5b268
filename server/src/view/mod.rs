//! Read models: what the registry looks like at the revision this replica has applied.
//!
//! Owns the in-memory indexes that serve lists, lookups and "who may see what", and the task that
//! feeds them from the change stream. A view never decides a write's outcome and writes nothing; a
//! stale view may serve, only a confirmed read (a read barrier, then [`Views::wait_for`]) may
//! refuse.

mod agents;
mod authorized;
mod entries;
mod filter;
mod handle;
mod model;
mod relationships;
mod rows;

pub use filter::{AgentFilter, EntryFilter};
pub use handle::{At, ViewTask, Views};

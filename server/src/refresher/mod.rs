//! Bundles of foreign trust domains: which there are to fetch, and what becomes of what was
//! fetched.
//!
//! Owns the way between the views, steeple-federation's refresher and the registry. The leader
//! fetches (`duty`); any replica does when an operator asks it to (`attempt`). Nothing is written
//! while nothing changes: what is worth an entry of the log is decided in `noting`.

mod attempt;
mod duty;
mod noting;
#[cfg(test)]
mod tests;
mod watch;

pub use attempt::{RefreshError, Refresher, Tried};
pub use watch::{Live, LiveState};

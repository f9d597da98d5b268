//! Bundles of foreign trust domains: which there are to fetch, and what becomes of what was
//! fetched.
//!
//! Owns the way between the views, steeple-federation's refresher and the registry. The leader
//! fetches (`duty`, by the decisions of `round`); any replica does when an operator asks it to
//! (`attempt`). Nothing is written while nothing changes: what is worth an entry of the log is
//! decided in `noting`. Dangers are a matter of time, and told by the clock (`looks`).

mod attempt;
mod duty;
mod looks;
mod noting;
mod round;
#[cfg(test)]
mod tests;
mod watch;

#[cfg(test)]
pub(crate) use attempt::Known;
pub use attempt::{RefreshError, Refresher, Tried};
#[cfg(test)]
pub(crate) use round::{Ended, Round};
pub use watch::{Live, LiveState};

//! Who knows a prepared authority, before it signs: members by a test signature, agents by the bundles
//! that they were given and, if they acknowledge, have applied.
//!
//! An agent may ask a replica that trails, or is cut off, after one that did not: it counts when it was
//! given the authority after the last replica that serves had it. An agent of ours acknowledges what it
//! was given once workloads get it, and counts from then on only.
//!
//! Each member keeps what it has seen in memory (`sightings`, `arrivals`) and tells the others when asked
//! (`witness`); whoever has to decide asks all of them (`survey`), puts the answers together (`join`) and
//! judges by the rules of `docs/reference/cluster.md` (`report`). Nothing of it is replicated: after a restart a member has seen
//! nobody, and agents are seen again within one sync.

mod arrivals;
mod join;
mod report;
mod sightings;
mod survey;
mod witness;

#[cfg(test)]
pub(super) use arrivals::Arrivals;
#[cfg(test)]
pub(super) use join::{Reply, Round, What};
pub use report::{Agents, MemberReport, Report};
#[cfg(test)]
pub(super) use report::{absent_until, assumed_at, peers_at};
#[cfg(test)]
pub(super) use sightings::Sightings;
pub use survey::Survey;
#[cfg(test)]
pub(super) use survey::agents_without;
pub use witness::ChallengeBoard;
#[cfg(test)]
pub(super) use witness::Witness;

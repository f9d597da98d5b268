//! Who knows a prepared authority, before it signs: members by a test signature, agents by the bundles
//! that they were given.
//!
//! Each member keeps what it has seen in memory (`sightings`) and tells the others when asked
//! (`witness`); whoever has to decide asks all of them (`survey`) and judges by the rules of
//! `docs/reference/cluster.md` (`report`). Nothing of it is replicated: after a restart a member has seen
//! nobody, and agents are seen again within one sync.

mod report;
mod sightings;
mod survey;
mod witness;

pub use report::{MemberReport, Report};
pub use survey::Survey;

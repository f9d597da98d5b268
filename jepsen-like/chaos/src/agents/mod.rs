//! Agents and workloads beside the clients: real processes that must not notice what happens to servers.
//!
//! [`crew`] starts agents, each on a network of its own where there is one; [`workload`] holds streams
//! open on their Workload API and asks for tokens; [`proof`] verifies what they are given by libraries
//! that are none of ours; [`seen`] is the notebook of all that; [`judge`] finds broken promises in it.

pub(crate) mod crew;
pub(crate) mod judge;
pub(crate) mod proof;
pub(crate) mod seen;
pub(crate) mod workload;

pub(crate) use crew::Crew;
pub(crate) use seen::Notebook;

/// How long SVIDs of workloads live: longer than any time without a quorum that a plan can make, twice,
/// since they are renewed at half of it.
pub(crate) const TTL_S: i32 = 60;

/// Identities of every workload of an agent.
pub(crate) const IDENTITIES: usize = 3;

/// Workloads of an agent, each on a connection of its own.
pub(crate) const WORKLOADS: usize = 2;

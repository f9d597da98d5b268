//! Thirty days of rotation in a cluster that is never left in peace, in seconds.
//!
//! Three replicas apply one log to tables of their own; planner, evidence, minter and issuer are the real
//! ones, and so is what a command, a snapshot and a restore do. Simulated is what lies between: time, who
//! leads and who thinks that it does, who hears whom, what is in flight when a leader dies.
//!
//! [`world`] is the cluster, [`leaders`] are who leads it and who thinks so, [`member`] is one
//! replica, [`weather`] what happens to them, [`operator`] rotates by hand between the scheduled
//! rotations; [`observers`] are agents and federated peers, who fetch bundles and SVIDs; [`judge`]
//! holds every SVID against every bundle that anyone held while it was alive.
//!
//! [`pair`] lets two such clusters federate: [`endpoints`] are what their replicas give out,
//! [`link`] is the way from one to the other with what is promised of it, [`guests`] are workloads
//! that verify those of the other.

mod endpoints;
mod guests;
mod judge;
mod leaders;
mod link;
mod member;
mod observers;
mod operator;
mod pair;
mod tests;
mod weather;
mod world;

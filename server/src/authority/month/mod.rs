//! Thirty days of rotation in a cluster that is never left in peace, in seconds.
//!
//! Three replicas apply one log to tables of their own; planner, evidence, minter and issuer are the real
//! ones, and so is what a command, a snapshot and a restore do. Simulated is what lies between: time, who
//! leads and who thinks that it does, who hears whom, what is in flight when a leader dies.
//!
//! [`world`] is the cluster and its leaders, [`member`] one replica, [`weather`] what happens to them,
//! [`operator`] rotates by hand between the scheduled rotations; [`observers`] are agents and federated
//! peers, who fetch bundles and SVIDs; [`judge`] holds every SVID against every bundle that anyone held
//! while it was alive.

mod judge;
mod member;
mod observers;
mod operator;
mod tests;
mod weather;
mod world;

//! The node agent of Steeple: attests to the servers, keeps what its workloads are entitled to and
//! serves it on the SPIFFE Workload API.
//!
//! Owns one machine's share of the trust domain. Speaks to any SPIRE-compatible server, spreads over
//! several, and goes on serving from its cache when none can be reached. Never decides who is
//! entitled to what: that is the servers'. Modules in reading order: configuration, the way in
//! (`start`), what is known (`store`), how it is kept fresh, how it is served, how it is joined.

#![forbid(unsafe_code)]

pub mod attest;
pub mod backoff;
pub mod bootstrap;
pub mod command;
pub mod config;
pub mod disk;
pub mod life;
pub mod limits;
pub mod logging;
mod mutants;
pub mod rotate;
pub mod serve;
pub mod signing;
pub mod start;
pub mod store;
pub mod syncer;
pub mod upstream;
pub mod wiring;

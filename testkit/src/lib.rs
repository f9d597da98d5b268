//! Real processes for tests, the demo and the lanes of foreign clients.
//!
//! Owns how spire-server and spire-agent are configured, started, killed and watched on loopback, a
//! client that attests as an agent does, one name for several replicas, load on a fixed schedule, what
//! finds a private key that has leaked, and the judgement over who could verify what during rotations.
//! Knows the products only as executables: `STEEPLE_BIN` names the folder they are in.

#![forbid(unsafe_code)]

pub mod agent;
pub mod balancer;
pub mod capture;
pub mod client;
pub mod cluster;
pub mod issuing;
pub mod kubernetes;
pub mod leaks;
pub mod load;
pub mod machines;
pub mod mutants;
pub mod pebble;
pub mod ports;
pub mod process;
pub mod skip;
pub mod trust;

pub use agent::Agent;
pub use balancer::Balancer;
pub use cluster::{Cluster, ClusterSpec};
pub use kubernetes::Kubernetes;
pub use machines::Machines;
pub use pebble::{Pebble, PebbleSpec};
pub use process::Process;

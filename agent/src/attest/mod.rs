//! Attestation, both ways: what this agent shows to servers (`node`) and what workloads show to it
//! (`workload`).

pub mod node;
pub mod workload;

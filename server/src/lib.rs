//! The control plane: everything behind the binary `spire-server`.
//!
//! Reading order: `config` (what the operator said) → `wiring` (which parts that makes and how they
//! are connected) → `listen` → `gate` → `service` (one file per gRPC service) → `attest`,
//! `authority`, `view` (what services use) → `duties` (what only the leader does).
//!
//! Writes go down one door (`StoreHandle::propose`), changes come up one ordered stream into the
//! views; no service writes a view and no view decides a write's outcome. Rules of who may import
//! whom: `docs/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod attest;
pub mod authority;
pub mod check;
pub mod cluster_key;
pub mod commands;
pub mod config;
pub mod duties;
pub mod endpoint_certificate;
pub mod gate;
pub mod health;
mod held;
pub mod key_uses;
pub mod keys;
pub mod listen;
pub mod logging;
pub mod metrics;
mod mutants;
mod own_bundle;
pub mod refresher;
pub mod service;
pub mod shutdown;
mod snapshot_files;
pub mod snapshots;
pub mod status;
mod told;
pub mod upstream;
pub mod view;
pub mod wiring;

/// Switches a deliberate bug of the server on for the rest of the process; false if there is none
/// of that name.
#[cfg(all(feature = "mutants", not(test)))]
pub fn switch_on_mutant(name: &str) -> bool {
    mutants::switch_on(name)
}

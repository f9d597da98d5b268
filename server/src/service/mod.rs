//! The gRPC services: one file each, requests in, checked types down, answers up.
//!
//! A service may use the gate, the views, the issuer, the attestors and the store's handle; nobody
//! imports a service. Codes and texts of failures are made in [`crate::status`] alone.

mod context;
mod paging;
mod agent;
mod admission;
mod entry;
mod sync;
mod svid;
mod bundle;
mod updates;
mod cluster;
mod health;

pub use agent::AgentService;
pub use bundle::BundleService;
pub use cluster::ClusterService;
pub use context::{Context, Settings};
pub use entry::EntryService;
pub use health::HealthService;
pub use svid::SvidService;
pub use updates::UpdatesService;

//! The gRPC services: one file each, requests in, checked types down, answers up.
//!
//! A service may use the gate, the views, the issuer, the attestors and the store's handle; nobody
//! imports a service. Codes and texts of failures are made in [`crate::status`] alone.

mod admission;
mod agent;
pub(crate) mod backup;
mod batch;
mod bundle;
mod bundle_write;
mod cluster;
mod context;
mod endpoint_certificate;
mod entry;
mod federated;
mod health;
mod local_authority;
mod observed;
mod paging;
mod rekey;
mod rotating;
mod svid;
mod sync;
mod trust_domain;
mod updates;
mod upgrading;
pub(crate) mod upstream;
mod upstream_roots;

pub use agent::AgentService;
pub use bundle::BundleService;
pub use cluster::ClusterService;
pub use context::{Context, Settings};
pub use entry::EntryService;
pub use health::HealthService;
pub use local_authority::LocalAuthorityService;
pub use svid::SvidService;
pub use trust_domain::TrustDomainService;
pub use updates::UpdatesService;

//! The bundle endpoint's certificate by ACME, in the cluster: the leader orders, every replica
//! presents.
//!
//! Owns where its records are kept (`records`: in the registry, sealed, by compare-and-set) and
//! what the leader and `cluster status` do with them (`duty`). Orders and answers are the
//! federation crate's.

mod duty;
mod records;

pub use duty::EndpointCertificate;
pub use records::KeptRecords;

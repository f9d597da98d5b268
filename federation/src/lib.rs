//! SPIFFE Federation: gives out the bundle of the own trust domain.
//!
//! Owns the bundle endpoint and its certificates of the web. Knows no store: what is served, and what
//! the replicas share of an order, is asked for behind a trait, so that the endpoint answers from
//! whatever its replica knows, with a quorum or without.

pub mod acme;
mod endpoint;
mod serving_files;

pub use endpoint::{Document, Documents, Endpoint, EndpointError};
pub use serving_files::{ServingFiles, ServingFilesError};

//! SPIFFE Federation: gives out the bundle of the own trust domain.
//!
//! Owns the bundle endpoint. Knows no store: what is served is asked for behind a trait, so that the
//! endpoint answers from whatever its replica knows, with a quorum or without.

mod endpoint;
mod serving_files;

pub use endpoint::{Document, Documents, Endpoint, EndpointError};
pub use serving_files::{ServingFiles, ServingFilesError};

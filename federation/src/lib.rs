//! SPIFFE Federation: gives out the bundle of the own trust domain, and fetches those of others.
//!
//! Owns the bundle endpoint, its certificates of the web, and the refresher. Knows no store: what is
//! served, and what the replicas share of an order, is asked for behind a trait, so that the endpoint
//! answers from whatever its replica knows, with a quorum or without; what is fetched is handed to the
//! caller, who alone decides what becomes of it. What calls servers that are not ours (`https`) is
//! the product's only such client.

pub mod acme;
mod endpoint;
mod https;
mod mutants;
mod refresher;
mod serving_files;

pub use endpoint::{Document, Documents, Endpoint, EndpointError};
pub use https::{ANSWER_BYTES_MAX, HttpsClient, HttpsError, Schemes, location};
pub use refresher::{
    Danger, Fetch, FetchError, Fetching, Flips, Followed, HttpsFetcher, Managed, NOTE_EVERY,
    Outlook, Patience, Plan, Progress, Refusal, Source, Stage, Timing, Turn, Verdict, judge,
    outlook,
};
pub use serving_files::{ServingFiles, ServingFilesError};

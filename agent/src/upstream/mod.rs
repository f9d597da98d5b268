//! The servers, as this agent talks to them.
//!
//! `conn` owns connections and which server is asked; the others each own one conversation: joining
//! (`attest`), learning (`sync`, `bundle`, `updates`), getting things signed (`sign`). None of them
//! keeps state of the agent: they return values, `wiring` and the tasks put them in the store.

mod address;
mod attest;
mod bundle;
mod conn;
mod csr;
mod dial;
mod sign;
mod sync;
mod updates;

pub use address::{AddressError, ServerAddress};
pub use attest::{Admitted, AttestError, attest, post_status, renew};
pub use bundle::{fetch_bundle, fetch_bundle_with_receipt, fetch_federated};
pub use conn::{CallError, Upstream};
pub use csr::{CsrError, certificate_request};
pub use dial::DialError;
pub(crate) use dial::chain;
pub use sign::{BatchSize, Signed, sign_jwt, sign_x509};
pub use sync::fetch_entries;
pub use updates::{Watch, acknowledge};

//! The endpoint's certificate of the web, ordered and renewed by ACME (RFC 8555).
//!
//! ```text
//!   leader       Orderer ── plan ──► Acme (the server of the certificates)
//!                   │ saves: account, attempt (with its challenge), certificate
//!                   ▼
//!                AcmeState, which every replica shares
//!                   ▼
//!   every replica  Presenter ──► what handshakes present: certificate, answer to the challenge
//! ```
//!
//! Owns the decisions, the order and the answer to TLS-ALPN-01 challenges (RFC 8737), which come to
//! the endpoint's own port as in SPIRE. Knows neither who leads nor how records are kept and
//! sealed: that is behind [`AcmeState`]. The client of the protocol is instant-acme, behind
//! [`Acme`].

mod answer;
mod client;
mod instant;
mod order;
mod plan;
mod present;
mod record;
mod report;
mod settings;
mod state;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod pebble_tests;

pub use client::{Acme, AcmeAccount, AcmeError, Progress, Window};
pub use instant::{InstantAcme, InstantAcmeError};
pub use order::Orderer;
pub use present::Presenter;
pub use record::{Account, Attempt, Certificate, PendingOrder, RecordError};
pub use report::{Standing, standing};
pub use settings::{AcmeSettings, LETS_ENCRYPT_URL};
pub use state::{AcmeState, Digest, Held, Record, Records, StateError};

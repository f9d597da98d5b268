//! TLS between SPIFFE identities, on rustls.
//!
//! Builds configurations in which identity and trust can change under open listeners: the own
//! certificate and the bundles are looked up at each handshake. Names of hosts mean nothing here; who
//! the peer is stands in its certificate's SPIFFE id. Servers that are not ours are the exception (`web`).
//!
//! Session resumption is off on both sides: a resumed session skips the verifier, and so outlives
//! the trust in the authority behind it. The crypto provider is passed explicitly (aws-lc-rs);
//! nothing is installed process-wide. A connection that is already open is not cut when trust ends:
//! whoever serves it checks the peer again with each call.

mod client;
mod error;
mod identity;
mod server;
mod verifier;
mod web;

pub use client::{client_config, insecure_bootstrap_client_config};
pub use error::TlsError;
pub use identity::Identity;
pub use server::{PublicIdentity, public_server_config, server_config};
pub use verifier::{AcceptId, BundleSource};
pub use web::{
    ACME_TLS_ALPN, AcmeChallenge, AcmeIdentity, SpiffeServer, WebIdentity, WebIdentityError,
    WebTrust, web_client_config,
};

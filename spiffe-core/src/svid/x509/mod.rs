//! X.509-SVIDs.
//!
//! `write` builds certificates in SPIRE's exact profile (`spec/spire-semantics.md` 4), `parse` reads
//! certificates and checks what the X509-SVID standard asks of a leaf and its chain, `verify` builds
//! the path to an authority of a bundle. `name` holds the distinguished names that the first two
//! share.

mod error;
mod name;
mod parse;
mod verify;
mod write;

pub use error::X509Error;
pub use parse::{CertificateFacts, X509Svid, certificate_facts};
pub(crate) use verify::unix_time;
pub use verify::verify_chain;
pub use write::{
    CaSubject, DownstreamSubject, DownstreamTemplate, IssuerIdentity, LeafSubject, LeafTemplate,
    ca_request, read_ca_subject, self_signed_ca, sign_downstream_ca, sign_leaf, subject_key_id,
};

//! Node attestation: how an agent proves what machine it runs on.
//!
//! Owns the attestors, one per method, behind one trait: payload and challenges in, agent id and
//! selectors out. An attestor decides nothing about the registry: whether a token is unspent or an
//! agent banned is decided in apply, when the service proposes `AdmitAgent` with what it got here.

mod attestor;
mod join_token;
mod path_template;
mod x509pop;

pub use attestor::{AttestError, Attested, Attestors, ChallengeChannel, NodeAttestor};
pub use join_token::JoinToken;
pub use path_template::{PathTemplate, TemplateError, Value};
pub use x509pop::{X509Pop, X509PopConfigError, X509PopSettings};

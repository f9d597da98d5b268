//! Trust bundles: what verifiers trust for one trust domain.
//!
//! `content` is the bundle itself, `document` its JSON form (the SPIFFE bundle document), both ways.

mod content;

pub mod document;

pub use content::{Bundle, JwtAuthority, X509Authority};

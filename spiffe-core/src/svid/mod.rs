//! SVIDs: documents in which an authority vouches for a SPIFFE id.
//!
//! `x509` writes, reads and verifies certificates, `jwt` and `wit` do so with tokens. Who may have
//! which SVID and with which lifetime is decided by the caller.

pub mod jwt;
pub mod wit;
pub mod x509;

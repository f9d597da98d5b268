//! `spire-server x509 mint`, `jwt mint` and `wit mint`: SVIDs without an entry, for the operator's own
//! use.
//!
//! `lifetime` holds what all do with `-ttl`.

mod jwt;
mod lifetime;
mod wit;
mod x509;

pub(crate) use jwt::Jwt;
pub(crate) use wit::Wit;
pub(crate) use x509::X509;

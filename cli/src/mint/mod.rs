//! `spire-server x509 mint` and `jwt mint`: SVIDs without an entry, for the operator's own use.
//!
//! `lifetime` holds what both do with `-ttl`.

mod jwt;
mod lifetime;
mod x509;

pub(crate) use jwt::Jwt;
pub(crate) use x509::X509;

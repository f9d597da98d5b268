//! Tests of the crate's public face against independent implementations: certificates against
//! Go's bytes, x509-parser, x509-cert, rcgen and the `openssl` program, tokens against jsonwebtoken, TLS
//! configurations against each other.

mod bundles;
mod certificates;
mod fixture;
mod golden;
mod identifiers;
mod profiles;
mod requests;
mod tls;
mod tokens;
mod wit;

//! Ring 5: real processes on loopback, through crashes, power cuts, concurrency and bad input.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod acme;
mod authorities;
mod backup;
mod bad_calls;
mod bad_start;
mod bundles;
mod cert_manager;
mod crashes;
mod federation;
mod foreign_admins;
mod foreign_bundles;
mod growing;
mod membership;
mod nesting;
mod power_cut;
mod refreshing;
mod registry;
mod rekey;
mod relationships;
mod rotating;
mod rotation;
mod self_checks;
mod stopping;
mod tokens;
mod upgrades;
mod upstream;
mod vault;
mod web_endpoints;
mod wit;
mod x509pop;

//! Signing authorities: when they are made and retired, and what is signed with them.
//!
//! Owns rotation (a pure planner and the leader's rotator around it), the issuer that every replica
//! signs with, what comes from an upstream authority, and the server's own SVID. Where authorities are
//! kept is raft-store's business, how their private keys are sealed that of `keys`; who may ask for what
//! is decided by the gate and the services.

mod bundle_prune;
mod chained;
pub mod evidence;
mod forecast;
mod issuer;
mod mint;
#[cfg(test)]
mod month;
mod planner;
mod policy;
mod rekey;
#[cfg(test)]
mod rotation_model;
mod rotator;
mod server_svid;
mod slots;
pub(crate) mod told;
mod upstream_sync;

pub(crate) use chained::check_chain_of_authorities;
pub use forecast::Forecast;
pub use issuer::{
    IssueError, IssuedJwt, IssuedX509, Issuer, IssuerTask, JwtParams, WitParams, X509Params,
};
pub(crate) use mint::random_serial;
pub use mint::{MintError, Minted, Minter};
pub use planner::{Evidence, PUBLISHED_MAX, Step, kind_name, plan};
pub(crate) use policy::{AGENT_FETCH_BOUND, BACKDATE, CA_TTL_MIN, PEER_MINUTE};
pub use policy::{AuthorityPolicy, Times};
pub use rekey::{RekeyError, Rekeyer};
pub use rotator::{RotateError, Rotator};
pub use server_svid::{ServerSvid, ServerSvidError};
pub use slots::{Slots, successor};

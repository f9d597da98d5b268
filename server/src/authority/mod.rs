//! Signing authorities: when they are made and retired, and what is signed with them.
//!
//! Owns rotation (a pure planner and the leader's rotator around it), the issuer that every replica
//! signs with, and the server's own SVID. Where authorities are kept is raft-store's business, how
//! their private keys are sealed that of `keys`; who may ask for what is decided by the gate and the
//! services.

pub mod evidence;
mod issuer;
mod mint;
mod planner;
mod policy;
mod rekey;
mod rotator;
mod server_svid;
mod slots;

pub use issuer::{IssueError, IssuedJwt, IssuedX509, Issuer, IssuerTask, JwtParams, X509Params};
pub use mint::{MintError, Minter};
pub use planner::{Evidence, PUBLISHED_MAX, Step, kind_name, plan};
pub(crate) use policy::BACKDATE;
pub use policy::{AuthorityPolicy, Times};
pub use rekey::{RekeyError, Rekeyer};
pub use rotator::{RotateError, Rotator};
pub use server_svid::{ServerSvid, ServerSvidError};
pub use slots::{Slots, successor};

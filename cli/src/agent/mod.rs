//! `spire-server agent …`: attested agents.
//!
//! `block` holds what an agent looks like, `filter` the flags of list and count.

mod act;
mod block;
mod filter;
mod list;
mod purge;
mod show;
mod target;

pub(crate) use act::{Ban, Evict};
pub(crate) use list::{Count, List};
pub(crate) use purge::Purge;
pub(crate) use show::Show;

//! The checks. Each looks at a history in its own way and says so under its own name; what they have
//! in common is grouping attempts into requests.
//!
//! By revision: [`witness`] (with `timeline`, `replay`, `keys`). Trusting no revision: [`blackbox`]
//! on [`linear`] (with `registers`, `federation`), [`lists`]. By kind of promise: [`sessions`],
//! [`requests`], [`agents`], [`feed`], [`observers`]. Whether the run was worth anything: [`coverage`].

pub mod agents;
pub mod all;
pub mod blackbox;
pub mod coverage;
mod federation;
pub mod feed;
mod keys;
pub mod linear;
pub mod lists;
pub mod observers;
mod registers;
mod replay;
pub mod requests;
pub mod sessions;
mod timeline;
pub mod witness;

pub use all::{Settings, check};
pub use coverage::Requirements;

//! Whole stores through the public face: proposals, reads, the change stream, restarts, power cuts,
//! folders that do not fit, and clusters of several members.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this is test code, its helpers too"
)]

mod cluster;
mod commands;
#[cfg(feature = "rocks")]
mod corruption;
mod fencing;
#[cfg(feature = "rocks")]
mod folders;
mod keys;
mod levels;
mod observing;
mod proposing;
mod reads;
mod replacing;
mod restarting;
mod stalling;
mod streaming;
mod timekeeping;

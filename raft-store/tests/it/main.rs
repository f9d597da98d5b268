//! Whole stores of one member, through the public face: proposals, reads, the change stream, restarts,
//! power cuts, folders that do not fit. Clusters of several are in `net/` and `cluster/`.

mod commands;
mod proposing;
mod streaming;
mod restarting;
#[cfg(feature = "rocks")]
mod folders;
mod cluster;

//! Two trust domains as a story with times: each one's workload shakes hands with the other's
//! twenty times a second, through killed leaders, replaced authorities and a cut, until a
//! relationship ends, and again when it is back.

mod domain;
mod handshakes;
mod stages;

pub(crate) use stages::{Pace, demo};

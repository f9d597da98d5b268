//! The real binary: what it says to bad input, and that it starts, seals itself and stops.
//!
//! One binary for all tests of the crate's outside. What needs agents or several members is in
//! `testkit`.

mod bad_input;
mod lifecycle;
mod metrics;
mod process;
mod sealed;
mod secrets;

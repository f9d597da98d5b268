//! One binary for all integration tests of the checker.

mod generator;
mod mutations;
mod valid;

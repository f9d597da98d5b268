//! One binary for all integration tests of the checker.

#![cfg(test)]
#![expect(clippy::wildcard_enum_match_arm, reason = "tests pick single events out of many")]
#![expect(clippy::ptr_arg, reason = "all mutations have one type; some add lines, some do not")]

mod generator;
mod models;
mod mutations;
mod porcupine;
mod program;
mod stateright;
mod valid;

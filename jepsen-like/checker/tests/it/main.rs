//! One binary for all integration tests of the checker.

mod generator;
mod models;
mod mutations;
mod porcupine;
mod program;
mod stateright;
mod valid;

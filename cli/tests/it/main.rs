//! The command lines of both binaries against a fake server on a Unix socket.
//!
//! What must be printed stands in `tests/golden`, written from the specification line by line
//! (`SOURCES.md` there says which); nothing in it was copied from our own output.

mod agent;
mod authority;
mod backup;
mod bundle;
mod certificates;
mod cluster;
mod driver;
mod entry;
mod fake;
mod federation;
mod framework;
mod mint;
mod rotate;
mod seeds;
mod token;
mod workload;

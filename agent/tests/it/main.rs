//! The agent as a process, between a fake server and generated clients.
//!
//! Each scene starts `spire-agent run` on a folder of its own; the fake server lives in this process,
//! speaks the real services over the real TLS and can be told to fail. Nothing outside loopback is
//! contacted.

mod acknowledging;
mod authority;
mod connection;
mod fake_server;
mod life;
mod scene;
mod serving;
mod validate;

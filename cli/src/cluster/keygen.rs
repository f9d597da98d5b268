//! `cluster keygen`: a new cluster key. Asks no server.
//!
//! Owns the drawing and printing of a key. What a key is good for, and its files, are raft-store's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::random::{Random as _, SystemRandom};

use crate::command::{Command, Running};
use crate::flags::FlagSet;
use crate::io::Io;
use crate::output::{Format, OutputFlag, print_value};

/// Bytes of a cluster key.
const KEY_BYTES: usize = 32;

/// Prints a key: one line of base64, as the key file wants it.
#[derive(Debug, Default)]
pub(crate) struct Keygen {
    output: OutputFlag,
}

impl Command for Keygen {
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        self.output.declare(flags);
    }

    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a> {
        Box::pin(async move {
            let mut bytes = vec![0; KEY_BYTES];
            SystemRandom.fill(&mut bytes);
            let key = Secret::new(bytes);
            let text = STANDARD.encode(key.expose());
            match self.output.format() {
                Format::Pretty => writeln!(io.stdout, "{text}")?,
                Format::Json => print_value(io, json!({ "key": text }))?,
            }
            Ok(())
        })
    }
}

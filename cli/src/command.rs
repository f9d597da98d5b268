//! What every command of ours is: some flags, and something to do with them.
//!
//! Owns the seam between the dispatcher, which parses flags and reports errors, and the commands,
//! which know neither argument lists nor exit codes.

use std::pin::Pin;

use crate::error::Error;
use crate::flags::FlagSet;
use crate::io::Io;

/// A command in progress.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// One command, made afresh for each command line.
pub(crate) trait Command {
    /// Lends the command's fields to the parser.
    fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>);

    /// Does it.
    fn run<'a>(&'a self, io: &'a mut Io<'_>) -> Running<'a>;
}

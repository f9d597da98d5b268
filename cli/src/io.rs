//! The outside world of a command: its streams, its environment, its clock, its interrupt.
//!
//! Owns the seam only. The binaries hand in the process's own, tests hand in buffers; no command
//! reaches round it.

use std::fmt;
use std::io::{Read, Write};
use std::pin::Pin;

use steeple_spiffe_core::Clock;

/// Completes when the user asks a running command to stop.
pub type Interrupt<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a command may touch.
pub struct Io<'a> {
    /// Where `-data -` and the like read from.
    pub stdin: &'a mut (dyn Read + Send),
    /// Answers.
    pub stdout: &'a mut (dyn Write + Send),
    /// Errors, warnings and help. Scripts redirect stdout, so nothing of this may go there.
    pub stderr: &'a mut (dyn Write + Send),
    /// Looks up an environment variable.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Now, for lifetimes and elapsed times.
    pub clock: &'a dyn Clock,
    /// Awaited by commands that run until they are stopped; others are ended by the signal itself.
    pub interrupt: Interrupt<'a>,
}

impl Io<'_> {
    /// Writes one warning line to stderr.
    pub(crate) fn warn(&mut self, text: &str) -> std::io::Result<()> {
        writeln!(self.stderr, "Warning: {text}")
    }
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").finish_non_exhaustive()
    }
}

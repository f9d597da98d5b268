//! Writing lines, for recorders.
//!
//! The order of lines is the real-time order that the checks rely on: a recorder writes `invoke`
//! before the request leaves and `complete` after the reply arrived, all under one lock.

use std::io::Write;

use super::event::Line;
use super::read::HistoryError;

/// Writes a history.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    line: u64,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`; the first line must be the header.
    pub fn new(output: W) -> Self {
        Self { output, line: 0 }
    }

    /// Writes one line.
    ///
    /// # Errors
    ///
    /// If the output fails.
    pub fn write(&mut self, line: &Line) -> Result<(), HistoryError> {
        self.line += 1;
        let number = self.line;
        serde_json::to_writer(&mut self.output, line)
            .map_err(|source| HistoryError::Syntax { line: number, source })?;
        self.output.write_all(b"\n").map_err(|source| HistoryError::Write { line: number, source })
    }

    /// Gives the output back.
    pub fn into_inner(self) -> W {
        self.output
    }
}

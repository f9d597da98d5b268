//! Reading lines: streaming, bounded, every error with its line.

use std::io::BufRead;

use super::event::{Event, Line, VERSION};

/// Bounds of what is read, so that a broken recorder cannot exhaust the checker.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Longest line in bytes. A page of 10,000 entries is about 4 MiB.
    pub line_bytes: usize,
    /// Most lines. The largest soak records some 10 million.
    pub lines: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { line_bytes: 16 << 20, lines: 50_000_000 }
    }
}

/// Why a history cannot be checked. Never a verdict about the cluster.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum HistoryError {
    #[error("line {line}: cannot read")]
    Read { line: u64, source: std::io::Error },
    #[error("line {line}: longer than {limit} bytes; raise the limit or split pages")]
    TooLong { line: u64, limit: usize },
    #[error("more than {limit} lines; raise the limit or split the run")]
    TooMany { limit: u64 },
    #[error("line {line}: no event of this format")]
    Syntax { line: u64, source: serde_json::Error },
    #[error("line 1: not a history header; write a header first")]
    NoHeader,
    #[error("line 1: version {found} of the format; this checker reads version {VERSION}")]
    Version { found: u32 },
    #[error("line {line}: {what}")]
    Order { line: u64, what: String },
    #[error("line {line}: cannot write")]
    Write { line: u64, source: std::io::Error },
}

/// Lines of a history, one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    limits: ReadLimits,
    line: u64,
    buffer: Vec<u8>,
    clock_ns: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R, limits: ReadLimits) -> Self {
        Self { input, limits, line: 0, buffer: Vec::new(), clock_ns: 0 }
    }

    /// The next event with its line number; `None` at the end. Empty lines are passed over.
    ///
    /// # Errors
    ///
    /// If the line is not one of this format, too long, or out of order.
    pub fn next_line(&mut self) -> Result<Option<(u64, Line)>, HistoryError> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            if self.buffer.iter().any(|byte| !byte.is_ascii_whitespace()) {
                break;
            }
        }
        let line = self.line;
        let parsed: Line = serde_json::from_slice(&self.buffer)
            .map_err(|source| HistoryError::Syntax { line, source })?;
        if parsed.at_ns < self.clock_ns {
            let what = format!("at_ns {} is before that of an earlier line", parsed.at_ns);
            return Err(HistoryError::Order { line, what });
        }
        self.clock_ns = parsed.at_ns;
        self.check_header(&parsed)?;
        Ok(Some((line, parsed)))
    }

    /// Reads one line into the buffer; false at the end.
    fn fill(&mut self) -> Result<bool, HistoryError> {
        self.buffer.clear();
        self.line += 1;
        let line = self.line;
        let limit = self.limits.line_bytes;
        loop {
            let chunk =
                self.input.fill_buf().map_err(|source| HistoryError::Read { line, source })?;
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(chunk);
            if self.buffer.len() + taken.len() > limit {
                return Err(HistoryError::TooLong { line, limit });
            }
            self.buffer.extend_from_slice(taken);
            let used = taken.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return self.counted();
            }
        }
        if self.buffer.is_empty() { Ok(false) } else { self.counted() }
    }

    fn counted(&self) -> Result<bool, HistoryError> {
        if self.line > self.limits.lines {
            return Err(HistoryError::TooMany { limit: self.limits.lines });
        }
        Ok(true)
    }

    fn check_header(&self, parsed: &Line) -> Result<(), HistoryError> {
        match (&parsed.event, self.line) {
            (Event::Header(header), 1) if header.version == VERSION => Ok(()),
            (Event::Header(header), 1) => Err(HistoryError::Version { found: header.version }),
            (_, 1) => Err(HistoryError::NoHeader),
            (Event::Header(_), line) => {
                Err(HistoryError::Order { line, what: "a second header".to_owned() })
            }
            _ => Ok(()),
        }
    }
}

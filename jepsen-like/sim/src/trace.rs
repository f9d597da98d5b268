//! The trace of a run: what our own layers did, in order, as one number. Two runs of a seed must have
//! the same.

use std::fmt::Debug;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write};

/// What happened so far.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    lines: u64,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// An empty trace; its lines also go to the file, to be compared with another run's.
    pub(crate) fn new(file: Option<File>) -> Self {
        Self { hasher: DefaultHasher::new(), lines: 0, file: file.map(BufWriter::new) }
    }

    /// Adds what happened at a time.
    pub(crate) fn add(&mut self, ms: u64, what: &str, details: &dyn Debug) {
        let line = format!("{ms} {what} {details:?}\n");
        self.hasher.write(line.as_bytes());
        self.lines += 1;
        if let Some(file) = &mut self.file {
            // A debugging aid: the hash is what counts.
            file.write_all(line.as_bytes()).ok();
        }
    }

    /// The number.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// How many things happened.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }
}

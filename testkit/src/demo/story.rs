//! Tells what happens, with the time since the start.

use tokio::time::Instant;

/// A narrator.
#[derive(Debug)]
pub(super) struct Story {
    start: Instant,
}

impl Story {
    pub(super) fn begin() -> Self {
        Self { start: Instant::now() }
    }

    /// One line.
    #[expect(clippy::print_stdout, reason = "the story is the program's output")]
    pub(super) fn tell(&self, text: impl AsRef<str>) {
        println!("[{:6.2}s] {}", self.start.elapsed().as_secs_f64(), text.as_ref());
    }
}

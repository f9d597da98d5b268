//! Skips that cannot be overlooked: a test that lacks something says so and is counted.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Records that a lane was skipped: printed, and appended to the file that `STEEPLE_SKIPS` names,
/// whose lines `cargo xtask test` counts and compares with `.ci/expected-skips`.
#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub fn record(lane: &str, reason: &str) {
    eprintln!("SKIPPED {lane}: {reason}");
    let Some(path) = std::env::var_os("STEEPLE_SKIPS") else { return };
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let written = opened.and_then(|mut file| writeln!(file, "{lane}\t{reason}"));
    if let Err(error) = written {
        eprintln!("cannot record the skip: {error}");
    }
}

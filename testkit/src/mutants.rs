//! Deliberate bugs in unit tests: which one a process was started with, and whether a test finds
//! it.
//!
//! Each crate names its own, with the test that must find each; a test of the crate runs that one
//! in a process of its own with the bug on. Those that simulation finds are raft-store's own
//! business.

/// The environment variable that switches a deliberate bug on in a process of unit tests.
const MUTANT: &str = "STEEPLE_MUTANT";

/// The deliberate bug, of those that a crate's unit tests know, that this process was started with.
///
/// # Panics
///
/// If it is none of them.
pub fn started_with<M: Copy>(known: &[(&str, M, &str)]) -> Option<M> {
    let wanted = std::env::var(MUTANT).ok()?;
    let found = known.iter().find(|(name, ..)| *name == wanted);
    Some(found.expect("STEEPLE_MUTANT names a deliberate bug of this crate").1)
}

/// Runs a unit test of the running test program in a process of its own, with a deliberate bug.
///
/// # Panics
///
/// If it passes, or is not there: then nobody would find the bug.
pub fn fails_with(name: &str, test: &str) {
    let program = std::env::current_exe().expect("a test program knows its place");
    let run = std::process::Command::new(program)
        .args(["--exact", test])
        .env(MUTANT, name)
        .output()
        .expect("a test program runs");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(said.contains("running 1 test"), "{name}: {test} is not there: {said}");
    let failed = !run.status.success() && said.contains("test result: FAILED. 0 passed; 1 failed");
    assert!(failed, "{name} is not found by {test}: {said}");
}

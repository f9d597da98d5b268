//! Deliberate bugs in unit tests: which one a process was started with, and whether a test finds
//! it.
//!
//! Each crate names its own, with the test that must find each; a test of the crate runs that one
//! in a process of its own with the bug on. Those that simulation finds are raft-store's own
//! business.

use std::sync::OnceLock;

/// The environment variable that switches a deliberate bug on in a process of unit tests.
const MUTANT: &str = "STEEPLE_MUTANT";

/// The deliberate bugs that a crate's unit tests find, and which one is on.
#[derive(Debug)]
pub struct Bugs<M: 'static> {
    known: &'static [Bug<M>],
    on: OnceLock<Option<M>>,
}

/// A deliberate bug: its name, which it is, and the test that finds it.
pub type Bug<M> = (&'static str, M, &'static str);

impl<M: Copy + PartialEq> Bugs<M> {
    /// These, with none known to be on.
    pub const fn new(known: &'static [Bug<M>]) -> Self {
        Self { known, on: OnceLock::new() }
    }

    /// Whether this process was started with it.
    ///
    /// # Panics
    ///
    /// If it was started with one that is not among them.
    pub fn is_on(&self, bug: M) -> bool {
        let started_with = self.on.get_or_init(|| {
            let wanted = std::env::var(MUTANT).ok()?;
            let found = self.known.iter().find(|(name, ..)| *name == wanted);
            Some(found.expect("STEEPLE_MUTANT names a deliberate bug of this crate").1)
        });
        *started_with == Some(bug)
    }

    /// Runs the test of each in a process of its own, with the bug on.
    ///
    /// # Panics
    ///
    /// If one passes, or is not there: then nobody would find the bug.
    pub fn each_fails_its_test(&self) {
        for (name, _, test) in self.known {
            fails_with(name, test);
        }
    }
}

/// Runs a unit test of the running test program in a process of its own, with a deliberate bug.
/// It panics if that passes, or is not there: then nobody would find the bug.
fn fails_with(name: &str, test: &str) {
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

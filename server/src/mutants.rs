//! Deliberate bugs of the server, to prove that its tests find them.
//!
//! Owns their names and which one is on. They exist in unit tests alone, where a test runs the one that
//! must find the bug in a process of its own; everywhere else the compiler removes them. Those of the
//! registry are in `raft-store/src/mutants.rs`.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The age of the last confirmed state is measured by a clock that stands still in a suspend.
    ClockStandsStill,
}

/// Each with the test that finds it.
#[cfg(test)]
const FOUND_BY_TESTS: &[(&str, Mutant, &str)] = &[(
    "clock-stands-still",
    Mutant::ClockStandsStill,
    "gate::reads::tests::a_replica_that_was_suspended_knows_how_old_its_state_is",
)];

/// Never.
#[cfg(not(test))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

/// Whether this process was started with it.
#[cfg(test)]
pub(crate) fn on(mutant: Mutant) -> bool {
    static STARTED_WITH: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    let found =
        STARTED_WITH.get_or_init(|| steeple_raft_store::testing::started_with(FOUND_BY_TESTS));
    *found == Some(mutant)
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::testing::fails_with_mutant;

    use super::FOUND_BY_TESTS;

    #[test]
    fn every_deliberate_bug_fails_its_test() {
        for (name, _, test) in FOUND_BY_TESTS {
            fails_with_mutant(name, test);
        }
    }
}

//! Deliberate bugs of the agent, to prove that its tests find them.
//!
//! Owns their names and which one is on. They exist in unit tests alone: a test runs the one that
//! must find the bug in a process of its own. Everywhere else the compiler removes them.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A workload is given every foreign bundle that the agent holds.
    ForeignBundlesForEveryEntry,
}

/// Each with the test that finds it.
#[cfg(test)]
const FOUND_BY_TESTS: &[(&str, Mutant, &str)] = &[(
    "foreign-bundles-for-every-entry",
    Mutant::ForeignBundlesForEveryEntry,
    "store::cache::tests::a_workload_sees_the_foreign_bundles_of_its_own_entries_and_hears_when_that_changes",
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
    let found = STARTED_WITH.get_or_init(|| steeple_testkit::mutants::started_with(FOUND_BY_TESTS));
    *found == Some(mutant)
}

#[cfg(test)]
mod tests {
    use steeple_testkit::mutants::fails_with;

    use super::FOUND_BY_TESTS;

    #[test]
    fn every_deliberate_bug_fails_its_test() {
        for (name, _, test) in FOUND_BY_TESTS {
            fails_with(name, test);
        }
    }
}

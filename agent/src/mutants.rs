//! Deliberate bugs of the agent, to prove that its tests find them.
//!
//! Owns their names and which one is on. They exist in unit tests alone: a test runs the one that
//! must find the bug in a process of its own. Everywhere else the compiler removes them.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A workload is given every foreign bundle that the agent holds.
    ForeignBundlesForEveryEntry,
    /// A server is told that workloads get a bundle that they do not get.
    AcknowledgedWithoutApplying,
}

/// Each with the test that finds it.
#[cfg(test)]
static FOUND_BY_TESTS: steeple_testkit::mutants::Bugs<Mutant> = steeple_testkit::mutants::Bugs::new(
    &[
        (
            "foreign-bundles-for-every-entry",
            Mutant::ForeignBundlesForEveryEntry,
            "store::cache::tests::a_workload_sees_the_foreign_bundles_of_its_own_entries_and_hears_when_that_changes",
        ),
        (
            "acknowledged-without-applying",
            Mutant::AcknowledgedWithoutApplying,
            "store::cache::tests::what_is_acknowledged_is_what_workloads_get",
        ),
    ],
);

/// Never.
#[cfg(not(test))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

/// Whether this process was started with it.
#[cfg(test)]
pub(crate) fn on(mutant: Mutant) -> bool {
    FOUND_BY_TESTS.is_on(mutant)
}

#[cfg(test)]
mod tests {
    use super::FOUND_BY_TESTS;

    #[test]
    fn every_deliberate_bug_fails_its_test() {
        FOUND_BY_TESTS.each_fails_its_test();
    }
}

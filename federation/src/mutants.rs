//! Deliberate bugs of federation, to prove that its tests find them.
//!
//! Owns their names and which one is on. They exist in unit tests alone: a test runs the one that
//! must find the bug in a process of its own. Everywhere else the compiler removes them.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Whoever chains to the stored bundle is taken for the endpoint, under whatever id.
    EndpointIdNotChecked,
}

/// Each with the test that finds it.
#[cfg(test)]
static FOUND_BY_TESTS: steeple_testkit::mutants::Bugs<Mutant> =
    steeple_testkit::mutants::Bugs::new(&[(
        "endpoint-id-not-checked",
        Mutant::EndpointIdNotChecked,
        "refresher::hostile_tests::only_the_one_id_below_the_known_bundle_is_believed",
    )]);

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

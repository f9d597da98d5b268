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
const FOUND_BY_TESTS: &[(&str, Mutant, &str)] = &[(
    "endpoint-id-not-checked",
    Mutant::EndpointIdNotChecked,
    "refresher::hostile_tests::only_the_one_id_below_the_known_bundle_is_believed",
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

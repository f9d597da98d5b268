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
    /// An authority signs that is in no bundle.
    SignBeforePublish,
    /// An authority signs from when it is prepared, before its activation is committed.
    KeyReleasedBeforeCommit,
    /// Who knows an authority is judged by what one replica sees.
    EvidenceOfOneView,
    /// An authority leaves the bundle when the SVIDs that are known of have ended.
    PrunedAtLastSeen,
    /// Activation waits for members that do not answer as long as they do not.
    AbsentForEver,
    /// What was tainted is looked up when a client connects, and not when it asks for a signature.
    TaintSeenAtConnection,
}

/// Each with the test that finds it.
#[cfg(test)]
const FOUND_BY_TESTS: &[(&str, Mutant, &str)] = &[
    (
        "clock-stands-still",
        Mutant::ClockStandsStill,
        "gate::reads::tests::a_replica_that_was_suspended_knows_how_old_its_state_is",
    ),
    (
        "sign-before-publish",
        Mutant::SignBeforePublish,
        "authority::issuer::tests::nothing_is_signed_before_an_authority_is_active_and_published",
    ),
    ("key-released-before-commit", Mutant::KeyReleasedBeforeCommit, MONTH),
    ("evidence-of-one-view", Mutant::EvidenceOfOneView, MONTH),
    ("pruned-at-last-seen", Mutant::PrunedAtLastSeen, MONTH),
    ("absent-for-ever", Mutant::AbsentForEver, MONTH),
    ("taint-seen-at-connection", Mutant::TaintSeenAtConnection, MONTH),
];

/// A month of rotations in a cluster that is never left in peace.
#[cfg(test)]
const MONTH: &str = "authority::month::tests::thirty_days_of_rotation_surprise_nobody";

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

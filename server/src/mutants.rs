//! Deliberate bugs of the server, to prove that its tests and the fault runs find them.
//!
//! Owns their names and which one is on. They exist in unit tests, where a test runs the one that
//! must find the bug in a process of its own, and in builds with the feature `mutants`, which
//! nothing that is shipped enables; everywhere else the compiler removes them. Those of the
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
    /// An agent that acknowledges bundles is taken to have what it was answered with.
    AnsweredIsApplied,
    /// An authority leaves the bundle when the SVIDs that are known of have ended.
    PrunedAtLastSeen,
    /// Activation waits for members that do not answer as long as they do not.
    AbsentForEver,
    /// What was tainted is looked up when a client connects, and not when it asks for a signature.
    TaintSeenAtConnection,
    /// What vouches for a caller is looked up when it connects, and not when it calls.
    RevocationSeenAtConnection,
    /// A fetched bundle is taken whatever sequence number the stored one has.
    LowerSequenceAccepted,
    /// Every replica carries out the leader's duties, and so fetches bundles by itself.
    EveryReplicaFetches,
    /// An authority signs as soon as all members and agents know it, whatever peers may know.
    PeersNotWaitedFor,
}

/// Each with the test that finds it.
#[cfg(test)]
static FOUND_BY_TESTS: steeple_testkit::mutants::Bugs<Mutant> = steeple_testkit::mutants::Bugs::new(
    &[
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
        (
            "answered-is-applied",
            Mutant::AnsweredIsApplied,
            "authority::evidence::sightings::tests::an_agent_that_acknowledges_has_what_it_acknowledged_and_no_more",
        ),
        ("pruned-at-last-seen", Mutant::PrunedAtLastSeen, MONTH),
        ("absent-for-ever", Mutant::AbsentForEver, MONTH),
        ("taint-seen-at-connection", Mutant::TaintSeenAtConnection, MONTH),
        (
            "revocation-seen-at-connection",
            Mutant::RevocationSeenAtConnection,
            "gate::caller::tests::whose_authority_was_revoked_is_refused_on_an_open_connection",
        ),
        ("lower-sequence-accepted", Mutant::LowerSequenceAccepted, FEDERATION),
        (
            "every-replica-fetches",
            Mutant::EveryReplicaFetches,
            "duties::tests::who_does_not_lead_asks_no_peer_for_its_bundle",
        ),
        (
            "peers-not-waited-for",
            Mutant::PeersNotWaitedFor,
            "authority::month::tests::peers_that_fetch_late_are_waited_for_where_agents_are_quick",
        ),
    ],
);

/// A month of rotations in a cluster that is never left in peace.
#[cfg(test)]
const MONTH: &str = "authority::month::tests::thirty_days_of_rotation_surprise_nobody";

/// Two clusters that federate while both rotate.
#[cfg(test)]
const FEDERATION: &str =
    "authority::month::tests::two_trust_domains_that_federate_go_on_verifying_each_other";

#[cfg(all(feature = "mutants", not(test)))]
pub(crate) use of_processes::{on, still_clock, switch_on};

/// Never.
#[cfg(not(any(feature = "mutants", test)))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

/// Whether this process was started with it.
#[cfg(test)]
pub(crate) fn on(mutant: Mutant) -> bool {
    FOUND_BY_TESTS.is_on(mutant)
}

/// The clock of [`Mutant::ClockStandsStill`]: in unit tests it never goes on.
#[cfg(any(test, not(feature = "mutants")))]
pub(crate) const fn still_clock() -> std::time::Duration {
    std::time::Duration::ZERO
}

/// Bugs of a whole process, for the fault runs.
#[cfg(all(feature = "mutants", not(test)))]
mod of_processes {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::Mutant;

    const ALL: &[(&str, Mutant)] = &[("clock-stands-still", Mutant::ClockStandsStill)];

    static ON: OnceLock<Mutant> = OnceLock::new();

    /// Milliseconds in which the process was seen to run.
    static RAN_MS: AtomicU64 = AtomicU64::new(0);

    /// Between two looks of the clock that stands still.
    const STEP: Duration = Duration::from_millis(20);

    /// The most that is counted between two looks: more has passed only if the process did not run.
    const STEP_MAX: Duration = Duration::from_millis(100);

    /// Switches one on for the rest of the process; false if there is none of that name, or another
    /// is on.
    pub(crate) fn switch_on(name: &str) -> bool {
        let found = ALL.iter().find(|(known, _)| *known == name);
        let counter = std::thread::Builder::new().name("still-clock".to_owned());
        found.is_some_and(|(_, mutant)| ON.set(*mutant).is_ok() && counter.spawn(count).is_ok())
    }

    /// Whether the mutant is on.
    pub(crate) fn on(mutant: Mutant) -> bool {
        ON.get() == Some(&mutant)
    }

    /// How long this process has run. While it is stopped this stands still, as the clock of a
    /// machine does that is suspended.
    pub(crate) fn still_clock() -> Duration {
        Duration::from_millis(RAN_MS.load(Ordering::Relaxed))
    }

    fn count() {
        let mut last = Instant::now();
        loop {
            std::thread::park_timeout(STEP);
            let now = Instant::now();
            let ran = (now - last).min(STEP_MAX);
            RAN_MS.fetch_add(u64::try_from(ran.as_millis()).unwrap_or(0), Ordering::Relaxed);
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FOUND_BY_TESTS;

    #[test]
    fn every_deliberate_bug_fails_its_test() {
        FOUND_BY_TESTS.each_fails_its_test();
    }
}

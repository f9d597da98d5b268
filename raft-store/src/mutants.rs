//! Deliberate bugs, to prove that the simulation finds them, and tests those that it cannot see.
//!
//! Owns their names and which one is on. Without the feature `mutants`, which nothing that is shipped
//! enables, none can be on and the compiler removes them. Those that need a real disk exist in unit
//! tests: a test here runs the one that must find it, in a process of its own with the bug on.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Appends and votes are answered without a sync.
    SyncSkipped,
    /// Appends and votes are answered before they are synced, sixteen batches at once.
    AckBeforeSync,
    /// A vote is answered without being written.
    VoteNotPersisted,
    /// A leader counts an append as stored by a follower when it is sent.
    AckBeforeQuorum,
    /// What was applied is noted a little later than it is written.
    AppliedIndexApart,
    /// A read is confirmed by what this member has applied.
    ReadWithoutIndex,
    /// A snapshot leaves out join tokens.
    SnapshotDropsTokens,
    /// A snapshot leaves out the authority journal.
    SnapshotDropsJournal,
    /// A snapshot leaves out who belongs to the cluster.
    SnapshotDropsMembership,
    /// The order of rows in a snapshot is another on each member.
    SnapshotRowOrder,
    /// A leader whose clock is behind takes cluster time back.
    TimeGoesBack,
    /// Each member removes what has expired by a clock of its own.
    LocalClockInPruning,
    /// The time of a command is that of the member which forwards it.
    TimeOfForwarder,
    /// A join token is not removed when it is spent.
    TokenNotSpent,
    /// Outcomes of requests are not looked up: a retry is applied again.
    RequestForgotten,
    /// A retry after a lost answer goes under a new request id.
    RetryUnderNewId,
    /// A batch whose answer was lost is sent again whole, under a new request id.
    BatchRetriedWhole,
    /// Serials are not compared before they are set.
    SerialsNotCompared,
    /// Of the serials only the current one is compared: what comes late takes a newer one's place.
    PendingOverwritten,
    /// A subscription says that it starts one revision later than it does.
    FeedOffByOne,
    /// What a write-ahead log has behind damage is dropped, and what was synced may be missing.
    #[cfg(feature = "rocks")]
    LogCutAtDamage,
    /// A restored registry goes on in its old epoch.
    #[cfg(feature = "rocks")]
    EpochNotRaised,
    /// A founder that began with one founding set adopts another.
    SetAdoptedTwice,
    /// Each member counts changes of the own bundle by itself.
    SequenceOfMember,
    /// The authority that signed before goes on as active beside its successor.
    TwoActive,
    /// A step of rotation is taken whatever journal it was planned from.
    JournalNotCompared,
}

impl Mutant {
    /// Every one that simulation must find.
    #[cfg(feature = "mutants")]
    pub(crate) const ALL: &'static [(&'static str, Self)] = &[
        ("sync-skipped", Self::SyncSkipped),
        ("vote-not-persisted", Self::VoteNotPersisted),
        ("ack-before-quorum", Self::AckBeforeQuorum),
        ("applied-index-apart", Self::AppliedIndexApart),
        ("read-without-index", Self::ReadWithoutIndex),
        ("snapshot-drops-tokens", Self::SnapshotDropsTokens),
        ("snapshot-drops-journal", Self::SnapshotDropsJournal),
        ("snapshot-drops-membership", Self::SnapshotDropsMembership),
        ("snapshot-row-order", Self::SnapshotRowOrder),
        ("time-goes-back", Self::TimeGoesBack),
        ("local-clock-in-pruning", Self::LocalClockInPruning),
        ("time-of-forwarder", Self::TimeOfForwarder),
        ("token-not-spent", Self::TokenNotSpent),
        ("request-forgotten", Self::RequestForgotten),
        ("retry-under-new-id", Self::RetryUnderNewId),
        ("batch-retried-whole", Self::BatchRetriedWhole),
        ("serials-not-compared", Self::SerialsNotCompared),
        ("pending-overwritten", Self::PendingOverwritten),
        ("feed-off-by-one", Self::FeedOffByOne),
        ("sequence-of-member", Self::SequenceOfMember),
        ("two-active", Self::TwoActive),
        ("journal-not-compared", Self::JournalNotCompared),
    ];

    /// Those that need a real disk, or a thread that syncs it.
    #[cfg(feature = "mutants")]
    pub(crate) const OF_PROCESSES: &'static [(&'static str, Self)] = &[
        ("ack-before-sync", Self::AckBeforeSync),
        #[cfg(feature = "rocks")]
        ("log-cut-at-damage", Self::LogCutAtDamage),
        #[cfg(feature = "rocks")]
        ("epoch-not-raised", Self::EpochNotRaised),
    ];
}

/// Those that tests of this crate find, each with that test.
#[cfg(test)]
static FOUND_BY_TESTS: steeple_testkit::mutants::Bugs<Mutant> = steeple_testkit::mutants::Bugs::new(
    &[
        #[cfg(feature = "rocks")]
        (
            "log-cut-at-damage",
            Mutant::LogCutAtDamage,
            "rocks::tests::a_torn_tail_is_dropped_and_a_hole_or_a_loss_stops_the_start",
        ),
        #[cfg(feature = "rocks")]
        (
            "epoch-not-raised",
            Mutant::EpochNotRaised,
            "backup::tests::a_restored_registry_has_all_that_was_saved_in_a_new_epoch",
        ),
        (
            "set-adopted-twice",
            Mutant::SetAdoptedTwice,
            "cluster::formation_model::no_two_clusters_form_of_two_even_if_a_folder_is_emptied_on_the_way",
        ),
        (
            "sequence-of-member",
            Mutant::SequenceOfMember,
            "apply::rotation_tests::the_own_bundles_sequence_is_one_on_all_replicas_and_moves_with_content",
        ),
        (
            "two-active",
            Mutant::TwoActive,
            "apply::rotation_tests::two_would_be_leaders_never_leave_two_active_authorities",
        ),
        (
            "journal-not-compared",
            Mutant::JournalNotCompared,
            "apply::rotation_tests::two_would_be_leaders_never_leave_two_active_authorities",
        ),
    ],
);

#[cfg(feature = "mutants")]
static ON: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// Switches one on for the rest of the process; false if there is none of that name, or another is on.
#[cfg(feature = "mutants")]
pub(crate) fn switch_on(name: &str) -> bool {
    let mut all = Mutant::ALL.iter().chain(Mutant::OF_PROCESSES);
    let found = all.find(|(known, _)| *known == name);
    found.is_some_and(|(_, mutant)| ON.set(*mutant).is_ok())
}

/// Whether the mutant is on.
#[cfg(all(feature = "mutants", not(test)))]
pub(crate) fn on(mutant: Mutant) -> bool {
    ON.get() == Some(&mutant)
}

/// Never.
#[cfg(not(any(feature = "mutants", test)))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

/// Whether this process of unit tests was started with it.
#[cfg(test)]
pub(crate) fn on(mutant: Mutant) -> bool {
    FOUND_BY_TESTS.is_on(mutant)
}

#[cfg(test)]
mod tests {
    use super::FOUND_BY_TESTS;

    #[test]
    fn every_deliberate_bug_that_simulation_cannot_see_fails_its_test() {
        FOUND_BY_TESTS.each_fails_its_test();
    }
}

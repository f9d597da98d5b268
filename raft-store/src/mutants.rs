//! Deliberate bugs, to prove that the simulation finds them.
//!
//! Owns their names and which one is on. Without the feature `mutants`, which nothing that is shipped
//! enables, none can be on and the compiler removes them.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Appends and votes are answered without a sync.
    SyncSkipped,
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
}

impl Mutant {
    /// Every one.
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
    ];
}

#[cfg(feature = "mutants")]
static ON: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// Switches one on for the rest of the process; false if there is none of that name, or another is on.
#[cfg(feature = "mutants")]
pub(crate) fn switch_on(name: &str) -> bool {
    let found = Mutant::ALL.iter().find(|(known, _)| *known == name);
    found.is_some_and(|(_, mutant)| ON.set(*mutant).is_ok())
}

/// Whether the mutant is on.
#[cfg(feature = "mutants")]
pub(crate) fn on(mutant: Mutant) -> bool {
    ON.get() == Some(&mutant)
}

/// Never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

//! Bounds of the registry (`cluster.md` 10), each with its reason.

use std::time::Duration;

/// Largest encoded envelope. A batch that is larger is split by the service.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;

/// Most entries of the registry.
pub const ENTRIES_MAX: u64 = 1_000_000;

/// Most agents of the registry.
pub const AGENTS_MAX: u64 = 100_000;

/// Most unspent join tokens: each agent needs one at most once.
pub const TOKENS_MAX: u64 = 100_000;

/// Most bundles of foreign trust domains: each is held in memory by every replica.
pub const FEDERATED_BUNDLES_MAX: u64 = 10_000;

/// Most federation relationships: as many as there may be bundles that they fetch.
pub const FEDERATION_RELATIONSHIPS_MAX: u64 = FEDERATED_BUNDLES_MAX;

/// Most trust domains of which it is noted how the fetching of their bundles goes: relationships of
/// the registry and of files together.
pub const REFRESHES_MAX: u64 = 2 * FEDERATION_RELATIONSHIPS_MAX;

/// Largest encoded bundle: one row is at most one command.
pub const BUNDLE_BYTES_MAX: usize = COMMAND_BYTES_MAX;

/// Most entries that are deleted or changed together with the bundle they federate with: applying
/// one command is not to hold up the others for longer than about a second.
pub const ENTRIES_PER_BUNDLE_DELETED_MAX: u64 = 20_000;

/// Most authorities that are published at once, of both kinds together. Scheduled rotation keeps
/// three of a kind; forced rotation may add some before pruning.
pub const AUTHORITIES_MAX: usize = 32;

/// Most bytes of a value that is kept sealed: a chain of certificates with its key has a few
/// thousand.
pub const SEALED_BYTES_MAX: usize = 64 * 1024;

/// Proposals in flight per member: above, waiting only makes every caller time out.
pub(crate) const PROPOSALS_IN_FLIGHT_MAX: usize = 4096;

/// Snapshots that leaders may send to a member at a time: the second is for the next leader, while the
/// connection of the one before has not ended yet.
pub(crate) const INSTALLS_MAX: usize = 2;

/// How long outcomes of requests are remembered. Callers retry for seconds; agents and operators for
/// minutes at most.
pub(crate) const OUTCOMES_KEPT_FOR: Duration = Duration::from_secs(15 * 60);

/// Most bytes of remembered outcomes.
pub(crate) const OUTCOME_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Outcomes forgotten by one command: more than one, so that their number shrinks; few, so that no
/// command is slow.
pub(crate) const OUTCOMES_FORGOTTEN_PER_COMMAND: usize = 16;

/// Change batches that a slow subscriber may lag behind before it must start over. At 10,000 commands
/// a second that is 1.6 s.
pub(crate) const FEED_BATCHES_MAX: usize = 16 * 1024;

/// Log entries kept behind a snapshot, so that a member that was away shortly needs no snapshot.
pub(crate) const LOG_ENTRIES_KEPT: u64 = 10_000;

/// Log entries after which a snapshot is made.
pub(crate) const SNAPSHOT_AFTER_ENTRIES: u64 = 20_000;

/// A feature level that every member has supported for so long is raised by itself: a new version can
/// be taken back on the day that it was rolled out.
pub(crate) const RAISE_LEVEL_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A forwarded proposal's attempt, and a confirmed read's round, end after this time and are tried
/// again: the leader may have changed.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// Largest row record of a snapshot stream before the next is begun.
pub(crate) const SNAPSHOT_RECORD_BYTES: usize = 64 * 1024;

/// Largest record that is read back: one row is at most one command and its key.
pub(crate) const SNAPSHOT_RECORD_BYTES_MAX: usize = 4 * COMMAND_BYTES_MAX;

const _: () = assert!(SNAPSHOT_RECORD_BYTES_MAX > COMMAND_BYTES_MAX + SNAPSHOT_RECORD_BYTES);
const _: () = assert!(LOG_ENTRIES_KEPT < SNAPSHOT_AFTER_ENTRIES);

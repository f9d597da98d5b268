//! Bounds and timings of the agent, each with its reason.
//!
//! Timings are SPIRE's (`spire-semantics` 1) where SPIRE has them. What an operator may change is in
//! `config`; what stands here is fixed.

use std::time::Duration;

/// Default of `sync_interval`.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(5);

/// Longest pause between failed syncs, whatever the interval (SPIRE: min(48 × interval, 8 min)).
pub const SYNC_BACKOFF_MAX: Duration = Duration::from_secs(8 * 60);

/// Least time between two syncs that were asked for by a workload or pushed by a server: bounds what
/// a hostile workload can make the agent ask.
pub const SYNC_ON_DEMAND_SPACING: Duration = Duration::from_millis(250);

/// How long a workload call waits for a sync that might bring its first entry.
pub const SYNC_ON_DEMAND_WAIT: Duration = Duration::from_secs(2);

/// One RPC to the servers, all attempts together.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the next sync waits for an acknowledgement: it is said again with that sync.
pub const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a workload waits for a token in the place of one that still holds. A server that is well
/// signs in milliseconds.
pub const TOKEN_RENEWAL_WAIT: Duration = Duration::from_millis(500);

/// Dial and handshake with one address, four round trips: short, so that a server that hangs, whose
/// kernel still accepts connections, costs a call seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A call that has had no answer for so long makes the agent ask whether the server is there at all,
/// while there are others. Longer than a server waits for a confirmed read or a new leader.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A server that does not even say no to that question in this time hangs.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// First pause before an address that failed is tried again while others work.
pub const ADDRESS_BACKOFF_START: Duration = Duration::from_secs(1);

/// Longest pause before an address that failed is tried again.
pub const ADDRESS_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed attempt to sign missing SVIDs.
pub const SIGN_BACKOFF_START: Duration = Duration::from_millis(500);

/// Longest pause between attempts to sign missing SVIDs.
pub const SIGN_BACKOFF_MAX: Duration = Duration::from_secs(4 * 60);

/// How often cached SVIDs are checked against the rotation condition.
pub const SIGN_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Least time between two successful renewals of one entry's SVID: SPIRE's agent renews at its syncs.
/// Certificates are dated back, so that one with little to live is past half of its life when it
/// arrives; and one below an authority that ends soon always is.
pub const SIGN_SPACING: Duration = Duration::from_secs(5);

/// An SVID that ends before [`SIGN_SPACING`] has passed is replaced so long before its end.
pub const SIGN_MARGIN: Duration = Duration::from_secs(1);

/// But never more often than this.
pub const SIGN_SPACING_MIN: Duration = Duration::from_secs(1);

/// Agents that learn of a tainted authority at once begin to replace what it signed within this time,
/// each at its own moment: as far apart as syncs would have spread them.
pub const TAINT_SPREAD: Duration = SYNC_INTERVAL;

/// Most certificate requests in one call: the server's rate limiter refuses more.
pub const SIGN_BATCH_MAX: usize = 500;

/// How often the agent's own SVID is checked.
pub const ROTATE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// One that ends before that is checked more often, but not more often than this.
pub const ROTATE_CHECK_MIN: Duration = Duration::from_millis(500);

/// Longest pause between failed rotations.
pub const ROTATE_BACKOFF_MAX: Duration = Duration::from_secs(120);

/// First pause after a failed attestation or first sync.
pub const START_BACKOFF: Duration = Duration::from_secs(5);

/// Longest pause between failed attestations or first syncs.
pub const START_BACKOFF_MAX: Duration = Duration::from_secs(120);

/// When a failing start is given up.
pub const START_GIVE_UP: Duration = Duration::from_secs(60);

/// Clock skew allowed when an SVID from disk is judged.
pub const SVID_SKEW: Duration = Duration::from_secs(1);

/// Federated bundles fetched at the same time.
pub const FEDERATED_FETCHES: usize = 10;

/// Default of `x509_svid_cache_max_size` and `jwt_svid_cache_max_size`.
pub const SVID_CACHE_MAX: usize = 1000;

/// Largest message accepted from a server: a page of 500 entries with many selectors.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Largest message accepted from a workload: a token and an audience.
pub const WORKLOAD_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Connections of workloads held at the same time; further ones wait in the listen queue.
pub const WORKLOAD_CONNECTIONS_MAX: usize = 4096;

/// Streams one workload connection may hold open.
pub const WORKLOAD_STREAMS_MAX: u32 = 128;

/// All workload attestors together; what has no answer by then loses its selectors.
pub const WORKLOAD_ATTEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages queued towards one workload stream; the next is built when there is room.
pub const WORKLOAD_STREAM_QUEUE: usize = 1;

/// The health probe of the own socket.
pub const HEALTH_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often health is checked until it was good once.
pub const HEALTH_INTERVAL_START: Duration = Duration::from_secs(1);

/// How often health is checked afterwards.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

/// How long open workload streams may go on after a stop was asked for.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest file or download with trust anchors.
pub const TRUST_BUNDLE_BYTES_MAX: usize = 4 * 1024 * 1024;

const _: () = assert!(
    CONNECT_TIMEOUT.as_secs() * 2 < RPC_TIMEOUT.as_secs(),
    "a call must outlive two dead addresses"
);
const _: () = assert!(
    (SILENCE_MAX.as_secs() + PROBE_TIMEOUT.as_secs()) * 4 < RPC_TIMEOUT.as_secs(),
    "a call must outlive several servers that hang"
);
const _: () = assert!(WORKLOAD_STREAM_QUEUE > 0, "a channel needs room");

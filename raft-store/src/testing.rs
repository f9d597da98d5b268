//! A store in memory for tests of this and other crates: one member, formed, gone with its value.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::random::{Random, SystemRandom};
use steeple_spiffe_core::time::{SystemClock, Timestamp};
use steeple_spiffe_core::{Clock, TrustDomain};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::change::ClusterState;
use crate::cluster_key::ClusterKeys;
use crate::config::{Config, Tuning};
use crate::error::{OpenError, ProposeError, RunError, StoreError};
use crate::handle::StoreHandle;
use crate::ids::{ClusterId, MemberId, RequestId};
use crate::level::FEATURE_LEVEL_MAX;
use crate::mem::MemoryDisk;
use crate::net::Tcp;
use crate::outcome::Applied;
use crate::seams::{Seams, Storage};
use crate::status::{MemberState, MemberStatus, MemberView, Role};
use crate::store::Store;

pub use crate::replica::{Committed, Replica};

/// Tests wait so long for anything; it is there in milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Seeds what consensus draws at random on this thread from now on: election timeouts.
pub fn seed_consensus(seed: u64) {
    crate::raft::runtime::seed_thread(seed);
}

/// What member 1 says of itself and these members where all is well and nobody leads.
#[must_use]
pub fn member_status(members: Vec<MemberView>) -> MemberStatus {
    MemberStatus {
        member_id: MemberId(1),
        cluster_id: None,
        state: MemberState::Member,
        leader: None,
        term: 1,
        applied_index: 0,
        commit_index: 0,
        last_log_index: 0,
        quorum_contact_age: None,
        clock_ahead_ms: None,
        clock_compared_ago: None,
        clock_doubt: None,
        voters_next: None,
        mismatch: None,
        members,
    }
}

/// A voter that can be reached, of which nothing was observed.
#[must_use]
pub fn voter(id: u64) -> MemberView {
    MemberView {
        id: MemberId(id),
        name: String::new(),
        address: format!("m{id}:1"),
        role: Role::Voter,
        reachable: Some(true),
        version: None,
        lag: None,
        observed: None,
    }
}

/// The row of a cluster of `example.org` in its first epoch, at the highest feature level.
///
/// # Panics
///
/// Never.
#[must_use]
pub fn cluster_state() -> ClusterState {
    ClusterState {
        cluster_id: ClusterId(1),
        name: "c".to_owned(),
        trust_domain: TrustDomain::parse("example.org").expect("the test trust domain is valid"),
        epoch: 1,
        feature_level: FEATURE_LEVEL_MAX,
        formed_at: Timestamp::from_unix_s(1),
        restored: None,
        key_id: String::new(),
        left_key_ids: Vec::new(),
    }
}

/// A digest of all replicated rows, and the log index of the state they are: equal on every member.
///
/// # Errors
///
/// If the tables cannot be read.
pub fn state_digest(handle: &StoreHandle) -> Result<(u64, [u8; 32]), StoreError> {
    handle.state_digest()
}

/// Switches a deliberate bug on for the rest of the process; false if there is none of that name.
#[cfg(feature = "mutants")]
pub fn switch_on_mutant(name: &str) -> bool {
    crate::mutants::switch_on(name)
}

/// The names of all deliberate bugs.
#[cfg(feature = "mutants")]
pub fn mutants() -> impl Iterator<Item = &'static str> {
    crate::mutants::Mutant::ALL.iter().map(|(name, _)| *name)
}

/// A running member. Stops when dropped.
#[derive(Debug)]
pub struct TestStore {
    /// The way to the store.
    pub handle: StoreHandle,
    task: JoinHandle<Result<(), RunError>>,
    guard: DropGuard,
}

/// A configuration of one member without a peer listener.
///
/// # Panics
///
/// Never: its constants are valid.
pub fn config(data_dir: PathBuf) -> Config {
    let keys = ClusterKeys::parse("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
        .expect("the test key is 32 bytes in base64");
    Config {
        data_dir,
        cluster_name: "test".to_owned(),
        cluster_id: None,
        trust_domain: TrustDomain::parse("example.org").expect("the test trust domain is valid"),
        bind: None,
        advertise: "localhost:0".to_owned(),
        peers: Vec::new(),
        keys: Arc::new(keys),
        voters_max: 1,
        replace_dead_after: Duration::ZERO,
        heartbeat_interval: Duration::from_millis(50),
        version: "test".to_owned(),
        settings_hash: String::new(),
        leave_on_terminate: false,
        tuning: Tuning::default(),
    }
}

/// The machine's clock and randomness, and the given storage.
pub fn seams(storage: Storage) -> Seams {
    seams_with(storage, Arc::new(SystemClock), Arc::new(SystemRandom))
}

/// The given clock, randomness and storage.
pub fn seams_with(storage: Storage, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Seams {
    Seams { clock, random, storage, transport: Arc::new(Tcp) }
}

impl TestStore {
    /// One member in memory, formed, with trust domain `example.org`.
    ///
    /// # Panics
    ///
    /// If it does not start within [`DEADLINE`].
    pub async fn start() -> Self {
        let seams = seams(Storage::Memory(MemoryDisk::new()));
        Self::open(config(PathBuf::new()), seams).await.expect("a store in memory opens")
    }

    /// One member on the given storage, formed.
    ///
    /// # Errors
    ///
    /// If it does not open.
    ///
    /// # Panics
    ///
    /// If it does not form within [`DEADLINE`].
    pub async fn open(config: Config, seams: Seams) -> Result<Self, OpenError> {
        let store = Store::open(config, seams).await?;
        let handle = store.handle();
        let shutdown = CancellationToken::new();
        let guard = shutdown.clone().drop_guard();
        let task = tokio::spawn(store.run(shutdown));
        let ready = async {
            let mut formed = handle.formed();
            let mut leadership = handle.leadership();
            formed.wait_for(|formed| *formed).await.expect("the handle keeps the watch");
            leadership.wait_for(|l| l.is_self).await.expect("the handle keeps the watch");
            handle.read_barrier(Instant::now() + DEADLINE).await.expect("one member is a quorum");
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("one member forms its cluster");
        Ok(Self { handle, task, guard })
    }

    /// One member that asks the configured peers to take it in; returns once it is in.
    ///
    /// # Errors
    ///
    /// If it does not open.
    ///
    /// # Panics
    ///
    /// If it is not in within [`DEADLINE`].
    pub async fn join(config: Config, seams: Seams) -> Result<Self, OpenError> {
        let store = Store::open(config, seams).await?;
        let handle = store.handle();
        let shutdown = CancellationToken::new();
        let guard = shutdown.clone().drop_guard();
        let task = tokio::spawn(store.run(shutdown));
        let mut formed = handle.formed();
        let joined = formed.wait_for(|formed| *formed);
        let joined = tokio::time::timeout(DEADLINE, joined).await;
        joined.expect("it joins").expect("the handle keeps the watch");
        Ok(Self { handle, task, guard })
    }

    /// Proposes as an ordinary caller, or as the leader's duty if the command is one.
    ///
    /// # Errors
    ///
    /// As [`StoreHandle::propose`].
    pub async fn apply(&self, command: crate::Command) -> Result<Applied, ProposeError> {
        if command.is_duty() {
            let term = self.handle.leadership().borrow().term;
            return self.handle.propose_duty(command, term).await;
        }
        let mut id = [0; 16];
        SystemRandom.fill(&mut id);
        self.handle.propose(command, RequestId(id), Instant::now() + DEADLINE).await
    }

    /// Stops and waits for the end.
    ///
    /// # Errors
    ///
    /// What [`Store::run`] ended with.
    ///
    /// # Panics
    ///
    /// If the store panicked.
    pub async fn stop(self) -> Result<(), RunError> {
        drop(self.guard);
        drop(self.handle);
        self.task.await.expect("the store does not panic")
    }
}

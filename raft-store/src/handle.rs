//! The face of a running store: the one door down (`propose`), the one stream up (`subscribe`), and
//! questions about state and leadership.

use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backup::{SaveError, SnapshotFacts, SnapshotOut};
use crate::command::Command;
use crate::contact::Contact;
use crate::core::Core;
use crate::error::{ProposeError, StoreError, Unavailable};
use crate::feed::Subscription;
use crate::ids::{MemberId, RequestId, Revision};
use crate::membership::{Asked, MemberChange, MemberChangeError};
use crate::observe::ClusterClock;
use crate::outcome::Applied;
use crate::questions::{Answers, AskError};
use crate::status::{ForeignPeer, Leadership, MemberStatus};
use crate::upgrade::{LevelStatus, RaiseError};

/// What a read barrier confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// This member has applied at least this state, and nothing acknowledged anywhere before the
    /// barrier began is missing from it.
    pub revision: Revision,
    /// Boot-time clock when the confirming round began: ages of state count from here.
    pub started_at_boot: Duration,
}

/// A member in contact hears of a new leader within a few heartbeats.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How often it looks.
const HEARD_EVERY: Duration = Duration::from_millis(10);

/// A cheap, cloneable way to a running store.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    core: Arc<Core>,
}

impl StoreHandle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Proposes a command and waits until it has been applied on the leader and, if this member is
    /// not the leader, here. Forwards by itself; retries under the same request id when the leader
    /// changes, until the deadline. Duties are not forwarded: see [`Self::propose_duty`].
    ///
    /// A request id of zeroes is never remembered, hence never retried after a lost answer.
    pub async fn propose(
        &self,
        command: Command,
        request: RequestId,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        self.core.propose(command, request, None, deadline).await
    }

    /// As [`Self::propose`], for a command that is not the same when its caller asks again, for instance
    /// since it holds a time: `said` is what the caller asked for, and tells whether it asks again or for
    /// something else under the same id. Asked again, the command is not applied; what is answered is what
    /// became of the first one.
    pub async fn propose_said(
        &self,
        command: Command,
        request: RequestId,
        said: &[u8],
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        self.core.propose(command, request, Some(said), deadline).await
    }

    /// Proposes a duty of the leader of `term`. Fails with [`ProposeError::NotLeader`] if this member
    /// does not lead in that term (any more).
    pub async fn propose_duty(&self, command: Command, term: u64) -> Result<Applied, ProposeError> {
        self.core.propose_duty(command, term).await
    }

    /// Confirms with a quorum that this member's state is current: on return it includes everything
    /// that was acknowledged anywhere before the call. Concurrent calls share rounds.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<Confirmed, Unavailable> {
        self.core.read_barrier(deadline).await
    }

    /// All rows at one revision and every change after it. Reads the whole registry: call it where
    /// blocking is allowed.
    pub fn subscribe(&self) -> Result<Subscription, StoreError> {
        self.core.feed.subscribe(self.core.engine.tables.as_ref())
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// What this member knows of itself and the others. Cheap; never asks another member.
    pub fn status(&self) -> MemberStatus {
        self.core.status()
    }

    /// Whether this member is in contact with its cluster.
    pub fn contact(&self) -> Contact {
        self.core.contact()
    }

    /// The state that this member has applied.
    pub fn revision(&self) -> Revision {
        self.core.feed.reached_now().revision
    }

    /// Hands leadership to another voter, the most caught-up one if none is named, and returns how
    /// long it took until that member led. Only on the leader.
    pub async fn transfer_leadership(&self, to: Option<MemberId>) -> Result<Duration, Unavailable> {
        self.core.transfer_leadership(to).await
    }

    /// Changes the membership as an operator asks: here if this member leads, else through the
    /// leader. A leader that is to lose its vote hands over first. Returns once it is committed.
    ///
    /// # Errors
    ///
    /// [`MemberChangeError`].
    pub async fn change_members(&self, change: MemberChange) -> Result<(), MemberChangeError> {
        self.core.ask(Asked::Change(change)).await
    }

    /// As [`Self::transfer_leadership`], asked for by an operator of any member. Refused if
    /// leadership would come back at once, for the clock of the member that is to lead.
    ///
    /// # Errors
    ///
    /// [`MemberChangeError`].
    pub async fn hand_over(&self, to: Option<MemberId>) -> Result<Duration, MemberChangeError> {
        let started = Instant::now();
        let before = self.leadership().borrow().leader;
        self.core.ask(Asked::HandOver(to)).await?;
        let took = started.elapsed();
        // The leader knows; this member hears it with the next heartbeat, and is asked who leads next.
        let heard = async {
            while self.status().leader.is_none_or(|leader| Some(leader) == before) {
                tokio::time::sleep(HEARD_EVERY).await;
            }
        };
        tokio::time::timeout(HEARD_WITHIN, heard).await.ok();
        Ok(took)
    }

    /// How many terms this member saw begin since its start, but for those after a hand-over: more
    /// than a few in minutes mean that leaders do not last.
    pub fn elections(&self) -> u64 {
        self.core.hand_overs.elections()
    }

    /// Stands in no election from now on and takes over from no leader: the process is about to end.
    pub fn stand_down(&self) {
        self.core.stand_down();
    }

    /// A newer epoch of this cluster that was met, while this member still has a quorum of an older.
    pub fn newer_epoch(&self) -> Option<u32> {
        self.core.newer_epoch()
    }

    /// Whether another cluster was met lately that has this one's id and epoch: it was restored or
    /// recovered twice, and both take writes.
    pub fn has_twin_epoch(&self) -> bool {
        self.core.has_twin_epoch()
    }

    /// Addresses in `cluster.peers` at which members of other clusters were met lately.
    pub fn foreign_peers(&self) -> Vec<ForeignPeer> {
        self.core.foreign_peers()
    }

    /// Writes the state that this member has applied as a snapshot. Reads the whole registry: call it
    /// where blocking is allowed. Confirm a read first if nothing acknowledged may be missing.
    ///
    /// # Errors
    ///
    /// [`SaveError`].
    pub fn save_snapshot(&self, out: &mut dyn SnapshotOut) -> Result<SnapshotFacts, SaveError> {
        let core = &self.core;
        crate::backup::save(&core.engine, &core.config.keys, core.random.as_ref(), out)
    }

    /// See [`crate::testing::state_digest`].
    pub(crate) fn state_digest(&self) -> Result<(u64, [u8; 32]), StoreError> {
        crate::raft::state_machine::digest(self.core.engine.tables.as_ref())
    }

    /// Where the cluster stands between two feature levels, seen from this member.
    pub fn level_status(&self) -> LevelStatus {
        self.core.level_status()
    }

    /// Raises the feature level as far as every member supports it, here or through the leader. Returns
    /// the old and the new one.
    ///
    /// # Errors
    ///
    /// [`RaiseError`].
    pub async fn raise_level(&self) -> Result<(u32, u32), RaiseError> {
        self.core.raise_level().await
    }

    /// Has this member's server answer what other members' ask. Held weakly; only the first counts.
    pub fn answer_with(&self, answers: &Arc<dyn Answers>) {
        self.core.answer_with(answers);
    }

    /// Asks the server of a member, of this one too. Questions and answers are as large as a message
    /// between members may be (4 MiB), and as confidential as the registry.
    ///
    /// # Errors
    ///
    /// [`AskError`]. Nothing is tried again.
    pub async fn ask(
        &self,
        member: MemberId,
        question: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, AskError> {
        self.core.ask_member(member, question, deadline).await
    }

    /// How this member's clock compares with those of a quorum, as it goes on.
    pub fn cluster_clock(&self) -> ClusterClock {
        self.core.cluster_clock.clone()
    }

    /// Whether the cluster exists: its first command has been applied here.
    pub fn formed(&self) -> watch::Receiver<bool> {
        self.core.formed.subscribe()
    }
}

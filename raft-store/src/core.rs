//! What the parts of one running member share: the handle, the peer listener, formation.
//!
//! Owns no behaviour beyond small questions about consensus; proposing is `propose`, confirmed reads
//! are `barrier`, forming and joining are `cluster/`, the network is `net/`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use steeple_spiffe_core::Clock;
use steeple_spiffe_core::random::Random;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::acks::Acks;
use crate::apply::{TableError, read_checkpoints};
use crate::barrier::Barrier;
use crate::config::Config;
use crate::contact::{Contact, LeaderHeard};
use crate::error::Unavailable;
use crate::feed::Feed;
use crate::fence::Fence;
use crate::forward::Forwarder;
use crate::ids::{ClusterId, MemberId};
use crate::limits::{INSTALLS_MAX, PROPOSALS_IN_FLIGHT_MAX};
use crate::local::Identity;
use crate::membership::Requested;
use crate::observe::{
    Checkpoint, ClusterClock, Observation, Observations, Observed, SyncWatch, doubt,
};
use crate::offload::offload;
use crate::questions::Answers;
use crate::raft::{Metrics, Raft};
use crate::status::{ForeignPeer, Leadership, MemberState, MemberStatus, MemberView, Role};
use crate::storage::Engine;
use crate::succession::HandOvers;

/// How old what a member says of its leader may be: two of its answers fit into that.
const HEARSAY_MAX: Duration = Duration::from_secs(5);

/// One running member.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// Boot-time clock when this was made.
    started: Duration,
    /// This member's id; never changes while the folder lives.
    pub(crate) member_id: MemberId,
    /// Log, tables, snapshots and the member's own records.
    pub(crate) engine: Engine,
    pub(crate) raft: Raft,
    pub(crate) feed: Arc<Feed>,
    pub(crate) forwarder: Arc<dyn Forwarder>,
    /// Who answers this member as its leader.
    pub(crate) acks: Arc<Acks>,
    /// How long syncs take.
    pub(crate) syncs: Arc<SyncWatch>,
    /// What the other members said of themselves.
    pub(crate) observations: Observations,
    /// How this member's clock compares with the others'.
    pub(crate) cluster_clock: ClusterClock,
    /// The peer listener notes accepted appends and heartbeats here.
    pub(crate) leader_heard: LeaderHeard,
    /// What this member says of its own life; moved by formation.
    pub(crate) state: watch::Sender<MemberState>,
    /// Follows consensus; kept current by `Store::run`.
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) formed: watch::Sender<bool>,
    /// Operators' changes of the membership go to the member's own task.
    pub(crate) changes: mpsc::Sender<Requested>,
    pub(crate) in_flight: Semaphore,
    /// Snapshots that are on their way here.
    pub(crate) installing: Semaphore,
    /// The server's, for the other members.
    pub(crate) answers: OnceLock<Weak<dyn Answers>>,
    pub(crate) barrier: Barrier,
    /// Tripped when this member must not take part any more.
    pub(crate) fence: Arc<Fence>,
    /// Hand-overs of leadership, here or heard of, and the elections that were none.
    pub(crate) hand_overs: HandOvers,
    /// An epoch of this cluster that is newer than this member's, once one was met; zero before.
    newer_epoch: AtomicU32,
    /// Set while another cluster is met that has this one's id and epoch.
    twin_epoch: AtomicBool,
    /// Configured peers that belong to other clusters, as they were met last.
    foreign_peers: ArcSwap<Vec<ForeignPeer>>,
    /// Set when the process is about to end: this member takes no leadership any more.
    standing_down: AtomicBool,
    /// Set while this member does not get on: until then it takes no leadership either.
    stalled: AtomicBool,
    /// Empty: no peer certificate is presented.
    certificate_key: ArcSwap<String>,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let formed = parts.feed.reached_now().formed;
        let state = if formed {
            MemberState::Member
        } else {
            MemberState::Forming { text: "starting".to_owned() }
        };
        Self {
            started: parts.clock.boot_time(),
            config: parts.config,
            clock: parts.clock,
            random: parts.random,
            member_id: parts.member_id,
            engine: parts.engine,
            raft: parts.raft,
            feed: parts.feed,
            forwarder: parts.forwarder,
            acks: parts.acks,
            syncs: parts.syncs,
            observations: Observations::default(),
            cluster_clock: ClusterClock::default(),
            leader_heard: LeaderHeard::default(),
            state: watch::channel(state).0,
            leadership: watch::channel(Leadership::default()).0,
            formed: watch::channel(formed).0,
            changes: parts.changes,
            in_flight: Semaphore::new(PROPOSALS_IN_FLIGHT_MAX),
            installing: Semaphore::new(INSTALLS_MAX),
            answers: OnceLock::new(),
            barrier: Barrier::default(),
            fence: parts.fence,
            hand_overs: HandOvers::default(),
            newer_epoch: AtomicU32::new(0),
            twin_epoch: AtomicBool::new(false),
            foreign_peers: ArcSwap::default(),
            standing_down: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            certificate_key: ArcSwap::default(),
        }
    }

    /// Notes that a newer epoch of this cluster was met.
    pub(crate) fn note_newer_epoch(&self, epoch: u32) {
        self.newer_epoch.store(epoch, Ordering::Relaxed);
    }

    /// Notes whether this epoch was begun twice and the other one is still met.
    pub(crate) fn note_twin_epoch(&self, is_met: bool) {
        self.twin_epoch.store(is_met, Ordering::Relaxed);
    }

    /// Whether this epoch is known to have been begun twice, and the other one was met lately.
    pub(crate) fn has_twin_epoch(&self) -> bool {
        self.twin_epoch.load(Ordering::Relaxed)
    }

    /// Notes which configured peers belong to other clusters.
    pub(crate) fn note_foreign_peers(&self, found: Vec<ForeignPeer>) {
        self.foreign_peers.store(Arc::new(found));
    }

    /// Configured peers that belong to other clusters.
    pub(crate) fn foreign_peers(&self) -> Vec<ForeignPeer> {
        self.foreign_peers.load().as_ref().clone()
    }

    /// The newer epoch that was met, if one was.
    pub(crate) fn newer_epoch(&self) -> Option<u32> {
        Some(self.newer_epoch.load(Ordering::Relaxed)).filter(|epoch| *epoch != 0)
    }

    /// Notes which cluster key's CA has signed the peer certificate that is presented from now on.
    pub(crate) fn note_certificate_key(&self, id: String) {
        self.certificate_key.store(Arc::new(id));
    }

    /// Stands in no election from now on and takes over from no leader.
    pub(crate) fn stand_down(&self) {
        self.standing_down.store(true, Ordering::Relaxed);
        self.raft.runtime_config().elect(false);
    }

    /// Whether this member takes no leadership: it is stopping, or stalled.
    pub(crate) fn stands_down(&self) -> bool {
        self.standing_down.load(Ordering::Relaxed) || self.is_stalled()
    }

    /// Stands in no election while it is stalled.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
        self.raft.runtime_config().elect(!self.stands_down());
    }

    /// Whether this member has given leadership up and not recovered yet.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Consensus as it stands.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The leader and term, straight from consensus.
    pub(crate) fn leadership_now(&self) -> Leadership {
        let metrics = self.metrics();
        // A leader that has not yet committed in its term, or lost its place, does not count as one.
        let leader = metrics.current_leader.map(MemberId);
        Leadership {
            leader,
            term: metrics.current_term,
            is_self: leader == Some(self.member_id) && metrics.state.is_leader(),
        }
    }

    /// The identity stored in the folder.
    pub(crate) fn identity(&self) -> Result<Identity, TableError> {
        self.engine.local.identity()
    }

    /// The cluster's id: from replicated state, or as adopted before the first command.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        let from_tables = crate::apply::read_cluster(self.engine.tables.as_ref()).ok().flatten();
        from_tables
            .map(|cluster| cluster.cluster_id)
            .or_else(|| self.identity().ok().and_then(|identity| identity.cluster_id))
    }

    /// Says that there is no leader, and how many voters answer.
    pub(crate) fn no_leader(&self) -> Unavailable {
        let metrics = self.metrics();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let text = if voters.is_empty() {
            match &*self.state.borrow() {
                MemberState::Forming { text } => format!("no cluster yet: {text}"),
                MemberState::Joining { text } if text.is_empty() => {
                    "no cluster yet: joining".to_owned()
                }
                MemberState::Joining { text } => format!("no cluster yet: joining: {text}"),
                MemberState::Member => "no cluster yet".to_owned(),
            }
        } else {
            let reachable = voters.iter().filter(|id| self.reaches(**id)).count();
            format!("no leader: {reachable} of {} voters reachable", voters.len())
        };
        Unavailable { text, retry_after: self.config.election_timeout_max() }
    }

    /// Whether this member is in contact, see [`Contact`].
    pub(crate) fn contact(&self) -> Contact {
        let metrics = self.metrics();
        let age = self.contact_age(&metrics);
        if age.is_some_and(|age| age <= self.config.election_timeout_max()) {
            return Contact::InContact;
        }
        let now = self.clock.boot_time();
        let since = age.map_or(self.started, |age| now.saturating_sub(age));
        let mut text = self.no_leader().text;
        let elsewhere = self.leader_elsewhere(since, now);
        if let Some((member, leader)) = elsewhere {
            text = format!(
                "{text}; member {member} hears leader {leader}, this one does not: mend the link \
                 between them"
            );
        }
        Contact::Lost { since, elsewhere: elsewhere.is_some(), text }
    }

    /// A member that answers and hears a leader, and that leader, if this one has heard none `since`.
    /// What was said before others could notice the same loss says nothing.
    fn leader_elsewhere(&self, since: Duration, now: Duration) -> Option<(MemberId, MemberId)> {
        let noticed = since.saturating_add(self.config.election_timeout_max());
        let from = noticed.max(now.saturating_sub(HEARSAY_MAX));
        self.observations.leader_elsewhere(from, |member| self.reaches(member.0))
    }

    fn contact_age(&self, metrics: &Metrics) -> Option<Duration> {
        if metrics.state.is_leader() {
            let mut voters = metrics.membership_config.voter_ids();
            if voters.next() == Some(self.member_id.0) && voters.next().is_none() {
                return Some(Duration::ZERO);
            }
            return metrics.last_quorum_acked.map(|at| at.elapsed());
        }
        let heard = self.leader_heard.last()?;
        Some(self.clock.boot_time().saturating_sub(heard))
    }

    pub(crate) fn status(&self) -> MemberStatus {
        let metrics = self.metrics();
        let leadership = self.leadership_now();
        let last_log_index = metrics.last_log_index.unwrap_or(0);
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let commit_index = metrics.local_committed.as_ref().map_or(0, |id| id.index);
        let members = metrics.membership_config.nodes().map(|(id, node)| {
            let observed = self.observed(MemberId(*id));
            // A new leader knows nobody's log until each has answered.
            let replicated = metrics.replication.as_ref();
            let matched = replicated.and_then(|matched| matched.get(id).cloned().flatten());
            let lag = match (matched, &observed) {
                (Some(matched), _) => Some(last_log_index.saturating_sub(matched.index)),
                (None, Some(seen)) => Some(commit_index.saturating_sub(seen.said.applied_index)),
                (None, None) => None,
            };
            MemberView {
                id: MemberId(*id),
                name: node.name.clone(),
                address: node.address.clone(),
                role: if voters.contains(id) { Role::Voter } else { Role::Learner },
                reachable: self.answers(*id),
                version: if *id == self.member_id.0 {
                    Some(self.config.version.clone())
                } else {
                    self.forwarder.version(MemberId(*id))
                },
                lag,
                observed,
            }
        });
        let members = members.collect();
        MemberStatus {
            member_id: self.member_id,
            cluster_id: self.cluster_id(),
            state: self.state.borrow().clone(),
            leader: self.leader_in_contact(),
            term: leadership.term,
            applied_index: self.feed.reached_now().index,
            commit_index,
            last_log_index,
            quorum_contact_age: self.contact_age(&metrics),
            voters_next: voters_next(&metrics),
            mismatch: self.observations.mismatch(),
            clock_ahead_ms: self.cluster_clock.ahead_ms(self.clock.as_ref()),
            clock_compared_ago: self.cluster_clock.age(self.clock.as_ref()),
            clock_doubt: self.clock_doubt(),
            members,
        }
    }

    /// The leader, while there is contact: consensus goes on naming the last one that it heard of.
    pub(crate) fn leader_in_contact(&self) -> Option<MemberId> {
        self.leadership_now().leader.filter(|_| self.contact() == Contact::InContact)
    }

    /// Whether a leader that consensus names is neither heard nor answers.
    pub(crate) fn is_gone(&self, leader: MemberId) -> bool {
        self.contact() != Contact::InContact && !self.reaches(leader.0)
    }

    /// Why this member may not decide about time as a leader, if so.
    pub(crate) fn clock_doubt(&self) -> Option<String> {
        let voters = self.metrics().membership_config.voter_ids().count();
        let clock = self.clock.as_ref();
        doubt(voters, self.cluster_clock.ahead_ms(clock), self.cluster_clock.age(clock))
    }

    /// What this member says of itself.
    pub(crate) fn observation(&self) -> Observation {
        Observation {
            version: self.config.version.clone(),
            feature_level_max: self.config.tuning.feature_level_max,
            applied_index: self.feed.reached_now().index,
            clock: self.clock.now(),
            settings_hash: self.config.settings_hash.clone(),
            key_ids: self.config.keys.ids(),
            certificate_key_id: self.certificate_key.load().as_ref().clone(),
            checkpoints: Vec::new(),
            disk: self.syncs.health(),
            leader: self.leader_in_contact(),
        }
    }

    /// The newest state hashes.
    pub(crate) async fn checkpoints(&self) -> Result<Vec<Checkpoint>, TableError> {
        let tables = Arc::clone(&self.engine.tables);
        let read = offload(move || read_checkpoints(tables.as_ref())).await;
        read.map_err(|error| TableError::Io(std::io::Error::other(error)))?
    }

    /// What is known of a member: of this one now, of others as last heard.
    pub(crate) fn observed(&self, member: MemberId) -> Option<Observed> {
        if member != self.member_id {
            return self.observations.get(member);
        }
        let heard_at = self.clock.boot_time();
        Some(Observed { said: self.observation(), heard_at, ..Observed::default() })
    }

    /// Whether a member is known to answer; this one always does.
    pub(crate) fn reaches(&self, id: u64) -> bool {
        self.answers(id) == Some(true)
    }

    /// Whether a member answered when it was last asked; `None`: it has not been asked yet.
    fn answers(&self, id: u64) -> Option<bool> {
        if id == self.member_id.0 { Some(true) } else { self.forwarder.answers(MemberId(id)) }
    }
}

/// The voters that a change under way leads to; `None`: there is none.
fn voters_next(metrics: &Metrics) -> Option<BTreeSet<MemberId>> {
    match metrics.membership_config.get_joint_config().as_slice() {
        [_, .., target] => Some(target.iter().copied().map(MemberId).collect()),
        [_] | [] => None,
    }
}

/// What [`Core::new`] is made of.
pub(crate) struct CoreParts {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) member_id: MemberId,
    pub(crate) engine: Engine,
    pub(crate) raft: Raft,
    pub(crate) feed: Arc<Feed>,
    pub(crate) forwarder: Arc<dyn Forwarder>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) syncs: Arc<SyncWatch>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) changes: mpsc::Sender<Requested>,
}

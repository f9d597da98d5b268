//! Confirmed reads: "is my state current?", asked of a quorum through the leader, shared by everyone
//! who asks at about the same time.
//!
//! A caller joins the round that has not begun yet, or makes one; a round begins when the one before
//! has ended. So any number of callers cost one round at a time, and no caller is confirmed by a round
//! that began before it asked. Rounds are driven by those who wait for them: no task of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryFutureExt};
use openraft::ReadPolicy;
use tokio::time::{Instant, timeout, timeout_at};

use crate::contact::Contact;
use crate::core::Core;
use crate::error::Unavailable;
use crate::forward::ForwardError;
use crate::handle::Confirmed;
use crate::ids::MemberId;
use crate::limits::ATTEMPT_TIMEOUT;
use crate::mutants::{self, Mutant};

/// Between two failed rounds of one caller: a new leader takes at least so long.
const PAUSE: Duration = Duration::from_millis(20);

/// A confirmed round: a log index, and when the round began (boot-time clock).
type RoundResult = Result<(u64, Duration), String>;
type Round = Shared<BoxFuture<'static, RoundResult>>;

/// The round under way and the one that may still be joined.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    rounds: Arc<Mutex<Rounds>>,
}

#[derive(Debug, Default)]
struct Rounds {
    /// Has begun, or has ended.
    running: Option<Round>,
    /// Has not begun.
    joinable: Option<Round>,
}

impl Barrier {
    /// Drops rounds that no one drives any more: each holds its member.
    pub(crate) fn clear(&self) {
        *self.rounds.lock().unwrap_or_else(PoisonError::into_inner) = Rounds::default();
    }
}

impl Core {
    /// See [`StoreHandle::read_barrier`](crate::StoreHandle::read_barrier).
    pub(crate) async fn read_barrier(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Confirmed, Unavailable> {
        let mut reached = self.feed.reached();
        loop {
            let failure = match timeout_at(deadline, self.join_round()).await {
                Ok(Ok((index, started_at_boot))) => {
                    let caught_up = reached.wait_for(|reached| reached.index >= index);
                    return match timeout_at(deadline, caught_up).await {
                        Ok(Ok(reached)) => {
                            Ok(Confirmed { revision: reached.revision, started_at_boot })
                        }
                        Ok(Err(_)) | Err(_) => Err(self.lagging(index)),
                    };
                }
                Ok(Err(text)) => text,
                Err(_) => return Err(self.no_leader()),
            };
            if Instant::now() + PAUSE >= deadline {
                let mut unavailable = self.no_leader();
                if self.leadership_now().leader.is_some() {
                    unavailable.text = failure;
                }
                return Err(unavailable);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn lagging(&self, index: u64) -> Unavailable {
        let applied = self.feed.reached_now().index;
        Unavailable {
            text: format!("state is {} log entries behind", index.saturating_sub(applied)),
            retry_after: self.config.heartbeat_interval,
        }
    }

    fn join_round(self: &Arc<Self>) -> Round {
        let mut rounds = self.barrier.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = &rounds.joinable {
            return round.clone();
        }
        let before = rounds.running.clone();
        let core = Arc::clone(self);
        let round = async move {
            if let Some(before) = before {
                // Its result is someone else's; waiting for it also drives it, should they have gone.
                before.await.ok();
            }
            core.begin_round();
            let started_at_boot = core.clock.boot_time();
            let index = core.confirm_index().await?;
            Ok((index, started_at_boot))
        }
        .boxed()
        .shared();
        rounds.joinable = Some(round.clone());
        round
    }

    /// From here on no one may join the round that is about to ask.
    fn begin_round(&self) {
        let mut rounds = self.barrier.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.running = rounds.joinable.take();
    }

    /// One round: a log index that was committed after this call began.
    async fn confirm_index(&self) -> Result<u64, String> {
        if mutants::on(Mutant::ReadWithoutIndex) {
            return Ok(self.feed.reached_now().index);
        }
        let leadership = self.leadership_now();
        if leadership.is_self {
            return self.confirm_as_leader(ATTEMPT_TIMEOUT).await.map_err(|e| e.to_string());
        }
        let Some(leader) = leadership.leader else { return Err(self.no_leader().text) };
        let deadline = Instant::now() + ATTEMPT_TIMEOUT;
        let index = self.forwarder.read_index(leader, deadline).await;
        index.map_err(|error| match self.contact() {
            Contact::InContact => format!("leader {leader} confirms no read: {error}"),
            // The leader that was is of no interest any more.
            Contact::Lost { text, .. } => text,
        })
    }

    /// Confirms with a quorum that this member leads. Also serves other members, for whom the peer
    /// listener asks.
    pub(crate) async fn confirm_as_leader(&self, within: Duration) -> Result<u64, ForwardError> {
        let asked = self.acks.stamp();
        let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let confirmed = confirmed.and_then(async |linearizer| {
            let read = linearizer.read_log_id();
            // At least the first entry of this leader's own term: so this is its term.
            let term = read.committed_leader_id().term;
            let voters = || self.metrics().membership_config.get_joint_config().clone();
            self.acks.quorum(self.member_id, term, asked, voters).await;
            Ok(read.index())
        });
        match timeout(within, confirmed).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(error)) => match error.forward_to_leader() {
                Some(forward) => {
                    Err(ForwardError::NotLeader { leader: forward.leader_id.map(MemberId) })
                }
                None => Err(ForwardError::NotSent(error.to_string())),
            },
            Err(_) => Err(ForwardError::NotSent("no quorum answered in time".to_owned())),
        }
    }
}

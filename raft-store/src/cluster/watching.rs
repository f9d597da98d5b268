//! What is said of a member's life, and what it does about moving: follows consensus, changes nothing.
//!
//! Owns the log lines that scripts wait for (leadership, contact, membership), the address book's
//! upkeep, pings to members that consensus does not talk to or that have not introduced themselves yet,
//! and the search for members that moved.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cluster::admission;
use crate::cluster::life::Life;
use crate::contact::Contact;
use crate::error::RunError;
use crate::ids::MemberId;
use crate::net::PeerName;
use crate::net::messages::introduction::Standing;
use crate::raft::StoredMembership;
use crate::raft::convert::log_id_from_pb;
use crate::status::Leadership;

/// Lost contact must show within 2 s; elections are over in a fraction of one. A look costs
/// microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// More elections than this within [`ELECTIONS_WINDOW`] are no accident.
const ELECTIONS_MAX: usize = 3;

/// See [`ELECTIONS_MAX`].
const ELECTIONS_WINDOW: Duration = Duration::from_secs(300);

/// Between pings to members that were not heard of meanwhile.
const PING_EVERY: Duration = Duration::from_secs(1);

/// Between attempts to have a new address committed.
const MOVE_EVERY: Duration = Duration::from_secs(2);

/// Logs what changes; ends when this member is removed from its cluster.
///
/// # Errors
///
/// [`RunError::Removed`].
pub(crate) async fn run(life: Arc<Life>) -> Result<(), RunError> {
    let mut seen = Seen::default();
    loop {
        let metrics = life.metrics();
        seen.leadership(&life);
        seen.elections(&life, metrics.current_term);
        seen.contact(&life);
        for (id, node) in metrics.membership_config.nodes() {
            life.network.addresses.commit(MemberId(*id), &node.address);
        }
        if seen.membership(&life, &metrics.committed_membership_config) {
            return Err(removed(&life));
        }
        let before = Instant::now();
        tokio::time::sleep(LOOK_EVERY).await;
        let late = before.elapsed().saturating_sub(LOOK_EVERY);
        seen.lateness_max = seen.lateness_max.max(late);
    }
}

/// What was logged last.
#[derive(Debug, Default)]
struct Seen {
    leadership: Leadership,
    in_contact: Option<bool>,
    voters: BTreeSet<u64>,
    members: BTreeSet<u64>,
    term: u64,
    /// Boot times of the last elections.
    elections: VecDeque<Duration>,
    /// By how much a timer of this process was late at worst since the last warning.
    lateness_max: Duration,
}

impl Seen {
    fn leadership(&mut self, life: &Life) {
        let now = life.core.leadership_now();
        let (was, is) = (self.leadership, now);
        if is.is_self && (!was.is_self || was.term != is.term) {
            life.note_leading();
            tracing::info!(term = is.term, member_id = %life.me(), "Leadership acquired");
        } else if was.is_self && !is.is_self {
            tracing::info!(term = was.term, member_id = %life.me(), "Leadership lost");
        }
        self.leadership = now;
    }

    /// Warns when leaders do not last, with what was measured here. A hand-over is no sign of
    /// that.
    fn elections(&mut self, life: &Life, term: u64) {
        let known = std::mem::replace(&mut self.term, term);
        if term == known || known == 0 || life.core.hand_overs.count(known, term) == 0 {
            return;
        }
        let now = life.core.clock.boot_time();
        self.elections.push_back(now);
        while self.elections.front().is_some_and(|at| now.saturating_sub(*at) > ELECTIONS_WINDOW) {
            self.elections.pop_front();
        }
        if self.elections.len() > ELECTIONS_MAX {
            let heartbeat = life.core.config.heartbeat_interval;
            // Three heartbeats are the shortest election timeout: it should cover the worst delay.
            let suggested = (heartbeat * 2).max(self.lateness_max);
            tracing::warn!(
                elections = self.elections.len(),
                lateness_max_ms = self.lateness_max.as_millis(),
                "Leaders change often; set cluster.heartbeat_interval = \"{}ms\" on all members",
                suggested.as_millis(),
            );
            self.elections.clear();
            self.lateness_max = Duration::ZERO;
        }
    }

    fn contact(&mut self, life: &Life) {
        if !life.is_formed() {
            return;
        }
        match (life.core.contact(), self.in_contact) {
            (Contact::InContact, Some(false)) => {
                tracing::info!("Quorum contact restored");
                self.in_contact = Some(true);
            }
            (Contact::InContact, None) => self.in_contact = Some(true),
            (Contact::Lost { text, .. }, Some(true)) => {
                tracing::warn!(reason = text, "Quorum contact lost");
                self.in_contact = Some(false);
            }
            (Contact::InContact, Some(true)) | (Contact::Lost { .. }, Some(false) | None) => {}
        }
    }

    /// Logs who came and went; true if this member has gone.
    fn membership(&mut self, life: &Life, committed: &StoredMembership) -> bool {
        let voters: BTreeSet<u64> = committed.voter_ids().collect();
        let members: BTreeSet<u64> = committed.nodes().map(|(id, _)| *id).collect();
        if members == self.members && voters == self.voters {
            return false;
        }
        let first = self.members.is_empty();
        for id in voters.difference(&self.voters).filter(|_| !first) {
            tracing::info!(member_id = %MemberId(*id), "Member promoted");
        }
        for id in self.members.difference(&members) {
            tracing::info!(member_id = %MemberId(*id), "Member removed");
        }
        let me = life.me().0;
        let gone = self.members.contains(&me) && !members.contains(&me);
        if !members.is_empty() {
            life.network.retain(|member| members.contains(&member.0));
        }
        (self.voters, self.members) = (voters, members);
        gone
    }
}

fn removed(life: &Life) -> RunError {
    let cluster = life.network.cluster_id().unwrap_or_default();
    RunError::Removed { member: life.me(), cluster }
}

/// Finds out who answers: the leader hears everyone by heartbeats, the others only the leader. Without
/// contact, also looks for members that have moved.
///
/// # Errors
///
/// [`RunError::Removed`], if a member of our cluster with a newer membership does not count us.
pub(crate) async fn ping(life: Arc<Life>) -> Result<(), RunError> {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if !life.is_formed() {
            continue;
        }
        let metrics = life.metrics();
        // Without contact everyone is asked: members that refuse our votes are heard of all the time,
        // and only an introduction says that we are no member any more.
        let is_lost = matches!(life.core.contact(), Contact::Lost { .. });
        let quiet = metrics.membership_config.nodes().map(|(id, _)| MemberId(*id)).filter(|id| {
            let silent = is_lost || life.silent_for(*id) >= PING_EVERY;
            *id != life.me() && (silent || life.network.addresses.needs_introduction(*id))
        });
        let introduction = life.introduction(None).await;
        let pings = quiet.map(|id| life.network.ping(id, introduction.clone()));
        let answers = join_all(pings).await;
        // A removed member is told by no one: the others only stop talking to it, and it may go on
        // taking the last leader that it heard of for one.
        if answers.iter().flatten().any(|answer| excludes(&life, answer.standing.as_ref())) {
            return Err(removed(&life));
        }
        if is_lost {
            look_for_moved(&life).await;
        }
    }
}

/// Whether a member of our cluster and epoch knows a newer membership, without us.
fn excludes(life: &Life, standing: Option<&Standing>) -> bool {
    let Some(Standing::Formed(formed)) = standing else { return false };
    let cluster = crate::cluster::records::cluster_id_from_bytes(&formed.cluster_id);
    let ours = life.metrics().membership_config.log_id().as_ref().copied();
    let theirs = formed.membership_log_id.as_ref().map(log_id_from_pb);
    !formed.counts_caller
        && cluster.is_some()
        && cluster == life.network.cluster_id()
        && formed.epoch == life.network.epoch()
        && theirs >= ours
}

/// Asks every configured address who is there: all members may have moved at once.
async fn look_for_moved(life: &Life) {
    let config = &life.core.config;
    let Some(ours) = life.network.cluster_id() else { return };
    let others = config.peers.iter().filter(|peer| **peer != config.advertise);
    let looks = others.map(async |address| {
        if let Ok(PeerName::Member { cluster, member }) = life.network.who_is_at(address).await
            && cluster == ours
        {
            life.network.addresses.met(member, address);
        }
    });
    join_all(looks).await;
}

/// Whether nobody else is to be asked: it is done, or the leader has said that it must not be. Whoever
/// does not lead says only that.
fn is_settled(answer: &Result<(), Status>) -> bool {
    answer.as_ref().err().is_none_or(|status| status.code() == Code::AlreadyExists)
}

/// Has this member's address committed when the configuration names another one.
///
/// # Errors
///
/// [`RunError::RunsTwice`]; what fails otherwise is tried again.
pub(crate) async fn keep_address(life: Arc<Life>) -> Result<(), RunError> {
    loop {
        tokio::time::sleep(MOVE_EVERY).await;
        let own = &life.core.config.advertise;
        let metrics = life.metrics();
        let committed = metrics.membership_config.get_node(&life.me().0);
        let moved = committed.is_some_and(|node| node.address != *own);
        if !moved || !life.is_formed() {
            continue;
        }
        // A leader that knows only where this member was does not reach it, and so is not known here, or
        // the one before it is: whoever is asked, who leads takes it.
        let known = life.core.leadership_now().leader;
        let everyone = metrics.membership_config.nodes().map(|(id, _)| MemberId(*id));
        let others = everyone.filter(|member| *member != life.me() && Some(*member) != known);
        let mut answer = Ok(());
        for member in known.into_iter().chain(others) {
            answer = if member == life.me() {
                admission::update_address(&life, member, own.clone()).await.map(|_| ())
            } else {
                life.network.update_address(member, own.clone()).await
            };
            if is_settled(&answer) {
                break;
            }
        }
        if let Err(status) = answer {
            if status.code() == Code::AlreadyExists {
                return Err(RunError::RunsTwice(status.message().to_owned()));
            }
            tracing::warn!("failed to commit this member's new address: {}", status.message());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_leader_says_of_an_address_ends_the_question_and_nothing_else_does() {
        assert!(is_settled(&Ok(())));
        for (code, settled) in
            [(Code::AlreadyExists, true), (Code::Aborted, false), (Code::Unavailable, false)]
        {
            assert_eq!(is_settled(&Err(Status::new(code, ""))), settled, "{code:?}");
        }
    }
}

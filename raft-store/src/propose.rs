//! Proposing: from a typed command to a replicated decision, on the leader or through it.
//!
//! Owns the three answers. *Applied* (with an outcome or a rejection): decided. *Unavailable*: in no
//! log. *Indeterminate*: an answer was lost; the same request id may be sent again, and is, until the
//! caller's deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use prost::Message;
use prost::bytes::Bytes;
use steeple_spiffe_core::time::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use crate::codec::command_to_pb;
use crate::command::Command;
use crate::contact::Contact;
use crate::core::Core;
use crate::error::{ProposeError, Unavailable};
use crate::forward::ForwardError;
use crate::ids::{MemberId, RequestId, Revision};
use crate::limits::{ATTEMPT_TIMEOUT, COMMAND_BYTES_MAX};
use crate::mutants::{self, Mutant};
use crate::observe::{deviations, stamp, would_make_way};
use crate::outcome::Applied;
use crate::pb;
use crate::raft::{CommittedLeaderId, EnvelopeBytes, TypeConfig};
use crate::succession::{check_lasts, successor};
use crate::upgrade::too_new;

/// Between two attempts: short against an election, long against a busy loop.
const PAUSE: Duration = Duration::from_millis(20);
/// A duty waits for its commit so long. Without a quorum the leader gives up before.
const DUTY_TIMEOUT: Duration = Duration::from_secs(5);
/// Levels are raised by people, or a day after they might be.
const LEVEL_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Clocks are compared every two seconds.
const CLOCK_RETRY_AFTER: Duration = Duration::from_secs(2);
/// A transfer of leadership is over within an election, or failed.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a transfer looks whether the other member still answers.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Command {
    /// Whether only the leader of a term may propose it; never forwarded.
    pub(crate) fn is_duty(&self) -> bool {
        match self {
            Self::InitCluster(_)
            | Self::PruneExpired(_)
            | Self::PruneAuthorities { .. }
            | Self::ResealAuthority(_)
            | Self::WriteSealed(_)
            | Self::PruneBundle { .. }
            | Self::RaiseFeatureLevel { .. } => true,
            // Operators prepare and activate through any member: the journal's revision, which the
            // command compares, keeps two who would from both having their way.
            Self::PrepareAuthority { .. }
            | Self::PrepareChained { .. }
            | Self::ChangeRoots { .. }
            | Self::ActivateAuthority { .. }
            | Self::TaintAuthority { .. }
            | Self::RevokeAuthority { .. }
            | Self::MoveClusterKey { .. } => false,
            Self::CreateEntries(_)
            | Self::UpdateEntries(_)
            | Self::DeleteEntries(_)
            | Self::CreateJoinToken(_)
            | Self::AdmitAgent(_)
            | Self::SetPendingSerial(_)
            | Self::PromoteSerial(_)
            | Self::BanAgent(_)
            | Self::DeleteAgent(_)
            | Self::SetAgentVersion { .. }
            | Self::WriteBundles(_)
            | Self::DeleteBundles(_)
            | Self::AppendBundle(_)
            | Self::WriteRelationships(_)
            | Self::DeleteRelationships(_)
            // Operators have a bundle fetched through any member; the stored bundle that it was
            // judged by, which the command compares, keeps two who fetch from undoing each other.
            | Self::RecordRefresh { .. }
            | Self::AdoptAgent(_)
            | Self::DecideAgents(_) => false,
        }
    }

    /// Whether it removes or rotates by what time it is: a leader whose clock no quorum shares must
    /// not propose it.
    pub(crate) fn decides_about_time(&self) -> bool {
        matches!(
            self,
            Self::PruneExpired(_)
                | Self::PrepareAuthority { .. }
                | Self::ActivateAuthority { .. }
                | Self::PruneAuthorities { .. }
        )
    }
}

impl Core {
    /// See [`StoreHandle::propose`](crate::StoreHandle::propose).
    pub(crate) async fn propose(
        &self,
        command: Command,
        request: RequestId,
        said: Option<&[u8]>,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        self.check_level(&command)?;
        let may_forward = !command.is_duty();
        let mut envelope = seal(&command, request, said);
        if mutants::on(Mutant::TimeOfForwarder) {
            envelope.time_unix_ms = self.clock.now().unix_ms();
        }
        let bytes = envelope.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        let _permit = self.in_flight.try_acquire().or(Err(ProposeError::Overloaded))?;

        let may_retry_lost = request != RequestId::default();
        let (mut lost, mut refused): (Option<String>, Option<String>) = (None, None);
        loop {
            match self.attempt(&envelope, may_forward, deadline).await {
                Ok(applied) => return self.await_local(applied, deadline).await,
                Err(ForwardError::Unknown(text)) if !may_retry_lost => {
                    return Err(ProposeError::Indeterminate { text });
                }
                Err(ForwardError::Unknown(text)) => {
                    lost = Some(text);
                    let many = matches!(&command, Command::CreateEntries(items) if items.len() > 1);
                    if mutants::on(Mutant::RetryUnderNewId)
                        || (many && mutants::on(Mutant::BatchRetriedWhole))
                    {
                        let fresh = RequestId::fresh(Revision::default(), self.random.as_ref());
                        envelope.request_id = fresh.0.to_vec();
                    }
                }
                Err(ForwardError::NotSent(text)) => refused = Some(text),
                Err(ForwardError::NotLeader { .. }) => refused = None,
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(match (lost, self.contact()) {
                    (Some(lost), Contact::Lost { text, .. }) => {
                        ProposeError::Indeterminate { text: format!("{lost}; {text}") }
                    }
                    (Some(text), Contact::InContact) => ProposeError::Indeterminate { text },
                    (None, _) => ProposeError::Unavailable(self.not_taken(refused.as_deref())),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Why a command is in no log when its attempts have run out; `refused`: what the last one met.
    fn not_taken(&self, refused: Option<&str>) -> Unavailable {
        let Some(leader) = self.leader_in_contact() else { return self.no_leader() };
        let retry_after = self.config.election_timeout_max();
        Unavailable { text: not_taken_by(leader, refused), retry_after }
    }

    /// Refuses what not every member may be able to apply yet.
    fn check_level(&self, command: &Command) -> Result<(), ProposeError> {
        match too_new(command.feature_level(), self.feed.reached_now().feature_level) {
            None => Ok(()),
            Some(text) => {
                let retry_after = LEVEL_RETRY_AFTER;
                Err(ProposeError::Unavailable(Unavailable { text, retry_after }))
            }
        }
    }

    /// One attempt: here if this member leads, else through the leader.
    async fn attempt(
        &self,
        envelope: &pb::store::Envelope,
        may_forward: bool,
        deadline: Instant,
    ) -> Result<Applied, ForwardError> {
        let leadership = self.leadership_now();
        if leadership.is_self {
            return self.append(envelope.clone(), None, deadline).await;
        }
        match leadership.leader {
            // Consensus goes on naming the last leader it heard of. To wait for one that is gone would
            // make a command that never left look like one whose answer was lost.
            Some(leader) if may_forward && !self.is_gone(leader) => {
                let bytes = Bytes::from(envelope.encode_to_vec());
                let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
                self.forwarder.forward(leader, bytes, until).await
            }
            leader => Err(ForwardError::NotLeader { leader }),
        }
    }

    /// Waits until this member has applied what the leader answered, so that the caller reads its own
    /// write here.
    async fn await_local(
        &self,
        applied: Applied,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        let mut reached = self.feed.reached();
        // Past the deadline the decision stands all the same: the caller waits by its revision.
        let caught_up = reached.wait_for(|reached| reached.revision >= applied.revision);
        timeout_at(deadline, caught_up).await.ok();
        Ok(applied)
    }

    /// See [`StoreHandle::propose_duty`](crate::StoreHandle::propose_duty).
    pub(crate) async fn propose_duty(
        &self,
        command: Command,
        term: u64,
    ) -> Result<Applied, ProposeError> {
        self.check_level(&command)?;
        let id = RequestId::fresh(self.feed.reached_now().revision, self.random.as_ref());
        let envelope = seal(&command, id, None);
        let bytes = envelope.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        let leadership = self.leadership_now();
        if !leadership.is_self || leadership.term != term {
            return Err(ProposeError::NotLeader);
        }
        if command.decides_about_time()
            && let Some(text) = self.clock_doubt()
        {
            let retry_after = CLOCK_RETRY_AFTER;
            return Err(ProposeError::Unavailable(Unavailable { text, retry_after }));
        }
        let deadline = Instant::now() + DUTY_TIMEOUT;
        match self.append(envelope, Some(term), deadline).await {
            Ok(applied) => self.await_local(applied, deadline).await,
            Err(ForwardError::NotLeader { .. }) => Err(ProposeError::NotLeader),
            Err(ForwardError::NotSent(text)) => {
                let retry_after = self.config.election_timeout_max();
                Err(ProposeError::Unavailable(Unavailable { text, retry_after }))
            }
            Err(ForwardError::Unknown(text)) => Err(ProposeError::Indeterminate { text }),
        }
    }

    /// Serves a proposal that another member forwarded, for the peer listener.
    pub(crate) async fn accept_forwarded(
        &self,
        envelope: Bytes,
        deadline: Instant,
    ) -> Result<Applied, ForwardError> {
        let refuse = |text: String| Err(ForwardError::NotSent(text));
        if envelope.len() > COMMAND_BYTES_MAX {
            return refuse(format!("proposal of {} bytes is too large", envelope.len()));
        }
        let envelope = match pb::store::Envelope::decode(envelope) {
            Ok(envelope) => envelope,
            Err(error) => return refuse(format!("proposal does not decode: {error}")),
        };
        let command = envelope.command.clone().unwrap_or_default();
        match crate::codec::command_from_pb(command) {
            // What cannot be applied here must not get into the log: apply would stop every member.
            Err(error) => return refuse(format!("proposal does not decode: {error}")),
            Ok(command) if command.is_duty() => {
                return refuse("duties are not forwarded".to_owned());
            }
            Ok(command) => {
                let refused = self.check_level(&command);
                refused.or_else(|error| refuse(error.to_string()).map(|_: Applied| ()))?;
            }
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return refuse("too many proposals in flight on the leader".to_owned());
        };
        self.append(envelope, None, deadline).await
    }

    /// Appends to the log of this member, if it leads (in `term`, if one is given), and waits until
    /// the entry is applied. The time is stamped here and nowhere else.
    async fn append(
        &self,
        mut envelope: pb::store::Envelope,
        term: Option<u64>,
        deadline: Instant,
    ) -> Result<Applied, ForwardError> {
        let highest: Timestamp = self.feed.reached_now().time;
        let ahead_ms = self.cluster_clock.ahead_ms(self.clock.as_ref());
        let mut now = stamp(self.clock.now(), ahead_ms);
        if mutants::on(Mutant::TimeOfForwarder) && envelope.time_unix_ms != 0 {
            now = Timestamp::from_unix_ms(envelope.time_unix_ms);
        }
        if !mutants::on(Mutant::TimeGoesBack) {
            now = now.max(highest);
        }
        envelope.time_unix_ms = now.unix_ms();
        let data = EnvelopeBytes(Bytes::from(envelope.encode_to_vec()));

        let (responder, answer) = ProgressResponder::<TypeConfig, _>::complete_only();
        let mut write = self.raft.write(data).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(CommittedLeaderId { term, node_id: self.member_id.0 });
        }
        write.await.map_err(|error| ForwardError::NotSent(error.to_string()))?;

        let unknown = |text: &str| ForwardError::Unknown(text.to_owned());
        tokio::select! {
            biased;
            answer = timeout_at(deadline, answer) => match answer {
                Ok(Ok(Ok(response))) => response
                    .data
                    .map(|applied| applied.as_ref().clone())
                    .ok_or_else(|| unknown("entry was applied without an answer")),
                Ok(Ok(Err(error))) => Err(classify(&error)),
                Ok(Err(_)) => Err(unknown("consensus stopped")),
                Err(_) => Err(unknown("not committed in time")),
            },
            () = self.leadership_lost() => {
                Err(unknown("leadership was lost before the commit"))
            }
        }
    }

    /// Returns once this member follows another leader: what it appended as a leader may be gone.
    async fn leadership_lost(&self) {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if now.current_leader.is_some_and(|leader| leader != self.member_id.0) {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The voters that would give leadership up at once if they led, and by how many milliseconds
    /// their clocks are ahead.
    fn who_would_make_way(&self) -> BTreeMap<MemberId, i64> {
        let voters = self.metrics().membership_config.voter_ids().map(MemberId).collect();
        let heard = self.observations.all();
        would_make_way(&deviations(self.member_id, self.clock.as_ref(), &voters, &heard))
    }

    /// Refuses a hand-over by hand after which leadership would come back at once. Who has to go
    /// hands over all the same.
    pub(crate) fn check_hand_over(&self, to: Option<MemberId>) -> Result<(), String> {
        let metrics = self.metrics();
        let voters = metrics.membership_config.voter_ids();
        let others = voters.filter(|id| *id != self.member_id.0 && self.reaches(*id));
        let wanted: Vec<MemberId> = match to {
            // That it leads already is said by whoever hands over.
            Some(to) if to == self.member_id => Vec::new(),
            Some(to) => vec![to],
            None => others.map(MemberId).collect(),
        };
        check_lasts(&wanted, &self.who_would_make_way())
    }

    /// See [`StoreHandle::transfer_leadership`](crate::StoreHandle::transfer_leadership).
    pub(crate) async fn transfer_leadership(
        &self,
        to: Option<MemberId>,
    ) -> Result<Duration, Unavailable> {
        let refuse =
            |text: String| Unavailable { text, retry_after: self.config.election_timeout_max() };
        if !self.leadership_now().is_self {
            let leader = self.leadership_now().leader;
            let leader = leader.map_or_else(
                || self.no_leader().text,
                |leader| format!("member {leader} leads: ask that one"),
            );
            return Err(refuse(format!("member {} does not lead; {leader}", self.member_id)));
        }
        let metrics = self.metrics();
        let matched = |id: u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(&id)?.as_ref().map(|log_id| log_id.index)
        };
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        match to {
            Some(to) if to == self.member_id => {
                return Err(refuse(format!("member {to} leads already")));
            }
            Some(to) if !voters.contains(&to.0) => {
                return Err(refuse(format!(
                    "no voter has the id {to}; \"cluster members\" lists them"
                )));
            }
            Some(to) if !self.reaches(to.0) => {
                return Err(refuse(format!("member {to} does not answer; start it first")));
            }
            Some(_) | None => {}
        }
        let candidates = voters
            .iter()
            .copied()
            .filter(|id| *id != self.member_id.0 && to.is_none_or(|to| to.0 == *id));
        let candidates = candidates.filter(|id| self.reaches(*id));
        let Some(best) = successor(candidates, matched, &self.who_would_make_way()) else {
            return Err(refuse("no other voter is reachable to take over".to_owned()));
        };
        let started = Instant::now();
        self.hand_overs.note(metrics.current_term);
        let trigger = self.raft.trigger().transfer_leader(best).await;
        trigger.map_err(|error| refuse(error.to_string()))?;
        match timeout_at(started + TRANSFER_TIMEOUT, self.taken_over_by(best)).await {
            Ok(true) => Ok(started.elapsed()),
            Ok(false) => Err(refuse(format!("member {} went away meanwhile", MemberId(best)))),
            Err(_) => Err(refuse(format!("member {} did not take over", MemberId(best)))),
        }
    }

    /// Waits until another member leads; false when it answers no more: all members may be stopping
    /// at once, and no one would ever take over.
    async fn taken_over_by(&self, other: u64) -> bool {
        let mut metrics = self.raft.metrics();
        while metrics.borrow_watched().current_leader != Some(other) {
            if !self.reaches(other) {
                return false;
            }
            match timeout(LOOK_AGAIN, metrics.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_ended)) => return false,
            }
        }
        true
    }
}

/// Wraps a command for the log. The time is left to the leader. What was said tells requests of one id
/// apart; the command itself does where nothing is given.
fn seal(command: &Command, request: RequestId, said: Option<&[u8]>) -> pb::store::Envelope {
    let command = command_to_pb(command);
    let body_hash = match said {
        Some(said) => digest::digest(&digest::SHA256, said),
        None => digest::digest(&digest::SHA256, &command.encode_to_vec()),
    };
    let remembered = request != RequestId::default();
    pb::store::Envelope {
        request_id: if remembered { request.0.to_vec() } else { Vec::new() },
        time_unix_ms: 0,
        body_hash: body_hash.as_ref().to_vec(),
        command: Some(command),
    }
}

/// What to say of a leader that this member is in contact with and that took no command of it.
fn not_taken_by(leader: MemberId, refused: Option<&str>) -> String {
    let why = refused.map(|text| format!(" ({text})")).unwrap_or_default();
    format!("member {leader} leads, but took no command from this one in time{why}; try again")
}

/// What an error of consensus says about the entry.
fn classify(error: &ClientWriteError<TypeConfig>) -> ForwardError {
    match error {
        // Refused before it was appended.
        ClientWriteError::ForwardToLeader(forward) => {
            ForwardError::NotLeader { leader: forward.leader_id.map(MemberId) }
        }
        // Discarded here; another leader may have it all the same.
        ClientWriteError::LogEntryDiscarded(_) => ForwardError::Unknown(error.to_string()),
        // Only changes of membership end so.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ForwardError::NotSent(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_took_no_command_is_named_with_what_it_said() {
        let leads = "member 0000000000000007 leads, but took no command from this one in time";
        let text = "too many proposals in flight on the leader";
        for (refused, expected) in [
            (None, format!("{leads}; try again")),
            (Some(text), format!("{leads} ({text}); try again")),
        ] {
            assert_eq!(not_taken_by(MemberId(7), refused), expected);
        }
    }
}

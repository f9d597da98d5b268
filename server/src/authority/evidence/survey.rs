//! Asks every member what it knows of a prepared authority, and joins the answers.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use prost::Message;
use steeple_api::pb::member::v1 as rpc;
use steeple_raft_store::{Answers, AskError, ClusterKeys, MemberView, Role, StoreHandle};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{AgentRecord, Clock, SpiffeId, Timestamp};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::arrivals::Arrivals;
use super::join::{Reply, Round, Seen, What};
use super::report::{
    Agents, MemberReport, Report, absent_until, assumed_at, known_between, peers_at,
};
use super::sightings::{Mark, Sightings};
use super::witness::{ChallengeBoard, Witness};
use crate::view::{AgentFilter, Views};

/// A member that needs longer is not ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A replica of an older release that trails by more entries than this may not have applied a prepared
/// authority (the same measure that autopilot calls "caught up").
const LAG_MAX: u64 = 1_000;

/// Asks the members of a registry, and has this one answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Survey {
    store: StoreHandle,
    views: Views,
    sightings: Sightings,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
    peers_known_within: Option<Duration>,
    challenge: ChallengeBoard,
    /// The registry holds it weakly.
    _witness: Arc<dyn Answers>,
    _arrivals: Arc<AbortOnDropHandle<()>>,
}

impl Survey {
    /// From here on this member answers what others ask of it, by these views and keys. A replica that
    /// is cut off may serve an old bundle for `max_staleness`; peers of other trust domains need
    /// `peers_known_within` from when an authority is made until they have it, if any can fetch it.
    pub fn start(
        store: StoreHandle,
        views: Views,
        keys: Arc<ClusterKeys>,
        clock: Arc<dyn Clock>,
        max_staleness: Duration,
        peers_known_within: Option<Duration>,
    ) -> Self {
        let sightings = Sightings::default();
        let arrivals = Arrivals::default();
        let following = arrivals.clone().follow(views.clone(), Arc::clone(&clock));
        let _arrivals = Arc::new(AbortOnDropHandle::new(tokio::spawn(following)));
        let challenge = ChallengeBoard::default();
        let witness = Witness::new(
            views.clone(),
            keys,
            sightings.clone(),
            arrivals,
            Arc::clone(&clock),
            Arc::clone(&challenge),
        );
        let _witness: Arc<dyn Answers> = Arc::new(witness);
        store.answer_with(&_witness);
        Self {
            store,
            views,
            sightings,
            clock,
            max_staleness,
            peers_known_within,
            challenge,
            _witness,
            _arrivals,
        }
    }

    /// Where the bundle endpoint notes which challenge it answers.
    pub fn challenge_board(&self) -> ChallengeBoard {
        Arc::clone(&self.challenge)
    }

    /// An agent is given the bundle of its own trust domain, by this member; `at` is boot time before the
    /// bundle was looked up. One that acknowledges is told the receipt with it, and counts when it has
    /// given that back.
    pub fn given(
        &self,
        agent: &SpiffeId,
        bundle: &Arc<Bundle>,
        at: Duration,
        receipt: Option<u64>,
    ) {
        self.sightings.given(agent, bundle, at, receipt);
    }

    /// An agent has applied what this member gave it with this receipt. Needs no read of the cluster's
    /// state and remembers nobody who was given nothing.
    pub fn applied(&self, agent: &SpiffeId, receipt: u64) {
        self.sightings.applied(agent, receipt);
    }

    /// What is known of a prepared authority now. A member that is absent is left out once it neither
    /// serves nor signs before it has caught up.
    pub async fn of(&self, authority: &Authority) -> Report {
        let question = rpc::Question {
            asked: Some(rpc::question::Asked::Evidence(rpc::Evidence {
                jwt: authority.kind == AuthorityKind::Jwt,
                wit: authority.kind == AuthorityKind::Wit,
                authority_id: authority.id.as_str().to_owned(),
            })),
        };
        let question = question.encode_to_vec();
        let status = self.store.status();
        // Learners serve agents and sign, too; but they are not waited for.
        let asked = status.members.iter().filter(|view| view.reachable != Some(false));
        let began = self.clock.boot_time();
        let answers = join_all(asked.map(|view| self.ask(view, question.clone()))).await;
        let until = absent_until(authority, self.max_staleness);
        let replies = answers.into_iter().map(|(view, answer)| {
            let what = match answer {
                Ok(answer) => What::Said(answer),
                Err(AskError::Older(_)) => What::Older(not_caught_up(view)),
                Err(AskError::Unanswered { text, .. }) => What::Failed(text),
            };
            Reply { member: view.id, votes: view.role == Role::Voter, what }
        });
        let absent = status.members.iter().filter(|view| view.reachable == Some(false));
        let absent = absent.map(|view| Reply {
            member: view.id,
            votes: view.role == Role::Voter,
            what: What::Absent,
        });
        let spread = self.clock.boot_time().saturating_sub(began);
        let round = Round { asked_by: status.member_id, spread, until, now: self.now() };
        let (mut members, seen) = round.join(&absent.chain(replies).collect::<Vec<_>>());
        let (views, now) = (self.views.clone(), self.now());
        let agents = tokio::task::spawn_blocking(move || agents_without(&views, now, &seen)).await;
        let agents = agents.unwrap_or_else(|error| {
            // Agents that were not counted are no evidence that all have seen it.
            let not_ready = Some(format!("agents could not be counted: {error}"));
            members.push(MemberReport { member: status.member_id, not_ready });
            Agents::default()
        });
        let assumed_at = assumed_at(authority, self.max_staleness);
        // What peers fetch holds no WIT keys.
        let within = self.peers_known_within.filter(|_| authority.kind != AuthorityKind::Wit);
        let peers_at = within.map(|within| peers_at(authority, within));
        Report { members, agents, assumed_at, peers_at }
    }

    /// When all can be known to have an authority that is prepared at a time: at the earliest, and at the
    /// latest.
    pub fn known_between(&self, prepared_at: Timestamp) -> (Timestamp, Timestamp) {
        known_between(prepared_at, self.max_staleness, self.peers_known_within)
    }

    fn now(&self) -> Timestamp {
        self.clock.now().max(self.views.cluster_time())
    }

    async fn ask<'v>(
        &self,
        view: &'v MemberView,
        question: Vec<u8>,
    ) -> (&'v MemberView, Result<rpc::EvidenceAnswer, AskError>) {
        let answer =
            self.store.ask(view.id, question.into(), Instant::now() + ANSWER_TIMEOUT).await;
        let answer = answer.and_then(|bytes| {
            let garbled = |error: prost::DecodeError| AskError::Unanswered {
                member: view.id,
                text: error.to_string(),
            };
            rpc::EvidenceAnswer::decode(bytes).map_err(garbled)
        });
        (view, answer)
    }
}

/// How many agents may use their certificates, and which of them are not among those seen. Looks at every
/// agent: call it where blocking is allowed.
pub(in crate::authority) fn agents_without(views: &Views, now: Timestamp, seen: &Seen) -> Agents {
    let all = views.agents_page(None, None, &AgentFilter::default()).shown;
    let ends = |agent: &AgentRecord| {
        agent.pending_not_after.map_or(agent.not_after, |pending| pending.max(agent.not_after))
    };
    let live = all.iter().filter(|(_, agent)| !agent.is_banned() && ends(agent) > now);
    let mut agents = Agents::default();
    for (_, agent) in live {
        agents.count += 1;
        let mark = Mark::of(&agent.id);
        if seen.for_good.contains(&mark) {
            continue;
        }
        let list = match seen.here.contains(&mark) {
            true => &mut agents.unsure,
            false => &mut agents.without,
        };
        list.push(agent.id.clone());
    }
    agents.without.sort();
    agents.unsure.sort();
    agents
}

/// What a member of an older release is judged by.
fn not_caught_up(view: &MemberView) -> Option<String> {
    let caught_up = view.lag.is_some_and(|lag| lag <= LAG_MAX);
    (!caught_up).then(|| "it has not caught up".to_owned())
}

//! Asks every member what it knows of a prepared authority, and joins the answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use prost::Message;
use steeple_api::pb::member::v1 as rpc;
use steeple_raft_store::{Answers, AskError, ClusterKeys, MemberView, Role, StoreHandle};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::{AgentRecord, Clock, SpiffeId};
use tokio::time::Instant;

use super::report::{MemberReport, Report, assumed_at};
use super::sightings::{Mark, Sightings};
use super::witness::Witness;
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
    /// The registry holds it weakly.
    _witness: Arc<dyn Answers>,
}

impl Survey {
    /// From here on this member answers what others ask of it, by these views and keys. A replica that
    /// is cut off may serve an old bundle for `max_staleness`.
    pub fn start(
        store: StoreHandle,
        views: Views,
        keys: Arc<ClusterKeys>,
        clock: Arc<dyn Clock>,
        max_staleness: Duration,
    ) -> Self {
        let sightings = Sightings::default();
        let witness = Witness::new(views.clone(), keys, sightings.clone());
        let witness: Arc<dyn Answers> = Arc::new(witness);
        store.answer_with(&witness);
        Self { store, views, sightings, clock, max_staleness, _witness: witness }
    }

    /// An agent was given the bundle of its own trust domain, by this member.
    pub fn given(&self, agent: &SpiffeId, bundle: &Arc<Bundle>) {
        self.sightings.given(agent, bundle);
    }

    /// What is known of a prepared authority now. Members that do not answer are left out, unless they
    /// are in contact: an absent one neither serves nor signs until it has caught up.
    pub async fn of(&self, authority: &Authority) -> Report {
        let question = rpc::Question {
            asked: Some(rpc::question::Asked::Evidence(rpc::Evidence {
                jwt: authority.kind == AuthorityKind::Jwt,
                authority_id: authority.id.as_str().to_owned(),
            })),
        };
        let question = question.encode_to_vec();
        let status = self.store.status();
        // Learners serve agents and sign, too; but they are not waited for.
        let asked = status.members.iter().filter(|view| view.reachable != Some(false));
        let answers = join_all(asked.map(|view| self.ask(view, question.clone()))).await;
        let mut seen = BTreeSet::new();
        let mut members = Vec::new();
        for (view, answer) in answers {
            let not_ready = match answer {
                Ok(answer) => {
                    seen.extend(answer.agents.into_iter().map(Mark));
                    Some(answer.not_ready).filter(|text| !text.is_empty())
                }
                Err(AskError::Older(_)) => not_caught_up(view),
                Err(AskError::Unanswered { text, .. }) => Some(text),
            };
            if view.role == Role::Voter {
                members.push(MemberReport { member: view.id, not_ready });
            }
        }
        let (survey, whole) = (self.clone(), seen);
        let agents = tokio::task::spawn_blocking(move || survey.agents_without(&whole)).await;
        let (agents, without) = agents.unwrap_or_else(|error| {
            // Agents that were not counted are no evidence that all have seen it.
            let not_ready = Some(format!("agents could not be counted: {error}"));
            members.push(MemberReport { member: status.member_id, not_ready });
            (0, Vec::new())
        });
        let assumed_at = assumed_at(authority, self.max_staleness);
        Report { members, agents, without, assumed_at }
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

    /// How many agents may use their certificates, and which of them are not among those seen. Looks at
    /// every agent: call it where blocking is allowed.
    fn agents_without(&self, seen: &BTreeSet<Mark>) -> (usize, Vec<SpiffeId>) {
        let now = self.clock.now().max(self.views.cluster_time());
        let all = self.views.agents_page(None, None, &AgentFilter::default()).shown;
        let ends = |agent: &AgentRecord| {
            agent.pending_not_after.map_or(agent.not_after, |pending| pending.max(agent.not_after))
        };
        let live = all.iter().filter(|(_, agent)| !agent.is_banned() && ends(agent) > now);
        let (mut count, mut without) = (0, Vec::new());
        for (_, agent) in live {
            count += 1;
            if !seen.contains(&Mark::of(&agent.id)) {
                without.push(agent.id.clone());
            }
        }
        without.sort();
        (count, without)
    }
}

/// What a member of an older release is judged by.
fn not_caught_up(view: &MemberView) -> Option<String> {
    let caught_up = view.lag.is_some_and(|lag| lag <= LAG_MAX);
    (!caught_up).then(|| "it has not caught up".to_owned())
}

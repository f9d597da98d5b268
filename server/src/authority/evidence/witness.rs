//! Answers other members' questions, from what this one has seen and can do: about a prepared
//! authority, and about a challenge of an ACME server.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use prost::bytes::Bytes;
use steeple_api::pb::member::v1 as rpc;
use steeple_raft_store::{Answers, ClusterKeys};
use steeple_spiffe_core::Clock;
use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityKind};
use tokio::sync::watch;

use super::arrivals::Arrivals;
use super::sightings::{Mark, Sightings};
use crate::keys::test_signature;
use crate::view::{AgentFilter, Views};

/// Agents that one answer names at most: half of what a message between members holds. Of more agents
/// the time that they are given decides.
const AGENTS_MAX: usize = 250_000;

/// How long an authority may take to arrive.
const APPLY_WAIT: Duration = Duration::from_secs(1);

/// The challenge of an ACME server that this member's bundle endpoint answers now (SHA-256 of its
/// key authorization): other members ask for it.
pub type ChallengeBoard = Arc<watch::Sender<Option<[u8; 32]>>>;

/// What a member can say of authorities. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::authority) struct Witness {
    views: Views,
    keys: Arc<ClusterKeys>,
    sightings: Sightings,
    arrivals: Arrivals,
    clock: Arc<dyn Clock>,
    challenge: ChallengeBoard,
}

impl Witness {
    /// A witness of what these views and this memory show.
    pub(in crate::authority) fn new(
        views: Views,
        keys: Arc<ClusterKeys>,
        sightings: Sightings,
        arrivals: Arrivals,
        clock: Arc<dyn Clock>,
        challenge: ChallengeBoard,
    ) -> Self {
        Self { views, keys, sightings, arrivals, clock, challenge }
    }

    async fn challenge(self, asked: rpc::Challenge) -> rpc::ChallengeAnswer {
        let mut answered = self.challenge.subscribe();
        // The question may overtake the command that has it.
        let is_it = answered
            .wait_for(|answered| answered.is_some_and(|one| one.as_slice() == asked.digest));
        let answers =
            tokio::time::timeout(APPLY_WAIT, is_it).await.is_ok_and(|found| found.is_ok());
        rpc::ChallengeAnswer { answers }
    }

    async fn evidence(self, asked: rpc::Evidence) -> rpc::EvidenceAnswer {
        let kind = match (asked.jwt, asked.wit) {
            (_, true) => AuthorityKind::Wit,
            (true, false) => AuthorityKind::Jwt,
            (false, false) => AuthorityKind::X509,
        };
        let id = AuthorityId::new(asked.authority_id);
        // The question may overtake the command that prepared it.
        let mut moves = self.views.subscribe_revision();
        let applied = moves.wait_for(|_| self.found(kind, &id).is_some());
        tokio::time::timeout(APPLY_WAIT, applied).await.ok();
        let Some(authority) = self.found(kind, &id) else {
            let not_ready = "it has not applied the authority yet".to_owned();
            return rpc::EvidenceAnswer { not_ready, ..Default::default() };
        };
        let seen = self.seen(&authority);
        let not_ready = self.signs_with(authority).await.err().unwrap_or_default();
        rpc::EvidenceAnswer { not_ready, ..seen }
    }

    /// The authority, if it has been applied here.
    pub(in crate::authority) fn found(
        &self,
        kind: AuthorityKind,
        id: &AuthorityId,
    ) -> Option<Authority> {
        let journal = self.views.journal();
        let is_it = |one: &&Authority| one.kind == kind && one.id == *id;
        journal.authorities.iter().find(is_it).cloned()
    }

    /// Which agents were given an authority that was applied here, and since when nothing older is given.
    pub(in crate::authority) fn seen(&self, authority: &Authority) -> rpc::EvidenceAnswer {
        self.forget();
        let now = self.clock.boot_time();
        self.arrivals.note(&self.views.journal(), now);
        let held_for = self.arrivals.held_for(authority, now);
        let with = self.sightings.with(authority).into_iter().take(AGENTS_MAX);
        let ago = |at| u32::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u32::MAX);
        let (agents, given_ms_ago) = with.map(|(mark, at)| (mark.0, ago(at))).unzip();
        let held_for_ms = u64::try_from(held_for.as_millis()).unwrap_or(u64::MAX);
        rpc::EvidenceAnswer { not_ready: String::new(), agents, given_ms_ago, held_for_ms }
    }

    /// Forgets agents that the registry has forgotten, before they outnumber the others.
    fn forget(&self) {
        let filter = AgentFilter::default();
        if self.sightings.count() > 2 * self.views.agents_count(&filter).shown {
            let all = self.views.agents_page(None, None, &filter).shown;
            self.sightings.keep(&all.iter().map(|(_, agent)| Mark::of(&agent.id)).collect());
        }
    }

    /// Opens the key anew and signs: what the issuer holds is only known when it is wanted.
    async fn signs_with(&self, authority: Authority) -> Result<(), String> {
        let cluster = self.views.cluster().ok_or("it knows no cluster")?;
        let keys = Arc::clone(&self.keys);
        let signs = move || test_signature(&keys, cluster.cluster_id, &authority);
        let tested = tokio::task::spawn_blocking(signs).await;
        tested.map_err(|_cancelled| "it is stopping")?
    }
}

impl Answers for Witness {
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let witness = self.clone();
        async move {
            use rpc::question::Asked;
            let question = rpc::Question::decode(question).map_err(|error| error.to_string())?;
            match question.asked {
                Some(Asked::Evidence(asked)) => {
                    Ok(witness.evidence(asked).await.encode_to_vec().into())
                }
                Some(Asked::Challenge(asked)) => {
                    Ok(witness.challenge(asked).await.encode_to_vec().into())
                }
                None => Err("it does not know the question".to_owned()),
            }
        }
        .boxed()
    }
}

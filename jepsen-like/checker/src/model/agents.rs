//! Join tokens and agents: admission, renewal, promotion, ban, deletion, and what expires.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compare::same_text;
use super::registry::{Now, Registry};
use crate::history::{Admission, Agent, ItemReply, Prune, Rejection, Reply, Seen, Token};

/// Attestor whose agents have an alias entry that goes with them.
const JOIN_TOKEN: &str = "join_token";

impl Registry {
    pub(super) fn create_token(&mut self, token: &Token) -> Result<Reply, Rejection> {
        if self.tokens.contains_key(&token.token) {
            return Err(Rejection::TokenExists);
        }
        if self.tokens.len() >= self.limits.tokens {
            return Err(Rejection::LimitReached { what: "join tokens".to_owned() });
        }
        if let Some(alias) = &token.alias
            && let ItemReply::Rejected(rejection) = self.create_entry(alias)
        {
            return Err(rejection);
        }
        self.set_token(&token.token, Some(token.expires_at_ms));
        Ok(Reply::Done)
    }

    pub(super) fn admit(
        &mut self,
        admission: &Admission,
        now: Now,
        told: Option<&Reply>,
    ) -> Result<Reply, Rejection> {
        if let Some(token) = &admission.token {
            let expires = *self.tokens.get(token).ok_or(Rejection::TokenUnknown)?;
            let told_expired = || told == Some(&Reply::Rejected(Rejection::TokenExpired));
            if now.is_after(expires).unwrap_or_else(told_expired) {
                return Err(Rejection::TokenExpired);
            }
        }
        let found = self.agents.get(&admission.agent_id);
        if found.is_some_and(|agent| agent.current.is_none()) {
            return Err(Rejection::AgentBanned);
        }
        if !saw(&admission.seen, found.map(Arc::as_ref), told) {
            return Err(Rejection::SerialsChanged);
        }
        if found.is_none() && self.agents.len() >= self.limits.agents {
            return Err(Rejection::LimitReached { what: "agents".to_owned() });
        }
        let attestation_type =
            found.map_or(&admission.attestation_type, |agent| &agent.attestation_type).clone();
        let version = found.map(|agent| agent.version.clone()).unwrap_or_default();
        if let Some(token) = &admission.token {
            self.set_token(token, None);
        }
        let agent = Agent {
            id: admission.agent_id.clone(),
            attestation_type,
            current: Some(admission.serial.clone()),
            pending: None,
            not_after_ms: admission.not_after_ms,
            selectors: admission.selectors.clone(),
            can_reattest: admission.can_reattest,
            version,
        };
        self.set_agent(&admission.agent_id, Some(Arc::new(agent)));
        Ok(Reply::Done)
    }

    pub(super) fn set_pending(
        &mut self,
        id: &str,
        seen: &Seen,
        pending: &str,
        told: Option<&Reply>,
    ) -> Result<Reply, Rejection> {
        let mut agent = self.unbanned(id, seen, told)?;
        agent.pending = Some(pending.to_owned());
        self.set_agent(id, Some(Arc::new(agent)));
        Ok(Reply::Done)
    }

    pub(super) fn promote(
        &mut self,
        id: &str,
        seen: &Seen,
        told: Option<&Reply>,
    ) -> Result<Reply, Rejection> {
        let mut agent = self.unbanned(id, seen, told)?;
        let pending = agent.pending.take().ok_or(Rejection::SerialsChanged)?;
        agent.not_after_ms = self.ends.get(&pending).copied().flatten();
        agent.current = Some(pending);
        self.set_agent(id, Some(Arc::new(agent)));
        Ok(Reply::Done)
    }

    pub(super) fn ban(&mut self, id: &str) -> Result<Reply, Rejection> {
        let mut agent = self.agent(id)?;
        agent.current = None;
        agent.pending = None;
        self.set_agent(id, Some(Arc::new(agent)));
        Ok(Reply::Done)
    }

    pub(super) fn set_version(&mut self, id: &str, version: &str) -> Result<Reply, Rejection> {
        let mut agent = self.agent(id)?;
        version.clone_into(&mut agent.version);
        self.set_agent(id, Some(Arc::new(agent)));
        Ok(Reply::Done)
    }

    pub(super) fn delete_agent(&mut self, id: &str) -> Result<Reply, Rejection> {
        self.agent(id)?;
        self.remove_agent(id);
        Ok(Reply::Done)
    }

    /// Removes what has expired and returns how many rows that were. Where time leaves it open,
    /// nothing is removed.
    pub(super) fn prune(&mut self, prune: &Prune, now: Now) -> u32 {
        let mut removed = 0;
        while removed < prune.limit {
            let Some((expires_s, id)) = self.entries_by_expiry.first().cloned() else { break };
            if expires_s >= now.low.div_euclid(1000) {
                break;
            }
            self.set_entry(&id, None);
            removed += 1;
        }
        while removed < prune.limit {
            let Some((expires, token)) = self.tokens_by_expiry.first().cloned() else { break };
            if expires >= now.low {
                break;
            }
            self.set_token(&token, None);
            removed += 1;
        }
        let Some(for_s) = prune.agents_expired_for_s else { return removed };
        let before = now.low - for_s * 1000;
        let mut expired: Vec<_> = self
            .agents
            .values()
            .filter(|agent| agent.current.is_some())
            .filter(|agent| agent.can_reattest || prune.include_non_reattestable)
            .filter_map(|agent| Some((!agent.can_reattest, agent.not_after_ms?, agent.id.clone())))
            .filter(|(_, not_after, _)| *not_after < before)
            .collect();
        expired.sort();
        for (_, _, id) in expired {
            if removed >= prune.limit {
                break;
            }
            removed += self.remove_agent(&id);
        }
        removed
    }

    /// Removes an agent and, if it came by a join token, its alias entries. Returns how many rows.
    fn remove_agent(&mut self, id: &str) -> u32 {
        let by_token = self.agents.get(id).is_some_and(|a| a.attestation_type == JOIN_TOKEN);
        self.set_agent(id, None);
        if !by_token {
            return 1;
        }
        let selectors = BTreeSet::from([format!("spiffe_id:{id}")]);
        let is_alias = |entry: &&String| {
            self.entries.get(*entry).is_some_and(|entry| entry.selectors == selectors)
        };
        let aliases: Vec<String> = self.below(id).filter(is_alias).cloned().collect();
        for alias in &aliases {
            self.set_entry(alias, None);
        }
        1 + u32::try_from(aliases.len()).unwrap_or(u32::MAX)
    }

    fn agent(&self, id: &str) -> Result<Agent, Rejection> {
        self.agents.get(id).map(|agent| agent.as_ref().clone()).ok_or(Rejection::AgentNotFound)
    }

    /// An agent that is not banned and whose serials are those that were seen.
    fn unbanned(&self, id: &str, seen: &Seen, told: Option<&Reply>) -> Result<Agent, Rejection> {
        let agent = self.agent(id)?;
        if agent.current.is_none() {
            return Err(Rejection::AgentBanned);
        }
        if !saw(seen, Some(&agent), told) {
            return Err(Rejection::SerialsChanged);
        }
        Ok(agent)
    }
}

/// Whether the serials are those that were seen. Where nobody knows what was seen, the answer says it.
fn saw(seen: &Seen, agent: Option<&Agent>, told: Option<&Reply>) -> bool {
    match (seen, agent) {
        (Seen::Any, _) => told != Some(&Reply::Rejected(Rejection::SerialsChanged)),
        (Seen::Absent, None) => true,
        (Seen::Serials { current, pending }, Some(agent)) => {
            same_text(current.as_deref(), agent.current.as_deref())
                && same_text(pending.as_deref(), agent.pending.as_deref())
        }
        (Seen::Absent, Some(_)) | (Seen::Serials { .. }, None) => false,
    }
}

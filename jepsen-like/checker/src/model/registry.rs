//! The registry's tables, the journal that takes changes back, and the way from an operation to its
//! decision.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::history::{
    Agent, Change, Entry, Filter, Header, Operation, Page, Rejection, Relationship, Reply,
};

/// Most rows of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: usize,
    /// Agents.
    pub agents: usize,
    /// Join tokens.
    pub tokens: usize,
    /// Federation relationships.
    pub relationships: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // The documented bounds of a cluster.
        Self { entries: 1_000_000, agents: 100_000, tokens: 100_000, relationships: 10_000 }
    }
}

/// What is known of cluster time at a command, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// It is not before this.
    pub low: i64,
    /// It is not after this.
    pub high: i64,
}

impl Now {
    /// Exactly this time.
    pub fn exactly(ms: i64) -> Self {
        Self { low: ms, high: ms }
    }

    /// Whether a time lies before now; `None` if it cannot be told.
    pub fn is_after(self, ms: i64) -> Option<bool> {
        if ms < self.low {
            Some(true)
        } else if ms >= self.high {
            Some(false)
        } else {
            None
        }
    }
}

/// What a command decides and changes.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The decision.
    pub reply: Reply,
    /// The changes, as the feed shows them.
    pub changes: Vec<Change>,
    /// Whether any row moved; tokens have rows and no changes.
    pub effective: bool,
}

/// Identity, parent and selectors: what makes entries similar.
type Likeness = (String, String, BTreeSet<String>);

/// Takes one row back.
#[derive(Clone, Debug)]
enum Undo {
    Entry(String, Option<Arc<Entry>>),
    Token(String, Option<i64>),
    Agent(String, Option<Arc<Agent>>),
    Relationship(String, Option<Arc<Relationship>>),
    Request(String),
    Initialised,
}

/// The registry as a sequential program.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub(super) limits: Limits,
    pub(super) bundles: BTreeSet<String>,
    pub(super) entries: BTreeMap<String, Arc<Entry>>,
    pub(super) agents: BTreeMap<String, Arc<Agent>>,
    pub(super) tokens: BTreeMap<String, i64>,
    pub(super) relationships: BTreeMap<String, Arc<Relationship>>,
    pub(super) entries_by_expiry: BTreeSet<(i64, String)>,
    pub(super) tokens_by_expiry: BTreeSet<(i64, String)>,
    pub(super) changes: Vec<Change>,
    /// When the certificate of a serial ends. A fact about serials, so never taken back.
    pub(super) ends: HashMap<String, Option<i64>>,
    similar: HashMap<Likeness, String>,
    by_parent: BTreeSet<(String, String)>,
    requests: HashMap<String, (Arc<Operation>, Reply)>,
    is_initialised: bool,
    journal: Vec<Undo>,
}

impl Registry {
    /// An empty registry.
    pub fn new(header: &Header, limits: Limits) -> Self {
        Self {
            limits,
            bundles: header.bundles.clone(),
            is_initialised: !header.uninitialised,
            ..Self::default()
        }
    }

    /// Applies a command. Where time leaves the decision open, `told` decides.
    pub fn apply(
        &mut self,
        op: &Arc<Operation>,
        request_id: Option<&str>,
        now: Now,
        told: Option<&Reply>,
    ) -> Applied {
        if let Some((known, reply)) = request_id.and_then(|id| self.requests.get(id)) {
            let reply = if known == op {
                reply.clone()
            } else {
                Reply::Rejected(Rejection::RequestIdReused)
            };
            return Applied { reply, changes: Vec::new(), effective: false };
        }
        self.changes.clear();
        let start = self.journal.len();
        let reply = match self.decide(op, now, told) {
            Ok(reply) => reply,
            Err(rejection) => {
                self.roll_back(start);
                self.changes.clear();
                if let (Rejection::TokenExpired, Operation::AdmitAgent(admission)) =
                    (&rejection, op.as_ref())
                    && let Some(token) = &admission.token
                {
                    self.set_token(token, None);
                }
                Reply::Rejected(rejection)
            }
        };
        let effective = self.journal.len() > start;
        if let Some(id) = request_id {
            self.requests.insert(id.to_owned(), (Arc::clone(op), reply.clone()));
            self.journal.push(Undo::Request(id.to_owned()));
        }
        Applied { reply, changes: std::mem::take(&mut self.changes), effective }
    }

    /// Answers a read. A list is answered whole.
    pub fn read(&self, op: &Operation) -> Option<Reply> {
        match op {
            Operation::GetEntry { id } => Some(Reply::Entry(self.entries.get(id).cloned())),
            Operation::ListEntries { filter, .. } => {
                Some(Reply::Page(Page { entries: self.list(filter), last: true }))
            }
            Operation::CountEntries => Some(Reply::Count(self.entries.len() as u64)),
            Operation::GetAgent { agent_id } => {
                Some(Reply::Agent(self.agents.get(agent_id).cloned()))
            }
            Operation::CountAgents => Some(Reply::Count(self.agents.len() as u64)),
            Operation::GetRelationship { trust_domain } => {
                Some(Reply::Relationship(self.relationships.get(trust_domain).cloned()))
            }
            Operation::InitCluster { .. }
            | Operation::CreateEntries(_)
            | Operation::UpdateEntries(_)
            | Operation::DeleteEntries(_)
            | Operation::CreateToken(_)
            | Operation::AdmitAgent(_)
            | Operation::SetPendingSerial { .. }
            | Operation::PromoteSerial { .. }
            | Operation::BanAgent { .. }
            | Operation::DeleteAgent { .. }
            | Operation::SetAgentVersion { .. }
            | Operation::CreateRelationships(_)
            | Operation::UpdateRelationships(_)
            | Operation::DeleteRelationships(_)
            | Operation::PruneExpired(_) => None,
        }
    }

    /// Entries that the filter shows, by id.
    fn list(&self, filter: &Filter) -> Vec<Arc<Entry>> {
        let shown = |entry: &&Arc<Entry>| filter.shows(entry);
        match &filter.parent_id {
            Some(parent) => self
                .below(parent)
                .filter_map(|id| self.entries.get(id))
                .filter(shown)
                .cloned()
                .collect(),
            None => self.entries.values().filter(shown).cloned().collect(),
        }
    }

    /// An entry.
    pub fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// When a token ends.
    pub fn token(&self, token: &str) -> Option<i64> {
        self.tokens.get(token).copied()
    }

    /// Removes an entry that was pruned unseen.
    pub fn expire_entry(&mut self, id: &str) {
        self.set_entry(id, None);
    }

    /// Removes a token that was pruned unseen.
    pub fn expire_token(&mut self, token: &str) {
        self.set_token(token, None);
    }

    /// The place to come back to with [`Registry::roll_back`].
    pub fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Takes back everything since the mark.
    pub fn roll_back(&mut self, mark: usize) {
        while self.journal.len() > mark {
            let Some(undo) = self.journal.pop() else { return };
            match undo {
                Undo::Entry(id, old) => {
                    self.replace_entry(&id, old);
                }
                Undo::Token(token, old) => {
                    self.replace_token(&token, old);
                }
                Undo::Agent(id, old) => {
                    self.replace_agent(&id, old);
                }
                Undo::Relationship(trust_domain, old) => {
                    self.replace_relationship(&trust_domain, old);
                }
                Undo::Request(id) => {
                    self.requests.remove(&id);
                }
                Undo::Initialised => self.is_initialised = false,
            }
        }
    }

    /// Makes what was done so far permanent.
    pub fn keep(&mut self) {
        self.journal.clear();
    }

    fn decide(
        &mut self,
        op: &Operation,
        now: Now,
        told: Option<&Reply>,
    ) -> Result<Reply, Rejection> {
        if let Operation::InitCluster { .. } = op {
            if self.is_initialised {
                return Err(Rejection::AlreadyInitialised);
            }
            self.is_initialised = true;
            self.journal.push(Undo::Initialised);
            return Ok(Reply::Done);
        }
        if !self.is_initialised {
            return Err(Rejection::NotInitialised);
        }
        match op {
            Operation::CreateEntries(entries) => {
                Ok(Reply::Items(entries.iter().map(|entry| self.create_entry(entry)).collect()))
            }
            Operation::UpdateEntries(updates) => {
                Ok(Reply::Items(updates.iter().map(|update| self.update_entry(update)).collect()))
            }
            Operation::DeleteEntries(ids) => {
                Ok(Reply::Items(ids.iter().map(|id| self.delete_entry(id)).collect()))
            }
            Operation::CreateToken(token) => self.create_token(token),
            Operation::AdmitAgent(admission) => self.admit(admission, now, told),
            Operation::SetPendingSerial { agent_id, seen, pending, not_after_ms } => {
                self.ends.insert(pending.clone(), *not_after_ms);
                self.set_pending(agent_id, seen, pending, told)
            }
            Operation::PromoteSerial { agent_id, seen } => self.promote(agent_id, seen, told),
            Operation::BanAgent { agent_id } => self.ban(agent_id),
            Operation::DeleteAgent { agent_id } => self.delete_agent(agent_id),
            Operation::SetAgentVersion { agent_id, version } => self.set_version(agent_id, version),
            Operation::CreateRelationships(all) => {
                Ok(Reply::Items(all.iter().map(|one| self.create_relationship(one)).collect()))
            }
            Operation::UpdateRelationships(updates) => {
                let items = updates.iter().map(|update| self.update_relationship(update));
                Ok(Reply::Items(items.collect()))
            }
            Operation::DeleteRelationships(names) => {
                Ok(Reply::Items(names.iter().map(|name| self.delete_relationship(name)).collect()))
            }
            Operation::PruneExpired(prune) => Ok(Reply::Pruned(self.prune(prune, now))),
            // Reads decide nothing; the one init is above.
            Operation::InitCluster { .. }
            | Operation::GetEntry { .. }
            | Operation::ListEntries { .. }
            | Operation::CountEntries
            | Operation::GetAgent { .. }
            | Operation::CountAgents
            | Operation::GetRelationship { .. } => Ok(Reply::Done),
        }
    }

    /// The entry that is similar, if there is one.
    pub(super) fn similar_to(&self, entry: &Entry) -> Option<&String> {
        self.similar.get(&likeness(entry))
    }

    /// Ids of the entries below a parent, in order.
    pub(super) fn below(&self, parent: &str) -> impl Iterator<Item = &String> {
        let from = (parent.to_owned(), String::new());
        let parent = parent.to_owned();
        self.by_parent.range(from..).take_while(move |(p, _)| *p == parent).map(|(_, id)| id)
    }

    /// Writes or removes an entry.
    pub(super) fn set_entry(&mut self, id: &str, new: Option<Arc<Entry>>) {
        self.changes.push(match &new {
            Some(entry) => Change::EntryWritten(Arc::clone(entry)),
            None => Change::EntryDeleted { id: id.to_owned() },
        });
        let old = self.replace_entry(id, new);
        self.journal.push(Undo::Entry(id.to_owned(), old));
    }

    /// Writes or removes a token.
    pub(super) fn set_token(&mut self, token: &str, new: Option<i64>) {
        let old = self.replace_token(token, new);
        self.journal.push(Undo::Token(token.to_owned(), old));
    }

    /// Writes or removes an agent.
    pub(super) fn set_agent(&mut self, id: &str, new: Option<Arc<Agent>>) {
        self.changes.push(match &new {
            Some(agent) => Change::AgentWritten(Arc::clone(agent)),
            None => Change::AgentDeleted { id: id.to_owned() },
        });
        let old = self.replace_agent(id, new);
        self.journal.push(Undo::Agent(id.to_owned(), old));
    }

    /// Writes or removes a federation relationship.
    pub(super) fn set_relationship(&mut self, name: &str, new: Option<Arc<Relationship>>) {
        self.changes.push(match &new {
            Some(written) => Change::RelationshipWritten(Arc::clone(written)),
            None => Change::RelationshipDeleted { trust_domain: name.to_owned() },
        });
        let old = self.replace_relationship(name, new);
        self.journal.push(Undo::Relationship(name.to_owned(), old));
    }

    fn replace_entry(&mut self, id: &str, new: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let old = self.entries.remove(id);
        if let Some(old) = &old {
            self.similar.remove(&likeness(old));
            self.by_parent.remove(&(old.parent_id.clone(), id.to_owned()));
            if old.expires_at_s != 0 {
                self.entries_by_expiry.remove(&(old.expires_at_s, id.to_owned()));
            }
        }
        if let Some(new) = new {
            self.similar.insert(likeness(&new), id.to_owned());
            self.by_parent.insert((new.parent_id.clone(), id.to_owned()));
            if new.expires_at_s != 0 {
                self.entries_by_expiry.insert((new.expires_at_s, id.to_owned()));
            }
            self.entries.insert(id.to_owned(), new);
        }
        old
    }

    fn replace_token(&mut self, token: &str, new: Option<i64>) -> Option<i64> {
        let old = self.tokens.remove(token);
        if let Some(expires) = old {
            self.tokens_by_expiry.remove(&(expires, token.to_owned()));
        }
        if let Some(expires) = new {
            self.tokens.insert(token.to_owned(), expires);
            self.tokens_by_expiry.insert((expires, token.to_owned()));
        }
        old
    }

    fn replace_relationship(
        &mut self,
        name: &str,
        new: Option<Arc<Relationship>>,
    ) -> Option<Arc<Relationship>> {
        match new {
            Some(written) => self.relationships.insert(name.to_owned(), written),
            None => self.relationships.remove(name),
        }
    }

    fn replace_agent(&mut self, id: &str, new: Option<Arc<Agent>>) -> Option<Arc<Agent>> {
        match new {
            Some(agent) => self.agents.insert(id.to_owned(), agent),
            None => self.agents.remove(id),
        }
    }
}

fn likeness(entry: &Entry) -> Likeness {
    (entry.spiffe_id.clone(), entry.parent_id.clone(), entry.selectors.clone())
}

//! The index of attested agents: by row and by id.
//!
//! Whether an agent may call is the gate's decision; this only says what is stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use steeple_raft_store::{Revision, RowNumber};
use steeple_spiffe_core::{AgentRecord, SpiffeId};

use super::filter::AgentFilter;
use super::rows;

/// All agents, and the ways they are looked up.
#[derive(Debug, Default)]
pub(super) struct AgentIndex {
    rows: BTreeMap<RowNumber, Arc<AgentRecord>>,
    by_id: HashMap<SpiffeId, RowNumber>,
    /// When each agent's selectors became what they are, as far as this replica knows.
    selectors_since: HashMap<RowNumber, Revision>,
}

impl AgentIndex {
    /// Inserts an agent or replaces the one in its row, at a revision.
    pub(super) fn write(&mut self, row: RowNumber, agent: Arc<AgentRecord>, revision: Revision) {
        let same = self.rows.get(&row).is_some_and(|old| old.selectors == agent.selectors);
        let since = self.selectors_since.get(&row).copied().filter(|_| same).unwrap_or(revision);
        self.remove(row);
        self.selectors_since.insert(row, since);
        self.by_id.insert(agent.id.clone(), row);
        self.rows.insert(row, agent);
    }

    /// Removes the agent in a row, if there is one.
    pub(super) fn remove(&mut self, row: RowNumber) {
        self.selectors_since.remove(&row);
        if let Some(agent) = self.rows.remove(&row)
            && self.by_id.get(&agent.id) == Some(&row)
        {
            self.by_id.remove(&agent.id);
        }
    }

    /// The revision up to which nothing is known of an agent's selectors, or at which they became
    /// what they are; `None`: there is no such agent.
    pub(super) fn selectors_since(&self, id: &SpiffeId) -> Option<Revision> {
        self.selectors_since.get(self.by_id.get(id)?).copied()
    }

    /// The agent with an id.
    pub(super) fn get(&self, id: &SpiffeId) -> Option<&Arc<AgentRecord>> {
        self.rows.get(self.by_id.get(id)?)
    }

    /// Agents after a row that pass the filter, in list order, at most `limit`.
    pub(super) fn page(
        &self,
        after: Option<RowNumber>,
        limit: usize,
        filter: &AgentFilter,
    ) -> Vec<(RowNumber, Arc<AgentRecord>)> {
        rows::page(&self.rows, after, Some(limit), |agent| filter.matches(agent))
    }

    /// How many agents pass the filter.
    pub(super) fn count(&self, filter: &AgentFilter) -> usize {
        if *filter == AgentFilter::default() {
            return self.rows.len();
        }
        self.rows.values().filter(|agent| filter.matches(agent)).count()
    }
}

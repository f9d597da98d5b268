//! The index of attested agents: by row and by id.
//!
//! Whether an agent may call is the gate's decision; this only says what is stored.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use steeple_raft_store::RowNumber;
use steeple_spiffe_core::{AgentRecord, SpiffeId};

use super::filter::AgentFilter;

/// All agents, and the ways they are looked up.
#[derive(Debug, Default)]
pub(super) struct AgentIndex {
    rows: BTreeMap<RowNumber, Arc<AgentRecord>>,
    by_id: HashMap<SpiffeId, RowNumber>,
}

impl AgentIndex {
    /// Inserts an agent or replaces the one in its row.
    pub(super) fn write(&mut self, row: RowNumber, agent: Arc<AgentRecord>) {
        self.remove(row);
        self.by_id.insert(agent.id.clone(), row);
        self.rows.insert(row, agent);
    }

    /// Removes the agent in a row, if there is one.
    pub(super) fn remove(&mut self, row: RowNumber) {
        if let Some(agent) = self.rows.remove(&row)
            && self.by_id.get(&agent.id) == Some(&row)
        {
            self.by_id.remove(&agent.id);
        }
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
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        self.rows
            .range(range)
            .filter(|(_, agent)| filter.matches(agent))
            .take(limit)
            .map(|(row, agent)| (*row, Arc::clone(agent)))
            .collect()
    }

    /// How many agents pass the filter.
    pub(super) fn count(&self, filter: &AgentFilter) -> usize {
        if *filter == AgentFilter::default() {
            return self.rows.len();
        }
        self.rows.values().filter(|agent| filter.matches(agent)).count()
    }
}

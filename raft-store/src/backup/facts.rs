//! What a snapshot says of itself in clear.

use steeple_spiffe_core::time::Timestamp;

use crate::apply::{Rows, SINGLE, Table, TableError, read_cluster, read_counters, read_journal};
use crate::change::{ClusterState, Journal};
use crate::ids::{MemberId, Revision};
use crate::raft::state_machine::read_applied_row;
use crate::raft::{LogId, StoredMembership};

/// Rows read from the tables at a time.
const PAGE: usize = 512;

/// The state that a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// The cluster, its epoch and feature level.
    pub cluster: ClusterState,
    /// The last log index that is in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The last time that the state knew.
    pub time: Timestamp,
    /// Who belonged to the cluster, by id.
    pub members: Vec<SnapshotMember>,
    /// How much is in it.
    pub counts: SnapshotCounts,
    /// The id of the cluster key that opens it.
    pub key_id: String,
    /// Makes the key of this snapshot its own.
    pub salt: [u8; 32],
}

/// A member as a snapshot names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMember {
    /// Its id.
    pub id: MemberId,
    /// Where others reached it.
    pub address: String,
    /// Whether it voted.
    pub voter: bool,
}

/// Rows of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Registration entries.
    pub entries: u64,
    /// Attested agents.
    pub agents: u64,
    /// Unspent join tokens.
    pub tokens: u64,
    /// Bundles, the own one included.
    pub bundles: u64,
    /// Authorities that are published.
    pub authorities: u64,
    /// Federation relationships.
    pub relationships: u64,
}

impl SnapshotFacts {
    /// The revision of the state.
    pub fn revision(&self) -> Revision {
        Revision::new(self.cluster.epoch, self.index)
    }
}

/// A state of the tables.
pub(super) struct State {
    pub(super) cluster: ClusterState,
    pub(super) log_id: LogId,
    pub(super) membership: StoredMembership,
    pub(super) time: Timestamp,
    pub(super) counts: SnapshotCounts,
}

impl State {
    /// Reads what the tables say; `None` before the cluster's first command.
    pub(super) fn read(rows: &dyn Rows) -> Result<Option<Self>, TableError> {
        let (log_id, membership) = match rows.get(Table::Applied, SINGLE)? {
            Some(bytes) => read_applied_row(&bytes)?,
            None => return Ok(None),
        };
        let (Some(cluster), Some(log_id)) = (read_cluster(rows)?, log_id) else { return Ok(None) };
        let counters = read_counters(rows)?;
        let counts = SnapshotCounts {
            entries: counters.entries,
            agents: counters.agents,
            tokens: counters.tokens,
            bundles: count(rows, Table::Bundles)?,
            authorities: published(&read_journal(rows)?),
            relationships: count(rows, Table::Relationships)?,
        };
        let time = Timestamp::from_unix_ms(counters.time_unix_ms);
        Ok(Some(Self { cluster, log_id, membership, time, counts }))
    }

    /// Everyone, by id.
    pub(super) fn members(&self) -> Vec<SnapshotMember> {
        let voters: Vec<u64> = self.membership.voter_ids().collect();
        let member = |(id, node): (&u64, &crate::raft::PeerNode)| SnapshotMember {
            id: MemberId(*id),
            address: node.address.clone(),
            voter: voters.contains(id),
        };
        self.membership.nodes().map(member).collect()
    }
}

fn published(journal: &Journal) -> u64 {
    journal.authorities.iter().filter(|one| one.status.is_published()).count() as u64
}

fn count(rows: &dyn Rows, table: Table) -> Result<u64, TableError> {
    let mut total = 0;
    let mut from = Vec::new();
    loop {
        let page = rows.scan(table, &from, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(total) };
        total += page.len() as u64;
        from.clone_from(last);
        from.push(0);
    }
}

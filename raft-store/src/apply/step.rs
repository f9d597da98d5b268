//! One command being applied: its transaction, its time, the numbers it may mint, the changes it made.

use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::reading::read_cluster;
use crate::apply::state_hash;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::{Rows, TableError, Transaction};
use crate::change::{Change, ClusterState};
use crate::codec::CodecError;
use crate::ids::{Revision, RowNumber};
use crate::mutants::{self, Mutant};
use crate::pb;

/// The state of one command's application.
pub(super) struct Step<'t, 'a> {
    pub(super) txn: &'t mut Transaction<'a>,
    /// Cluster time of this command; never before that of any earlier one.
    pub(super) now: Timestamp,
    pub(super) counters: pb::store::Counters,
    pub(super) changes: Vec<Change>,
    /// The cluster's row; `None` before the first command.
    pub(super) cluster: Option<ClusterState>,
    before: pb::store::Counters,
}

impl<'t, 'a> Step<'t, 'a> {
    /// Begins a command that the leader stamped with `stamped`. Time is clamped: a leader whose clock
    /// is behind does not take cluster time back.
    pub(super) fn begin(
        txn: &'t mut Transaction<'a>,
        stamped: Timestamp,
    ) -> Result<Self, TableError> {
        let mut counters =
            read_message::<pb::store::Counters>(txn, Table::Counters, SINGLE)?.unwrap_or_default();
        let now = if mutants::on(Mutant::TimeGoesBack) {
            stamped
        } else {
            stamped.max(Timestamp::from_unix_ms(counters.time_unix_ms))
        };
        counters.time_unix_ms = now.unix_ms();
        let cluster = read_cluster(txn)?;
        Ok(Self { txn, now, before: counters, counters, changes: Vec::new(), cluster })
    }

    /// Takes back what the command did so far; time stays where it is.
    pub(super) fn roll_back(&mut self) {
        self.txn.discard();
        self.counters = self.before;
        self.changes.clear();
    }

    /// Ends the command, which stands at `index` of the log, and returns its changes.
    pub(super) fn end(self, index: u64) -> Result<Vec<Change>, TableError> {
        self.txn.put(Table::Counters, SINGLE, self.counters.encode_to_vec());
        let level = self.cluster.as_ref().map_or(0, |cluster| cluster.feature_level);
        state_hash::advance(self.txn, index, level)?;
        self.txn.keep();
        Ok(self.changes)
    }

    /// The state that a command at `index` of the log leads to.
    pub(super) fn revision(&self, index: u64) -> Revision {
        Revision::new(self.cluster.as_ref().map_or(0, |cluster| cluster.epoch), index)
    }

    /// The next row number. Never reused, also not after a deletion.
    pub(super) fn mint_row(&mut self) -> RowNumber {
        // Number 0 is left out: page tokens use it for "from the start".
        self.counters.next_row += 1;
        RowNumber(self.counters.next_row)
    }

    /// Writes a row.
    pub(super) fn put(&mut self, table: Table, key: &[u8], message: &impl Message) {
        self.txn.put(table, key, message.encode_to_vec());
    }

    /// Reads a row.
    pub(super) fn read<M: Message + Default>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<M>, TableError> {
        read_message(self.txn, table, key)
    }
}

/// Reads and decodes a row.
pub(super) fn read_message<M: Message + Default>(
    rows: &dyn Rows,
    table: Table,
    key: &[u8],
) -> Result<Option<M>, TableError> {
    let Some(bytes) = rows.get(table, key)? else { return Ok(None) };
    let message =
        M::decode(bytes.as_slice()).map_err(|error| CodecError::new("row of a table", error))?;
    Ok(Some(message))
}

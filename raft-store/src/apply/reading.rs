//! Reading rows back into our things: for subscriptions, status, and the rules of other tables.

use std::sync::Arc;

use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::step::read_message;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::{Rows, TableError};
use crate::change::{Change, ClusterState, Journal};
use crate::codec::{
    CodecError, agent_from_pb, bundle_from_pb, cluster_from_pb, entry_from_pb, journal_from_pb,
    refresh_row_from_pb, relationship_row_from_pb, sealed_value_from_pb,
};
use crate::ids::RowNumber;
use crate::pb;
use crate::sealed_values::SealedValues;

/// Rows read from the tables at a time.
const PAGE: usize = 512;

/// The cluster's row; `None` before its first command.
pub(crate) fn read_cluster<R: Rows + ?Sized>(rows: &R) -> Result<Option<ClusterState>, TableError> {
    let Some(bytes) = rows.get(Table::Cluster, SINGLE)? else { return Ok(None) };
    let row = pb::store::ClusterState::decode(bytes.as_slice())
        .map_err(|error| CodecError::new("cluster row", error))?;
    Ok(Some(cluster_from_pb(row)?))
}

/// The counters.
pub(crate) fn read_counters(rows: &dyn Rows) -> Result<pb::store::Counters, TableError> {
    let counters = read_message::<pb::store::Counters>(rows, Table::Counters, SINGLE)?;
    Ok(counters.unwrap_or_default())
}

/// Cluster time.
pub(crate) fn read_time(rows: &dyn Rows) -> Result<Timestamp, TableError> {
    Ok(Timestamp::from_unix_ms(read_counters(rows)?.time_unix_ms))
}

/// The journal of authorities.
pub(crate) fn read_journal(rows: &dyn Rows) -> Result<Journal, TableError> {
    match read_message::<pb::store::Journal>(rows, Table::Journal, SINGLE)? {
        Some(journal) => Ok(journal_from_pb(journal)?),
        None => Ok(Journal::default()),
    }
}

/// The values that are kept sealed.
pub(crate) fn read_sealed(rows: &dyn Rows) -> Result<SealedValues, TableError> {
    let mut values = SealedValues::new();
    each(rows, Table::Sealed, &mut |value| {
        let (name, value) = sealed_value_from_pb(decode(value)?)?;
        values.insert(name, Arc::new(value));
        Ok(())
    })?;
    Ok(values)
}

/// Every row as a change: cluster, bundles, relationships, refreshes, journal, sealed values, agents,
/// entries; each kind in key order.
pub(crate) fn snapshot_changes(rows: &dyn Rows) -> Result<Vec<Change>, TableError> {
    let mut changes = Vec::new();
    if let Some(cluster) = read_cluster(rows)? {
        changes.push(Change::ClusterWritten(Arc::new(cluster)));
    }
    each(rows, Table::Bundles, &mut |value| {
        let row: pb::store::BundleRow = decode(value)?;
        let bundle = row.bundle.ok_or_else(|| CodecError::missing("bundle of a row"))?;
        changes.push(Change::BundleWritten {
            row: RowNumber(row.row),
            bundle: Arc::new(bundle_from_pb(bundle)?),
        });
        Ok(())
    })?;
    each(rows, Table::Relationships, &mut |value| {
        let (row, relationship) = relationship_row_from_pb(decode(value)?)?;
        changes.push(Change::RelationshipWritten { row, relationship: Arc::new(relationship) });
        Ok(())
    })?;
    each(rows, Table::Refreshes, &mut |value| {
        changes.push(Change::RefreshWritten(Arc::new(refresh_row_from_pb(decode(value)?)?)));
        Ok(())
    })?;
    if let Some(journal) = read_message::<pb::store::Journal>(rows, Table::Journal, SINGLE)? {
        changes.push(Change::JournalWritten(Arc::new(journal_from_pb(journal)?)));
    }
    for (name, value) in read_sealed(rows)? {
        changes.push(Change::SealedWritten { name, value });
    }
    each(rows, Table::Agents, &mut |value| {
        let row: pb::store::AgentRow = decode(value)?;
        let agent = row.agent.ok_or_else(|| CodecError::missing("agent of a row"))?;
        changes.push(Change::AgentWritten {
            row: RowNumber(row.row),
            agent: Arc::new(agent_from_pb(agent)?),
        });
        Ok(())
    })?;
    each(rows, Table::Entries, &mut |value| {
        let row: pb::store::EntryRow = decode(value)?;
        let entry = row.entry.ok_or_else(|| CodecError::missing("entry of a row"))?;
        changes.push(Change::EntryWritten {
            row: RowNumber(row.row),
            entry: Arc::new(entry_from_pb(entry)?),
        });
        Ok(())
    })?;
    Ok(changes)
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, TableError> {
    M::decode(bytes).map_err(|error| CodecError::new("row of a table", error).into())
}

fn each(
    rows: &dyn Rows,
    table: Table,
    body: &mut dyn FnMut(&[u8]) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let mut from = Vec::new();
    loop {
        let page = rows.scan(table, &from, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from.clone_from(last);
        from.push(0);
        for (_, value) in &page {
            body(value)?;
        }
    }
}

//! Reading rows back into our things: for subscriptions, status, and the rules of other tables.

use std::sync::{Arc, mpsc};
use std::thread;

use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::step::read_message;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::{Row, Rows, TableError};
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

/// Pages that are read and not decoded yet.
const PAGES_WAITING_MAX: usize = 8;

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
    read_entries(rows, &mut changes)?;
    Ok(changes)
}

/// Every entry as a change. Of more than a page, one thread reads and another decodes: there may be a
/// million, and a start waits for them.
fn read_entries(rows: &dyn Rows, changes: &mut Vec<Change>) -> Result<(), TableError> {
    let first = rows.scan(Table::Entries, &[], PAGE)?;
    if first.len() < PAGE {
        return decode_entries(&first, changes);
    }
    thread::scope(|scope| {
        let (pages, read) = mpsc::sync_channel::<Vec<Row>>(PAGES_WAITING_MAX);
        let decoding = scope
            .spawn(move || read.into_iter().try_for_each(|page| decode_entries(&page, changes)));
        let reading = send_pages(rows, Table::Entries, first, &pages);
        drop(pages);
        let decoded = decoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        decoded.and(reading)
    })
}

/// Sends a page and those behind it, until they end or nobody takes them any more.
fn send_pages(
    rows: &dyn Rows,
    table: Table,
    first: Vec<Row>,
    pages: &mpsc::SyncSender<Vec<Row>>,
) -> Result<(), TableError> {
    let mut page = first;
    while let Some((last, _)) = page.last() {
        let mut from = last.clone();
        from.push(0);
        if pages.send(page).is_err() {
            return Ok(());
        }
        page = rows.scan(table, &from, PAGE)?;
    }
    Ok(())
}

fn decode_entries(page: &[Row], changes: &mut Vec<Change>) -> Result<(), TableError> {
    for (_, value) in page {
        let row: pb::store::EntryRow = decode(value)?;
        let entry = row.entry.ok_or_else(|| CodecError::missing("entry of a row"))?;
        changes.push(Change::EntryWritten {
            row: RowNumber(row.row),
            entry: Arc::new(entry_from_pb(entry)?),
        });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::{Registry, entry};
    use crate::apply::{Tables as _, WriteSet};
    use crate::codec::entry_to_pb;

    fn id(number: usize) -> String {
        format!("e{number:06}")
    }

    /// A registry of so many rows of entries; one of them may be of other bytes.
    fn registry(rows: usize, damaged: Option<usize>) -> Registry {
        let registry = Registry::formed();
        let mut writes = WriteSet::new();
        for number in 0..rows {
            let entry = entry_to_pb(&entry(&id(number), "/w", "unix:uid:1"));
            let row = pb::store::EntryRow { row: number as u64, entry: Some(entry) };
            let bytes = if damaged == Some(number) { vec![0xff] } else { row.encode_to_vec() };
            writes.insert((Table::Entries, id(number).into_bytes()), Some(bytes));
        }
        registry.tables.commit(writes).unwrap();
        registry
    }

    fn entry_of(change: &Change) -> Option<&str> {
        let Change::EntryWritten { entry, .. } = change else { return None };
        Some(entry.id.as_str())
    }

    #[test]
    fn entries_of_many_pages_come_whole_and_in_order() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let changes = snapshot_changes(&registry(count, None).tables).unwrap();
            let ids: Vec<_> = (0..count).map(id).collect();
            let found: Vec<_> = changes.iter().filter_map(entry_of).collect();
            assert_eq!(found, ids, "{count} entries");
        }
    }

    #[test]
    fn a_row_that_does_not_decode_is_told_on_whichever_page_it_is() {
        let rows = (PAGES_WAITING_MAX + 4) * PAGE;
        for at in [0, PAGE, rows - 1] {
            let error = snapshot_changes(&registry(rows, Some(at)).tables).unwrap_err();
            assert!(error.to_string().contains("row of a table"), "{at}: {error}");
        }
    }
}

//! The tables in RocksDB: one write batch for each applied batch.

use rocksdb::{DB, DBAccess, DBRawIteratorWithThreadMode, ReadOptions, WriteBatch};

use crate::apply::{Row, Rows, Table, TableError, TableRow, Tables, WriteSet};
use crate::rocks::db::{Database, to_io};
use crate::rocks::keys;

/// The tables of this member.
#[derive(Debug)]
pub(super) struct RocksTables {
    pub(super) database: Database,
}

impl RocksTables {
    fn add_writes(&self, batch: &mut WriteBatch, writes: WriteSet) -> Result<(), TableError> {
        let state = self.database.family(keys::STATE)?;
        for ((table, key), value) in writes {
            let key = keys::row(table, &key);
            match value {
                Some(value) => batch.put_cf(state, key, value),
                None => batch.delete_cf(state, key),
            }
        }
        Ok(())
    }
}

impl Rows for RocksTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let state = self.database.family(keys::STATE)?;
        Ok(self.database.db().get_cf(state, keys::row(table, key)).map_err(to_io)?)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        let state = self.database.family(keys::STATE)?;
        let options = below(table);
        collect(self.database.db().raw_iterator_cf_opt(state, options), table, from, limit)
    }
}

/// A fixed view of the tables.
struct View<'a> {
    database: &'a Database,
    snapshot: rocksdb::SnapshotWithThreadMode<'a, DB>,
}

impl Rows for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let state = self.database.family(keys::STATE)?;
        Ok(self.snapshot.get_cf(state, keys::row(table, key)).map_err(to_io)?)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        let state = self.database.family(keys::STATE)?;
        collect(self.snapshot.raw_iterator_cf_opt(state, below(table)), table, from, limit)
    }
}

fn below(table: Table) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(keys::table_end(table));
    options
}

fn collect<D: DBAccess>(
    mut iterator: DBRawIteratorWithThreadMode<'_, D>,
    table: Table,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    iterator.seek(keys::row(table, from));
    while rows.len() < limit
        && let Some((key, value)) = iterator.item()
    {
        rows.push((key.get(1..).unwrap_or_default().to_vec(), value.to_vec()));
        iterator.next();
    }
    iterator.status().map_err(to_io)?;
    Ok(rows)
}

impl Tables for RocksTables {
    fn read_consistent(
        &self,
        body: &mut dyn FnMut(&dyn Rows) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        body(&View { database: &self.database, snapshot: self.database.db().snapshot() })
    }

    fn commit(&self, writes: WriteSet) -> Result<(), TableError> {
        let mut batch = WriteBatch::default();
        self.add_writes(&mut batch, writes)?;
        Ok(self.database.write(batch)?)
    }

    fn begin_replace(&self) -> Result<(), TableError> {
        let meta = self.database.family(keys::META)?;
        let state = self.database.family(keys::STATE)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, keys::HALF_REPLACED, b"");
        batch.delete_range_cf(state, [0_u8].as_slice(), [u8::MAX].as_slice());
        Ok(self.database.write_synced(batch)?)
    }

    fn load(&self, rows: Vec<TableRow>) -> Result<(), TableError> {
        let state = self.database.family(keys::STATE)?;
        let mut batch = WriteBatch::default();
        for (table, key, value) in rows {
            batch.put_cf(state, keys::row(table, &key), value);
        }
        Ok(self.database.write(batch)?)
    }

    fn end_replace(&self, writes: WriteSet) -> Result<(), TableError> {
        let meta = self.database.family(keys::META)?;
        let mut batch = WriteBatch::default();
        self.add_writes(&mut batch, writes)?;
        batch.delete_cf(meta, keys::HALF_REPLACED);
        Ok(self.database.write_synced(batch)?)
    }

    fn is_half_replaced(&self) -> Result<bool, TableError> {
        let meta = self.database.family(keys::META)?;
        let mark = self.database.db().get_cf(meta, keys::HALF_REPLACED).map_err(to_io)?;
        Ok(mark.is_some())
    }
}

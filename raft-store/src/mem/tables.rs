//! Tables in memory: a sorted map that readers share until it is written again.
//!
//! Owns a sum over all rows besides, kept as they are written: simulations compare members by it at
//! every step, which reading all rows would make too slow.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use crate::apply::{Row, Rows, SINGLE, Table, TableError, TableRow, Tables, WriteSet};

type Map = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Tables in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryTables {
    state: RwLock<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    rows: Arc<Map>,
    /// All rows' hashes, added: the same for the same rows, in whatever order they came.
    sum: u64,
    half_replaced: bool,
}

impl State {
    fn put(&mut self, key: (Table, Vec<u8>), value: Option<Vec<u8>>) {
        let rows = Arc::make_mut(&mut self.rows);
        if let Some(old) = BTreeMap::get(rows, &key) {
            self.sum = self.sum.wrapping_sub(row_hash(&key, old));
        }
        match value {
            Some(value) => {
                self.sum = self.sum.wrapping_add(row_hash(&key, &value));
                rows.insert(key, value);
            }
            None => {
                rows.remove(&key);
            }
        }
    }
}

fn row_hash((table, key): &(Table, Vec<u8>), value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u32(table.number());
    hasher.write_usize(key.len());
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

impl MemoryTables {
    fn rows(&self) -> Arc<Map> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).rows)
    }

    /// The applied row's bytes and the sum over all rows, of one state.
    pub(super) fn summed(&self) -> (Option<Vec<u8>>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let applied = BTreeMap::get(&*state.rows, &(Table::Applied, SINGLE.to_vec()));
        (applied.cloned(), state.sum)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Rows for Map {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(BTreeMap::get(self, &(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        let start = Bound::Included((table, from.to_vec()));
        Ok(self
            .range((start, Bound::Unbounded))
            .take_while(|((at, _), _)| *at == table)
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl Rows for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Rows::get(&*self.rows(), table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, TableError> {
        self.rows().scan(table, from, limit)
    }
}

impl Tables for MemoryTables {
    fn read_consistent(
        &self,
        body: &mut dyn FnMut(&dyn Rows) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        body(&*self.rows())
    }

    fn commit(&self, writes: WriteSet) -> Result<(), TableError> {
        self.change(|state| {
            for (key, value) in writes {
                state.put(key, value);
            }
        });
        Ok(())
    }

    fn begin_replace(&self) -> Result<(), TableError> {
        self.change(|state| *state = State { half_replaced: true, ..State::default() });
        Ok(())
    }

    fn load(&self, loaded: Vec<TableRow>) -> Result<(), TableError> {
        self.change(|state| {
            for (table, key, value) in loaded {
                state.put((table, key), Some(value));
            }
        });
        Ok(())
    }

    fn end_replace(&self, writes: WriteSet) -> Result<(), TableError> {
        self.commit(writes)?;
        self.change(|state| state.half_replaced = false);
        Ok(())
    }

    fn is_half_replaced(&self) -> Result<bool, TableError> {
        Ok(self.state.read().unwrap_or_else(PoisonError::into_inner).half_replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> (Table, Vec<u8>) {
        (Table::Entries, name.as_bytes().to_vec())
    }

    #[test]
    fn the_sum_follows_the_rows_and_not_the_order_of_writes() {
        let one = MemoryTables::default();
        one.commit([(key("a"), Some(vec![1])), (key("b"), Some(vec![2]))].into()).unwrap();
        let other = MemoryTables::default();
        other.commit([(key("b"), Some(vec![2])), (key("c"), Some(vec![3]))].into()).unwrap();
        assert_ne!(one.summed(), other.summed());
        other.commit([(key("c"), None), (key("a"), Some(vec![9]))].into()).unwrap();
        assert_ne!(one.summed(), other.summed());
        other.commit([(key("a"), Some(vec![1]))].into()).unwrap();
        assert_eq!(one.summed(), other.summed());
        let third = MemoryTables::default();
        third.begin_replace().unwrap();
        third.load(vec![(Table::Entries, b"b".to_vec(), vec![2])]).unwrap();
        third.end_replace([(key("a"), Some(vec![1]))].into()).unwrap();
        assert_eq!(one.summed(), third.summed());
    }
}

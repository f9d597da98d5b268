//! Tables in memory: a sorted map that readers share until it is written again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use crate::apply::{Row, Rows, Table, TableError, TableRow, Tables, WriteSet};

type Map = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Tables in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryTables {
    state: RwLock<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    rows: Arc<Map>,
    half_replaced: bool,
}

impl MemoryTables {
    fn rows(&self) -> Arc<Map> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).rows)
    }

    fn change(&self, change: impl FnOnce(&mut Map, &mut bool)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { rows, half_replaced } = &mut *state;
        change(Arc::make_mut(rows), half_replaced);
    }
}

fn write(rows: &mut Map, writes: WriteSet) {
    for (key, value) in writes {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
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
        self.change(|rows, _| write(rows, writes));
        Ok(())
    }

    fn begin_replace(&self) -> Result<(), TableError> {
        self.change(|rows, half_replaced| {
            rows.clear();
            *half_replaced = true;
        });
        Ok(())
    }

    fn load(&self, loaded: Vec<TableRow>) -> Result<(), TableError> {
        self.change(|rows, _| {
            rows.extend(loaded.into_iter().map(|(table, key, value)| ((table, key), value)));
        });
        Ok(())
    }

    fn end_replace(&self, writes: WriteSet) -> Result<(), TableError> {
        self.change(|rows, half_replaced| {
            write(rows, writes);
            *half_replaced = false;
        });
        Ok(())
    }

    fn is_half_replaced(&self) -> Result<bool, TableError> {
        Ok(self.state.read().unwrap_or_else(PoisonError::into_inner).half_replaced)
    }
}

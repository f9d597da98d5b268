//! The index of registration entries: by row, id, parent, SPIFFE id, and node aliases by selector.
//!
//! Owns its own consistency, every entry is in all indexes or in none, and that a million entries take
//! little memory: entries and indexes hold the same texts, not copies. Who may see which entry is
//! computed in `authorized`, from the lookups given here.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::RowNumber;
use steeple_spiffe_core::{EntryId, RegistrationEntry, Selector, SelectorSet, SpiffeId};

use super::filter::EntryFilter;
use super::rows::{self, Rows};

/// All entries, and the ways they are looked up.
#[derive(Debug, Default)]
pub(super) struct EntryIndex {
    rows: BTreeMap<RowNumber, Arc<RegistrationEntry>>,
    by_id: HashMap<EntryId, RowNumber>,
    by_parent: HashMap<SpiffeId, Rows>,
    by_spiffe_id: HashMap<SpiffeId, Rows>,
    /// Node aliases under the first of their selectors: an alias applies to an agent that has all
    /// of them, hence also the first, so one place for each is enough.
    aliases: HashMap<Selector, Rows>,
    /// How many entries ask for each lifetime of X.509-SVIDs, in seconds; zero: the default.
    x509_ttls: BTreeMap<i32, usize>,
}

impl EntryIndex {
    /// Makes room for so many entries more: a table that grows to a million moves all of it a dozen
    /// times.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.by_id.reserve(entries);
    }

    /// Inserts an entry or replaces the one in its row.
    pub(super) fn write(&mut self, row: RowNumber, entry: Arc<RegistrationEntry>) {
        self.remove(row);
        let entry = self.sharing(entry);
        self.by_id.insert(entry.id.clone(), row);
        add_row(&mut self.by_parent, &entry.parent_id, row);
        add_row(&mut self.by_spiffe_id, &entry.spiffe_id, row);
        if let Some(first) = alias_key(&entry) {
            add_row(&mut self.aliases, first, row);
        }
        *self.x509_ttls.entry(entry.x509_svid_ttl_s).or_default() += 1;
        self.rows.insert(row, entry);
    }

    /// The shortest lifetime of X.509-SVIDs that entries ask for; `None`: there are no entries.
    pub(super) fn shortest_x509_ttl(&self, default: Duration) -> Option<Duration> {
        let ttls = self.x509_ttls.keys().map(|seconds| {
            let given = u64::try_from(*seconds).ok().filter(|seconds| *seconds > 0);
            given.map_or(default, Duration::from_secs)
        });
        ttls.min()
    }

    /// The entry with the texts that other entries of its parent have too, in their memory.
    fn sharing(&self, entry: Arc<RegistrationEntry>) -> Arc<RegistrationEntry> {
        let mut entry = Arc::unwrap_or_clone(entry);
        if let Some((parent, _)) = self.by_parent.get_key_value(&entry.parent_id) {
            entry.parent_id = parent.clone();
        }
        entry.spiffe_id = entry.spiffe_id.sharing(entry.parent_id.trust_domain());
        Arc::new(entry)
    }

    /// Removes the entry in a row, if there is one.
    pub(super) fn remove(&mut self, row: RowNumber) {
        let Some(entry) = self.rows.remove(&row) else { return };
        if self.by_id.get(&entry.id) == Some(&row) {
            self.by_id.remove(&entry.id);
        }
        if let Entry::Occupied(mut same) = self.x509_ttls.entry(entry.x509_svid_ttl_s) {
            match *same.get() {
                0 | 1 => drop(same.remove()),
                _ => *same.get_mut() -= 1,
            }
        }
        remove_row(&mut self.by_parent, &entry.parent_id, row);
        remove_row(&mut self.by_spiffe_id, &entry.spiffe_id, row);
        if let Some(first) = alias_key(&entry) {
            remove_row(&mut self.aliases, first, row);
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The entry with an id.
    pub(super) fn get(&self, id: &EntryId) -> Option<&Arc<RegistrationEntry>> {
        self.rows.get(self.by_id.get(id)?)
    }

    /// Entries directly below a parent, in list order, with their rows.
    pub(super) fn children<'a>(
        &'a self,
        parent: &SpiffeId,
    ) -> impl Iterator<Item = (RowNumber, &'a Arc<RegistrationEntry>)> + use<'a> {
        self.of_rows(self.by_parent.get(parent))
    }

    /// Entries that give a SPIFFE id, in list order.
    pub(super) fn with_spiffe_id<'a>(
        &'a self,
        id: &SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<RegistrationEntry>> + use<'a> {
        self.of_rows(self.by_spiffe_id.get(id)).map(|(_, entry)| entry)
    }

    /// The node aliases that apply to an agent with the given node selectors.
    pub(super) fn aliases_for<'a>(
        &'a self,
        node_selectors: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a Arc<RegistrationEntry>> {
        node_selectors
            .iter()
            .flat_map(|selector| self.of_rows(self.aliases.get(selector)))
            .filter(|(_, alias)| alias.selectors.is_subset(node_selectors))
            .map(|(_, alias)| alias)
    }

    /// Entries after a row that pass the filter, in list order, at most `limit`.
    pub(super) fn page(
        &self,
        after: Option<RowNumber>,
        limit: usize,
        filter: &EntryFilter,
    ) -> Vec<(RowNumber, Arc<RegistrationEntry>)> {
        self.matching(after, filter)
            .take(limit)
            .map(|(row, entry)| (row, Arc::clone(entry)))
            .collect()
    }

    /// How many entries pass the filter.
    pub(super) fn count(&self, filter: &EntryFilter) -> usize {
        if *filter == EntryFilter::default() {
            return self.len();
        }
        self.matching(None, filter).count()
    }

    /// The narrowest index answers; the filter then decides about each row.
    fn matching<'a>(
        &'a self,
        after: Option<RowNumber>,
        filter: &'a EntryFilter,
    ) -> Box<dyn Iterator<Item = (RowNumber, &'a Arc<RegistrationEntry>)> + 'a> {
        let range = rows::behind(after);
        let indexed = match (&filter.spiffe_id, &filter.parent_id) {
            (Some(id), _) => Some(self.by_spiffe_id.get(id)),
            (None, Some(id)) => Some(self.by_parent.get(id)),
            (None, None) => None,
        };
        let rows: Box<dyn Iterator<Item = (RowNumber, &'a Arc<RegistrationEntry>)> + 'a> =
            match indexed {
                Some(rows) => Box::new(
                    rows.into_iter()
                        .flat_map(move |rows| rows.range(range))
                        .filter_map(|row| Some((row, self.rows.get(&row)?))),
                ),
                None => Box::new(self.rows.range(range).map(|(row, entry)| (*row, entry))),
            };
        Box::new(rows.filter(|(_, entry)| filter.matches(entry)))
    }

    fn of_rows<'a>(
        &'a self,
        rows: Option<&'a Rows>,
    ) -> impl Iterator<Item = (RowNumber, &'a Arc<RegistrationEntry>)> + use<'a> {
        rows.into_iter().flat_map(Rows::iter).filter_map(|row| Some((row, self.rows.get(&row)?)))
    }
}

/// Whether the entry is a node alias: its parent path is exactly `/spire/server`. Aliases say which
/// agents share an identity and are never sent to agents.
pub(super) fn is_alias(entry: &RegistrationEntry) -> bool {
    entry.parent_id.is_server()
}

/// Where an alias is kept; `None` for other entries.
fn alias_key(entry: &RegistrationEntry) -> Option<&Selector> {
    if is_alias(entry) { entry.selectors.first() } else { None }
}

fn add_row<K: Clone + Hash + Eq>(index: &mut HashMap<K, Rows>, key: &K, row: RowNumber) {
    match index.get_mut(key) {
        Some(rows) => rows.insert(row),
        None => {
            index.insert(key.clone(), Rows::One(row));
        }
    }
}

fn remove_row<K: Hash + Eq>(index: &mut HashMap<K, Rows>, key: &K, row: RowNumber) {
    if let Some(rows) = index.get_mut(key) {
        rows.remove(row);
        if rows.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::authorized::tests::entry;
    use super::*;

    #[test]
    fn the_shortest_lifetime_is_that_of_entries_which_are_there() {
        let entry = |row, x509_svid_ttl_s| {
            Arc::new(RegistrationEntry { x509_svid_ttl_s, ..entry(row, 0, 0, 0) })
        };
        let second = Duration::from_secs;
        let mut index = EntryIndex::default();
        let mut after = |row, ttl: Option<i32>| {
            match ttl {
                Some(ttl) => index.write(RowNumber(row), entry(row, ttl)),
                None => index.remove(RowNumber(row)),
            }
            index.shortest_x509_ttl(second(60))
        };
        assert_eq!(after(9, None), None, "there is none");
        for (row, ttl, shortest) in [
            (1, Some(90), 90),
            (2, Some(0), 60),
            (3, Some(30), 30),
            (4, Some(30), 30),
            (3, Some(70), 30),
            (4, None, 60),
            (2, None, 70),
            (3, None, 90),
        ] {
            assert_eq!(after(row, ttl), Some(second(shortest)), "{row} {ttl:?}");
        }
        assert_eq!(after(1, None), None);
    }
}

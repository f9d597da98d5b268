//! Registration entries as an agent sees them, and which of them a workload matches.
//!
//! A server sends an agent only some fields of an entry, hence a type of its own. The table keeps
//! one index: each entry under its smallest selector. A workload's entries are found by looking up
//! each of its selectors and checking the rest of each candidate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steeple_spiffe_core::{EntryId, Selector, SelectorSet, SortedSet, SpiffeId, TrustDomain};

/// One entry this agent is entitled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// The identity a matching workload gets.
    pub spiffe_id: SpiffeId,
    /// What a workload must show.
    pub selectors: SelectorSet,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: SortedSet<TrustDomain>,
    /// Rises with each update.
    pub revision: i64,
    /// When the entry was created, in Unix seconds; 0 = not stated.
    pub created_at_unix_s: i64,
    /// Tells identities of one workload apart.
    pub hint: String,
    /// Meant for an SVID store, so never served to workloads.
    pub store_svid: bool,
    /// Whether an SVID may be fetched before a workload asks.
    pub prefetch: bool,
    /// Whether its JWT-SVIDs carry a `jti`, which makes each unique.
    pub jwt_has_id: bool,
}

impl Entry {
    /// Whether an SVID signed for `revision` and `created_at_unix_s` still belongs to this entry
    /// (`spire-semantics` 6.4).
    pub fn is_version(&self, revision: i64, created_at_unix_s: i64) -> bool {
        let same_life = created_at_unix_s == 0 || self.created_at_unix_s == created_at_unix_s;
        self.revision == revision && same_life
    }
}

/// What a new list of entries changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryChanges {
    /// Entries that were not there.
    pub created: Vec<Arc<Entry>>,
    /// Entries that differ from before.
    pub updated: Vec<Arc<Entry>>,
    /// Entries that are gone.
    pub removed: Vec<Arc<Entry>>,
}

impl EntryChanges {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.updated.is_empty() && self.removed.is_empty()
    }
}

/// All entries, indexed for matching.
#[derive(Debug, Default)]
pub struct EntryTable {
    by_id: BTreeMap<EntryId, Arc<Entry>>,
    /// Invariant: each entry of `by_id` stands under its smallest selector, and nothing else does.
    by_smallest_selector: BTreeMap<Selector, BTreeSet<EntryId>>,
}

impl EntryTable {
    /// Takes the complete new list and tells what it changed.
    pub fn replace(&mut self, new: BTreeMap<EntryId, Arc<Entry>>) -> EntryChanges {
        let mut changes = EntryChanges::default();
        for (id, entry) in &new {
            match self.by_id.get(id) {
                None => changes.created.push(Arc::clone(entry)),
                Some(old) if **old != **entry => changes.updated.push(Arc::clone(entry)),
                Some(_) => {}
            }
        }
        let gone = self.by_id.iter().filter(|(id, _)| !new.contains_key(*id));
        changes.removed = gone.map(|(_, entry)| Arc::clone(entry)).collect();
        if !changes.is_empty() {
            self.by_smallest_selector = index(&new);
            self.by_id = new;
        }
        changes
    }

    /// The entries a workload with these selectors matches, by ascending id. An entry without
    /// selectors matches nothing.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let candidates =
            selectors.iter().filter_map(|s| self.by_smallest_selector.get(s)).flatten();
        let ids: BTreeSet<&EntryId> = candidates.collect();
        let entries = ids.into_iter().filter_map(|id| self.by_id.get(id));
        entries.filter(|entry| entry.selectors.is_subset(selectors)).map(Arc::clone).collect()
    }

    /// One entry.
    pub fn get(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    /// All entries by ascending id.
    pub fn all(&self) -> &BTreeMap<EntryId, Arc<Entry>> {
        &self.by_id
    }
}

fn index(entries: &BTreeMap<EntryId, Arc<Entry>>) -> BTreeMap<Selector, BTreeSet<EntryId>> {
    let mut index: BTreeMap<Selector, BTreeSet<EntryId>> = BTreeMap::new();
    for (id, entry) in entries {
        if let Some(smallest) = entry.selectors.first() {
            index.entry(smallest.clone()).or_default().insert(id.clone());
        }
    }
    index
}

/// The hint rule: of entries with the same non-empty hint only the oldest is served, by creation
/// time and then by id. Keeps the order.
pub(super) fn drop_repeated_hints(entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let mut oldest: BTreeMap<String, (i64, EntryId)> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.hint.is_empty()) {
        let age = (entry.created_at_unix_s, entry.id.clone());
        let best = oldest.entry(entry.hint.clone()).or_insert_with(|| age.clone());
        if age < *best {
            *best = age;
        }
    }
    let keep = |entry: &Arc<Entry>| oldest.get(&entry.hint).is_none_or(|best| best.1 == entry.id);
    entries.into_iter().filter(keep).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) fn selectors(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| Selector::parse(text).expect("test selector")).collect()
    }

    pub(in crate::store) fn entry(id: &str, selector_texts: &[&str]) -> Entry {
        Entry {
            id: EntryId::parse(id).expect("test id"),
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).expect("test id"),
            selectors: selectors(selector_texts),
            federates_with: SortedSet::new(),
            revision: 0,
            created_at_unix_s: 0,
            hint: String::new(),
            store_svid: false,
            prefetch: true,
            jwt_has_id: false,
        }
    }

    fn table(entries: Vec<Entry>) -> EntryTable {
        let mut table = EntryTable::default();
        table.replace(entries.into_iter().map(|e| (e.id.clone(), Arc::new(e))).collect());
        table
    }

    fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    #[test]
    fn a_workload_matches_the_entries_whose_selectors_it_all_has() {
        let table = table(vec![
            entry("a", &["unix:uid:1"]),
            entry("b", &["unix:uid:1", "unix:gid:2"]),
            entry("c", &["k8s:ns:x", "unix:uid:1"]),
            entry("d", &[]),
        ]);
        let cases: [(&[&str], &[&str]); 5] = [
            (&["unix:uid:1"], &["a"]),
            (&["unix:uid:1", "unix:gid:2"], &["a", "b"]),
            (&["unix:gid:2"], &[]),
            (&["k8s:ns:x", "unix:gid:2", "unix:uid:1"], &["a", "b", "c"]),
            (&[], &[]),
        ];
        for (workload, want) in cases {
            assert_eq!(ids(&table.matching(&selectors(workload))), want, "{workload:?}");
        }
    }

    #[test]
    fn replacing_tells_what_was_created_updated_and_removed_and_reindexes() {
        let mut table = table(vec![entry("a", &["t:1"]), entry("b", &["t:2"])]);
        let mut changed = entry("b", &["t:3"]);
        changed.revision = 1;
        let new = [changed, entry("c", &["t:4"])].map(|e| (e.id.clone(), Arc::new(e)));
        let changes = table.replace(new.into_iter().collect());
        assert_eq!(ids(&changes.created), ["c"]);
        assert_eq!(ids(&changes.updated), ["b"]);
        assert_eq!(ids(&changes.removed), ["a"]);
        assert_eq!(ids(&table.matching(&selectors(&["t:1", "t:2", "t:3"]))), ["b"]);
    }

    #[test]
    fn of_equal_hints_the_oldest_entry_is_kept_and_empty_hints_all_stay() {
        let with = |id: &str, hint: &str, created: i64| {
            let mut e = entry(id, &["t:1"]);
            e.hint = hint.to_owned();
            e.created_at_unix_s = created;
            Arc::new(e)
        };
        let kept = drop_repeated_hints(vec![
            with("a", "x", 20),
            with("b", "x", 10),
            with("c", "", 1),
            with("d", "y", 5),
            with("e", "y", 5),
            with("f", "", 1),
        ]);
        assert_eq!(ids(&kept), ["b", "c", "d", "f"]);
    }

    #[test]
    fn an_svid_belongs_to_another_version_when_the_revision_or_known_creation_differs() {
        let mut e = entry("a", &["t:1"]);
        e.revision = 3;
        e.created_at_unix_s = 100;
        for (revision, created, want) in
            [(3, 100, true), (2, 100, false), (3, 99, false), (3, 0, true)]
        {
            assert_eq!(e.is_version(revision, created), want, "{revision} {created}");
        }
    }
}

//! Which entries an agent is authorised for: SPIRE's rule as pure functions over the entry index.
//!
//! An agent gets the entries below its own id and below each node alias whose selectors it has, and
//! on from there: the entries below the SPIFFE ids of those entries, and so forth. Each id is walked
//! once, so cycles are harmless. Aliases themselves, and entries of foreign trust domains, are never
//! given out. Two forms answer the same question: the walk down lists all, the walk up decides
//! about one without listing, which is what signing needs.

use std::collections::HashSet;
use std::sync::Arc;

use steeple_spiffe_core::{EntryId, RegistrationEntry, SelectorSet, SpiffeId};

use super::entries::{EntryIndex, is_alias};

/// All entries the agent is authorised for, in list order. `node_selectors` is `None` for an agent
/// that the view does not know: it has no aliases then.
pub(super) fn authorized_entries(
    index: &EntryIndex,
    agent: &SpiffeId,
    node_selectors: Option<&SelectorSet>,
) -> Vec<Arc<RegistrationEntry>> {
    let aliases = node_selectors
        .into_iter()
        .flat_map(|selectors| index.aliases_for(selectors))
        .filter(|alias| is_in_domain(alias, agent));
    let mut queue: Vec<&SpiffeId> = vec![agent];
    queue.extend(aliases.map(|alias| &alias.spiffe_id));

    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    let mut found = Vec::new();
    while let Some(parent) = queue.pop() {
        if !visited.insert(parent) {
            continue;
        }
        for (row, entry) in index.children(parent) {
            if is_authorizable(entry, agent) {
                found.push((row, Arc::clone(entry)));
                queue.push(&entry.spiffe_id);
            }
        }
    }
    found.sort_unstable_by_key(|(row, _)| *row);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// The entry with the id, if the agent is authorised for it.
pub(super) fn authorized_entry(
    index: &EntryIndex,
    agent: &SpiffeId,
    node_selectors: Option<&SelectorSet>,
    id: &EntryId,
) -> Option<Arc<RegistrationEntry>> {
    let entry = index.get(id)?;
    if !is_authorizable(entry, agent) {
        return None;
    }
    let mut queue: Vec<&SpiffeId> = vec![&entry.parent_id];
    let mut visited: HashSet<&SpiffeId> = HashSet::new();
    while let Some(parent) = queue.pop() {
        if parent == agent {
            return Some(Arc::clone(entry));
        }
        if !visited.insert(parent) {
            continue;
        }
        for above in index.with_spiffe_id(parent) {
            if alias_applies(above, agent, node_selectors) {
                return Some(Arc::clone(entry));
            }
            if is_authorizable(above, agent) {
                queue.push(&above.parent_id);
            }
        }
    }
    None
}

/// Whether an entry may be given to agents of this server at all.
fn is_authorizable(entry: &RegistrationEntry, agent: &SpiffeId) -> bool {
    !is_alias(entry) && is_in_domain(entry, agent)
}

/// Whether both ids of the entry are of the agent's trust domain: others are ignored.
fn is_in_domain(entry: &RegistrationEntry, agent: &SpiffeId) -> bool {
    let domain = agent.trust_domain();
    entry.spiffe_id.is_member_of(domain) && entry.parent_id.is_member_of(domain)
}

/// Whether the entry is an alias of the agent's trust domain whose selectors the agent has.
fn alias_applies(
    alias: &RegistrationEntry,
    agent: &SpiffeId,
    node_selectors: Option<&SelectorSet>,
) -> bool {
    is_alias(alias)
        && is_in_domain(alias, agent)
        && !alias.selectors.is_empty()
        && node_selectors.is_some_and(|selectors| alias.selectors.is_subset(selectors))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use steeple_raft_store::RowNumber;
    use steeple_spiffe_core::Selector;

    use super::*;

    /// Ids that entries and agents are drawn from: few, so that they meet often. The first two are
    /// agents, the third makes entries aliases, the last is of a foreign trust domain.
    const IDS: [&str; 8] = [
        "spiffe://a.test/spire/agent/one",
        "spiffe://a.test/spire/agent/two",
        "spiffe://a.test/spire/server",
        "spiffe://a.test/p",
        "spiffe://a.test/q",
        "spiffe://a.test/r",
        "spiffe://a.test/s",
        "spiffe://b.test/p",
    ];

    fn id(index: usize) -> SpiffeId {
        SpiffeId::parse(IDS[index]).unwrap()
    }

    fn selectors(bits: u8) -> SelectorSet {
        let set = (0..4).filter(|bit| bits & (1 << bit) != 0);
        set.map(|bit| Selector::new("k", &bit.to_string()).unwrap()).collect()
    }

    /// An entry of one of the ids above below another, by their places.
    pub(in crate::view) fn entry(
        name: u64,
        spiffe_id: usize,
        parent: usize,
        selector_bits: u8,
    ) -> RegistrationEntry {
        RegistrationEntry::new(
            EntryId::parse(&format!("e{name}")).unwrap(),
            id(spiffe_id),
            id(parent),
            selectors(selector_bits),
        )
    }

    /// The rule of `spec/spire-semantics.md` 6.2 as a fixed point over plain maps.
    fn naive(
        entries: &BTreeMap<u64, RegistrationEntry>,
        agent: &SpiffeId,
        node_selectors: Option<&SelectorSet>,
    ) -> BTreeSet<u64> {
        let own = |id: &SpiffeId| id.trust_domain() == agent.trust_domain();
        let known = || entries.iter().filter(|(_, one)| own(&one.spiffe_id) && own(&one.parent_id));
        let mut parents: BTreeSet<SpiffeId> = BTreeSet::from([agent.clone()]);
        for (_, alias) in known().filter(|(_, one)| one.parent_id.path() == "/spire/server") {
            if node_selectors.is_some_and(|node| alias.selectors.is_subset(node)) {
                parents.insert(alias.spiffe_id.clone());
            }
        }
        let mut found = BTreeSet::new();
        loop {
            let before = found.len();
            for (row, one) in known() {
                if one.parent_id.path() != "/spire/server" && parents.contains(&one.parent_id) {
                    found.insert(*row);
                    parents.insert(one.spiffe_id.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write { row: u64, spiffe_id: usize, parent: usize, selectors: u8 },
        Remove { row: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        // Workloads have ids 3 to 7; parents are anything; selectors are never empty.
        let write = (0..12u64, 3..8usize, 0..8usize, 1..16u8).prop_map(
            |(row, spiffe_id, parent, selectors)| Op::Write { row, spiffe_id, parent, selectors },
        );
        prop_oneof![4 => write, 1 => (0..12u64).prop_map(|row| Op::Remove { row })]
    }

    proptest! {
        #[test]
        fn both_walks_agree_with_the_naive_rule_after_any_history(
            ops in prop::collection::vec(op(), 0..40),
            node in prop::option::of(0..16u8),
        ) {
            let mut index = EntryIndex::default();
            let mut model = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Write { row, spiffe_id, parent, selectors } => {
                        let entry = entry(row, spiffe_id, parent, selectors);
                        model.insert(row, entry.clone());
                        index.write(RowNumber(row), Arc::new(entry));
                    }
                    Op::Remove { row } => {
                        model.remove(&row);
                        index.remove(RowNumber(row));
                    }
                }
            }
            let node = node.map(selectors);
            for agent in [id(0), id(1)] {
                let expected = naive(&model, &agent, node.as_ref());
                let listed = authorized_entries(&index, &agent, node.as_ref());
                let names: Vec<&str> = listed.iter().map(|one| one.id.as_str()).collect();
                let expected_names: Vec<String> =
                    expected.iter().map(|row| format!("e{row}")).collect();
                prop_assert_eq!(names, expected_names);
                for (row, entry) in &model {
                    let one = authorized_entry(&index, &agent, node.as_ref(), &entry.id);
                    prop_assert_eq!(one.is_some(), expected.contains(row), "entry {}", row);
                }
            }
        }
    }

    #[test]
    fn an_unknown_agent_gets_its_own_entries_but_no_aliases() {
        let mut index = EntryIndex::default();
        index.write(RowNumber(1), Arc::new(entry(1, 3, 0, 1)));
        index.write(RowNumber(2), Arc::new(entry(2, 4, 2, 1)));
        index.write(RowNumber(3), Arc::new(entry(3, 5, 4, 1)));
        let names = |node: Option<&SelectorSet>| -> Vec<String> {
            let listed = authorized_entries(&index, &id(0), node);
            listed.iter().map(|one| one.id.to_string()).collect()
        };
        assert_eq!(names(None), ["e1"]);
        assert_eq!(names(Some(&selectors(1))), ["e1", "e3"]);
        assert_eq!(names(Some(&selectors(2))), ["e1"]);
    }
}

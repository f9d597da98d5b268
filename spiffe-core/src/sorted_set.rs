//! Small sets that are made once and read often.
//!
//! A B-tree takes room for eleven items at the first one, which for a set of selectors is 500 bytes,
//! and a server holds a set for each of up to a million entries. This one takes what its items take.

use std::fmt;

/// A sorted set without duplicates, in one piece of memory. It does not change: another set is
/// collected.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortedSet<T>(Box<[T]>);

impl<T: Ord> SortedSet<T> {
    /// The empty set.
    pub fn new() -> Self {
        Self(Box::default())
    }

    /// Whether the item is in the set.
    pub fn contains(&self, item: &T) -> bool {
        self.0.binary_search(item).is_ok()
    }

    /// Whether every item of this set is in the other one.
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut rest = other.0.iter();
        // Both are sorted: what was passed over is below all that follow.
        self.0.len() <= other.0.len() && self.0.iter().all(|item| rest.any(|have| have == item))
    }

    /// Whether every item of the other set is in this one.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.is_subset(self)
    }

    /// Whether no item is in both sets.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        !self.0.iter().any(|item| other.contains(item))
    }
}

impl<T> SortedSet<T> {
    /// The items, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least item.
    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }
}

impl<T: Ord> Default for SortedSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items: Vec<T> = items.into_iter().collect();
        items.sort_unstable();
        items.dedup();
        Self(items.into_boxed_slice())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for SortedSet<T> {
    fn from(items: [T; N]) -> Self {
        items.into_iter().collect()
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_set_says_what_a_b_tree_of_the_same_items_says() {
        // Every pair of the sets of up to four of five items, each collected in another order.
        let all: Vec<(SortedSet<u8>, BTreeSet<u8>)> = (0_u8..32)
            .map(|bits| {
                let items = (0..5).rev().filter(|item| bits & (1 << item) != 0);
                (items.clone().chain(items.clone()).collect(), items.collect())
            })
            .collect();
        for (set, tree) in &all {
            assert_eq!((set.len(), set.is_empty()), (tree.len(), tree.is_empty()));
            assert_eq!(set.first(), tree.first());
            assert!(set.iter().eq(tree.iter()) && set.clone().into_iter().eq(tree.clone()));
            assert!((0..6).all(|item| set.contains(&item) == tree.contains(&item)));
            assert_eq!(format!("{set:?}"), format!("{tree:?}"));
            for (other, branches) in &all {
                assert_eq!(set.is_subset(other), tree.is_subset(branches), "{set:?} {other:?}");
                assert_eq!(set.is_superset(other), tree.is_superset(branches));
                assert_eq!(set.is_disjoint(other), tree.is_disjoint(branches));
                assert_eq!(set.cmp(other), tree.cmp(branches));
            }
        }
    }
}

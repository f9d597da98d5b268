//! Rows in list order, and where a list goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

use steeple_raft_store::RowNumber;

/// The rows behind one (`None`: all), as the bounds of a range.
pub(super) fn behind(after: Option<RowNumber>) -> (Bound<RowNumber>, Bound<RowNumber>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// Rows behind one that are wanted, at most `limit` (`None`: all).
pub(super) fn page<T>(
    rows: &BTreeMap<RowNumber, Arc<T>>,
    after: Option<RowNumber>,
    limit: Option<usize>,
    is_wanted: impl Fn(&T) -> bool,
) -> Vec<(RowNumber, Arc<T>)> {
    rows.range(behind(after))
        .filter(|(_, item)| is_wanted(item))
        .take(limit.unwrap_or(usize::MAX))
        .map(|(row, item)| (*row, Arc::clone(item)))
        .collect()
}

/// Rows that share a key, in list order: mostly one, seldom a hundred thousand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rows {
    One(RowNumber),
    #[expect(
        clippy::box_collection,
        reason = "the many keys with one row pay for the few with more"
    )]
    More(Box<BTreeSet<RowNumber>>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::More(Box::default())
    }
}

impl Rows {
    /// Adds a row.
    pub(super) fn insert(&mut self, row: RowNumber) {
        match self {
            Self::One(one) if *one == row => {}
            Self::One(one) => *self = Self::More(Box::new(BTreeSet::from([*one, row]))),
            Self::More(rows) if rows.is_empty() => *self = Self::One(row),
            Self::More(rows) => {
                rows.insert(row);
            }
        }
    }

    /// Takes a row away.
    pub(super) fn remove(&mut self, row: RowNumber) {
        match self {
            Self::One(one) if *one == row => *self = Self::default(),
            Self::One(_) => {}
            Self::More(rows) => {
                rows.remove(&row);
            }
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::More(rows) => rows.is_empty(),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = RowNumber> + '_ {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    /// Those in a range.
    pub(super) fn range(
        &self,
        range: (Bound<RowNumber>, Bound<RowNumber>),
    ) -> impl Iterator<Item = RowNumber> + '_ {
        let (one, more) = match self {
            Self::One(one) => (Some(*one).filter(|one| range.contains(one)), None),
            Self::More(rows) => (None, Some(rows.range(range).copied())),
        };
        one.into_iter().chain(more.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_set_whether_there_is_one_or_more() {
        // Every sequence of four steps, each of which adds or removes one of three rows.
        for steps in 0..6_u32.pow(4) {
            let (mut rows, mut expected) = (Rows::default(), BTreeSet::new());
            for at in 0..4 {
                let step = steps / 6_u32.pow(at) % 6;
                let row = RowNumber(u64::from(step % 3));
                if step < 3 {
                    rows.insert(row);
                    expected.insert(row);
                } else {
                    rows.remove(row);
                    expected.remove(&row);
                }
                assert!(rows.iter().eq(expected.iter().copied()), "{steps}: {rows:?}");
                assert_eq!(rows.is_empty(), expected.is_empty(), "{steps}: {rows:?}");
                let range = behind(Some(RowNumber(0)));
                assert!(rows.range(range).eq(expected.range(range).copied()), "{steps}: {rows:?}");
            }
        }
    }
}

//! Rows in list order, and where a list goes on.

use std::collections::BTreeMap;
use std::ops::Bound;
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

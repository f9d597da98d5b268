//! The tables: their names, numbers and keys, all on one page.
//!
//! | no. | table | key | value (`row.proto`) |
//! |---|---|---|---|
//! | 1 | cluster | empty | ClusterState |
//! | 2 | counters | empty | Counters |
//! | 3 | entries | entry id | EntryRow |
//! | 4 | similar entries | SHA-256 of (SPIFFE id, parent, selectors) | entry id |
//! | 5 | entries by expiry | seconds · entry id; only those that expire | empty |
//! | 6 | entries by parent | parent · 0 · SHA-256 of the selectors · entry id | empty |
//! | 7 | agents | SPIFFE id | AgentRow |
//! | 8 | agents by expiry | class · milliseconds · SPIFFE id; no banned ones | empty |
//! | 9 | join tokens | token | TokenRow |
//! | 10 | join tokens by expiry | milliseconds · token | empty |
//! | 11 | bundles | trust domain | BundleRow |
//! | 12 | journal | empty | Journal |
//! | 13 | outcomes | request id | OutcomeRow |
//! | 14 | outcomes by age | log index | OutcomeAge |
//! | 15 | applied | empty | AppliedRow; not in snapshots, whose header says it |
//! | 16 | entries by federation | trust domain · 0 · entry id | empty |
//! | 17 | state hash | empty: the newest; log index: a checkpoint | StateCheckpoint |
//! | 18 | adopted agents | SPIFFE id; adopted or deleted in a restored epoch | empty |
//! | 19 | relationships | trust domain | RelationshipRow |
//! | 20 | refreshes | trust domain | RefreshRow |
//! | 22 | sealed values | number of the name | SealedRow |
//!
//! Numbers in keys are big-endian with the sign bit flipped, so that byte order is number order.

/// A table of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Cluster,
    Counters,
    Entries,
    SimilarEntries,
    EntriesByExpiry,
    EntriesByParent,
    Agents,
    AgentsByExpiry,
    Tokens,
    TokensByExpiry,
    Bundles,
    Journal,
    Outcomes,
    OutcomesByAge,
    Applied,
    EntriesByFederation,
    StateHash,
    AdoptedAgents,
    Relationships,
    Refreshes,
    Sealed,
}

impl Table {
    /// The tables that a snapshot holds, in its order.
    pub(crate) const IN_SNAPSHOTS: &'static [Self] = &[
        Self::Cluster,
        Self::Counters,
        Self::Entries,
        Self::SimilarEntries,
        Self::EntriesByExpiry,
        Self::EntriesByParent,
        Self::Agents,
        Self::AgentsByExpiry,
        Self::Tokens,
        Self::TokensByExpiry,
        Self::Bundles,
        Self::Journal,
        Self::Outcomes,
        Self::OutcomesByAge,
        Self::EntriesByFederation,
        Self::StateHash,
        Self::AdoptedAgents,
        Self::Relationships,
        Self::Refreshes,
        Self::Sealed,
    ];

    /// Its number, on disk and in snapshots. Never reused.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Cluster => 1,
            Self::Counters => 2,
            Self::Entries => 3,
            Self::SimilarEntries => 4,
            Self::EntriesByExpiry => 5,
            Self::EntriesByParent => 6,
            Self::Agents => 7,
            Self::AgentsByExpiry => 8,
            Self::Tokens => 9,
            Self::TokensByExpiry => 10,
            Self::Bundles => 11,
            Self::Journal => 12,
            Self::Outcomes => 13,
            Self::OutcomesByAge => 14,
            Self::Applied => 15,
            Self::EntriesByFederation => 16,
            Self::StateHash => 17,
            Self::AdoptedAgents => 18,
            Self::Relationships => 19,
            Self::Refreshes => 20,
            Self::Sealed => 22,
        }
    }

    /// The table of a number that snapshots may hold.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::IN_SNAPSHOTS.iter().copied().find(|table| table.number() == number)
    }
}

/// The key of a table that has one row.
pub(crate) const SINGLE: &[u8] = b"";

/// A number, then a text: keys in order of the number.
pub(crate) fn ordered_key(number: i64, text: &str) -> Vec<u8> {
    let mut key = order_bytes(number).to_vec();
    key.extend_from_slice(text.as_bytes());
    key
}

/// The text of an [`ordered_key`].
pub(crate) fn ordered_text(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(8..)?).ok()
}

/// The number of an [`ordered_key`].
pub(crate) fn ordered_number(key: &[u8]) -> Option<i64> {
    let bytes = <[u8; 8]>::try_from(key.get(..8)?).ok()?;
    Some((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}

fn order_bytes(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_of_keys_is_number_order() {
        let numbers = [i64::MIN, -5, -1, 0, 1, 255, 256, i64::MAX];
        let keys: Vec<_> = numbers.iter().map(|n| ordered_key(*n, "x")).collect();
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(keys, sorted);
        for (number, key) in numbers.iter().zip(&keys) {
            assert_eq!(ordered_number(key), Some(*number));
            assert_eq!(ordered_text(key), Some("x"));
        }
    }

    #[test]
    fn table_numbers_are_unique_and_in_snapshot_order() {
        let numbers: Vec<u32> = Table::IN_SNAPSHOTS.iter().map(|t| t.number()).collect();
        let expected: Vec<u32> = (1..=14).chain([16, 17, 18, 19, 20, 22]).collect();
        assert_eq!(numbers, expected);
        assert_eq!(Table::from_number(Table::Applied.number()), None);
    }
}

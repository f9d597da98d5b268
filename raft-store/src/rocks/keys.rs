//! The whole key layout.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `meta` | `log/vote` | Vote |
//! | `meta` | `log/committed` | LogId, or empty |
//! | `meta` | `log/purged` | LogId of the last purged entry |
//! | `meta` | `tables/half-replaced` | empty; present while a snapshot is being loaded |
//! | `meta` | `local/NAME` | a record of the member's own (`local.rs`, formation) |
//! | `log` | index, 8 bytes big-endian | LogEntry |
//! | `state` | table number (1 byte) · key (`apply/table.rs`) | the row |
//!
//! Table 15 of `state` says which log entry the tables reflect: it is written in the same batch as the
//! rows.

use crate::apply::Table;
use crate::storage::LogValue;

/// Column family of small values.
pub(super) const META: &str = "meta";
/// Column family of the log.
pub(super) const LOG: &str = "log";
/// Column family of the tables.
pub(super) const STATE: &str = "state";

pub(super) const PURGED: &[u8] = b"log/purged";
pub(super) const HALF_REPLACED: &[u8] = b"tables/half-replaced";

pub(super) fn log_value(value: LogValue) -> &'static [u8] {
    match value {
        LogValue::Vote => b"log/vote",
        LogValue::Committed => b"log/committed",
    }
}

pub(super) fn local(name: &str) -> Vec<u8> {
    format!("local/{name}").into_bytes()
}

pub(super) fn log_index(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn index_of(key: &[u8]) -> Option<u64> {
    <[u8; 8]>::try_from(key).ok().map(u64::from_be_bytes)
}

pub(super) fn row(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table_byte(table));
    full.extend_from_slice(key);
    full
}

/// The key behind all rows of a table.
pub(super) fn table_end(table: Table) -> Vec<u8> {
    vec![table_byte(table).saturating_add(1)]
}

fn table_byte(table: Table) -> u8 {
    // Table numbers are below 128 by the test below; the bound keeps the function total.
    u8::try_from(table.number()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_number_fits_its_byte() {
        for table in Table::IN_SNAPSHOTS.iter().chain([&Table::Applied]) {
            assert!(table.number() < 128);
            assert_eq!(u32::from(row(*table, b"")[0]), table.number());
        }
    }
}

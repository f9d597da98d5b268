//! The rolling state hash: a chain over everything that was applied, kept among the rows themselves.
//!
//! Each entry adds its index and what it wrote. Members that apply the same log come to the same hash,
//! and one whose rows went wrong comes to another with the first command that reads such a row, and
//! never back. The chain travels in snapshots and survives restarts as the rows do.
//!
//! Defined from feature level 2 on: it begins with the entry that brings a cluster to that level.

use aws_lc_rs::digest;
use prost::Message;

use crate::apply::step::read_message;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::{Rows, TableError, Transaction, WriteSet};
use crate::codec::CodecError;
use crate::observe::Checkpoint;
use crate::pb;

/// The first feature level with a state hash.
pub(crate) const SINCE_LEVEL: u32 = 2;

/// Entries between two checkpoints.
const CHECKPOINT_EVERY: u64 = 256;

/// Checkpoints kept: members that are 16,384 entries apart still find one in common. 2.5 KiB.
const CHECKPOINTS_KEPT: u64 = 64;

/// Adds the entry at `index` and what it has written, if the cluster is at a level that has a state
/// hash. Called as the last of its writes.
pub(super) fn advance(
    txn: &mut Transaction<'_>,
    index: u64,
    feature_level: u32,
) -> Result<(), TableError> {
    if feature_level < SINCE_LEVEL {
        return Ok(());
    }
    let before = read_message::<pb::store::StateCheckpoint>(txn, Table::StateHash, SINGLE)?;
    let before = before.unwrap_or_default();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"steeple state hash v1");
    context.update(&before.index.to_be_bytes());
    context.update(&before.hash);
    context.update(&index.to_be_bytes());
    context.update(&digest_of(txn.current()));
    let hash = context.finish().as_ref().to_vec();
    let row = pb::store::StateCheckpoint { index, hash }.encode_to_vec();
    if index.is_multiple_of(CHECKPOINT_EVERY) {
        txn.put(Table::StateHash, &index.to_be_bytes(), row.clone());
        let oldest = index.saturating_sub(CHECKPOINT_EVERY * CHECKPOINTS_KEPT);
        txn.delete(Table::StateHash, &oldest.to_be_bytes());
    }
    txn.put(Table::StateHash, SINGLE, row);
    Ok(())
}

/// The kept checkpoints, ascending by index.
pub(crate) fn read_checkpoints(rows: &dyn Rows) -> Result<Vec<Checkpoint>, TableError> {
    let limit = usize::try_from(CHECKPOINTS_KEPT + 1).unwrap_or(usize::MAX);
    // The row with the empty key is the newest hash, of whatever index.
    let rows = rows.scan(Table::StateHash, &[0], limit)?;
    let checkpoints = rows.iter().map(|(_, value)| {
        let row = pb::store::StateCheckpoint::decode(value.as_slice())
            .map_err(|error| CodecError::new("state hash", error))?;
        let hash = <[u8; 32]>::try_from(row.hash.as_slice())
            .map_err(|error| CodecError::new("state hash", error))?;
        Ok(Checkpoint { index: row.index, hash })
    });
    checkpoints.collect()
}

/// A digest of new values of rows; every field with its length, so that no two sets share one.
fn digest_of(writes: &WriteSet) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    for ((table, key), value) in writes {
        field(&table.number().to_be_bytes());
        field(key);
        // A deletion is not an empty row.
        field(&[u8::from(value.is_some())]);
        field(value.as_deref().unwrap_or_default());
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::{Registry, entry, init};
    use crate::apply::{Tables, testing};
    use crate::command::Command;

    fn write(table: Table, key: &str, value: Option<&str>) -> WriteSet {
        let value = value.map(|value| value.as_bytes().to_vec());
        WriteSet::from([((table, key.as_bytes().to_vec()), value)])
    }

    #[test]
    fn different_writes_have_different_digests() {
        let sets = [
            WriteSet::new(),
            write(Table::Entries, "a", Some("b")),
            write(Table::Agents, "a", Some("b")),
            write(Table::Entries, "ab", Some("")),
            write(Table::Entries, "", Some("ab")),
            write(Table::Entries, "a", Some("")),
            write(Table::Entries, "a", None),
            write(Table::Entries, "a", Some("\0\0\0\0\0\0\0\0")),
        ];
        for (at, set) in sets.iter().enumerate() {
            for other in sets.iter().skip(at + 1) {
                assert_ne!(digest_of(set), digest_of(other), "{set:?} {other:?}");
            }
        }
    }

    fn newest(registry: &Registry) -> Option<pb::store::StateCheckpoint> {
        read_message(&registry.tables, Table::StateHash, SINGLE).unwrap()
    }

    #[test]
    fn every_entry_moves_the_hash_and_every_256th_is_kept_for_a_while() {
        let mut registry = Registry::formed();
        let mut seen = Vec::new();
        for number in 0..260 {
            let name = format!("/w{number}");
            let create = entry(&format!("e{number}"), &name, "a:b");
            registry.accepted(Command::CreateEntries(vec![create]));
            let hash = newest(&registry).unwrap();
            assert_eq!(hash.index, registry.index);
            assert!(!seen.contains(&hash.hash), "a rejected or repeated write moves it too");
            seen.push(hash.hash);
        }
        let kept = read_checkpoints(&registry.tables).unwrap();
        assert_eq!(kept.iter().map(|kept| kept.index).collect::<Vec<_>>(), [256]);
        // Rejected: it moves the hash all the same, and by the index alone.
        registry.run(init()).outcome.unwrap_err();
        assert!(!seen.contains(&newest(&registry).unwrap().hash));
        let far = CHECKPOINT_EVERY * (CHECKPOINTS_KEPT + 3);
        while registry.index < far {
            registry.run(Command::DeleteEntries(vec![testing::entry_id("none")]));
        }
        let kept = read_checkpoints(&registry.tables).unwrap();
        let indexes: Vec<u64> = kept.iter().map(|kept| kept.index).collect();
        let expected: Vec<u64> =
            (4..=CHECKPOINTS_KEPT + 3).map(|number| number * CHECKPOINT_EVERY).collect();
        assert_eq!(indexes, expected);
    }

    #[test]
    fn a_row_that_went_wrong_shows_with_the_first_command_that_reads_it() {
        let run = |corrupt: bool| {
            let mut registry = Registry::formed();
            registry.accepted(Command::CreateEntries(vec![entry("e", "/w", "a:b")]));
            let before = newest(&registry);
            if corrupt {
                let key = b"e".as_slice();
                let row = registry.tables.get(Table::Entries, key).unwrap().unwrap();
                let mut row = pb::store::EntryRow::decode(row.as_slice()).unwrap();
                row.entry.as_mut().unwrap().hint = "rot".to_owned();
                let writes =
                    WriteSet::from([((Table::Entries, key.to_vec()), Some(row.encode_to_vec()))]);
                registry.tables.commit(writes).unwrap();
            }
            registry.accepted(Command::CreateEntries(vec![entry("f", "/v", "a:b")]));
            let untouched = newest(&registry);
            let mut update = testing::update("e");
            update.dns_names = Some(vec!["a.example".to_owned()]);
            registry.accepted(Command::UpdateEntries(vec![update]));
            (before, untouched, newest(&registry))
        };
        let (good, bad) = (run(false), run(true));
        assert_eq!((&good.0, &good.1), (&bad.0, &bad.1), "nothing has read it yet");
        assert_ne!(good.2, bad.2);
    }
}

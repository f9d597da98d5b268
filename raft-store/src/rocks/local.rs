//! The member's own records in RocksDB, each write synced.

use std::io;

use rocksdb::WriteBatch;

use crate::ids::MemberId;
use crate::local::LocalDisk;
use crate::rocks::db::{Database, to_io};
use crate::rocks::keys;

/// The member's own records.
#[derive(Debug)]
pub(super) struct RocksLocal {
    pub(super) database: Database,
}

impl LocalDisk for RocksLocal {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let meta = self.database.family(keys::META)?;
        self.database.db().get_cf(meta, keys::local(name)).map_err(to_io)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let meta = self.database.family(keys::META)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, keys::local(name), bytes);
        self.database.write_synced(batch)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let meta = self.database.family(keys::META)?;
        let mut batch = WriteBatch::default();
        batch.delete_cf(meta, keys::local(name));
        self.database.write_synced(batch)
    }

    fn claim(&self, member: MemberId) -> io::Result<()> {
        self.database.claim(member)
    }
}

//! The log as openraft wants it, over a [`LogDisk`].
//!
//! Owns encoding of entries, votes and log ids, and the choice of what waits for the disk: appends are
//! readable at once and answered by the flusher, votes wait for it, the rest becomes durable with the
//! next of these.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prost::Message;

use crate::codec::CodecError;
use crate::mutants::{self, Mutant};
use crate::observe::SyncWatch;
use crate::pb;
use crate::raft::convert::{
    entry_from_bytes, entry_to_bytes, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb,
};
use crate::raft::flusher::{Flusher, Waiter};
use crate::raft::{Entry, LogId, TypeConfig, Vote};
use crate::storage::{LogDisk, LogRecord, LogValue};

/// Bytes that one read of a range for replication may return: two large commands, or thousands of
/// small ones.
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The log of this member. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    disk: Arc<dyn LogDisk>,
    flusher: Flusher,
    syncs: Arc<SyncWatch>,
}

impl LogStore {
    pub(crate) fn open(disk: Arc<dyn LogDisk>) -> io::Result<Self> {
        let syncs = Arc::<SyncWatch>::default();
        let flusher = Flusher::start(Arc::clone(&disk), Arc::clone(&syncs))?;
        Ok(Self { disk, flusher, syncs })
    }

    /// How long syncs take.
    pub(crate) fn syncs(&self) -> Arc<SyncWatch> {
        Arc::clone(&self.syncs)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let records = self.disk.read(from, to, bytes_max)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(records.len());
        for record in records {
            let entry = entry_from_bytes(&record.bytes).map_err(invalid)?;
            if entry.log_id.index != record.index {
                return Err(invalid(CodecError::new("log entry", "it has another index")));
            }
            if entries.last().is_some_and(|last| last.log_id.index + 1 != record.index) {
                return Err(invalid(CodecError::new("log", "entries are missing in it")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn invalid(error: CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn log_id_to_bytes(id: &LogId) -> Vec<u8> {
    log_id_to_pb(id).encode_to_vec()
}

fn log_id_from_bytes(bytes: &[u8]) -> io::Result<LogId> {
    let id = pb::store::LogId::decode(bytes).map_err(|e| invalid(CodecError::new("log id", e)))?;
    Ok(log_id_from_pb(&id))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, READ_BYTES_MAX)?;
        // What is purged meanwhile is gone: a stream that consensus starts anew after an error reads from
        // where it once began, and sends what it gets as if it followed. With nothing to send it says so,
        // and is ended by consensus, which knows what is purged and sends a snapshot.
        let follows = entries.first().is_some_and(|first| first.log_id.index == start);
        Ok(if follows { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let Some(bytes) = self.disk.get(LogValue::Vote)? else { return Ok(None) };
        let vote = pb::store::Vote::decode(bytes.as_slice())
            .map_err(|error| invalid(CodecError::new("vote", error)))?;
        Ok(Some(vote_from_pb(&vote)))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.disk.bounds()?;
        let purged = bounds.purged.as_deref().map(log_id_from_bytes).transpose()?;
        let last = match bounds.last {
            Some(record) => Some(entry_from_bytes(&record.bytes).map_err(invalid)?.log_id),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if mutants::on(Mutant::VoteNotPersisted) {
            return Ok(());
        }
        self.disk.put(LogValue::Vote, &vote_to_pb(vote).encode_to_vec())?;
        self.flusher.sync().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Not waited for: after a crash an older value only means that the leader tells us again.
        let bytes = committed.as_ref().map(log_id_to_bytes).unwrap_or_default();
        self.disk.put(LogValue::Committed, &bytes)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        match self.disk.get(LogValue::Committed)? {
            Some(bytes) if !bytes.is_empty() => Ok(Some(log_id_from_bytes(&bytes)?)),
            Some(_) | None => Ok(None),
        }
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogRecord> = entries
            .into_iter()
            .map(|entry| LogRecord { index: entry.log_id.index, bytes: entry_to_bytes(&entry) })
            .collect();
        self.disk.append(&records)?;
        self.flusher.queue(Waiter::Appended(callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        // Durable with the append or vote that follows: one write-ahead log keeps their order.
        self.disk.truncate(last_log_id.map_or(0, |id| id.index.saturating_add(1)))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // Consensus purges only behind a snapshot, which is durable (`Snapshots::keep`).
        self.disk.purge(log_id.index, &log_id_to_bytes(&log_id))
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::mem::MemoryDisk;
    use crate::raft::CommittedLeaderId;

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn append(log: &LogStore, indexes: impl IntoIterator<Item = u64>) {
        let records = indexes.into_iter().map(|index| {
            let entry = Entry::new_blank(log_id(index));
            LogRecord { index, bytes: entry_to_bytes(&entry) }
        });
        log.disk.append(&records.collect::<Vec<_>>()).unwrap();
    }

    #[tokio::test]
    async fn what_is_read_to_be_sent_begins_where_it_was_asked_for_or_is_nothing() {
        let mut log = LogStore::open(MemoryDisk::new().engine().log).unwrap();
        append(&log, 1..=5);
        log.purge(log_id(3)).await.unwrap();
        let indexes = |entries: Vec<Entry>| {
            entries.into_iter().map(|entry| entry.log_id.index).collect::<Vec<_>>()
        };
        for (from, expected) in [(1, vec![]), (3, vec![]), (4, vec![4, 5]), (5, vec![5])] {
            let read = log.limited_get_log_entries(from, 6).await.unwrap();
            assert_eq!(indexes(read), expected, "from {from}");
        }
        assert_eq!(indexes(log.try_get_log_entries(1..6).await.unwrap()), [4, 5]);
    }

    #[tokio::test]
    async fn a_log_with_a_hole_is_not_read() {
        let mut log = LogStore::open(MemoryDisk::new().engine().log).unwrap();
        append(&log, [1, 2, 4]);
        for read in [log.limited_get_log_entries(1, 9).await, log.try_get_log_entries(1..9).await] {
            assert!(read.unwrap_err().to_string().contains("entries are missing"));
        }
    }
}

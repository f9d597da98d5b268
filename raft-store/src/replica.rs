//! One replica of a registry without consensus: commands as committed, applied to tables in memory.
//!
//! For tests, of this and other crates, that take weeks of a cluster's life in seconds: who commits what
//! in which order, and when each replica applies it, is theirs to say. What a command does is `apply`'s,
//! what a snapshot holds `snapshot`'s, what a restore changes `backup`'s, as everywhere.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use prost::Message;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::{Tables, Transaction, WriteSet, apply, snapshot_changes};
use crate::change::{Change, ChangeBatch};
use crate::codec::command_to_pb;
use crate::command::Command;
use crate::mem::MemoryTables;
use crate::outcome::Applied;
use crate::pb;
use crate::raft::state_machine::write_applied;
use crate::raft::{CommittedLeaderId, LogId, Membership, PeerNode, StoredMembership};
use crate::snapshot::{self, SnapshotSink};

/// The one term of its log.
const TERM: u64 = 1;

/// A command as the log holds it.
#[derive(Clone, Debug)]
pub struct Committed {
    envelope: Vec<u8>,
}

impl Committed {
    /// A command that is remembered under no request id, stamped with the leader's time.
    #[must_use]
    pub fn new(command: &Command, time: Timestamp) -> Self {
        let command = command_to_pb(command);
        let body_hash = digest::digest(&digest::SHA256, &command.encode_to_vec());
        let envelope = pb::store::Envelope {
            request_id: Vec::new(),
            time_unix_ms: time.unix_ms(),
            body_hash: body_hash.as_ref().to_vec(),
            command: Some(command),
        };
        Self { envelope: envelope.encode_to_vec() }
    }
}

/// One replica. It has applied nothing at first.
#[derive(Debug, Default)]
pub struct Replica {
    tables: MemoryTables,
    applied: u64,
}

impl Replica {
    /// Applies the next command of the log: what its proposer is told, and what everyone else is.
    ///
    /// # Panics
    ///
    /// If the tables do not decode: never, in memory.
    pub fn apply(&mut self, committed: &Committed) -> (Applied, ChangeBatch) {
        self.applied += 1;
        let mut txn = Transaction::new(&self.tables);
        let done = apply(&mut txn, self.applied, &committed.envelope);
        let done = done.expect("tables in memory decode");
        let mut writes = txn.into_writes();
        self.note_applied(&mut writes);
        self.tables.commit(writes).expect("memory takes every row");
        (done.applied.expect("a command is decided"), done.batch)
    }

    /// How much of the log it has applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Its whole state, as views load it.
    ///
    /// # Panics
    ///
    /// As [`Self::apply`].
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        snapshot_changes(&self.tables).expect("tables in memory decode")
    }

    /// A replica that has installed a snapshot of this one.
    ///
    /// # Panics
    ///
    /// As [`Self::apply`].
    #[must_use]
    pub fn installed(&self) -> Self {
        let copy = Self { tables: MemoryTables::default(), applied: self.applied };
        let sink = SnapshotSink::Memory(Vec::new());
        let body = snapshot::write(&self.tables, pb::store::SnapshotMeta::default(), sink);
        let body = body.expect("tables in memory are read");
        snapshot::read(&body, &mut |rows| copy.tables.load(rows)).expect("it was just written");
        let mut writes = WriteSet::new();
        copy.note_applied(&mut writes);
        copy.tables.commit(writes).expect("memory takes every row");
        copy
    }

    /// A replica that was restored from a snapshot of this one, in the cluster's next epoch. Its log goes
    /// on where that begins.
    ///
    /// # Panics
    ///
    /// If no cluster has formed in this one.
    #[cfg(feature = "rocks")]
    #[must_use]
    pub fn restored(&self, now: Timestamp) -> Self {
        let mut copy = self.installed();
        let begun = crate::backup::begin_in(&copy.tables, now);
        copy.applied = begun.expect("a state in memory begins another epoch");
        copy
    }

    fn note_applied(&self, writes: &mut WriteSet) {
        let leader = CommittedLeaderId { term: TERM, node_id: 1 };
        let log_id = LogId::new(leader, self.applied);
        let nodes = BTreeMap::from([(1, PeerNode::default())]);
        let membership = Membership::new(vec![[1].into()], nodes);
        let membership = membership.expect("one voter is a membership");
        write_applied(writes, Some(&log_id), &StoredMembership::new(Some(log_id), membership));
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::authority::AuthorityKind;

    use super::*;
    use crate::apply::testing::{START_MS, authority, init};

    #[test]
    fn a_snapshot_is_the_same_state_and_a_restore_one_that_nobody_has_seen() {
        let now = Timestamp::from_unix_ms(START_MS);
        let mut first = Replica::default();
        let prepare = Command::PrepareAuthority {
            expected_journal: 0,
            authority: authority(AuthorityKind::X509, "a"),
        };
        for command in [init(), prepare] {
            first.apply(&Committed::new(&command, now)).0.outcome.unwrap();
        }
        let second = first.installed();
        assert_eq!((second.applied(), second.changes()), (2, first.changes()));
        let third = second.restored(now);
        let sequence = |replica: &Replica| {
            replica.changes().into_iter().find_map(|change| {
                let Change::BundleWritten { bundle, .. } = change else { return None };
                Some(bundle.sequence_number)
            })
        };
        assert_eq!(sequence(&first), Some(1));
        assert!(third.applied() > 2 && sequence(&third) > Some(1_000), "{third:?}");
    }
}

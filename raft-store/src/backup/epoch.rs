//! A new epoch: the common step of restore and recover, on tables that no one serves yet.
//!
//! Owns what must not survive in them. The epoch rises, and with it every revision; unspent join tokens
//! and remembered outcomes go; sequence numbers that others compare jump, since changes that are
//! forgotten now have used some; the membership is one voter, whose log begins here.

use std::collections::BTreeMap;

use prost::Message;
use steeple_spiffe_core::authority::{Authority, AuthorityStatus, SealedKey};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::time::Timestamp;

use crate::apply::{
    Row, Rows, SINGLE, Table, TableError, Tables, WriteSet, read_counters, read_journal,
};
use crate::backup::error::RebuildError;
use crate::backup::facts::State;
use crate::change::{ClusterState, Restored, UnknownAgents};
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb, cluster_to_pb, journal_to_pb};
use crate::ids::{ClusterId, MemberId, Revision};
use crate::local::Identity;
use crate::mutants::{self, Mutant};
use crate::pb;
use crate::raft::convert::{log_id_to_pb, vote_to_pb};
use crate::raft::state_machine::{StateMachine, write_applied};
use crate::raft::{
    CommittedLeaderId, LeaderId, LogId, Membership, PeerNode, StoredMembership, Vote,
};
use crate::storage::{Engine, LogValue};

/// Revisions of entries and the sequence number of the own bundle rise by this for each epoch that has
/// begun since the state that is kept: more than anyone can have changed in one. Stock agents take an
/// entry for unchanged unless its revision rises.
const JUMP: u32 = 1 << 20;

/// Rows written at a time.
const PAGE: usize = 512;

/// Seals the private key of an authority that moves from one cluster to another.
pub type Reseal<'a> =
    dyn Fn(&Authority, ClusterId, ClusterId) -> Result<SealedKey, String> + Sync + 'a;

/// A cluster of its own, made of another's state.
pub struct NewCluster<'a> {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Seals private keys for it.
    pub reseal: &'a Reseal<'a>,
}

impl std::fmt::Debug for NewCluster<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCluster").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the epoch begins with.
pub(super) struct Beginning<'a> {
    pub(super) me: MemberId,
    pub(super) address: String,
    pub(super) key_checks: Vec<(String, Vec<u8>)>,
    pub(super) now: Timestamp,
    /// The epoch is above this one, as it is above that of the state.
    pub(super) above: u32,
    pub(super) new_cluster: Option<&'a NewCluster<'a>>,
    /// Public authorities that were published after the state.
    pub(super) trust: Option<&'a Bundle>,
}

/// The state that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) cluster: ClusterState,
    pub(super) index: u64,
    /// Unspent join tokens that are void.
    pub(super) tokens: u64,
}

/// Begins the epoch on an engine whose tables hold a whole state and whose log is empty.
pub(super) fn begin(engine: &Engine, with: &Beginning<'_>) -> Result<Begun, RebuildError> {
    let tables = engine.tables.as_ref();
    let state = read_state(tables)?;
    let begun = change_tables(tables, &state, with)?;
    let leader = LeaderId { term: begun.log_id.leader_id.term, node_id: with.me.0 };
    let vote = Vote { leader_id: leader, committed: true };
    let log_id = log_id_to_pb(&begun.log_id).encode_to_vec();
    engine.log.put(LogValue::Vote, &vote_to_pb(&vote).encode_to_vec())?;
    engine.log.put(LogValue::Committed, &log_id)?;
    engine.log.purge(begun.log_id.index, &log_id)?;
    engine.log.sync()?;
    engine.local.found(&Identity {
        member_id: with.me,
        cluster_id: Some(begun.cluster.cluster_id),
        cluster_name: begun.cluster.name.clone(),
        trust_domain: begun.cluster.trust_domain.to_string(),
        key_checks: with.key_checks.clone(),
    })?;
    // Those who join have no log to be fed from.
    let (machine, _) = StateMachine::open(engine)?;
    machine.build()?;
    Ok(Begun { cluster: begun.cluster, index: begun.log_id.index, tokens: state.counts.tokens })
}

/// Begins the epoch in tables that no engine is around; returns its first log index.
pub(crate) fn begin_in(tables: &dyn Tables, now: Timestamp) -> Result<u64, RebuildError> {
    let with = Beginning {
        me: MemberId(1),
        address: String::new(),
        key_checks: Vec::new(),
        now,
        above: 0,
        new_cluster: None,
        trust: None,
    };
    let state = read_state(tables)?;
    Ok(change_tables(tables, &state, &with)?.log_id.index)
}

/// What the tables hold; they are never empty here.
pub(super) fn read_state(tables: &dyn Tables) -> Result<State, RebuildError> {
    let mut state = None;
    tables.read_consistent(&mut |rows| {
        state = State::read(rows)?;
        Ok(())
    })?;
    Ok(state.ok_or_else(|| CodecError::missing("cluster row"))?)
}

struct Changed {
    cluster: ClusterState,
    log_id: LogId,
}

fn change_tables(
    tables: &dyn Tables,
    state: &State,
    with: &Beginning<'_>,
) -> Result<Changed, RebuildError> {
    for table in [Table::Tokens, Table::TokensByExpiry, Table::Outcomes, Table::OutcomesByAge] {
        clear(tables, table)?;
    }
    clear(tables, Table::AdoptedAgents)?;
    let epoch =
        state.cluster.epoch.max(with.above) + u32::from(!mutants::on(Mutant::EpochNotRaised));
    let jump = JUMP.saturating_mul(epoch.saturating_sub(state.cluster.epoch).max(1));
    raise_entries(tables, jump)?;

    let log_id = LogId::new(
        CommittedLeaderId { term: state.log_id.leader_id.term + 1, node_id: with.me.0 },
        state.log_id.index + 1,
    );
    let mut cluster = ClusterState {
        epoch,
        restored: Some(Restored {
            lost_from: state.time,
            at: with.now.max(state.time),
            unknown_agents: UnknownAgents::Undecided,
        }),
        ..state.cluster.clone()
    };
    if let Some(new) = with.new_cluster {
        // What it would answer for in the name of the other one: it orders its own certificate.
        clear(tables, Table::Sealed)?;
        (cluster.cluster_id, cluster.name) = (new.id, new.name.clone());
        // Its keys are sealed anew under whichever key this member seals with; that one counts.
        cluster.key_id.clear();
        cluster.left_key_ids.clear();
    }
    let mut writes = WriteSet::new();
    let mut put = |table, key: &[u8], message: Vec<u8>| {
        writes.insert((table, key.to_vec()), Some(message));
    };
    put(Table::Cluster, SINGLE, cluster_to_pb(&cluster).encode_to_vec());
    let mut counters = read_counters(tables)?;
    (counters.tokens, counters.outcomes, counters.outcome_bytes) = (0, 0, 0);
    // Every request of an earlier epoch may have taken effect in what is forgotten.
    counters.forgotten_revision = Revision::new(cluster.epoch, log_id.index).as_u64();
    put(Table::Counters, SINGLE, counters.encode_to_vec());
    let key = cluster.trust_domain.as_str().as_bytes();
    if let Some(bundle) = own_bundle(tables, key, jump, with.trust)? {
        put(Table::Bundles, key, bundle);
    }
    if tables.get(Table::Journal, SINGLE)?.is_some() {
        put(Table::Journal, SINGLE, journal(tables, &state.cluster, jump, with)?);
    }
    let node = PeerNode { address: with.address.clone(), ..PeerNode::default() };
    let nodes = BTreeMap::from([(with.me.0, node)]);
    let membership = Membership::new(vec![[with.me.0].into()], nodes)
        .map_err(|error| CodecError::new("membership", error))?;
    let membership = StoredMembership::new(Some(log_id), membership);
    write_applied(&mut writes, Some(&log_id), &membership);
    tables.commit(writes)?;
    Ok(Changed { cluster, log_id })
}

/// The own bundle with what was published later, and a sequence number that no one has seen.
fn own_bundle(
    tables: &dyn Tables,
    key: &[u8],
    jump: u32,
    trust: Option<&Bundle>,
) -> Result<Option<Vec<u8>>, RebuildError> {
    let Some(bytes) = tables.get(Table::Bundles, key)? else { return Ok(None) };
    let mut row: pb::store::BundleRow = decode(&bytes)?;
    let mut bundle =
        bundle_from_pb(row.bundle.ok_or_else(|| CodecError::missing("bundle of a row"))?)?;
    if let Some(trust) = trust {
        for authority in &trust.x509_authorities {
            let der = &authority.certificate_der;
            if !bundle.x509_authorities.iter().any(|known| known.certificate_der == *der) {
                bundle.x509_authorities.push(authority.clone());
            }
        }
        for authority in &trust.jwt_authorities {
            let id = &authority.key_id;
            if !bundle.jwt_authorities.iter().any(|known| known.key_id == *id) {
                bundle.jwt_authorities.push(authority.clone());
            }
        }
    }
    bundle.sequence_number = bundle.sequence_number.saturating_add(u64::from(jump));
    row.bundle = Some(bundle_to_pb(&bundle));
    Ok(Some(row.encode_to_vec()))
}

fn journal(
    tables: &dyn Tables,
    old: &ClusterState,
    jump: u32,
    with: &Beginning<'_>,
) -> Result<Vec<u8>, RebuildError> {
    let mut journal = read_journal(tables)?;
    journal.revision = journal.revision.saturating_add(u64::from(jump));
    if let Some(new) = with.new_cluster {
        let with_key = |one: &&mut Authority| one.status != AuthorityStatus::Revoked;
        for authority in journal.authorities.iter_mut().filter(with_key) {
            authority.sealed_key = (new.reseal)(authority, old.cluster_id, new.id)
                .map_err(|reason| RebuildError::Reseal { id: authority.id.to_string(), reason })?;
        }
    }
    Ok(journal_to_pb(&journal).encode_to_vec())
}

fn raise_entries(tables: &dyn Tables, jump: u32) -> Result<(), RebuildError> {
    each_page(tables, Table::Entries, &mut |page| {
        let mut writes = WriteSet::new();
        for (key, value) in page {
            let mut row: pb::store::EntryRow = decode(&value)?;
            if let Some(entry) = &mut row.entry {
                entry.revision = entry.revision.saturating_add(i64::from(jump));
            }
            writes.insert((Table::Entries, key), Some(row.encode_to_vec()));
        }
        tables.commit(writes)
    })?;
    Ok(())
}

fn clear(tables: &dyn Tables, table: Table) -> Result<(), RebuildError> {
    each_page(tables, table, &mut |page| {
        let gone = page.into_iter().map(|(key, _)| ((table, key), None));
        tables.commit(gone.collect())
    })?;
    Ok(())
}

/// Every row of a table, some at a time.
pub(super) fn each_page<R: Rows + ?Sized>(
    rows: &R,
    table: Table,
    body: &mut dyn FnMut(Vec<Row>) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let mut from = Vec::new();
    loop {
        let page = rows.scan(table, &from, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from.clone_from(last);
        from.push(0);
        body(page)?;
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, TableError> {
    M::decode(bytes).map_err(|error| CodecError::new("row of a table", error).into())
}

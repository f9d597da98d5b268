//! openraft's types to and from our own messages, for disk and wire.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use prost::Message;
use prost::bytes::Bytes;

use crate::codec::CodecError;
use crate::pb;
use crate::raft::{
    CommittedLeaderId, Entry, EnvelopeBytes, LeaderId, LogId, Membership, PeerNode, SnapshotMeta,
    StoredMembership, Vote,
};

pub(crate) fn log_id_to_pb(id: &LogId) -> pb::store::LogId {
    pb::store::LogId { term: id.leader_id.term, member_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_pb(id: &pb::store::LogId) -> LogId {
    LogId::new(CommittedLeaderId { term: id.term, node_id: id.member_id }, id.index)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::store::Vote {
    pb::store::Vote {
        term: vote.leader_id.term,
        member_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_pb(vote: &pb::store::Vote) -> Vote {
    Vote {
        leader_id: LeaderId { term: vote.term, node_id: vote.member_id },
        committed: vote.committed,
    }
}

pub(crate) fn membership_to_pb(membership: &Membership) -> pb::store::Membership {
    pb::store::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|ids| pb::store::VoterSet { ids: ids.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| pb::store::Member {
                id: *id,
                address: node.address.clone(),
                name: node.name.clone(),
                demoted: node.demoted,
            })
            .collect(),
    }
}

pub(crate) fn membership_from_pb(
    membership: &pb::store::Membership,
) -> Result<Membership, CodecError> {
    let voters: Vec<BTreeSet<u64>> =
        membership.voters.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, PeerNode> = membership
        .members
        .iter()
        .map(|member| {
            let node = PeerNode {
                address: member.address.clone(),
                name: member.name.clone(),
                demoted: member.demoted,
            };
            (member.id, node)
        })
        .collect();
    Membership::new(voters, nodes).map_err(|error| CodecError::new("membership", error))
}

pub(crate) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::store::StoredMembership {
    pb::store::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_pb(
    stored: &pb::store::StoredMembership,
) -> Result<StoredMembership, CodecError> {
    let membership = match &stored.membership {
        Some(membership) => membership_from_pb(membership)?,
        None => Membership::default(),
    };
    Ok(StoredMembership::new(stored.log_id.as_ref().map(log_id_from_pb), membership))
}

pub(crate) fn snapshot_meta_to_pb(meta: &SnapshotMeta) -> pb::store::SnapshotMeta {
    pb::store::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_pb),
        last_membership: Some(stored_membership_to_pb(&meta.last_membership)),
    }
}

pub(crate) fn snapshot_meta_from_pb(
    meta: &pb::store::SnapshotMeta,
) -> Result<SnapshotMeta, CodecError> {
    let last_membership = match &meta.last_membership {
        Some(stored) => stored_membership_from_pb(stored)?,
        None => StoredMembership::default(),
    };
    Ok(SnapshotMeta { last_log_id: meta.last_log_id.as_ref().map(log_id_from_pb), last_membership })
}

pub(crate) fn entry_to_pb(entry: &Entry) -> pb::store::LogEntry {
    use pb::store::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::store::Blank {}),
        EntryPayload::Normal(envelope) => Payload::Envelope(envelope.0.to_vec()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_pb(membership)),
    };
    pb::store::LogEntry { log_id: Some(log_id_to_pb(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_pb(entry: pb::store::LogEntry) -> Result<Entry, CodecError> {
    use pb::store::log_entry::Payload;
    let log_id = entry.log_id.ok_or_else(|| CodecError::missing("log id of an entry"))?;
    let payload = entry.payload.ok_or_else(|| CodecError::missing("payload of an entry"))?;
    let payload = match payload {
        Payload::Blank(pb::store::Blank {}) => EntryPayload::Blank,
        Payload::Envelope(bytes) => EntryPayload::Normal(EnvelopeBytes(Bytes::from(bytes))),
        Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_pb(&membership)?)
        }
    };
    Ok(Entry { log_id: log_id_from_pb(&log_id), payload })
}

/// The bytes of an entry as the log keeps them.
pub(crate) fn entry_to_bytes(entry: &Entry) -> Vec<u8> {
    entry_to_pb(entry).encode_to_vec()
}

/// An entry from the log's bytes.
pub(crate) fn entry_from_bytes(bytes: &[u8]) -> Result<Entry, CodecError> {
    let entry =
        pb::store::LogEntry::decode(bytes).map_err(|error| CodecError::new("log entry", error))?;
    entry_from_pb(entry)
}

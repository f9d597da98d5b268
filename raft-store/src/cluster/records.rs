//! What formation keeps and says, as bytes: the adopted founding set on disk, introductions on the wire.
//!
//! Owns conversions only.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use prost::Message;

use crate::cluster::formation::{FoundingSet, Introduction, Settings, Standing};
use crate::ids::{ClusterId, MemberId};
use crate::local::LocalRecords;
use crate::net::messages as pb;

/// Name of the record that holds the adopted set until the cluster is formed.
const FOUNDING: &str = "founding";

/// The set that this member has adopted, if any.
pub(crate) fn read_set(local: &LocalRecords) -> io::Result<Option<FoundingSet>> {
    let Some(bytes) = local.get(FOUNDING)? else { return Ok(None) };
    let set = pb::FoundingSet::decode(bytes.as_slice()).map_err(io::Error::other)?;
    Ok(Some(set_from_pb(set)))
}

/// Adopts a set; durable on return.
pub(crate) fn write_set(local: &LocalRecords, set: &FoundingSet) -> io::Result<()> {
    local.put(FOUNDING, &set_to_pb(set).encode_to_vec())
}

/// Forgets the set: the cluster is formed, or another was joined.
pub(crate) fn forget_set(local: &LocalRecords) -> io::Result<()> {
    local.remove(FOUNDING)
}

pub(crate) fn set_to_pb(set: &FoundingSet) -> pb::FoundingSet {
    let founder = |(id, address): (&MemberId, &String)| pb::Founder {
        member_id: id.0,
        address: address.clone(),
    };
    pb::FoundingSet { founders: set.founders.iter().map(founder).collect() }
}

pub(crate) fn set_from_pb(set: pb::FoundingSet) -> FoundingSet {
    let founders: BTreeMap<_, _> =
        set.founders.into_iter().map(|f| (MemberId(f.member_id), f.address)).collect();
    FoundingSet { founders }
}

/// What another member said of itself; an error names what is missing.
pub(crate) fn introduction_from_pb(from: pb::Introduction) -> Result<Introduction, String> {
    use pb::introduction::Standing as Wire;
    let standing = match from.standing {
        Some(Wire::Empty(pb::Empty {})) => Standing::Empty,
        Some(Wire::Adopted(set)) => Standing::Adopted(set_from_pb(set)),
        Some(Wire::Initialised(set)) => Standing::Initialised(set_from_pb(set)),
        Some(Wire::Formed(formed)) => match cluster_id_from_bytes(&formed.cluster_id) {
            Some(cluster) => Standing::Formed(cluster),
            None => return Err("it names no cluster id".to_owned()),
        },
        // A state that a later version may add: nothing to build on.
        None => return Err("it does not say how it stands".to_owned()),
    };
    Ok(Introduction {
        member: MemberId(from.member_id),
        settings: Arc::new(Settings {
            cluster_name: from.cluster_name,
            trust_domain: from.trust_domain,
            peers: from.peers.into_iter().collect(),
        }),
        joins_only: from.joins_only,
        standing,
    })
}

/// How a founder stands, for its introduction.
pub(crate) fn standing_to_pb(standing: &Standing) -> pb::introduction::Standing {
    use pb::introduction::Standing as Wire;
    match standing {
        Standing::Empty => Wire::Empty(pb::Empty {}),
        Standing::Adopted(set) => Wire::Adopted(set_to_pb(set)),
        Standing::Initialised(set) => Wire::Initialised(set_to_pb(set)),
        Standing::Formed(cluster) => Wire::Formed(pb::Formed {
            cluster_id: cluster_id_to_bytes(*cluster).into(),
            ..Default::default()
        }),
    }
}

pub(crate) fn cluster_id_to_bytes(cluster: ClusterId) -> Vec<u8> {
    cluster.0.to_be_bytes().to_vec()
}

pub(crate) fn cluster_id_from_bytes(bytes: &[u8]) -> Option<ClusterId> {
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| ClusterId(u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn introductions_survive_the_wire() {
        let set = FoundingSet { founders: BTreeMap::from([(MemberId(1), "a:1".to_owned())]) };
        let cases = [
            Standing::Empty,
            Standing::Adopted(set.clone()),
            Standing::Initialised(set),
            Standing::Formed(ClusterId(7)),
        ];
        for standing in cases {
            let wire = pb::Introduction {
                member_id: 3,
                cluster_name: "prod".to_owned(),
                standing: Some(standing_to_pb(&standing)),
                ..Default::default()
            };
            let read = introduction_from_pb(wire).unwrap();
            assert_eq!((read.member, read.standing), (MemberId(3), standing));
        }
        introduction_from_pb(pb::Introduction::default()).unwrap_err();
    }
}

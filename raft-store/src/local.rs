//! A member's own records: who it is, and what it adopted before it had a cluster. Durable, never
//! replicated.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;

use crate::apply::TableError;
use crate::codec::CodecError;
use crate::ids::{ClusterId, MemberId};
use crate::pb;

/// Key of the identity record; other names are free for formation.
const IDENTITY: &str = "identity";

/// Where small named records are kept.
pub(crate) trait LocalDisk: Send + Sync + fmt::Debug {
    /// The record, if it was ever written.
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes the record; durable on return.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes the record; durable on return.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Marks the storage as a member's, once its identity is written: from then on storage without
    /// that identity is corrupt, not new.
    fn claim(&self, member: MemberId) -> io::Result<()>;
}

/// Typed access to the records.
#[derive(Clone, Debug)]
pub(crate) struct LocalRecords {
    disk: Arc<dyn LocalDisk>,
    /// Held while the identity is read, changed and written.
    changing: Arc<Mutex<()>>,
}

/// Who a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) member_id: MemberId,
    /// `None` until a cluster is formed or joined.
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) cluster_name: String,
    pub(crate) trust_domain: String,
    /// Key id and check value of every cluster key that is held, or is needed and was held once. The
    /// first is named where none of them is held: the one that seals, once it is known.
    pub(crate) key_checks: Vec<(String, Vec<u8>)>,
}

impl LocalRecords {
    pub(crate) fn new(disk: Arc<dyn LocalDisk>) -> Self {
        Self { disk, changing: Arc::default() }
    }

    /// The identity, if the folder has one.
    pub(crate) fn find_identity(&self) -> Result<Option<Identity>, TableError> {
        let Some(bytes) = self.disk.get(IDENTITY)? else { return Ok(None) };
        let record = pb::store::LocalIdentity::decode(bytes.as_slice())
            .map_err(|error| CodecError::new("identity of the member", error))?;
        let cluster_id = match <[u8; 16]>::try_from(record.cluster_id.as_slice()) {
            Ok(bytes) => Some(ClusterId(u128::from_be_bytes(bytes))),
            Err(_) if record.cluster_id.is_empty() => None,
            Err(error) => return Err(CodecError::new("cluster id of the member", error).into()),
        };
        Ok(Some(Identity {
            member_id: MemberId(record.member_id),
            cluster_id,
            cluster_name: record.cluster_name,
            trust_domain: record.trust_domain,
            key_checks: record.key_checks.into_iter().map(|k| (k.key_id, k.check)).collect(),
        }))
    }

    /// The identity; every opened folder has one.
    pub(crate) fn identity(&self) -> Result<Identity, TableError> {
        let found = self.find_identity()?;
        found.ok_or_else(|| CodecError::missing("identity of the member").into())
    }

    /// Writes the identity of a new member and marks the storage as its.
    pub(crate) fn found(&self, identity: &Identity) -> Result<(), TableError> {
        self.set_identity(identity)?;
        Ok(self.disk.claim(identity.member_id)?)
    }

    /// Writes the identity; durable on return.
    pub(crate) fn set_identity(&self, identity: &Identity) -> Result<(), TableError> {
        let record = pb::store::LocalIdentity {
            member_id: identity.member_id.0,
            cluster_id: identity
                .cluster_id
                .map(|id| id.0.to_be_bytes().to_vec())
                .unwrap_or_default(),
            cluster_name: identity.cluster_name.clone(),
            trust_domain: identity.trust_domain.clone(),
            key_checks: identity
                .key_checks
                .iter()
                .map(|(key_id, check)| pb::store::KeyCheck {
                    key_id: key_id.clone(),
                    check: check.clone(),
                })
                .collect(),
        };
        Ok(self.disk.put(IDENTITY, &record.encode_to_vec())?)
    }

    /// Notes the cluster that this member formed or joined; durable on return. A member that has one
    /// keeps it: a second, different id is refused.
    pub(crate) fn adopt_cluster(&self, cluster_id: ClusterId) -> Result<(), TableError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity = self.identity()?;
        match identity.cluster_id {
            Some(known) if known == cluster_id => Ok(()),
            Some(known) => Err(CodecError::new(
                "cluster id of the member",
                format!("it is {known}, not {cluster_id}"),
            )
            .into()),
            None => {
                identity.cluster_id = Some(cluster_id);
                self.set_identity(&identity)
            }
        }
    }

    /// Notes which cluster keys are held; durable on return. Those that are not are forgotten unless
    /// they are needed: the folder must still open with a key that it needs, though that was missing for
    /// a while. The one that seals comes first, those that may be dropped come last: a start with none of
    /// them names the first.
    pub(crate) fn note_key_checks(
        &self,
        held: Vec<(String, Vec<u8>)>,
        current: Option<&str>,
        is_needed: impl Fn(&str) -> bool,
    ) -> Result<(), TableError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity = self.identity()?;
        let mut checks = held;
        let kept = identity.key_checks.iter().filter(|(id, _)| is_needed(id));
        let kept: Vec<_> = kept.filter(|check| !checks.contains(check)).cloned().collect();
        checks.extend(kept);
        // Stable: the others stay in their order.
        checks.sort_by_key(|(id, _)| (current != Some(id.as_str()), !is_needed(id)));
        if identity.key_checks == checks {
            return Ok(());
        }
        identity.key_checks = checks;
        self.set_identity(&identity)
    }

    /// A record of formation's, by name.
    pub(crate) fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.get(name)
    }

    /// Writes a record of formation's; durable on return.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.put(name, bytes)
    }

    /// Removes a record of formation's; durable on return.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemoryDisk;

    #[test]
    fn the_key_that_seals_is_noted_first_and_one_that_is_neither_held_nor_needed_is_forgotten() {
        let local = MemoryDisk::new().engine().local;
        let checks = |ids: &[&str]| -> Vec<(String, Vec<u8>)> {
            ids.iter().map(|id| ((*id).to_owned(), id.as_bytes().to_vec())).collect()
        };
        let identity = Identity {
            member_id: MemberId(1),
            cluster_id: None,
            cluster_name: "prod".to_owned(),
            trust_domain: "example.org".to_owned(),
            key_checks: checks(&["left"]),
        };
        local.found(&identity).unwrap();
        type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        // What is held, in the order of the lines, what seals, what is needed; then what is noted.
        let table: [Case<'_>; 6] = [
            (&["left", "seals"], Some("seals"), &["seals"], &["seals", "left"]),
            // The file was put back: what is needed stays.
            (&["left"], Some("seals"), &["seals"], &["seals", "left"]),
            (&["left", "seals"], Some("seals"), &["seals"], &["seals", "left"]),
            // The key moves.
            (&["left", "seals", "new"], Some("new"), &["seals", "new"], &["new", "seals", "left"]),
            (&["seals", "new"], Some("new"), &["new"], &["new", "seals"]),
            (&["new"], Some("new"), &["new"], &["new"]),
        ];
        for (held, current, needed, expected) in table {
            local.note_key_checks(checks(held), current, |id| needed.contains(&id)).unwrap();
            assert_eq!(local.identity().unwrap().key_checks, checks(expected), "{held:?}");
        }
        // Before anything is known nothing is forgotten, and the order stays.
        local.note_key_checks(checks(&["b", "a"]), None, |_| true).unwrap();
        assert_eq!(local.identity().unwrap().key_checks, checks(&["b", "a", "new"]));
    }
}

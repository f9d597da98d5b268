//! Which cluster keys the replicated state depends on.
//!
//! Pure functions of the rows that say so: the key that seals, and the key under which each
//! authority's private key and each sealed value is sealed. What members hold, and what follows
//! from both, is for the callers.

use std::collections::{BTreeMap, BTreeSet};

use steeple_spiffe_core::authority::{AuthorityId, AuthorityKind, SealedKey};

use crate::change::{ClusterState, Journal};
use crate::sealed_values::{SealedName, SealedValues};

/// What depends on which cluster key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysInUse {
    /// The key that seals; `None` before there is an authority.
    pub current: Option<String>,
    /// The authorities whose private keys are sealed under each key.
    pub sealed: BTreeMap<String, Vec<(AuthorityKind, AuthorityId)>>,
    /// The other values that are sealed under each key.
    pub values: BTreeMap<String, Vec<SealedName>>,
}

impl KeysInUse {
    /// Of a state.
    pub fn of(cluster: &ClusterState, journal: &Journal, kept: &SealedValues) -> Self {
        let mut sealed: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for one in journal.authorities.iter().filter(|one| is_there(&one.sealed_key)) {
            let under = sealed.entry(one.sealed_key.kek_id.clone()).or_default();
            under.push((one.kind, one.id.clone()));
        }
        let mut values: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (name, value) in kept {
            values.entry(value.sealed.kek_id.clone()).or_default().push(*name);
        }
        Self { current: current_key_id(cluster, journal).map(str::to_owned), sealed, values }
    }

    /// How many private keys and other values are sealed under a key.
    pub fn depending_on(&self, id: &str) -> usize {
        self.sealed.get(id).map_or(0, Vec::len) + self.values.get(id).map_or(0, Vec::len)
    }

    /// The ids of all keys that something depends on.
    pub fn needed(&self) -> BTreeSet<String> {
        self.sealed.keys().chain(self.values.keys()).chain(&self.current).cloned().collect()
    }
}

/// The id of the cluster key that seals: the one that was named, else the one under which the newest
/// authority was sealed, since a cluster whose key never changed has named none.
pub fn current_key_id<'a>(cluster: &'a ClusterState, journal: &'a Journal) -> Option<&'a str> {
    if !cluster.key_id.is_empty() {
        return Some(&cluster.key_id);
    }
    let with_key = journal.authorities.iter().rfind(|one| is_there(&one.sealed_key))?;
    Some(&with_key.sealed_key.kek_id)
}

/// Whether there is a private key at all: that of a revoked authority is destroyed.
fn is_there(sealed: &SealedKey) -> bool {
    *sealed != SealedKey::destroyed()
}

//! The keys this replica has opened, by authority.
//!
//! Follows the journal: opens what may sign now or next, forgets (and thereby wipes) what may not
//! sign any more. A key is accepted only if its public half is the one that was published.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use steeple_raft_store::change::Journal;
use steeple_raft_store::{ClusterId, ClusterKeys};
use steeple_spiffe_core::AuthorityId;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::signer::{LocalSigner, Signer};
use steeple_spiffe_core::svid::x509::certificate_facts;

use super::sealed::{OpenKeyError, SealContext, open_key};

/// Names a key: key ids are unique within a kind.
type Name = (AuthorityKind, AuthorityId);

/// Opened keys of active and prepared authorities.
pub struct KeyRing {
    keys: Arc<ClusterKeys>,
    opened: BTreeMap<Name, Arc<dyn Signer>>,
}

impl KeyRing {
    /// A ring that opens with the given cluster keys.
    pub fn new(keys: Arc<ClusterKeys>) -> Self {
        Self { keys, opened: BTreeMap::new() }
    }

    /// Follows the journal. Every key that can be opened is, even when another cannot; the error is
    /// that of the first which cannot.
    pub fn follow(&mut self, cluster_id: ClusterId, journal: &Journal) -> Result<(), OpenKeyError> {
        let may_sign = |one: &&Authority| one.status.may_sign();
        let wanted: BTreeMap<Name, &Authority> = journal
            .authorities
            .iter()
            .filter(may_sign)
            .map(|one| ((one.kind, one.id.clone()), one))
            .collect();
        self.opened.retain(|name, _| wanted.contains_key(name));
        let mut result = Ok(());
        for (name, authority) in wanted {
            if self.opened.contains_key(&name) {
                continue;
            }
            match self.open(cluster_id, authority) {
                Ok(signer) => {
                    self.opened.insert(name, signer);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// The opened key of an authority.
    pub fn signer(&self, authority: &Authority) -> Option<Arc<dyn Signer>> {
        self.opened.get(&(authority.kind, authority.id.clone())).cloned()
    }

    /// Opens one key, and keeps it not.
    ///
    /// # Errors
    ///
    /// If no cluster key opens it, or it is not the one that was published.
    pub(super) fn open(
        &self,
        cluster_id: ClusterId,
        authority: &Authority,
    ) -> Result<Arc<dyn Signer>, OpenKeyError> {
        let context = SealContext { cluster_id, kind: authority.kind, authority_id: &authority.id };
        let pkcs8 = open_key(&self.keys, &context, &authority.sealed_key)?;
        let wrong = || OpenKeyError::WrongKey(authority.id.clone());
        let signer = LocalSigner::from_pkcs8(pkcs8.expose()).map_err(|_malformed| wrong())?;
        let published = published_spki(authority).ok_or_else(wrong)?;
        if signer.public_key_spki() != published {
            return Err(wrong());
        }
        Ok(Arc::new(signer))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("opened", &self.opened.keys()).finish_non_exhaustive()
    }
}

/// The public key of an authority as it was published.
fn published_spki(authority: &Authority) -> Option<Vec<u8>> {
    match authority.kind {
        AuthorityKind::X509 => Some(certificate_facts(&authority.public_der).ok()?.spki),
        AuthorityKind::Jwt | AuthorityKind::Wit => Some(authority.public_der.clone()),
    }
}

//! Moves private keys of authorities, and the other values that are kept sealed, under the cluster
//! key that seals now, on the leader.
//!
//! Owns one round: everything that is still sealed under another key is opened, sealed anew with
//! the same associated data, and replaced by one command that names the sealing it was opened from.
//! So a rotation in between is never overwritten, and whoever leads next goes on where this leader
//! stopped: what is left to do is what the journal shows.

use std::sync::Arc;
use std::time::Duration;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::{ResealAuthority, WriteSealed};
use steeple_raft_store::{
    ClusterId, ClusterKeys, Command, ProposeError, Rejection, Revision, SealedName, SealedValue,
    SealedValues, StoreHandle, Unavailable,
};
use steeple_spiffe_core::authority::{Authority, SealedKey};
use steeple_spiffe_core::random::Random;
use tokio::time::Instant;

use crate::keys::{
    OpenKeyError, SealContext, SealKeyError, ValueContext, open_key, open_value, seal_key_under,
    seal_value,
};
use crate::view::Views;

/// How long a round waits for a confirmed read and for the view to follow.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a round ended early. All are tried again.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// No confirmed read: there may be another leader.
    #[error("read registry")]
    Unavailable(#[from] Unavailable),
    /// The views did not follow in time.
    #[error("views did not reach revision {0} in time")]
    ViewsBehind(Revision),
    /// This replica cannot open the key of an authority.
    #[error("open authority key")]
    Open(#[from] OpenKeyError),
    /// This replica cannot seal under the key that seals.
    #[error("seal authority key")]
    Seal(#[from] SealKeyError),
    /// The command's fate is unknown, or this is no longer the leader.
    #[error("propose to seal authority key anew")]
    Propose(#[from] ProposeError),
}

/// The leader's re-sealing.
#[derive(Clone, Debug)]
pub struct Rekeyer {
    /// The registry.
    pub handle: StoreHandle,
    /// What this replica has applied.
    pub views: Views,
    /// What private keys are opened and sealed with.
    pub keys: Arc<ClusterKeys>,
    /// Nonces.
    pub random: Arc<dyn Random>,
}

impl Rekeyer {
    /// Whether an authority is sealed under another key than the one that was named to seal.
    pub fn is_due(&self) -> bool {
        let key_id = self.views.cluster().map(|cluster| cluster.key_id.clone());
        let key_id = key_id.filter(|key_id| !key_id.is_empty());
        key_id.is_some_and(|key_id| {
            left_behind(&self.views.journal(), &key_id).next().is_some()
                || values_left_behind(&self.views.sealed(), &key_id).next().is_some()
        })
    }

    /// Seals anew what is to be; all that can be, even when another cannot. `term` is the term in which
    /// this replica leads: a command of an older leader is refused.
    pub async fn round(&self, term: u64) -> Result<(), RekeyError> {
        if !self.is_due() {
            return Ok(());
        }
        let confirmed = self.handle.read_barrier(Instant::now() + READ_TIMEOUT).await?;
        self.follow(confirmed.revision).await?;
        let Some(cluster) = self.views.cluster() else { return Ok(()) };
        let mut result = Ok(());
        for authority in left_behind(&self.views.journal(), &cluster.key_id) {
            match self.command(cluster.cluster_id, authority, &cluster.key_id) {
                Ok(command) => self.replace(authority, command, term).await?,
                Err(error) => result = result.and(Err(error)),
            }
        }
        for (name, value) in values_left_behind(&self.views.sealed(), &cluster.key_id) {
            match self.value_command(cluster.cluster_id, name, value, &cluster.key_id) {
                Ok(command) => self.replace_value(name, value, command, term).await?,
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Opens a value and seals it under a cluster key, as its next version.
    fn value_command(
        &self,
        cluster_id: ClusterId,
        name: SealedName,
        value: &SealedValue,
        key_id: &str,
    ) -> Result<Command, RekeyError> {
        let expected = value.version;
        let seen = ValueContext { cluster_id, name, version: expected };
        let private = open_value(&self.keys, &seen, &value.sealed)?;
        let next = ValueContext { version: expected.saturating_add(1), ..seen };
        let sealed = seal_value(&self.keys, key_id, self.random.as_ref(), &next, &private)?;
        Ok(Command::WriteSealed(Box::new(WriteSealed { name, expected, sealed })))
    }

    async fn replace_value(
        &self,
        name: SealedName,
        value: &SealedValue,
        command: Command,
        term: u64,
    ) -> Result<(), RekeyError> {
        let applied = self.handle.propose_duty(command, term).await?;
        let from = &value.sealed.kek_id;
        match applied.outcome {
            Ok(_) => {
                tracing::info!(?name, from, "Sealed value sealed anew");
                self.follow(applied.revision).await
            }
            // It was written meanwhile, or the key moved on: the next round sees what there is
            // then.
            Err(rejection) => {
                tracing::debug!(?name, %rejection, "Sealed value was not sealed anew");
                Ok(())
            }
        }
    }

    /// Opens the key of an authority and seals it under a cluster key, with the same associated data.
    pub(crate) fn command(
        &self,
        cluster_id: ClusterId,
        authority: &Authority,
        key_id: &str,
    ) -> Result<Command, RekeyError> {
        let context = SealContext { cluster_id, kind: authority.kind, authority_id: &authority.id };
        let private = open_key(&self.keys, &context, &authority.sealed_key)?;
        let random = self.random.as_ref();
        Ok(Command::ResealAuthority(Box::new(ResealAuthority {
            kind: authority.kind,
            id: authority.id.clone(),
            seen_kek_id: authority.sealed_key.kek_id.clone(),
            seen_nonce: authority.sealed_key.nonce.clone(),
            sealed_key: seal_key_under(&self.keys, key_id, random, &context, &private)?,
        })))
    }

    async fn replace(
        &self,
        authority: &Authority,
        command: Command,
        term: u64,
    ) -> Result<(), RekeyError> {
        let applied = self.handle.propose_duty(command, term).await?;
        let authority_id = &authority.id;
        match applied.outcome {
            Ok(_) => {
                let from = &authority.sealed_key.kek_id;
                tracing::info!(%authority_id, from, "Authority key sealed anew");
                self.follow(applied.revision).await
            }
            // It was rotated away, or the key moved on: the next round sees what there is then.
            Err(rejection @ (Rejection::AuthorityState(_) | Rejection::ClusterKeyMoved { .. })) => {
                tracing::debug!(%authority_id, %rejection, "Authority key was not sealed anew");
                Ok(())
            }
            Err(rejection) => {
                tracing::warn!(%authority_id, %rejection, "Authority key was not sealed anew");
                Ok(())
            }
        }
    }

    async fn follow(&self, revision: Revision) -> Result<(), RekeyError> {
        if self.views.wait_for(revision, Instant::now() + READ_TIMEOUT).await {
            Ok(())
        } else {
            Err(RekeyError::ViewsBehind(revision))
        }
    }
}

/// The values that are sealed under another key.
fn values_left_behind<'a>(
    values: &'a SealedValues,
    key_id: &'a str,
) -> impl Iterator<Item = (SealedName, &'a SealedValue)> {
    let all = values.iter().map(|(name, value)| (*name, value.as_ref()));
    all.filter(move |(_, value)| value.sealed.kek_id != key_id)
}

/// The authorities with a private key that is sealed under another key.
fn left_behind<'a>(journal: &'a Journal, key_id: &'a str) -> impl Iterator<Item = &'a Authority> {
    let all = journal.authorities.iter();
    all.filter(move |one| {
        one.sealed_key != SealedKey::destroyed() && one.sealed_key.kek_id != key_id
    })
}

//! X.509-SVIDs of workloads with their private keys.
//!
//! Owns one cached SVID and the questions the cache asks about it. When it is due is decided by
//! `rotate::condition`, what to do about it by `plan`.

use steeple_spiffe_core::{Secret, SpiffeId, Timestamp};

use crate::limits::{SIGN_MARGIN, SIGN_SPACING, SIGN_SPACING_MIN};

/// An SVID as it is served to workloads.
#[derive(Clone)]
pub struct WorkloadSvid {
    /// The identity in the certificate.
    pub spiffe_id: SpiffeId,
    /// The chain in DER, leaf first, without the root.
    pub chain_der: Vec<Vec<u8>>,
    /// The private key as PKCS#8 in DER.
    pub key_pkcs8: Secret,
    /// Start of the leaf's validity.
    pub not_before: Timestamp,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
    /// When it came from the server.
    pub obtained_at: Timestamp,
    /// Revision of the entry it was signed for.
    pub entry_revision: i64,
    /// Creation of the entry it was signed for, in Unix seconds.
    pub entry_created_at_unix_s: i64,
    /// Key id of the root it chains to: the authority key id of the last certificate.
    pub root_key_id: Vec<u8>,
}

impl std::fmt::Debug for WorkloadSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("not_after", &self.not_after)
            .field("entry_revision", &self.entry_revision)
            .finish_non_exhaustive()
    }
}

impl WorkloadSvid {
    /// Whether its validity has ended.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    /// From when on it may be renewed because of its age.
    pub fn renewable_from(&self) -> Timestamp {
        let life = self.not_after.since(self.obtained_at).saturating_sub(SIGN_MARGIN);
        self.obtained_at.plus(life.clamp(SIGN_SPACING_MIN, SIGN_SPACING))
    }

    /// Whether it is too new to be renewed. A clock that was set back doesn't hold renewals up.
    pub fn is_new(&self, now: Timestamp) -> bool {
        self.obtained_at <= now && now < self.renewable_from()
    }
}

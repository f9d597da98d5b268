//! Registration entries.
//!
//! Owns the checked entry and every rule of `spec/spire-api.md` 1 ("Validation shared by the
//! server") that needs nothing but the entry itself. Whether a federated bundle exists or a similar
//! entry is stored is decided where the state is: in raft-store's apply.

use std::fmt;
use std::sync::Arc;

use crate::id::SpiffeId;
use crate::limits::ENTRY_ID_BYTES_MAX;
use crate::selector::SelectorSet;
use crate::sorted_set::SortedSet;
use crate::time::Timestamp;
use crate::trust_domain::TrustDomain;

/// The id of an entry: a UUID by default, or what the operator chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(Arc<str>);

/// Why an entry id is refused. Texts are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryIdError {
    /// Longer than [`ENTRY_ID_BYTES_MAX`].
    #[error("entry ID too long")]
    TooLong,
    /// Empty, or a character outside `[A-Za-z0-9._-]`.
    #[error("entry ID contains invalid characters")]
    BadCharacter,
}

impl EntryId {
    /// Checks an id.
    pub fn parse(text: &str) -> Result<Self, EntryIdError> {
        if text.len() > ENTRY_ID_BYTES_MAX {
            return Err(EntryIdError::TooLong);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(EntryIdError::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A registration entry as it is stored. Fields are public and plain: what makes it valid is checked
/// where it is made from a request (`steeple-api`, `convert::entry`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationEntry {
    /// Its id.
    pub id: EntryId,
    /// The identity that workloads get.
    pub spiffe_id: SpiffeId,
    /// The agent (or alias, or other workload) below which the entry hangs.
    pub parent_id: SpiffeId,
    /// What a workload must show; never empty.
    pub selectors: SelectorSet,
    /// Lifetime of X.509-SVIDs in seconds; 0 = the server's default.
    pub x509_svid_ttl_s: i32,
    /// Lifetime of JWT-SVIDs in seconds; 0 = the server's default.
    pub jwt_svid_ttl_s: i32,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: SortedSet<TrustDomain>,
    /// Whether the identity may administer the server.
    pub admin: bool,
    /// Whether the identity is a downstream server.
    pub downstream: bool,
    /// When the entry is pruned, in Unix seconds; 0 = never.
    pub expires_at_unix_s: i64,
    /// DNS names of the certificate, in order; the first is also its common name.
    pub dns_names: Vec<String>,
    /// Rises by one with each update.
    pub revision: i64,
    /// When the entry was created (cluster time).
    pub created_at: Timestamp,
    /// Whether SVIDs go to an SVID store instead of the Workload API.
    pub store_svid: bool,
    /// Tells identities of one workload apart.
    pub hint: String,
    /// Rarely used attributes; `None` when the request carried none.
    pub additional_attributes: Option<AdditionalAttributes>,
}

impl RegistrationEntry {
    /// An entry that has nothing but what every entry must have; all else is the default.
    pub fn new(
        id: EntryId,
        spiffe_id: SpiffeId,
        parent_id: SpiffeId,
        selectors: SelectorSet,
    ) -> Self {
        Self {
            id,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl_s: 0,
            jwt_svid_ttl_s: 0,
            federates_with: SortedSet::new(),
            admin: false,
            downstream: false,
            expires_at_unix_s: 0,
            dns_names: Vec::new(),
            revision: 0,
            created_at: Timestamp::UNIX_EPOCH,
            store_svid: false,
            hint: String::new(),
            additional_attributes: None,
        }
    }

    /// Whether SPIRE calls the other entry "similar": same SPIFFE id, same parent, same selectors.
    pub fn is_similar(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id
            && self.parent_id == other.parent_id
            && self.selectors == other.selectors
    }
}

/// A masked update of one entry: what is `None` stays as it is. A request without a mask fills every
/// field, as SPIRE does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryUpdate {
    /// Which entry.
    pub id: EntryId,
    /// New SPIFFE id.
    pub spiffe_id: Option<SpiffeId>,
    /// New parent.
    pub parent_id: Option<SpiffeId>,
    /// New selectors; never empty.
    pub selectors: Option<SelectorSet>,
    /// New lifetime of X.509-SVIDs in seconds.
    pub x509_svid_ttl_s: Option<i32>,
    /// New lifetime of JWT-SVIDs in seconds.
    pub jwt_svid_ttl_s: Option<i32>,
    /// New foreign trust domains.
    pub federates_with: Option<SortedSet<TrustDomain>>,
    /// New admin flag.
    pub admin: Option<bool>,
    /// New downstream flag.
    pub downstream: Option<bool>,
    /// New expiry in Unix seconds; 0 = never.
    pub expires_at_unix_s: Option<i64>,
    /// New DNS names.
    pub dns_names: Option<Vec<String>>,
    /// New SVID store flag.
    pub store_svid: Option<bool>,
    /// New hint.
    pub hint: Option<String>,
    /// New additional attributes.
    pub additional_attributes: Option<AdditionalAttributes>,
}

impl EntryUpdate {
    /// An update that changes nothing yet.
    pub fn of(id: EntryId) -> Self {
        Self {
            id,
            spiffe_id: None,
            parent_id: None,
            selectors: None,
            x509_svid_ttl_s: None,
            jwt_svid_ttl_s: None,
            federates_with: None,
            admin: None,
            downstream: None,
            expires_at_unix_s: None,
            dns_names: None,
            store_svid: None,
            hint: None,
            additional_attributes: None,
        }
    }
}

/// The attributes that SPIRE keeps in one message and updates together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdditionalAttributes {
    /// Do not fetch SVIDs before a workload asks.
    pub disable_x509_svid_prefetch: bool,
    /// Put a `jti` claim in JWT-SVIDs.
    pub jwt_svid_include_jti: bool,
}

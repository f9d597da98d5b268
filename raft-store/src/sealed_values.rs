//! Values that the cluster keeps sealed beside the journal of authorities: what replicas share and
//! nobody else may read.
//!
//! Owns their names and versions. What is in one, and how it is sealed, is the caller's.

use std::collections::BTreeMap;
use std::sync::Arc;

use steeple_spiffe_core::authority::SealedKey;

/// The name of a value. A closed list: no peer makes it grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedName {
    /// The account with the server that the endpoint's certificate is ordered from.
    AcmeAccount,
    /// The endpoint's certificate and its key.
    AcmeCertificate,
    /// The order that is under way, with the answer to its challenge.
    AcmeAttempt,
}

impl SealedName {
    /// Its number, on disk and in what it is sealed with. Never reused.
    pub const fn number(self) -> u8 {
        match self {
            Self::AcmeAccount => 1,
            Self::AcmeCertificate => 2,
            Self::AcmeAttempt => 3,
        }
    }
}

/// A value as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedValue {
    /// Rises by one with each writing; the first is 1.
    pub version: u64,
    /// The value, sealed.
    pub sealed: SealedKey,
}

/// All values that are kept.
pub type SealedValues = BTreeMap<SealedName, Arc<SealedValue>>;

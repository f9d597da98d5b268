//! The seam to what all replicas keep in common.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use super::record::{Account, Attempt, Certificate, RecordError};

/// SHA-256 of a challenge's key authorization (RFC 8555, 8.1).
pub type Digest = [u8; 32];

/// A record and its version: 0, and none, before it was first written.
#[derive(Clone, Debug)]
pub struct Held<T> {
    /// Rises with each writing.
    pub version: u64,
    /// What was written.
    pub value: Option<T>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { version: 0, value: None }
    }
}

/// Everything that is kept.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The account.
    pub account: Held<Account>,
    /// The certificate that is presented.
    pub certificate: Held<Certificate>,
    /// How the next one is coming along.
    pub attempt: Held<Attempt>,
}

impl Records {
    /// Tells one state of the records from another.
    pub fn versions(&self) -> [u64; 3] {
        [self.account.version, self.certificate.version, self.attempt.version]
    }
}

/// One record to be written.
#[derive(Clone, Debug)]
pub enum Record {
    /// The account.
    Account(Account),
    /// The certificate.
    Certificate(Certificate),
    /// The attempt.
    Attempt(Attempt),
}

/// Records were not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The record has another version than the one that was seen: somebody else orders too.
    #[error("another replica has written it meanwhile")]
    Moved,
    /// They cannot be read or written now.
    #[error(transparent)]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// A record is not what it should be.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What all replicas keep in common.
pub trait AcmeState: fmt::Debug + Send + Sync {
    /// The records as this replica knows them. Cheap enough for each minute, not for each
    /// handshake.
    ///
    /// # Errors
    ///
    /// [`StateError::Store`], [`StateError::Record`].
    fn load(&self) -> Result<Records, StateError>;

    /// Returns when the versions are others than these.
    fn changed(&self, versions: [u64; 3]) -> BoxFuture<'_, ()>;

    /// Writes a record, if its version is still the one that was seen. Afterwards [`Self::load`]
    /// shows it.
    fn save(&self, record: Record, seen: u64) -> BoxFuture<'_, Result<(), StateError>>;

    /// Returns when every replica that can be reached answers the challenge with this digest, or
    /// after
    /// `patience`: who does not by then is said in the log.
    fn spread(&self, digest: Digest, patience: Duration) -> BoxFuture<'_, ()>;
}

//! Names of things in the cluster: members, clusters, revisions, rows, requests.

use std::fmt;

use steeple_spiffe_core::random::Random;

/// A replica's identity: 64 random bits made at first start. Never a name, ordinal or address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A cluster's identity, derived from its founding set: 128 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A state of the registry: epoch × 2^40 + log index. Rises through restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

/// Bits of a revision that hold the log index: at 100,000 commands a second they last 127 days
/// without a snapshot's help, at 1,000 a second 34 years.
const INDEX_BITS: u32 = 40;

impl Revision {
    /// The state after the given log index of an epoch.
    pub const fn new(epoch: u32, index: u64) -> Self {
        Self(((epoch as u64) << INDEX_BITS) | (index & ((1 << INDEX_BITS) - 1)))
    }

    /// Which epoch it is of.
    pub const fn epoch(self) -> u32 {
        // What is left is at most 24 bits.
        (self.0 >> INDEX_BITS) as u32
    }

    /// The log index that it is the state after.
    pub const fn index(self) -> u64 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// From its number, as metadata carries it.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A row's place in lists: minted in apply, the same on every member, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowNumber(pub u64);

/// Names one attempt to change something, so that a retry has no second effect.
///
/// Its first eight bytes say, big-endian, at which revision the caller was when it first tried: what
/// is older than the oldest remembered outcome is answered as indeterminate, never applied. Zero
/// there: the caller knew no revision and gives up this protection, as a command line may, whose
/// retries end with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// A new id of a caller that has seen a revision.
    pub fn fresh(seen: Revision, random: &dyn Random) -> Self {
        let mut id = [0; 16];
        random.fill(&mut id);
        for (byte, seen) in id.iter_mut().zip(seen.as_u64().to_be_bytes()) {
            *byte = seen;
        }
        Self(id)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

//! The replicated registry of Steeple: commands go down one door, changes come up one ordered stream.
//!
//! Owns the log, the tables, consensus, the peer network and the life of a member. Knows nothing of
//! SPIRE's services, of signing, or of certificates for workloads: it stores what it is told,
//! deterministically, on every member. Only this crate names openraft or RocksDB. Start with
//! `OVERVIEW.md`.
//!
//! ```text
//!   propose ──► leader appends ──► log ──► commit ──► apply ──► tables + change stream ──► views
//! ```

#![forbid(unsafe_code)]

pub mod backup;
pub mod change;
pub mod cluster_key;
pub mod command;
pub mod ids;
pub mod keys_in_use;
pub mod limits;
pub mod outcome;
pub mod sealed_values;
pub mod status;

mod acks;
mod apply;
mod barrier;
mod cluster;
mod codec;
mod config;
mod contact;
mod core;
mod error;
mod feed;
mod fence;
mod forward;
mod guarded;
mod handle;
mod key_following;
mod leaving;
mod level;
mod local;
mod mem;
mod membership;
mod mutants;
mod net;
mod observe;
mod offload;
mod one_member;
mod pb;
mod propose;
mod questions;
mod raft;
mod replica;
#[cfg(feature = "rocks")]
mod rocks;
mod seams;
mod snapshot;
mod storage;
mod store;
mod succession;
pub mod testing;
mod upgrade;

pub use apply::TableError;
pub use backup::{SaveError, SnapshotCounts, SnapshotFacts, SnapshotMember, SnapshotOut};
pub use change::{Change, ChangeBatch};
pub use cluster_key::ClusterKeys;
pub use command::Command;
pub use config::{Config, Tuning};
pub use contact::Contact;
pub use error::{OpenError, ProposeError, RunError, StoreError, Unavailable};
pub use feed::{Resync, Subscription};
pub use handle::{Confirmed, StoreHandle};
pub use ids::{ClusterId, MemberId, RequestId, Revision, RowNumber};
pub use keys_in_use::KeysInUse;
pub use level::{
    FEATURE_LEVEL_MAX, REFRESH_LEVEL, REKEY_LEVEL, SEALED_VALUES_LEVEL, UPSTREAM_LEVEL, WIT_LEVEL,
};
pub use mem::{MemoryDisk, StateSum, SyncTimes};
pub use membership::{MemberChange, MemberChangeError, REFUSED_CHANGE_TARGET};
pub use net::{Connection, Duplex, Incoming, PipeNetwork, Pipes, Tcp, Transport, Way};
pub use observe::{Checkpoint, ClusterClock, DiskHealth, Mismatch, Observation, Observed};
pub use outcome::{Applied, BundleOutcome, EntryOutcome, Outcome, Rejection, RelationshipOutcome};
pub use questions::{Answers, AskError};
pub use sealed_values::{SealedName, SealedValue, SealedValues};
pub use seams::{Seams, Storage};
pub use status::{ForeignPeer, Leadership, MemberState, MemberStatus, MemberView, Role};
pub use store::Store;
pub use upgrade::{LevelStatus, LevelSupport, RaiseError};

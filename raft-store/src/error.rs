//! Errors of the store's boundary, one variant for each cause that a caller can act on.
//!
//! A rejection of a command is no error: it is a replicated decision
//! ([`Rejection`](crate::outcome::Rejection)).

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{ClusterId, MemberId};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder holds something that is no registry.
    #[error("folder {} is not a registry: {reason}; choose an empty folder", folder.display())]
    Foreign {
        /// Which folder.
        folder: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The folder was written by a newer version.
    #[error("folder {} has format {found}, this version reads up to {known}", folder.display())]
    NewerFormat {
        /// Which folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The cluster is at a feature level that this version does not know.
    #[error("the cluster is at feature level {level}, this version supports up to {known}")]
    NewerLevel {
        /// The cluster's level.
        level: u32,
        /// The highest level known here.
        known: u32,
    },
    /// Another process has the folder open.
    #[error("folder {} is in use by another process", folder.display())]
    Locked {
        /// Which folder.
        folder: PathBuf,
    },
    /// What is on the disk does not fit together. The member must not take part: crash is safer than
    /// two members that disagree. Empty its folder and let it join anew.
    #[error("registry in {} is corrupt: {reason}", folder.display())]
    Corrupt {
        /// Which folder.
        folder: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The given cluster keys do not open what is stored.
    #[error("sealed: cluster key does not open {key_id}")]
    WrongClusterKey {
        /// The id of the key that was in use.
        key_id: String,
    },
    /// The folder belongs to another cluster or trust domain than the configuration says.
    #[error("registry belongs to {what} {found}, the configuration says {configured}")]
    OtherCluster {
        /// What differs: `cluster`, `cluster name` or `trust domain`.
        what: &'static str,
        /// What is stored.
        found: String,
        /// What is configured.
        configured: String,
    },
    /// The build has no RocksDB.
    #[error("this build keeps no state on disk: the feature \"rocks\" is left out")]
    NoDiskStorage,
    /// The disk or the file system failed.
    #[error("open registry in {}", folder.display())]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The consensus core refused to start.
    #[error("start consensus: {0}")]
    Consensus(String),
    /// The peer listener or its credentials could not be made.
    #[error("open peer network: {0}")]
    Network(String),
}

/// Why a running store ended by itself. The process must end too.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The consensus core stopped: a write, a sync or apply failed. Never retried: after a failed
    /// sync the disk may have dropped what it acknowledged.
    #[error("consensus stopped: {0}")]
    Consensus(String),
    /// This member was removed from its cluster.
    #[error(
        "member {member} was removed from cluster {cluster}; to let it join as a new one, move \
         DATA_DIR/raft away and start it again"
    )]
    Removed {
        /// This member.
        member: MemberId,
        /// Which cluster.
        cluster: ClusterId,
    },
    /// This member's state is wrong: it was read damaged, or a majority of the voters is in another. It
    /// must serve nothing of it.
    #[error(
        "{reason}; this member's state is not to be trusted: move DATA_DIR/raft away and start it \
         again, it then joins anew and is fed by the others; alone it needs a snapshot to restore \
         (spire-server cluster snapshot restore)"
    )]
    Fenced {
        /// What was found.
        reason: String,
    },
    /// The cluster was restored or recovered elsewhere, and this member has no quorum of its own.
    #[error(
        "epoch {newer} of cluster {cluster} has begun without this member, which is of epoch {ours}; move DATA_DIR/raft away and start it again: it joins"
    )]
    Superseded {
        /// Which cluster.
        cluster: ClusterId,
        /// This member's epoch.
        ours: u32,
        /// The epoch that was met.
        newer: u32,
    },
    /// Another process is this member, at the address that the cluster knows; the text says where.
    #[error("{0}")]
    RunsTwice(String),
    /// The peer network failed for good, for instance the listener's address is taken.
    #[error("peer network: {0}")]
    Network(String),
    /// Forming or joining a cluster failed for good.
    #[error("form or join cluster: {0}")]
    Formation(String),
}

/// Why a read of the local tables failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed or a row does not decode.
    #[error("read registry")]
    Tables(#[from] crate::apply::TableError),
}

/// Nothing was decided for lack of a quorum or a leader: try again, here or at another member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unavailable {
    /// What is missing, for people, for instance `no leader: 1 of 3 voters reachable`.
    pub text: String,
    /// When trying again makes sense.
    pub retry_after: Duration,
}

/// Why no decision about a proposal is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The command is in no log and will not be.
    #[error(transparent)]
    Unavailable(Unavailable),
    /// The command may or may not be applied, now or later. Retry with the same request id.
    #[error("outcome unknown: {text}")]
    Indeterminate {
        /// What happened.
        text: String,
    },
    /// The encoded command is larger than one log entry may be.
    #[error("command of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Too many proposals are under way on this member.
    #[error("too many proposals in flight")]
    Overloaded,
    /// A duty was proposed by a member that does not lead in that term any more.
    #[error("not the leader of that term")]
    NotLeader,
}

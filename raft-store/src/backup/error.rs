//! Why a registry was not rebuilt. Every text names the fix; nothing was changed then.

use std::path::PathBuf;

use steeple_spiffe_core::time::Timestamp;

use crate::apply::TableError;
use crate::cluster_key::KeyError;
use crate::codec::CodecError;
use crate::error::OpenError;

/// Why a registry was not rebuilt; the old one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The name was not typed, or another one.
    #[error("this is cluster \"{name}\"; to confirm, type its name: -confirm {name}")]
    Unconfirmed {
        /// The name to type.
        name: String,
    },
    /// As [`Self::Unconfirmed`], of a survivor; where its log ends tells which one to take.
    #[error(
        "this is cluster \"{name}\", its log ends at term {term}, index {index}; to confirm, type its name: -confirm {name}"
    )]
    UnconfirmedSurvivor {
        /// The name to type.
        name: String,
        /// The term of the last entry.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// Another trust domain.
    #[error(
        "this is of trust domain \"{found}\", the configuration says \"{configured}\"; give the snapshot or the configuration of the same trust domain"
    )]
    OtherTrustDomain {
        /// What it is of.
        found: String,
        /// What is configured.
        configured: String,
    },
    /// Another cluster.
    #[error(
        "this is of cluster \"{found}\", the configuration says \"{configured}\"; correct cluster.name, or make a cluster of its own with -new-cluster {configured}"
    )]
    OtherName {
        /// What it is of.
        found: String,
        /// What is configured.
        configured: String,
    },
    /// Another cluster id.
    #[error(
        "this is of cluster {found}, cluster.cluster_id says {configured}; correct or remove cluster_id"
    )]
    OtherCluster {
        /// What it is of.
        found: String,
        /// What is configured.
        configured: String,
    },
    /// The new cluster's name is not the configured one.
    #[error(
        "-new-cluster {asked} needs cluster.name = \"{asked}\" in the configuration, which says \"{configured}\""
    )]
    NewName {
        /// What was asked for.
        asked: String,
        /// What is configured.
        configured: String,
    },
    /// No held key opens it.
    #[error(
        "this is encrypted under cluster key {key_id}, this member holds {held}; add that key's line to its key file"
    )]
    OtherKey {
        /// The key that is needed.
        key_id: String,
        /// The keys that are held.
        held: String,
    },
    /// What signs has ended, or is about to.
    #[error(
        "the active {kind} authority ends at {not_after} (Unix time), so what it signed is worth nothing, or soon; take a newer snapshot, or add -force: agents then have to attest again"
    )]
    AuthorityEnds {
        /// `X.509` or `JWT`.
        kind: &'static str,
        /// When it ends.
        not_after: i64,
    },
    /// A private key could not be sealed anew.
    #[error(
        "seal the key of authority {id} for the new cluster: {reason}; the key file needs the new key's line first and the snapshot's key as another line"
    )]
    Reseal {
        /// Which authority.
        id: String,
        /// What failed.
        reason: String,
    },
    /// What is here does not read.
    #[error(
        "recover from {}: {reason}; if that is what is damaged, recover another member, or restore a \
         snapshot",
        folder.display()
    )]
    Survivor {
        /// Which folder.
        folder: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is no registry here.
    #[error("there is no registry in {}; recover a member that has one, or restore a snapshot", .0.display())]
    NoRegistry(PathBuf),
    /// The log has a hole.
    #[error("the log in {} has a hole at index {index}; recover another member, or restore a snapshot", folder.display())]
    Hole {
        /// Which folder.
        folder: PathBuf,
        /// Where.
        index: u64,
    },
    /// The folder could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The folder could not be exchanged.
    #[error("replace {}: {source}", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// What was given does not read, or the disk failed.
    #[error("{0}")]
    Tables(String),
    /// The crypto library refused.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl RebuildError {
    pub(super) fn ends(kind: &'static str, not_after: Timestamp) -> Self {
        Self::AuthorityEnds { kind, not_after: not_after.unix_s() }
    }
}

impl From<TableError> for RebuildError {
    fn from(error: TableError) -> Self {
        match error {
            // What reads frames says itself what is wrong with them.
            TableError::Io(error) => Self::Tables(error.to_string()),
            TableError::Codec(error) => Self::Tables(error.to_string()),
        }
    }
}

impl From<CodecError> for RebuildError {
    fn from(error: CodecError) -> Self {
        Self::Tables(error.to_string())
    }
}

impl From<std::io::Error> for RebuildError {
    fn from(error: std::io::Error) -> Self {
        Self::Tables(error.to_string())
    }
}

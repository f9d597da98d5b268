//! Feature levels: what a cluster may put into its log.
//!
//! A level names a set of commands and rules of apply. A cluster is at one level, a row of its state;
//! a build supports all levels up to its own. So a member of an older build never meets a command that
//! it cannot apply, and a newer build can be taken back until the level is raised.

use crate::command::Command;

impl Command {
    /// The feature level from which on it may be in a log.
    pub(crate) fn feature_level(&self) -> u32 {
        match self {
            // Raising the level is the way out of level 1, and is proposed only when every member has
            // said that it supports more: then it is of a build that knows the command.
            Self::RaiseFeatureLevel { .. } => 1,
            Self::InitCluster(_)
            | Self::CreateEntries(_)
            | Self::UpdateEntries(_)
            | Self::DeleteEntries(_)
            | Self::CreateJoinToken(_)
            | Self::AdmitAgent(_)
            | Self::SetPendingSerial(_)
            | Self::PromoteSerial(_)
            | Self::BanAgent(_)
            | Self::DeleteAgent(_)
            | Self::SetAgentVersion { .. }
            | Self::PruneExpired(_)
            | Self::PrepareAuthority { .. }
            | Self::ActivateAuthority { .. }
            | Self::PruneAuthorities { .. } => 1,
            Self::WriteBundles(_)
            | Self::DeleteBundles(_)
            | Self::AppendBundle(_)
            | Self::AdoptAgent(_)
            | Self::DecideAgents(_) => 2,
            Self::WriteRelationships(_) | Self::DeleteRelationships(_) => 3,
            Self::TaintAuthority { .. } | Self::RevokeAuthority { .. } => 4,
            Self::MoveClusterKey { .. } | Self::ResealAuthority(_) => REKEY_LEVEL,
            Self::WriteSealed(_) => SEALED_VALUES_LEVEL,
            Self::PrepareChained { .. } | Self::ChangeRoots { .. } | Self::PruneBundle { .. } => {
                UPSTREAM_LEVEL
            }
            Self::RecordRefresh { .. } => REFRESH_LEVEL,
        }
    }
}

/// The level from which on another cluster key can be moved to.
pub const REKEY_LEVEL: u32 = 5;

/// The level from which on authorities can be below an upstream authority.
pub const UPSTREAM_LEVEL: u32 = 5;

/// The level from which on it is noted how the fetching of foreign bundles goes.
pub const REFRESH_LEVEL: u32 = 6;

/// The level from which on values can be kept sealed.
pub const SEALED_VALUES_LEVEL: u32 = 6;

/// The highest level of this build, at which new clusters start.
///
/// | level | adds |
/// |---|---|
/// | 1 | the first build |
/// | 2 | the rolling state hash; bundles of other trust domains; agents after a restore |
/// | 3 | federation relationships |
/// | 4 | taint and revoke of authorities |
/// | 5 | another cluster key; authorities below an upstream authority, its roots; pruning of others' roots and keys |
/// | 6 | how the fetching of foreign bundles goes; the endpoint's certificate by ACME |
pub const FEATURE_LEVEL_MAX: u32 = 6;

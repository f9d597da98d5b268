//! Feature levels: what a cluster may put into its log.
//!
//! A level names a set of commands and rules of apply. A cluster is at one level, a row of its state;
//! a build supports all levels up to its own. So a member of an older build never meets a command that
//! it cannot apply, and a newer build can be taken back until the level is raised.

use steeple_spiffe_core::authority::AuthorityKind;

use crate::command::Command;

impl Command {
    /// The feature level from which on it may be in a log.
    pub(crate) fn feature_level(&self) -> u32 {
        if self.names_wit() {
            return WIT_LEVEL;
        }
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

    /// Whether it names a WIT authority, which a build before level 7 cannot read.
    fn names_wit(&self) -> bool {
        let is_wit = |kind: AuthorityKind| kind == AuthorityKind::Wit;
        match self {
            Self::PrepareAuthority { authority, .. } | Self::PrepareChained { authority, .. } => {
                is_wit(authority.kind)
            }
            Self::ActivateAuthority { kind, .. }
            | Self::TaintAuthority { kind, .. }
            | Self::RevokeAuthority { kind, .. } => is_wit(*kind),
            Self::ResealAuthority(reseal) => is_wit(reseal.kind),
            Self::PruneAuthorities { ids, .. } => ids.iter().any(|(kind, _)| is_wit(*kind)),
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
            | Self::ChangeRoots { .. }
            | Self::PruneBundle { .. }
            | Self::MoveClusterKey { .. }
            | Self::WriteSealed(_)
            | Self::WriteBundles(_)
            | Self::DeleteBundles(_)
            | Self::AppendBundle(_)
            | Self::WriteRelationships(_)
            | Self::DeleteRelationships(_)
            | Self::RecordRefresh { .. }
            | Self::AdoptAgent(_)
            | Self::DecideAgents(_)
            | Self::RaiseFeatureLevel { .. } => false,
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

/// The level from which on there can be authorities that sign WIT-SVIDs.
pub const WIT_LEVEL: u32 = 7;

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
/// | 7 | authorities that sign WIT-SVIDs |
pub const FEATURE_LEVEL_MAX: u32 = 7;

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::authority::{AuthorityId, SealedKey};

    use super::*;
    use crate::apply::testing::authority;
    use crate::command::ResealAuthority;

    /// Every command that can name an authority, naming one of a kind.
    fn naming(kind: AuthorityKind) -> [Command; 7] {
        let (id, expected_journal) = (AuthorityId::new("a"), 1);
        let reseal = ResealAuthority {
            kind,
            id: id.clone(),
            seen_kek_id: String::new(),
            seen_nonce: Vec::new(),
            sealed_key: SealedKey::destroyed(),
        };
        let other = (AuthorityKind::X509, id.clone());
        [
            Command::PrepareAuthority { expected_journal, authority: authority(kind, "a") },
            Command::PrepareChained {
                expected_journal,
                authority: authority(kind, "a"),
                roots: Vec::new(),
            },
            Command::ActivateAuthority { expected_journal, kind, id: id.clone() },
            Command::TaintAuthority { expected_journal, kind, id: id.clone() },
            Command::RevokeAuthority { expected_journal, kind, id: id.clone() },
            Command::PruneAuthorities { expected_journal, ids: vec![other, (kind, id)] },
            Command::ResealAuthority(Box::new(reseal)),
        ]
    }

    #[test]
    fn whatever_names_a_wit_authority_needs_the_level_from_which_on_it_can_be_read() {
        for command in naming(AuthorityKind::Wit) {
            assert_eq!(command.feature_level(), WIT_LEVEL, "{command:?}");
        }
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            for command in naming(kind) {
                assert!(command.feature_level() < WIT_LEVEL, "{command:?}");
            }
        }
    }
}

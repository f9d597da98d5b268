//! Commands.

use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::codec::authorities::{
    activate_authority_from_pb, activate_authority_to_pb, authority_step_from_pb,
    authority_step_to_pb, change_roots_from_pb, change_roots_to_pb, prepare_authority_from_pb,
    prepare_authority_to_pb, prepare_chained_from_pb, prepare_chained_to_pb,
    prune_authorities_from_pb, prune_authorities_to_pb, reseal_from_pb, reseal_to_pb,
};
use crate::codec::bundles::{
    append_from_pb, append_to_pb, delete_bundles_from_pb, delete_bundles_to_pb,
    write_bundles_from_pb, write_bundles_to_pb,
};
use crate::codec::model::{
    cluster_id_from_pb, entry_id_from_pb, trust_domain_from_pb, unknown_agents_from_pb,
    unknown_agents_to_pb,
};
use crate::codec::refreshes::{record_from_pb, record_to_pb};
use crate::codec::relationships::{
    delete_relationships_from_pb, write_relationships_from_pb, write_relationships_to_pb,
};
use crate::codec::sealed::{write_sealed_from_pb, write_sealed_to_pb};
use crate::codec::{
    CodecError, entry_from_pb, entry_to_pb, selectors_from_pb, selectors_to_pb, serial_from_pb,
    serials_from_pb, serials_to_pb, spiffe_id_from_pb, update_from_pb, update_to_pb,
};
use crate::command::{
    AdmitAgent, AdoptAgent, Command, CreateJoinToken, InitCluster, PromoteSerial, PruneExpired,
    SetPendingSerial,
};
use crate::level::FEATURE_LEVEL_MAX;
use crate::pb;
use crate::pb::store::command::Kind;

pub(crate) fn command_to_pb(command: &Command) -> pb::store::Command {
    let kind = match command {
        Command::InitCluster(init) => Kind::InitCluster(init_to_pb(init)),
        Command::CreateEntries(entries) => Kind::CreateEntries(pb::store::CreateEntries {
            entries: entries.iter().map(entry_to_pb).collect(),
        }),
        Command::UpdateEntries(updates) => Kind::UpdateEntries(pb::store::UpdateEntries {
            updates: updates.iter().map(update_to_pb).collect(),
        }),
        Command::DeleteEntries(ids) => Kind::DeleteEntries(pb::store::DeleteEntries {
            ids: ids.iter().map(ToString::to_string).collect(),
        }),
        Command::CreateJoinToken(create) => Kind::CreateJoinToken(token_to_pb(create)),
        Command::AdmitAgent(admit) => Kind::AdmitAgent(admit_to_pb(admit)),
        Command::SetPendingSerial(set) => Kind::SetPendingSerial(set_pending_to_pb(set)),
        Command::PromoteSerial(promote) => Kind::PromoteSerial(promote_to_pb(promote)),
        Command::BanAgent(id) => Kind::BanAgent(name_to_pb(id)),
        Command::DeleteAgent(id) => Kind::DeleteAgent(name_to_pb(id)),
        Command::SetAgentVersion { agent_id, version } => {
            Kind::SetAgentVersion(set_version_to_pb(agent_id, version))
        }
        Command::PruneExpired(prune) => Kind::PruneExpired(prune_expired_to_pb(prune)),
        Command::PrepareAuthority { expected_journal, authority } => {
            Kind::PrepareAuthority(prepare_authority_to_pb(*expected_journal, authority))
        }
        Command::PrepareChained { expected_journal, authority, roots } => {
            Kind::PrepareChained(prepare_chained_to_pb(*expected_journal, authority, roots))
        }
        Command::ChangeRoots { expected_journal, change, roots } => {
            Kind::ChangeRoots(change_roots_to_pb(*expected_journal, *change, roots))
        }
        Command::PruneBundle { expected_journal, roots, key_ids } => {
            Kind::PruneBundle(prune_bundle_to_pb(*expected_journal, roots, key_ids))
        }
        Command::ActivateAuthority { expected_journal, kind, id } => {
            Kind::ActivateAuthority(activate_authority_to_pb(*expected_journal, *kind, id))
        }
        Command::TaintAuthority { expected_journal, kind, id } => {
            Kind::TaintAuthority(authority_step_to_pb(*expected_journal, *kind, id))
        }
        Command::RevokeAuthority { expected_journal, kind, id } => {
            Kind::RevokeAuthority(authority_step_to_pb(*expected_journal, *kind, id))
        }
        Command::PruneAuthorities { expected_journal, ids } => {
            Kind::PruneAuthorities(prune_authorities_to_pb(*expected_journal, ids))
        }
        Command::MoveClusterKey { expected, to } => {
            let (expected, to) = (expected.clone(), to.clone());
            Kind::MoveClusterKey(pb::store::MoveClusterKey { expected, to })
        }
        Command::ResealAuthority(reseal) => Kind::ResealAuthority(reseal_to_pb(reseal)),
        Command::WriteSealed(write) => Kind::WriteSealed(write_sealed_to_pb(write)),
        Command::RaiseFeatureLevel { to } => {
            Kind::RaiseFeatureLevel(pb::store::RaiseFeatureLevel { to: *to })
        }
        Command::WriteBundles(write) => Kind::WriteBundles(write_bundles_to_pb(write)),
        Command::DeleteBundles(delete) => Kind::DeleteBundles(delete_bundles_to_pb(delete)),
        Command::AppendBundle(append) => Kind::AppendBundle(append_to_pb(append)),
        Command::WriteRelationships(write) => {
            Kind::WriteRelationships(write_relationships_to_pb(write))
        }
        Command::DeleteRelationships(names) => {
            Kind::DeleteRelationships(delete_relationships_to_pb(names))
        }
        Command::RecordRefresh { trust_domain, refreshed } => record_to_pb(trust_domain, refreshed),
        Command::AdoptAgent(adopt) => Kind::AdoptAgent(adopt_to_pb(adopt)),
        Command::DecideAgents(decision) => Kind::DecideAgents(pb::store::DecideAgents {
            unknown_agents: unknown_agents_to_pb(*decision).into(),
        }),
    };
    pb::store::Command { kind: Some(kind) }
}

/// Decodes a command. One that this build does not know is an error: the member must stop before it
/// applies anything else.
pub(crate) fn command_from_pb(command: pb::store::Command) -> Result<Command, CodecError> {
    let kind = command.kind.ok_or_else(|| CodecError::new("command", "unknown to this version"))?;
    Ok(match kind {
        Kind::InitCluster(init) => Command::InitCluster(init_from_pb(init)?),
        Kind::CreateEntries(create) => Command::CreateEntries(
            create.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
        ),
        Kind::UpdateEntries(update) => Command::UpdateEntries(
            update.updates.into_iter().map(update_from_pb).collect::<Result<_, _>>()?,
        ),
        Kind::DeleteEntries(delete) => Command::DeleteEntries(
            delete.ids.iter().map(|id| entry_id_from_pb(id)).collect::<Result<_, _>>()?,
        ),
        Kind::CreateJoinToken(create) => Command::CreateJoinToken(CreateJoinToken {
            token: create.token,
            expires_at: Timestamp::from_unix_ms(create.expires_at_unix_ms),
            alias: create.alias.map(entry_from_pb).transpose()?.map(Box::new),
        }),
        Kind::AdmitAgent(admit) => Command::AdmitAgent(admit_from_pb(admit)?),
        Kind::SetPendingSerial(set) => Command::SetPendingSerial(set_pending_from_pb(set)?),
        Kind::PromoteSerial(promote) => Command::PromoteSerial(PromoteSerial {
            agent_id: spiffe_id_from_pb(&promote.agent_id)?,
            seen: serials_from_pb(&promote.seen.unwrap_or_default())?,
        }),
        Kind::BanAgent(name) => Command::BanAgent(spiffe_id_from_pb(&name.agent_id)?),
        Kind::DeleteAgent(name) => Command::DeleteAgent(spiffe_id_from_pb(&name.agent_id)?),
        Kind::SetAgentVersion(set) => Command::SetAgentVersion {
            agent_id: spiffe_id_from_pb(&set.agent_id)?,
            version: set.version,
        },
        Kind::PruneExpired(prune) => Command::PruneExpired(prune_expired_from_pb(&prune)),
        Kind::PrepareAuthority(prepare) => prepare_authority_from_pb(prepare)?,
        Kind::PrepareChained(prepare) => prepare_chained_from_pb(prepare)?,
        Kind::ChangeRoots(change) => change_roots_from_pb(change)?,
        Kind::PruneBundle(pb::store::PruneBundle { expected_journal, roots, key_ids }) => {
            Command::PruneBundle { expected_journal, roots, key_ids }
        }
        Kind::ActivateAuthority(activate) => activate_authority_from_pb(activate)?,
        Kind::TaintAuthority(taint) => {
            let (expected_journal, kind, id) = authority_step_from_pb(taint)?;
            Command::TaintAuthority { expected_journal, kind, id }
        }
        Kind::RevokeAuthority(revoke) => {
            let (expected_journal, kind, id) = authority_step_from_pb(revoke)?;
            Command::RevokeAuthority { expected_journal, kind, id }
        }
        Kind::PruneAuthorities(prune) => prune_authorities_from_pb(prune)?,
        Kind::MoveClusterKey(step) => {
            Command::MoveClusterKey { expected: step.expected, to: step.to }
        }
        Kind::ResealAuthority(reseal) => {
            Command::ResealAuthority(Box::new(reseal_from_pb(reseal)?))
        }
        Kind::WriteSealed(write) => Command::WriteSealed(Box::new(write_sealed_from_pb(write)?)),
        Kind::WriteBundles(write) => Command::WriteBundles(write_bundles_from_pb(write)?),
        Kind::DeleteBundles(delete) => Command::DeleteBundles(delete_bundles_from_pb(&delete)?),
        Kind::AppendBundle(append) => Command::AppendBundle(append_from_pb(append)),
        Kind::WriteRelationships(write) => {
            Command::WriteRelationships(write_relationships_from_pb(write)?)
        }
        Kind::DeleteRelationships(delete) => {
            Command::DeleteRelationships(delete_relationships_from_pb(&delete)?)
        }
        Kind::RecordRefresh(record) => record_from_pb(record)?,
        Kind::AdoptAgent(adopt) => Command::AdoptAgent(adopt_from_pb(adopt)?),
        Kind::DecideAgents(decide) => {
            Command::DecideAgents(unknown_agents_from_pb(decide.unknown_agents)?)
        }
        Kind::RaiseFeatureLevel(raise) => Command::RaiseFeatureLevel { to: known_level(raise.to)? },
    })
}

fn init_to_pb(init: &InitCluster) -> pb::store::InitCluster {
    pb::store::InitCluster {
        cluster_id: init.cluster_id.0.to_be_bytes().to_vec(),
        name: init.name.clone(),
        trust_domain: init.trust_domain.as_str().to_owned(),
        // The first build knew no field for it and started at 1.
        feature_level: if init.feature_level == 1 { 0 } else { init.feature_level },
    }
}

fn init_from_pb(init: pb::store::InitCluster) -> Result<InitCluster, CodecError> {
    Ok(InitCluster {
        cluster_id: cluster_id_from_pb(&init.cluster_id)?,
        name: init.name,
        trust_domain: trust_domain_from_pb(&init.trust_domain)?,
        feature_level: known_level(init.feature_level.max(1))?,
    })
}

fn token_to_pb(create: &CreateJoinToken) -> pb::store::CreateJoinToken {
    pb::store::CreateJoinToken {
        token: create.token.clone(),
        expires_at_unix_ms: create.expires_at.unix_ms(),
        alias: create.alias.as_deref().map(entry_to_pb),
    }
}

fn prune_expired_to_pb(prune: &PruneExpired) -> pb::store::PruneExpired {
    pb::store::PruneExpired {
        agents_expired_for_s: prune.agents_expired_for_s,
        include_non_reattestable: prune.include_non_reattestable,
        limit: prune.limit,
    }
}

fn prune_expired_from_pb(prune: &pb::store::PruneExpired) -> PruneExpired {
    PruneExpired {
        agents_expired_for_s: prune.agents_expired_for_s,
        include_non_reattestable: prune.include_non_reattestable,
        limit: prune.limit,
    }
}

fn adopt_to_pb(adopt: &AdoptAgent) -> pb::store::AdoptAgent {
    pb::store::AdoptAgent {
        agent_id: adopt.agent_id.to_string(),
        attestation_type: adopt.attestation_type.clone(),
        serial: adopt.serial.as_str().to_owned(),
        not_after_unix_ms: adopt.not_after.unix_ms(),
        can_reattest: adopt.can_reattest,
        seen: adopt.seen.as_ref().map(serials_to_pb),
    }
}

fn adopt_from_pb(adopt: pb::store::AdoptAgent) -> Result<AdoptAgent, CodecError> {
    Ok(AdoptAgent {
        agent_id: spiffe_id_from_pb(&adopt.agent_id)?,
        attestation_type: adopt.attestation_type,
        serial: serial_from_pb(&adopt.serial)?,
        not_after: Timestamp::from_unix_ms(adopt.not_after_unix_ms),
        can_reattest: adopt.can_reattest,
        seen: adopt.seen.as_ref().map(serials_from_pb).transpose()?,
    })
}

/// A level that this build can apply. Another is an error: the member must stop before it applies
/// anything at that level.
fn known_level(level: u32) -> Result<u32, CodecError> {
    if level > FEATURE_LEVEL_MAX {
        return Err(CodecError::new(
            "feature level",
            format!("{level} is unknown to this version"),
        ));
    }
    Ok(level)
}

fn admit_to_pb(admit: &AdmitAgent) -> pb::store::AdmitAgent {
    pb::store::AdmitAgent {
        token: admit.token.clone(),
        agent_id: admit.agent_id.to_string(),
        attestation_type: admit.attestation_type.clone(),
        serial: admit.serial.as_str().to_owned(),
        not_after_unix_ms: admit.not_after.unix_ms(),
        selectors: selectors_to_pb(&admit.selectors),
        can_reattest: admit.can_reattest,
        seen: admit.seen.as_ref().map(serials_to_pb),
    }
}

fn promote_to_pb(promote: &PromoteSerial) -> pb::store::PromoteSerial {
    pb::store::PromoteSerial {
        agent_id: promote.agent_id.to_string(),
        seen: Some(serials_to_pb(&promote.seen)),
    }
}

fn name_to_pb(agent_id: &SpiffeId) -> pb::store::AgentName {
    pb::store::AgentName { agent_id: agent_id.to_string() }
}

fn prune_bundle_to_pb(
    expected_journal: u64,
    roots: &[Vec<u8>],
    key_ids: &[String],
) -> pb::store::PruneBundle {
    let (roots, key_ids) = (roots.to_vec(), key_ids.to_vec());
    pb::store::PruneBundle { expected_journal, roots, key_ids }
}

fn set_version_to_pb(agent_id: &SpiffeId, version: &str) -> pb::store::SetAgentVersion {
    let (agent_id, version) = (agent_id.to_string(), version.to_owned());
    pb::store::SetAgentVersion { agent_id, version }
}

fn delete_relationships_to_pb(names: &[TrustDomain]) -> pb::store::DeleteRelationships {
    pb::store::DeleteRelationships {
        trust_domains: names.iter().map(ToString::to_string).collect(),
    }
}

fn set_pending_from_pb(set: pb::store::SetPendingSerial) -> Result<SetPendingSerial, CodecError> {
    Ok(SetPendingSerial {
        agent_id: spiffe_id_from_pb(&set.agent_id)?,
        seen: serials_from_pb(&set.seen.unwrap_or_default())?,
        pending: serial_from_pb(&set.pending)?,
        not_after: Timestamp::from_unix_ms(set.not_after_unix_ms),
    })
}

fn set_pending_to_pb(set: &SetPendingSerial) -> pb::store::SetPendingSerial {
    pb::store::SetPendingSerial {
        agent_id: set.agent_id.to_string(),
        seen: Some(serials_to_pb(&set.seen)),
        pending: set.pending.as_str().to_owned(),
        not_after_unix_ms: set.not_after.unix_ms(),
    }
}

fn admit_from_pb(admit: pb::store::AdmitAgent) -> Result<AdmitAgent, CodecError> {
    Ok(AdmitAgent {
        token: admit.token,
        agent_id: spiffe_id_from_pb(&admit.agent_id)?,
        attestation_type: admit.attestation_type,
        serial: serial_from_pb(&admit.serial)?,
        not_after: Timestamp::from_unix_ms(admit.not_after_unix_ms),
        selectors: selectors_from_pb(&admit.selectors)?,
        can_reattest: admit.can_reattest,
        seen: admit.seen.as_ref().map(serials_from_pb).transpose()?,
    })
}

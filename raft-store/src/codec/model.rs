//! Entries, agents, bundles, authorities, the cluster's row.

use steeple_spiffe_core::agent::{AgentRecord, Serial, Serials};
use steeple_spiffe_core::authority::{
    Authority, AuthorityId, AuthorityKind, AuthorityStatus, SealedKey,
};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::entry::{AdditionalAttributes, EntryId, EntryUpdate, RegistrationEntry};
use steeple_spiffe_core::selector::{Selector, SelectorSet};
use steeple_spiffe_core::sorted_set::SortedSet;
use steeple_spiffe_core::time::Timestamp;
use steeple_spiffe_core::{SpiffeId, TrustDomain};

use crate::change::{ClusterState, Journal, Restored, UnknownAgents};
use crate::codec::CodecError;
use crate::ids::ClusterId;
use crate::pb;

pub(crate) fn spiffe_id_from_pb(text: &str) -> Result<SpiffeId, CodecError> {
    SpiffeId::parse(text).map_err(|error| CodecError::new("SPIFFE id", error))
}

pub(super) fn trust_domain_from_pb(text: &str) -> Result<TrustDomain, CodecError> {
    TrustDomain::parse(text).map_err(|error| CodecError::new("trust domain", error))
}

fn trust_domains_from_pb(texts: &[String]) -> Result<SortedSet<TrustDomain>, CodecError> {
    texts.iter().map(|text| trust_domain_from_pb(text)).collect()
}

pub(super) fn entry_id_from_pb(text: &str) -> Result<EntryId, CodecError> {
    EntryId::parse(text).map_err(|error| CodecError::new("entry id", error))
}

pub(crate) fn serial_from_pb(text: &str) -> Result<Serial, CodecError> {
    Serial::from_decimal(text).ok_or_else(|| CodecError::new("serial number", "not decimal"))
}

fn optional_serial_from_pb(text: &str) -> Result<Option<Serial>, CodecError> {
    if text.is_empty() { Ok(None) } else { serial_from_pb(text).map(Some) }
}

pub(crate) fn selectors_to_pb(selectors: &SelectorSet) -> Vec<pb::store::Selector> {
    selectors
        .iter()
        .map(|s| pb::store::Selector { r#type: s.kind().to_owned(), value: s.value().to_owned() })
        .collect()
}

pub(crate) fn selectors_from_pb(
    selectors: &[pb::store::Selector],
) -> Result<SelectorSet, CodecError> {
    selectors
        .iter()
        .map(|s| Selector::new(&s.r#type, &s.value).map_err(|e| CodecError::new("selector", e)))
        .collect()
}

fn attributes_to_pb(attributes: AdditionalAttributes) -> pb::store::AdditionalAttributes {
    pb::store::AdditionalAttributes {
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    }
}

fn attributes_from_pb(attributes: pb::store::AdditionalAttributes) -> AdditionalAttributes {
    AdditionalAttributes {
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    }
}

pub(crate) fn entry_to_pb(entry: &RegistrationEntry) -> pb::store::Entry {
    pb::store::Entry {
        id: entry.id.as_str().to_owned(),
        spiffe_id: entry.spiffe_id.to_string(),
        parent_id: entry.parent_id.to_string(),
        selectors: selectors_to_pb(&entry.selectors),
        x509_svid_ttl_s: entry.x509_svid_ttl_s,
        jwt_svid_ttl_s: entry.jwt_svid_ttl_s,
        federates_with: entry.federates_with.iter().map(ToString::to_string).collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at_unix_s: entry.expires_at_unix_s,
        dns_names: entry.dns_names.clone(),
        revision: entry.revision,
        created_at_unix_ms: entry.created_at.unix_ms(),
        store_svid: entry.store_svid,
        hint: entry.hint.clone(),
        additional_attributes: entry.additional_attributes.map(attributes_to_pb),
    }
}

pub(crate) fn entry_from_pb(entry: pb::store::Entry) -> Result<RegistrationEntry, CodecError> {
    Ok(RegistrationEntry {
        id: entry_id_from_pb(&entry.id)?,
        spiffe_id: spiffe_id_from_pb(&entry.spiffe_id)?,
        parent_id: spiffe_id_from_pb(&entry.parent_id)?,
        selectors: selectors_from_pb(&entry.selectors)?,
        x509_svid_ttl_s: entry.x509_svid_ttl_s,
        jwt_svid_ttl_s: entry.jwt_svid_ttl_s,
        federates_with: trust_domains_from_pb(&entry.federates_with)?,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at_unix_s: entry.expires_at_unix_s,
        dns_names: entry.dns_names,
        revision: entry.revision,
        created_at: Timestamp::from_unix_ms(entry.created_at_unix_ms),
        store_svid: entry.store_svid,
        hint: entry.hint,
        additional_attributes: entry.additional_attributes.map(attributes_from_pb),
    })
}

pub(crate) fn update_to_pb(update: &EntryUpdate) -> pb::store::EntryUpdate {
    pb::store::EntryUpdate {
        id: update.id.as_str().to_owned(),
        spiffe_id: update.spiffe_id.as_ref().map(ToString::to_string),
        parent_id: update.parent_id.as_ref().map(ToString::to_string),
        selectors: update
            .selectors
            .as_ref()
            .map(|set| pb::store::SelectorList { items: selectors_to_pb(set) }),
        x509_svid_ttl_s: update.x509_svid_ttl_s,
        jwt_svid_ttl_s: update.jwt_svid_ttl_s,
        federates_with: update.federates_with.as_ref().map(|set| pb::store::TextList {
            items: set.iter().map(ToString::to_string).collect(),
        }),
        admin: update.admin,
        downstream: update.downstream,
        expires_at_unix_s: update.expires_at_unix_s,
        dns_names: update
            .dns_names
            .as_ref()
            .map(|names| pb::store::TextList { items: names.clone() }),
        store_svid: update.store_svid,
        hint: update.hint.clone(),
        additional_attributes: update.additional_attributes.map(attributes_to_pb),
    }
}

pub(crate) fn update_from_pb(update: pb::store::EntryUpdate) -> Result<EntryUpdate, CodecError> {
    let spiffe_id = |text: Option<String>| text.as_deref().map(spiffe_id_from_pb).transpose();
    Ok(EntryUpdate {
        id: entry_id_from_pb(&update.id)?,
        spiffe_id: spiffe_id(update.spiffe_id)?,
        parent_id: spiffe_id(update.parent_id)?,
        selectors: update.selectors.map(|list| selectors_from_pb(&list.items)).transpose()?,
        x509_svid_ttl_s: update.x509_svid_ttl_s,
        jwt_svid_ttl_s: update.jwt_svid_ttl_s,
        federates_with: update
            .federates_with
            .map(|list| trust_domains_from_pb(&list.items))
            .transpose()?,
        admin: update.admin,
        downstream: update.downstream,
        expires_at_unix_s: update.expires_at_unix_s,
        dns_names: update.dns_names.map(|list| list.items),
        store_svid: update.store_svid,
        hint: update.hint,
        additional_attributes: update.additional_attributes.map(attributes_from_pb),
    })
}

pub(crate) fn serials_to_pb(serials: &Serials) -> pb::store::Serials {
    let text = |serial: &Option<Serial>| {
        serial.as_ref().map(|serial| serial.as_str().to_owned()).unwrap_or_default()
    };
    pb::store::Serials { current: text(&serials.current), pending: text(&serials.pending) }
}

pub(crate) fn serials_from_pb(serials: &pb::store::Serials) -> Result<Serials, CodecError> {
    Ok(Serials {
        current: optional_serial_from_pb(&serials.current)?,
        pending: optional_serial_from_pb(&serials.pending)?,
    })
}

pub(crate) fn agent_to_pb(agent: &AgentRecord) -> pb::store::Agent {
    pb::store::Agent {
        id: agent.id.to_string(),
        attestation_type: agent.attestation_type.clone(),
        serials: Some(serials_to_pb(&agent.serials)),
        not_after_unix_ms: agent.not_after.unix_ms(),
        pending_not_after_unix_ms: agent.pending_not_after.map(Timestamp::unix_ms),
        selectors: selectors_to_pb(&agent.selectors),
        can_reattest: agent.can_reattest,
        agent_version: agent.agent_version.clone(),
        attested_at_unix_ms: agent.attested_at.unix_ms(),
    }
}

pub(crate) fn agent_from_pb(agent: pb::store::Agent) -> Result<AgentRecord, CodecError> {
    let serials = agent.serials.ok_or_else(|| CodecError::missing("serials of an agent"))?;
    Ok(AgentRecord {
        id: spiffe_id_from_pb(&agent.id)?,
        attestation_type: agent.attestation_type,
        serials: serials_from_pb(&serials)?,
        not_after: Timestamp::from_unix_ms(agent.not_after_unix_ms),
        pending_not_after: agent.pending_not_after_unix_ms.map(Timestamp::from_unix_ms),
        selectors: selectors_from_pb(&agent.selectors)?,
        can_reattest: agent.can_reattest,
        agent_version: agent.agent_version,
        attested_at: Timestamp::from_unix_ms(agent.attested_at_unix_ms),
    })
}

pub(super) fn x509_authorities_to_pb(from: &[X509Authority]) -> Vec<pb::store::X509Authority> {
    let message = |authority: &X509Authority| pb::store::X509Authority {
        certificate_der: authority.certificate_der.clone(),
        tainted: authority.tainted,
    };
    from.iter().map(message).collect()
}

pub(super) fn x509_authorities_from_pb(from: Vec<pb::store::X509Authority>) -> Vec<X509Authority> {
    let authority = |message: pb::store::X509Authority| X509Authority {
        certificate_der: message.certificate_der,
        tainted: message.tainted,
    };
    from.into_iter().map(authority).collect()
}

pub(super) fn jwt_authorities_to_pb(from: &[JwtAuthority]) -> Vec<pb::store::JwtAuthority> {
    let message = |authority: &JwtAuthority| pb::store::JwtAuthority {
        key_id: authority.key_id.clone(),
        public_key_der: authority.public_key_der.clone(),
        expires_at_unix_ms: authority.expires_at.map(Timestamp::unix_ms),
        tainted: authority.tainted,
    };
    from.iter().map(message).collect()
}

pub(super) fn jwt_authorities_from_pb(from: Vec<pb::store::JwtAuthority>) -> Vec<JwtAuthority> {
    let authority = |message: pb::store::JwtAuthority| JwtAuthority {
        key_id: message.key_id,
        public_key_der: message.public_key_der,
        expires_at: message.expires_at_unix_ms.map(Timestamp::from_unix_ms),
        tainted: message.tainted,
    };
    from.into_iter().map(authority).collect()
}

pub(crate) fn bundle_to_pb(bundle: &Bundle) -> pb::store::Bundle {
    pb::store::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        x509_authorities: x509_authorities_to_pb(&bundle.x509_authorities),
        jwt_authorities: jwt_authorities_to_pb(&bundle.jwt_authorities),
        wit_authorities: jwt_authorities_to_pb(&bundle.wit_authorities),
        refresh_hint_s: bundle.refresh_hint_s,
        sequence_number: bundle.sequence_number,
    }
}

pub(crate) fn bundle_from_pb(bundle: pb::store::Bundle) -> Result<Bundle, CodecError> {
    Ok(Bundle {
        trust_domain: trust_domain_from_pb(&bundle.trust_domain)?,
        x509_authorities: x509_authorities_from_pb(bundle.x509_authorities),
        jwt_authorities: jwt_authorities_from_pb(bundle.jwt_authorities),
        wit_authorities: jwt_authorities_from_pb(bundle.wit_authorities),
        refresh_hint_s: bundle.refresh_hint_s,
        sequence_number: bundle.sequence_number,
    })
}

pub(crate) fn kind_to_pb(kind: AuthorityKind) -> i32 {
    let kind = match kind {
        AuthorityKind::X509 => pb::store::AuthorityKind::X509,
        AuthorityKind::Jwt => pb::store::AuthorityKind::Jwt,
        AuthorityKind::Wit => pb::store::AuthorityKind::Wit,
    };
    kind.into()
}

pub(crate) fn kind_from_pb(kind: i32) -> Result<AuthorityKind, CodecError> {
    match pb::store::AuthorityKind::try_from(kind) {
        Ok(pb::store::AuthorityKind::X509) => Ok(AuthorityKind::X509),
        Ok(pb::store::AuthorityKind::Jwt) => Ok(AuthorityKind::Jwt),
        Ok(pb::store::AuthorityKind::Wit) => Ok(AuthorityKind::Wit),
        Ok(pb::store::AuthorityKind::Unspecified) | Err(_) => {
            Err(CodecError::new("authority kind", kind))
        }
    }
}

fn status_to_pb(status: AuthorityStatus) -> i32 {
    let status = match status {
        AuthorityStatus::Prepared => pb::store::AuthorityStatus::Prepared,
        AuthorityStatus::Active => pb::store::AuthorityStatus::Active,
        AuthorityStatus::Old => pb::store::AuthorityStatus::Old,
        AuthorityStatus::Revoked => pb::store::AuthorityStatus::Revoked,
    };
    status.into()
}

fn status_from_pb(status: i32) -> Result<AuthorityStatus, CodecError> {
    match pb::store::AuthorityStatus::try_from(status) {
        Ok(pb::store::AuthorityStatus::Prepared) => Ok(AuthorityStatus::Prepared),
        Ok(pb::store::AuthorityStatus::Active) => Ok(AuthorityStatus::Active),
        Ok(pb::store::AuthorityStatus::Old) => Ok(AuthorityStatus::Old),
        Ok(pb::store::AuthorityStatus::Revoked) => Ok(AuthorityStatus::Revoked),
        Ok(pb::store::AuthorityStatus::Unspecified) | Err(_) => {
            Err(CodecError::new("authority status", status))
        }
    }
}

pub(super) fn sealed_key_to_pb(sealed: &SealedKey) -> pb::store::SealedKey {
    pb::store::SealedKey {
        kek_id: sealed.kek_id.clone(),
        version: sealed.version,
        nonce: sealed.nonce.clone(),
        ciphertext: sealed.ciphertext.clone(),
    }
}

pub(super) fn sealed_key_from_pb(sealed: pb::store::SealedKey) -> SealedKey {
    SealedKey {
        kek_id: sealed.kek_id,
        version: sealed.version,
        nonce: sealed.nonce,
        ciphertext: sealed.ciphertext,
    }
}

pub(crate) fn authority_to_pb(authority: &Authority) -> pb::store::Authority {
    pb::store::Authority {
        id: authority.id.as_str().to_owned(),
        kind: kind_to_pb(authority.kind),
        status: status_to_pb(authority.status),
        public_der: authority.public_der.clone(),
        upstream_chain: authority.upstream_chain.clone(),
        sealed_key: Some(sealed_key_to_pb(&authority.sealed_key)),
        issued_at_unix_ms: authority.issued_at.unix_ms(),
        not_after_unix_ms: authority.not_after.unix_ms(),
        tainted: authority.tainted,
    }
}

pub(crate) fn authority_from_pb(authority: pb::store::Authority) -> Result<Authority, CodecError> {
    let sealed =
        authority.sealed_key.ok_or_else(|| CodecError::missing("sealed key of an authority"))?;
    Ok(Authority {
        id: AuthorityId::new(authority.id),
        kind: kind_from_pb(authority.kind)?,
        status: status_from_pb(authority.status)?,
        public_der: authority.public_der,
        upstream_chain: authority.upstream_chain,
        sealed_key: sealed_key_from_pb(sealed),
        issued_at: Timestamp::from_unix_ms(authority.issued_at_unix_ms),
        not_after: Timestamp::from_unix_ms(authority.not_after_unix_ms),
        tainted: authority.tainted,
    })
}

pub(crate) fn journal_to_pb(journal: &Journal) -> pb::store::Journal {
    pb::store::Journal {
        revision: journal.revision,
        authorities: journal.authorities.iter().map(authority_to_pb).collect(),
    }
}

pub(crate) fn journal_from_pb(journal: pb::store::Journal) -> Result<Journal, CodecError> {
    Ok(Journal {
        revision: journal.revision,
        authorities: journal
            .authorities
            .into_iter()
            .map(authority_from_pb)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn cluster_id_from_pb(bytes: &[u8]) -> Result<ClusterId, CodecError> {
    let bytes =
        <[u8; 16]>::try_from(bytes).map_err(|error| CodecError::new("cluster id", error))?;
    Ok(ClusterId(u128::from_be_bytes(bytes)))
}

pub(crate) fn cluster_to_pb(cluster: &ClusterState) -> pb::store::ClusterState {
    pb::store::ClusterState {
        cluster_id: cluster.cluster_id.0.to_be_bytes().to_vec(),
        name: cluster.name.clone(),
        trust_domain: cluster.trust_domain.as_str().to_owned(),
        epoch: cluster.epoch,
        feature_level: cluster.feature_level,
        formed_at_unix_ms: cluster.formed_at.unix_ms(),
        restored: cluster.restored.as_ref().map(|restored| pb::store::Restored {
            lost_from_unix_ms: restored.lost_from.unix_ms(),
            at_unix_ms: restored.at.unix_ms(),
            unknown_agents: unknown_agents_to_pb(restored.unknown_agents).into(),
        }),
        key_id: cluster.key_id.clone(),
        left_key_ids: cluster.left_key_ids.clone(),
    }
}

pub(crate) fn cluster_from_pb(
    cluster: pb::store::ClusterState,
) -> Result<ClusterState, CodecError> {
    Ok(ClusterState {
        cluster_id: cluster_id_from_pb(&cluster.cluster_id)?,
        name: cluster.name,
        trust_domain: trust_domain_from_pb(&cluster.trust_domain)?,
        epoch: cluster.epoch,
        feature_level: cluster.feature_level,
        formed_at: Timestamp::from_unix_ms(cluster.formed_at_unix_ms),
        restored: cluster.restored.map(restored_from_pb).transpose()?,
        key_id: cluster.key_id,
        left_key_ids: cluster.left_key_ids,
    })
}

fn restored_from_pb(restored: pb::store::Restored) -> Result<Restored, CodecError> {
    Ok(Restored {
        lost_from: Timestamp::from_unix_ms(restored.lost_from_unix_ms),
        at: Timestamp::from_unix_ms(restored.at_unix_ms),
        unknown_agents: unknown_agents_from_pb(restored.unknown_agents)?,
    })
}

pub(super) fn unknown_agents_to_pb(decision: UnknownAgents) -> pb::store::UnknownAgents {
    match decision {
        UnknownAgents::Undecided => pb::store::UnknownAgents::Undecided,
        UnknownAgents::Adopt => pb::store::UnknownAgents::Adopt,
        UnknownAgents::Refuse => pb::store::UnknownAgents::Refuse,
    }
}

pub(super) fn unknown_agents_from_pb(number: i32) -> Result<UnknownAgents, CodecError> {
    match pb::store::UnknownAgents::try_from(number) {
        Ok(pb::store::UnknownAgents::Undecided) => Ok(UnknownAgents::Undecided),
        Ok(pb::store::UnknownAgents::Adopt) => Ok(UnknownAgents::Adopt),
        Ok(pb::store::UnknownAgents::Refuse) => Ok(UnknownAgents::Refuse),
        Err(error) => Err(CodecError::new("decision about unknown agents", error)),
    }
}

//! Commands about authorities, both ways.

use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityKind};

use crate::codec::{
    CodecError, authority_from_pb, authority_to_pb, kind_from_pb, kind_to_pb, sealed_key_from_pb,
    sealed_key_to_pb,
};
use crate::command::{Command, ResealAuthority, RootChange};
use crate::pb;
use crate::pb::store::change_roots::Change as RootChangePb;

pub(super) fn prepare_authority_to_pb(
    expected_journal: u64,
    authority: &Authority,
) -> pb::store::PrepareAuthority {
    let authority = Some(authority_to_pb(authority));
    pb::store::PrepareAuthority { expected_journal, authority }
}

pub(super) fn prepare_authority_from_pb(
    prepare: pb::store::PrepareAuthority,
) -> Result<Command, CodecError> {
    let authority = prepare.authority.ok_or_else(|| CodecError::missing("authority"))?;
    let authority = Box::new(authority_from_pb(authority)?);
    Ok(Command::PrepareAuthority { expected_journal: prepare.expected_journal, authority })
}

pub(super) fn prepare_chained_to_pb(
    expected_journal: u64,
    authority: &Authority,
    roots: &[Vec<u8>],
) -> pb::store::PrepareChained {
    let (authority, roots) = (Some(authority_to_pb(authority)), roots.to_vec());
    pb::store::PrepareChained { expected_journal, authority, roots }
}

pub(super) fn prepare_chained_from_pb(
    prepare: pb::store::PrepareChained,
) -> Result<Command, CodecError> {
    let authority = prepare.authority.ok_or_else(|| CodecError::missing("authority"))?;
    let authority = Box::new(authority_from_pb(authority)?);
    let (expected_journal, roots) = (prepare.expected_journal, prepare.roots);
    Ok(Command::PrepareChained { expected_journal, authority, roots })
}

pub(super) fn change_roots_to_pb(
    expected_journal: u64,
    change: RootChange,
    roots: &[Vec<u8>],
) -> pb::store::ChangeRoots {
    let change = match change {
        RootChange::Add => RootChangePb::Add,
        RootChange::Taint => RootChangePb::Taint,
        RootChange::Revoke => RootChangePb::Revoke,
    };
    pb::store::ChangeRoots { expected_journal, change: change.into(), roots: roots.to_vec() }
}

pub(super) fn change_roots_from_pb(message: pb::store::ChangeRoots) -> Result<Command, CodecError> {
    let change = match message.change() {
        RootChangePb::Add => RootChange::Add,
        RootChangePb::Taint => RootChange::Taint,
        RootChangePb::Revoke => RootChange::Revoke,
        RootChangePb::Unspecified => {
            return Err(CodecError::new("change of roots", message.change));
        }
    };
    let (expected_journal, roots) = (message.expected_journal, message.roots);
    Ok(Command::ChangeRoots { expected_journal, change, roots })
}

pub(super) fn activate_authority_to_pb(
    expected_journal: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
) -> pb::store::ActivateAuthority {
    let (kind, id) = (kind_to_pb(kind), id.as_str().to_owned());
    pb::store::ActivateAuthority { expected_journal, kind, id }
}

pub(super) fn activate_authority_from_pb(
    activate: pb::store::ActivateAuthority,
) -> Result<Command, CodecError> {
    let (kind, id) = (kind_from_pb(activate.kind)?, AuthorityId::new(activate.id));
    Ok(Command::ActivateAuthority { expected_journal: activate.expected_journal, kind, id })
}

pub(super) fn authority_step_to_pb(
    expected_journal: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
) -> pb::store::AuthorityStep {
    let (kind, id) = (kind_to_pb(kind), id.as_str().to_owned());
    pb::store::AuthorityStep { expected_journal, kind, id }
}

pub(super) fn authority_step_from_pb(
    step: pb::store::AuthorityStep,
) -> Result<(u64, AuthorityKind, AuthorityId), CodecError> {
    Ok((step.expected_journal, kind_from_pb(step.kind)?, AuthorityId::new(step.id)))
}

pub(super) fn prune_authorities_to_pb(
    expected_journal: u64,
    ids: &[(AuthorityKind, AuthorityId)],
) -> pb::store::PruneAuthorities {
    let reference = |(kind, id): &(AuthorityKind, AuthorityId)| pb::store::AuthorityRef {
        kind: kind_to_pb(*kind),
        id: id.as_str().to_owned(),
    };
    pb::store::PruneAuthorities {
        expected_journal,
        authorities: ids.iter().map(reference).collect(),
    }
}

pub(super) fn prune_authorities_from_pb(
    prune: pb::store::PruneAuthorities,
) -> Result<Command, CodecError> {
    let reference = |reference: pb::store::AuthorityRef| {
        Ok((kind_from_pb(reference.kind)?, AuthorityId::new(reference.id)))
    };
    Ok(Command::PruneAuthorities {
        expected_journal: prune.expected_journal,
        ids: prune.authorities.into_iter().map(reference).collect::<Result<_, CodecError>>()?,
    })
}

pub(super) fn reseal_to_pb(reseal: &ResealAuthority) -> pb::store::ResealAuthority {
    pb::store::ResealAuthority {
        kind: kind_to_pb(reseal.kind),
        id: reseal.id.as_str().to_owned(),
        seen_kek_id: reseal.seen_kek_id.clone(),
        seen_nonce: reseal.seen_nonce.clone(),
        sealed_key: Some(sealed_key_to_pb(&reseal.sealed_key)),
    }
}

pub(super) fn reseal_from_pb(
    reseal: pb::store::ResealAuthority,
) -> Result<ResealAuthority, CodecError> {
    let sealed_key = reseal.sealed_key.ok_or_else(|| CodecError::missing("sealed key"))?;
    Ok(ResealAuthority {
        kind: kind_from_pb(reseal.kind)?,
        id: AuthorityId::new(reseal.id),
        seen_kek_id: reseal.seen_kek_id,
        seen_nonce: reseal.seen_nonce,
        sealed_key: sealed_key_from_pb(sealed_key),
    })
}

//! The journal of signing authorities, and with it the own bundle.
//!
//! An authority is published (in the journal and in the bundle) by the same command, before it may
//! sign: nothing signs before its authority is in a committed bundle. Every command compares the
//! journal's revision with the one its planner saw.

use std::sync::Arc;

use steeple_spiffe_core::authority::{
    Authority, AuthorityId, AuthorityKind, AuthorityStatus, SealedKey,
};
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};

use crate::apply::bundles;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::apply::table::{SINGLE, Table};
use crate::apply::txn::TableError;
use crate::change::{Change, Journal};
use crate::codec::{journal_from_pb, journal_to_pb};
use crate::command::ResealAuthority;
use crate::limits::AUTHORITIES_MAX;
use crate::mutants::{self, Mutant};
use crate::outcome::{Outcome, Rejection};
use crate::pb;

pub(super) fn prepare(step: &mut Step<'_, '_>, expected: u64, authority: Authority) -> Verdict {
    prepare_with(step, expected, authority, publish)
}

/// Adds an authority to the journal. `publish` makes what it signs verify: it changes the bundle, and
/// says whether it did.
pub(super) fn prepare_with(
    step: &mut Step<'_, '_>,
    expected: u64,
    mut authority: Authority,
    publish: impl FnOnce(&mut Bundle, &Authority) -> bool,
) -> Verdict {
    let mut journal = match journal_at(step, expected)? {
        Ok(journal) => journal,
        Err(rejection) => return Ok(Err(rejection)),
    };
    if position(&journal, authority.kind, &authority.id).is_some() {
        return Ok(Err(state(&authority.id)));
    }
    if let Err(rejection) = sealed_under_current(step, &authority.sealed_key) {
        return Ok(Err(rejection));
    }
    if journal.authorities.len() >= AUTHORITIES_MAX {
        let limit = AUTHORITIES_MAX as u64;
        return Ok(Err(Rejection::LimitReached { what: "authorities".into(), limit }));
    }
    authority.status = AuthorityStatus::Prepared;
    bundles::change_own(step, |bundle| publish(bundle, &authority))?;
    journal.authorities.push(authority);
    write(step, journal);
    Ok(Ok(Outcome::Done))
}

pub(super) fn activate(
    step: &mut Step<'_, '_>,
    expected: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
) -> Verdict {
    let mut journal = match journal_at(step, expected)? {
        Ok(journal) => journal,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let prepared = journal
        .authorities
        .iter()
        .any(|a| a.kind == kind && a.id == *id && a.status == AuthorityStatus::Prepared);
    if !prepared {
        return Ok(Err(state(id)));
    }
    for authority in journal.authorities.iter_mut().filter(|a| a.kind == kind) {
        if authority.id == *id {
            authority.status = AuthorityStatus::Active;
        } else if authority.status == AuthorityStatus::Active && !mutants::on(Mutant::TwoActive) {
            authority.status = AuthorityStatus::Old;
        }
    }
    write(step, journal);
    Ok(Ok(Outcome::Done))
}

/// Marks an authority that does not sign. It never will: a prepared one is old from now on.
pub(super) fn taint(
    step: &mut Step<'_, '_>,
    expected: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
) -> Verdict {
    let may_be_tainted = |one: &Authority| match one.status {
        AuthorityStatus::Prepared | AuthorityStatus::Old => !one.tainted,
        AuthorityStatus::Active | AuthorityStatus::Revoked => false,
    };
    change_one(step, expected, kind, id, may_be_tainted, |authority, bundle| {
        authority.status = AuthorityStatus::Old;
        authority.tainted = true;
        mark(bundle, authority)
    })
}

/// Withdraws a tainted authority and forgets its private key.
pub(super) fn revoke(
    step: &mut Step<'_, '_>,
    expected: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
) -> Verdict {
    let may_be_revoked = |one: &Authority| one.status == AuthorityStatus::Old && one.tainted;
    change_one(step, expected, kind, id, may_be_revoked, |authority, bundle| {
        authority.status = AuthorityStatus::Revoked;
        authority.sealed_key = SealedKey::destroyed();
        withdraw(bundle, authority)
    })
}

/// Puts the same private key in another sealing, under the key that seals now.
pub(super) fn reseal(step: &mut Step<'_, '_>, reseal: ResealAuthority) -> Verdict {
    let ResealAuthority { kind, id, seen_kek_id, seen_nonce, sealed_key } = reseal;
    if let Err(rejection) = sealed_under_current(step, &sealed_key) {
        return Ok(Err(rejection));
    }
    let mut journal = read_journal(step)?;
    let mut of_kind = journal.authorities.iter_mut().filter(|one| one.kind == kind);
    let Some(authority) = of_kind.find(|one| one.id == id) else { return Ok(Err(state(&id))) };
    let found = &authority.sealed_key;
    // What is destroyed stays so, whatever was seen.
    let is_seen = found.kek_id == seen_kek_id && found.nonce == seen_nonce;
    if !is_seen || *found == SealedKey::destroyed() {
        return Ok(Err(state(&id)));
    }
    authority.sealed_key = sealed_key;
    write(step, journal);
    Ok(Ok(Outcome::Done))
}

/// Refuses what is sealed under another key than the one that was named: nothing may come to depend on a
/// key that was left. Where none was named yet, none was left.
pub(super) fn sealed_under_current(
    step: &Step<'_, '_>,
    sealed: &SealedKey,
) -> Result<(), Rejection> {
    match step.cluster.as_ref().map(|cluster| cluster.key_id.as_str()) {
        None | Some("") => Ok(()),
        Some(actual) if actual == sealed.kek_id => Ok(()),
        Some(actual) => Err(Rejection::ClusterKeyMoved {
            expected: sealed.kek_id.clone(),
            actual: actual.to_owned(),
        }),
    }
}

fn change_one(
    step: &mut Step<'_, '_>,
    expected: u64,
    kind: AuthorityKind,
    id: &AuthorityId,
    may: impl FnOnce(&Authority) -> bool,
    change: impl FnOnce(&mut Authority, &mut Bundle) -> bool,
) -> Verdict {
    let mut journal = match journal_at(step, expected)? {
        Ok(journal) => journal,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let mut of_kind = journal.authorities.iter_mut().filter(|one| one.kind == kind);
    let Some(authority) = of_kind.find(|one| one.id == *id) else { return Ok(Err(state(id))) };
    if !may(authority) {
        return Ok(Err(state(id)));
    }
    bundles::change_own(step, |bundle| change(authority, bundle))?;
    write(step, journal);
    Ok(Ok(Outcome::Done))
}

pub(super) fn prune(
    step: &mut Step<'_, '_>,
    expected: u64,
    ids: &[(AuthorityKind, AuthorityId)],
) -> Verdict {
    let mut journal = match journal_at(step, expected)? {
        Ok(journal) => journal,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let mut gone = Vec::with_capacity(ids.len());
    for (kind, id) in ids {
        let Some(at) = position(&journal, *kind, id) else { return Ok(Err(state(id))) };
        let authority = journal.authorities.remove(at);
        if authority.status == AuthorityStatus::Active {
            return Ok(Err(state(id)));
        }
        gone.push(authority);
    }
    bundles::change_own(step, |bundle| {
        gone.iter().filter(|authority| withdraw(bundle, authority)).count() > 0
    })?;
    let removed = u32::try_from(gone.len()).unwrap_or(u32::MAX);
    write(step, journal);
    Ok(Ok(Outcome::Pruned(removed)))
}

/// The journal, if it is at the revision that the planner saw.
pub(super) fn journal_at(
    step: &Step<'_, '_>,
    expected: u64,
) -> Result<Result<Journal, Rejection>, TableError> {
    let journal = read_journal(step)?;
    if journal.revision == expected || mutants::on(Mutant::JournalNotCompared) {
        Ok(Ok(journal))
    } else {
        Ok(Err(Rejection::JournalMoved { expected, actual: journal.revision }))
    }
}

/// The journal as it stands within this step.
pub(super) fn read_journal(step: &Step<'_, '_>) -> Result<Journal, TableError> {
    match step.read::<pb::store::Journal>(Table::Journal, SINGLE)? {
        Some(journal) => Ok(journal_from_pb(journal)?),
        None => Ok(Journal::default()),
    }
}

fn write(step: &mut Step<'_, '_>, mut journal: Journal) {
    journal.revision += 1;
    step.put(Table::Journal, SINGLE, &journal_to_pb(&journal));
    step.changes.push(Change::JournalWritten(Arc::new(journal)));
}

fn position(journal: &Journal, kind: AuthorityKind, id: &AuthorityId) -> Option<usize> {
    journal.authorities.iter().position(|a| a.kind == kind && a.id == *id)
}

pub(super) fn state(id: &AuthorityId) -> Rejection {
    Rejection::AuthorityState(id.as_str().to_owned())
}

/// Adds the public half to the bundle; false if it is there already.
fn publish(bundle: &mut Bundle, authority: &Authority) -> bool {
    match authority.kind {
        AuthorityKind::X509 => {
            let known = bundle
                .x509_authorities
                .iter()
                .any(|known| known.certificate_der == authority.public_der);
            if !known {
                bundle.x509_authorities.push(X509Authority {
                    certificate_der: authority.public_der.clone(),
                    tainted: false,
                });
            }
            !known
        }
        AuthorityKind::Jwt => publish_key(&mut bundle.jwt_authorities, authority),
        AuthorityKind::Wit => publish_key(&mut bundle.wit_authorities, authority),
    }
}

fn publish_key(keys: &mut Vec<JwtAuthority>, authority: &Authority) -> bool {
    let known = keys.iter().any(|known| known.key_id == authority.id.as_str());
    if !known {
        keys.push(JwtAuthority {
            key_id: authority.id.as_str().to_owned(),
            public_key_der: authority.public_der.clone(),
            expires_at: Some(authority.not_after),
            tainted: false,
        });
    }
    !known
}

/// Marks the public half as tainted; false if it is not there or is marked already.
fn mark(bundle: &mut Bundle, authority: &Authority) -> bool {
    match authority.kind {
        AuthorityKind::X509 => {
            let known = bundle.x509_authorities.iter_mut();
            let same = known.filter(|known| known.certificate_der == authority.public_der);
            mark_all(same.map(|known| &mut known.tainted))
        }
        AuthorityKind::Jwt => mark_key(&mut bundle.jwt_authorities, authority),
        AuthorityKind::Wit => mark_key(&mut bundle.wit_authorities, authority),
    }
}

fn mark_key(keys: &mut [JwtAuthority], authority: &Authority) -> bool {
    let same = keys.iter_mut().filter(|known| known.key_id == authority.id.as_str());
    mark_all(same.map(|known| &mut known.tainted))
}

fn mark_all<'a>(marks: impl Iterator<Item = &'a mut bool>) -> bool {
    marks.filter_map(|tainted| (!std::mem::replace(tainted, true)).then_some(())).count() > 0
}

/// Removes the public half from the bundle; false if it is not there.
fn withdraw(bundle: &mut Bundle, authority: &Authority) -> bool {
    match authority.kind {
        AuthorityKind::X509 => {
            let before = bundle.x509_authorities.len();
            bundle.x509_authorities.retain(|known| known.certificate_der != authority.public_der);
            bundle.x509_authorities.len() != before
        }
        AuthorityKind::Jwt => withdraw_key(&mut bundle.jwt_authorities, authority),
        AuthorityKind::Wit => withdraw_key(&mut bundle.wit_authorities, authority),
    }
}

fn withdraw_key(keys: &mut Vec<JwtAuthority>, authority: &Authority) -> bool {
    let before = keys.len();
    keys.retain(|known| known.key_id != authority.id.as_str());
    keys.len() != before
}

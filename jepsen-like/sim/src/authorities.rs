//! What commands about authorities promise, as a small model of its own: the journal moves by one, each
//! authority goes from prepared to active to old, or by taint to revoked, and nobody signs with what is not
//! published.
//!
//! Owns these rules alone; that all members have the same journal is `reference`'s.

use std::collections::BTreeMap;

use steeple_raft_store::change::Journal;
use steeple_raft_store::limits::AUTHORITIES_MAX;
use steeple_raft_store::{Change, Command, Outcome, Rejection};
use steeple_spiffe_core::authority::{
    Authority, AuthorityId, AuthorityKind, AuthorityStatus, SealedKey,
};
use steeple_spiffe_core::bundle::Bundle;

use crate::cluster_keys::Rows;

/// Authorities, where they stand, and whether they are tainted.
type Slots = BTreeMap<(AuthorityKind, String), (AuthorityStatus, bool)>;

fn slot(kind: AuthorityKind, id: &AuthorityId) -> (AuthorityKind, String) {
    (kind, id.as_str().to_owned())
}

fn slots(journal: &Journal) -> Slots {
    journal
        .authorities
        .iter()
        .map(|one| (slot(one.kind, &one.id), (one.status, one.tainted)))
        .collect()
}

/// What a command must decide, and what the slots are then; `None` if it is about something else.
fn decide(before: &Rows, command: &Command) -> Option<Result<(Outcome, Slots), Rejection>> {
    if let Command::PrepareChained { authority, roots, .. } = command
        && (roots.is_empty() || authority.kind != AuthorityKind::X509)
    {
        return Some(Err(Rejection::AuthorityState(authority.id.as_str().to_owned())));
    }
    let (Command::PrepareAuthority { expected_journal, .. }
    | Command::PrepareChained { expected_journal, .. }
    | Command::ActivateAuthority { expected_journal, .. }
    | Command::TaintAuthority { expected_journal, .. }
    | Command::RevokeAuthority { expected_journal, .. }
    | Command::PruneAuthorities { expected_journal, .. }) = command
    else {
        return None;
    };
    let (expected, actual) = (*expected_journal, before.journal.revision);
    if expected != actual {
        return Some(Err(Rejection::JournalMoved { expected, actual }));
    }
    let mut slots = slots(&before.journal);
    let refused = |id: &AuthorityId| Some(Err(Rejection::AuthorityState(id.as_str().to_owned())));
    if let Command::PrepareAuthority { authority, .. } | Command::PrepareChained { authority, .. } =
        command
        && let Err(rejection) = prepare(before, &mut slots, authority)
    {
        return Some(Err(rejection));
    }
    if let Command::ActivateAuthority { kind, id, .. } = command {
        let key = slot(*kind, id);
        if slots.get(&key) != Some(&(AuthorityStatus::Prepared, false)) {
            return refused(id);
        }
        for (_, (status, _)) in slots.iter_mut().filter(|((of, _), _)| of == kind) {
            if *status == AuthorityStatus::Active {
                *status = AuthorityStatus::Old;
            }
        }
        slots.insert(key, (AuthorityStatus::Active, false));
    }
    if let Command::TaintAuthority { kind, id, .. } = command {
        match slots.get_mut(&slot(*kind, id)) {
            Some(one @ (AuthorityStatus::Prepared | AuthorityStatus::Old, false)) => {
                *one = (AuthorityStatus::Old, true);
            }
            Some(_) | None => return refused(id),
        }
    }
    if let Command::RevokeAuthority { kind, id, .. } = command {
        match slots.get_mut(&slot(*kind, id)) {
            Some(one @ (AuthorityStatus::Old, true)) => *one = (AuthorityStatus::Revoked, true),
            Some(_) | None => return refused(id),
        }
    }
    let Command::PruneAuthorities { ids, .. } = command else {
        return Some(Ok((Outcome::Done, slots)));
    };
    for (kind, id) in ids {
        match slots.remove(&slot(*kind, id)) {
            None | Some((AuthorityStatus::Active, _)) => return refused(id),
            Some((
                AuthorityStatus::Prepared | AuthorityStatus::Old | AuthorityStatus::Revoked,
                _,
            )) => {}
        }
    }
    Some(Ok((Outcome::Pruned(u32::try_from(ids.len()).unwrap_or(u32::MAX)), slots)))
}

fn prepare(before: &Rows, slots: &mut Slots, authority: &Authority) -> Result<(), Rejection> {
    let key = slot(authority.kind, &authority.id);
    if slots.insert(key, (AuthorityStatus::Prepared, false)).is_some() {
        return Err(Rejection::AuthorityState(authority.id.as_str().to_owned()));
    }
    if let Some(rejection) = before.refuses(&authority.sealed_key.kek_id) {
        return Err(rejection);
    }
    if before.journal.authorities.len() >= AUTHORITIES_MAX {
        let (what, limit) = ("authorities".to_owned(), AUTHORITIES_MAX as u64);
        return Err(Rejection::LimitReached { what, limit });
    }
    Ok(())
}

/// Holds a decision that a client was told against the journal before it and after it. An error says
/// what is wrong.
pub(crate) fn judge(
    before: &Rows,
    after: &Rows,
    command: &Command,
    told: &Result<Outcome, Rejection>,
) -> Result<(), String> {
    let Some(expected) = decide(before, command) else { return Ok(()) };
    // What may have been decided and forgotten is decided no more; whether it may is judged elsewhere.
    let expected = match told {
        Err(Rejection::RequestForgotten) => Err(Rejection::RequestForgotten),
        Ok(_) | Err(_) => expected,
    };
    let right = match (&expected, told) {
        (Ok((outcome, slots_after)), Ok(told)) => {
            outcome == told
                && after.journal.revision == before.journal.revision + 1
                && slots(&after.journal) == *slots_after
        }
        (Err(rejection), Err(told)) => rejection == told && after == before,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    if right {
        return Ok(());
    }
    Err(format!("told {told:?}, should be {expected:?}; the journal was {before:?}, is {after:?}"))
}

/// What holds in every state: one active authority of a kind, all of them published with their taint,
/// and those that are revoked neither published nor able to sign.
pub(crate) fn look(written: &Change, bundle: Option<&Change>) -> Result<(), String> {
    let Change::JournalWritten(journal) = written else { return Ok(()) };
    let Some(Change::BundleWritten { bundle, .. }) = bundle else {
        return Err(format!("no bundle with journal {journal:?}"));
    };
    for kind in AuthorityKind::ALL {
        let of_kind = journal.authorities.iter().filter(|one| one.kind == kind);
        if of_kind.filter(|one| one.status == AuthorityStatus::Active).count() > 1 {
            return Err(format!("two authorities of one kind are active: {journal:?}"));
        }
    }
    for one in &journal.authorities {
        let revoked = one.status == AuthorityStatus::Revoked;
        if revoked && one.sealed_key != SealedKey::destroyed() {
            return Err(format!("the key of revoked {:?} is still there", one.id));
        }
        // The roots that a chained one leads to are published in its place.
        let is_chained = !one.upstream_chain.is_empty();
        let expected = (!revoked && !is_chained).then_some(one.tainted);
        let found = taint_in(bundle, one);
        if found != expected {
            let id = &one.id;
            return Err(format!(
                "{id:?} should have taint {expected:?} in the bundle, has {found:?}"
            ));
        }
    }
    Ok(())
}

/// Whether the authority is tainted in the bundle; `None` = it is not there.
fn taint_in(bundle: &Bundle, one: &Authority) -> Option<bool> {
    match one.kind {
        AuthorityKind::X509 => {
            let mut known = bundle.x509_authorities.iter();
            known.find(|known| known.certificate_der == one.public_der).map(|known| known.tainted)
        }
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let mut known = bundle.keys(one.kind).iter();
            known.find(|known| known.key_id == one.id.as_str()).map(|known| known.tainted)
        }
    }
}

/// The journal as the change feed shows it.
pub(crate) fn journal(row: Option<&Change>) -> Journal {
    let Some(Change::JournalWritten(journal)) = row else { return Journal::default() };
    journal.as_ref().clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use steeple_spiffe_core::bundle::JwtAuthority;
    use steeple_spiffe_core::time::Timestamp;

    use super::*;

    fn authority(id: &str, status: AuthorityStatus) -> Authority {
        let now = Timestamp::from_unix_ms(1);
        let sealed_key =
            SealedKey { kek_id: "k".to_owned(), version: 1, nonce: vec![], ciphertext: vec![] };
        Authority {
            id: AuthorityId::new(id.to_owned()),
            kind: AuthorityKind::Jwt,
            status,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key,
            issued_at: now,
            not_after: now.plus(Duration::from_secs(1)),
            tainted: false,
        }
    }

    fn written(revision: u64, authorities: &[(&str, AuthorityStatus)]) -> Change {
        let authorities = authorities.iter().map(|(id, status)| authority(id, *status)).collect();
        Change::JournalWritten(Arc::new(Journal { revision, authorities }))
    }

    fn hold(
        before: &Change,
        after: &Change,
        command: &Command,
        told: &Result<Outcome, Rejection>,
    ) -> Result<(), String> {
        let [before, after] = [before, after].map(|row| Rows::of(None, journal(Some(row))));
        judge(&before, &after, command, told)
    }

    fn activate(expected_journal: u64, id: &str) -> Command {
        let id = AuthorityId::new(id.to_owned());
        Command::ActivateAuthority { expected_journal, kind: AuthorityKind::Jwt, id }
    }

    #[test]
    fn a_decision_must_be_the_models_and_so_must_the_journal() {
        use AuthorityStatus::{Active, Old, Prepared};
        let before = written(3, &[("a", Active), ("b", Prepared)]);
        let right = written(4, &[("a", Old), ("b", Active)]);
        let done: Result<Outcome, Rejection> = Ok(Outcome::Done);
        hold(&before, &right, &activate(3, "b"), &done).unwrap();
        let moved = Err(Rejection::JournalMoved { expected: 2, actual: 3 });
        hold(&before, &before, &activate(2, "b"), &moved).unwrap();
        for (after, command, told) in [
            // Two are active.
            (written(4, &[("a", Active), ("b", Active)]), activate(3, "b"), &done),
            // The journal's revision stands still.
            (written(3, &[("a", Old), ("b", Active)]), activate(3, "b"), &done),
            // Decided although the journal had moved.
            (right.clone(), activate(2, "b"), &done),
            // Refused and done.
            (right.clone(), activate(2, "b"), &moved),
            // Not prepared.
            (right.clone(), activate(3, "a"), &done),
        ] {
            hold(&before, &after, &command, told).unwrap_err();
        }
    }

    #[test]
    fn only_what_is_old_and_tainted_is_revoked_and_its_key_and_publication_end_with_it() {
        use AuthorityStatus::{Active, Old, Revoked};
        let mark = |mut change: Change, status: AuthorityStatus, destroy: bool| {
            let Change::JournalWritten(journal) = &mut change else { unreachable!() };
            for one in &mut Arc::make_mut(journal).authorities {
                one.tainted = one.status == status;
                if destroy && one.tainted {
                    one.sealed_key = SealedKey::destroyed();
                }
            }
            change
        };
        let id = |id: &str| AuthorityId::new(id.to_owned());
        let kind = AuthorityKind::Jwt;
        let taint =
            |name: &str| Command::TaintAuthority { expected_journal: 3, kind, id: id(name) };
        let revoke =
            |name: &str| Command::RevokeAuthority { expected_journal: 3, kind, id: id(name) };
        let done: Result<Outcome, Rejection> = Ok(Outcome::Done);
        let clean = |revision| written(revision, &[("a", Old), ("b", Active)]);
        let tainted = |revision| mark(clean(revision), Old, false);
        let revoked = mark(written(4, &[("a", Revoked), ("b", Active)]), Revoked, true);

        hold(&clean(3), &tainted(4), &taint("a"), &done).unwrap();
        hold(&tainted(3), &revoked, &revoke("a"), &done).unwrap();
        hold(&clean(3), &revoked, &revoke("a"), &done).unwrap_err();
        hold(&tainted(3), &tainted(4), &taint("a"), &done).unwrap_err();
        hold(&clean(3), &tainted(4), &taint("b"), &done).unwrap_err();

        let trust_domain = steeple_spiffe_core::TrustDomain::parse("example.org").unwrap();
        let mut bundle = Bundle::empty(trust_domain);
        bundle.jwt_authorities = ["a", "b"]
            .map(|key_id| JwtAuthority {
                key_id: key_id.to_owned(),
                public_key_der: Vec::new(),
                expires_at: None,
                tainted: false,
            })
            .to_vec();
        let published = |bundle: &Bundle| Change::BundleWritten {
            row: steeple_raft_store::RowNumber(1),
            bundle: Arc::new(bundle.clone()),
        };
        look(&clean(3), Some(&published(&bundle))).unwrap();
        look(&tainted(3), Some(&published(&bundle))).unwrap_err();
        bundle.jwt_authorities[0].tainted = true;
        look(&tainted(3), Some(&published(&bundle))).unwrap();
        look(&revoked, Some(&published(&bundle))).unwrap_err();
        bundle.jwt_authorities.remove(0);
        look(&revoked, Some(&published(&bundle))).unwrap();
        let kept = mark(written(4, &[("a", Revoked), ("b", Active)]), Revoked, false);
        look(&kept, Some(&published(&bundle))).unwrap_err();
    }

    #[test]
    fn an_authority_that_is_not_published_is_found() {
        let journal = written(1, &[("a", AuthorityStatus::Prepared)]);
        look(&journal, None).unwrap_err();
        let trust_domain = steeple_spiffe_core::TrustDomain::parse("example.org").unwrap();
        let bundle = Bundle::empty(trust_domain);
        let row = steeple_raft_store::RowNumber(1);
        let bundle = Change::BundleWritten { row, bundle: Arc::new(bundle) };
        look(&journal, Some(&bundle)).unwrap_err();
        look(&written(1, &[]), Some(&bundle)).unwrap();
    }
}

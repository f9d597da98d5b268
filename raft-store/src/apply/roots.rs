//! Roots of an upstream authority: in the own bundle they stand where else the cluster's own CA
//! certificates would.
//!
//! The journal names none of them: an authority that an upstream authority signed chains to one. Every
//! command compares the journal's revision all the same, since whether a root may go is decided by what
//! signs below it.

use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityKind};
use steeple_spiffe_core::bundle::{Bundle, X509Authority};

use crate::apply::authorities::{self, journal_at, state};
use crate::apply::bundles;
use crate::apply::dispatch::Verdict;
use crate::apply::step::Step;
use crate::command::RootChange;
use crate::outcome::{Outcome, Rejection};

/// Publishes an authority by publishing what it chains to.
pub(super) fn prepare(
    step: &mut Step<'_, '_>,
    expected: u64,
    authority: Authority,
    roots: Vec<Vec<u8>>,
) -> Verdict {
    if roots.is_empty() || authority.kind != AuthorityKind::X509 {
        return Ok(Err(state(&authority.id)));
    }
    authorities::prepare_with(step, expected, authority, |bundle, _| add(bundle, roots))
}

/// Changes roots that are there already, or adds some. All of them or none.
pub(super) fn change(
    step: &mut Step<'_, '_>,
    expected: u64,
    change: RootChange,
    roots: Vec<Vec<u8>>,
) -> Verdict {
    if let Err(rejection) = journal_at(step, expected)? {
        return Ok(Err(rejection));
    }
    let mut refused = None;
    bundles::change_own(step, |bundle| {
        let changed = match change {
            RootChange::Add => Ok(add(bundle, roots)),
            RootChange::Taint => taint(bundle, &roots),
            RootChange::Revoke => remove(bundle, &roots, |known| known.tainted),
        };
        changed.unwrap_or_else(|rejection| {
            refused = Some(rejection);
            false
        })
    })?;
    Ok(refused.map_or(Ok(Outcome::Done), Err))
}

/// Removes roots and keys that are no authority of the journal. All of them or none.
pub(super) fn prune(
    step: &mut Step<'_, '_>,
    expected: u64,
    roots: &[Vec<u8>],
    key_ids: &[String],
) -> Verdict {
    let journal = match journal_at(step, expected)? {
        Ok(journal) => journal,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let is_own = |one: &Authority| match one.kind {
        AuthorityKind::X509 => roots.contains(&one.public_der),
        AuthorityKind::Jwt => key_ids.iter().any(|id| id == one.id.as_str()),
        // Nobody but the cluster publishes such keys: only JWT keys are named.
        AuthorityKind::Wit => false,
    };
    if let Some(own) = journal.authorities.iter().find(|one| is_own(one)) {
        return Ok(Err(state(&own.id)));
    }
    let mut refused = None;
    bundles::change_own(step, |bundle| {
        let removed = remove(bundle, roots, |_| true);
        let removed = removed.and_then(|_| remove_keys(bundle, key_ids));
        removed.map_or_else(
            |rejection| {
                refused = Some(rejection);
                false
            },
            |()| !(roots.is_empty() && key_ids.is_empty()),
        )
    })?;
    let removed = u32::try_from(roots.len() + key_ids.len()).unwrap_or(u32::MAX);
    Ok(refused.map_or(Ok(Outcome::Pruned(removed)), Err))
}

fn remove_keys(bundle: &mut Bundle, key_ids: &[String]) -> Result<(), Rejection> {
    for id in key_ids {
        match bundle.jwt_authorities.iter().position(|known| known.key_id == *id) {
            Some(at) => drop(bundle.jwt_authorities.remove(at)),
            None => return Err(state(&AuthorityId::new(id.as_str()))),
        }
    }
    Ok(())
}

/// Adds what is not there; a tainted one is not added again beside itself.
fn add(bundle: &mut Bundle, roots: Vec<Vec<u8>>) -> bool {
    let before = bundle.x509_authorities.len();
    for certificate_der in roots {
        let is_known = |known: &X509Authority| known.certificate_der == certificate_der;
        if !bundle.x509_authorities.iter().any(is_known) {
            bundle.x509_authorities.push(X509Authority { certificate_der, tainted: false });
        }
    }
    bundle.x509_authorities.len() != before
}

fn taint(bundle: &mut Bundle, roots: &[Vec<u8>]) -> Result<bool, Rejection> {
    for root in roots {
        let mut known = bundle.x509_authorities.iter_mut();
        match known.find(|known| known.certificate_der == *root) {
            Some(known) if !known.tainted => known.tainted = true,
            Some(_) | None => return Err(unfit()),
        }
    }
    Ok(!roots.is_empty())
}

/// Removes roots that `may` go. The last root stays: without one nothing verifies.
fn remove(
    bundle: &mut Bundle,
    roots: &[Vec<u8>],
    may: impl Fn(&X509Authority) -> bool,
) -> Result<bool, Rejection> {
    for root in roots {
        let mut known = bundle.x509_authorities.iter();
        match known.position(|known| known.certificate_der == *root && may(known)) {
            Some(at) => drop(bundle.x509_authorities.remove(at)),
            None => return Err(unfit()),
        }
    }
    if bundle.x509_authorities.is_empty() { Err(unfit()) } else { Ok(!roots.is_empty()) }
}

/// Roots have no name of their own here: what is wrong with one is told by who looked it up.
fn unfit() -> Rejection {
    state(&AuthorityId::new("upstream root"))
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;

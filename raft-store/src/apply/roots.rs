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
            RootChange::Prune => remove(bundle, &roots, |_| true),
        };
        changed.unwrap_or_else(|rejection| {
            refused = Some(rejection);
            false
        })
    })?;
    Ok(refused.map_or(Ok(Outcome::Done), Err))
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
mod tests {
    use std::sync::Arc;

    use crate::apply::snapshot_changes;
    use crate::apply::testing::{Registry, authority};
    use crate::change::Change;
    use crate::command::Command;

    use super::*;

    fn roots(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn prepare(
        registry: &mut Registry,
        id: &str,
        roots: Vec<Vec<u8>>,
    ) -> Result<Outcome, Rejection> {
        let expected_journal = registry.journal().revision;
        let authority = authority(AuthorityKind::X509, id);
        registry.run(Command::PrepareChained { expected_journal, authority, roots }).outcome
    }

    fn change(
        registry: &mut Registry,
        change: RootChange,
        names: &[&str],
    ) -> Result<Outcome, Rejection> {
        let expected_journal = registry.journal().revision;
        let roots = roots(names);
        registry.run(Command::ChangeRoots { expected_journal, change, roots }).outcome
    }

    fn bundle(registry: &Registry) -> Arc<Bundle> {
        let mut changes = snapshot_changes(&registry.tables).unwrap().into_iter();
        let bundle = changes.find_map(|change| {
            let Change::BundleWritten { bundle, .. } = change else { return None };
            Some(bundle)
        });
        bundle.unwrap()
    }

    fn published(registry: &Registry) -> Vec<(String, bool)> {
        let name = |one: &X509Authority| String::from_utf8(one.certificate_der.clone()).unwrap();
        bundle(registry).x509_authorities.iter().map(|one| (name(one), one.tainted)).collect()
    }

    fn is(registry: &Registry, expected: &[(&str, bool)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, tainted)| ((*name).to_owned(), *tainted)).collect();
        assert_eq!(published(registry), expected);
    }

    #[test]
    fn an_authority_below_an_upstream_one_publishes_the_roots_instead_of_itself() {
        let mut registry = Registry::formed();
        prepare(&mut registry, "a", roots(&["r1", "r2"])).unwrap();
        is(&registry, &[("r1", false), ("r2", false)]);
        assert_eq!(bundle(&registry).sequence_number, 1);
        prepare(&mut registry, "b", roots(&["r2"])).unwrap();
        is(&registry, &[("r1", false), ("r2", false)]);
        assert_eq!(bundle(&registry).sequence_number, 1, "nothing is new in it");
        assert_eq!(registry.journal().authorities.len(), 2);

        assert!(prepare(&mut registry, "c", Vec::new()).is_err(), "it would chain to nothing");
        let (expected_journal, authority) = (2, authority(AuthorityKind::Jwt, "k"));
        let roots = roots(&["r3"]);
        let jwt = Command::PrepareChained { expected_journal, authority, roots };
        assert!(registry.run(jwt).outcome.is_err(), "keys have no certificates");
        is(&registry, &[("r1", false), ("r2", false)]);
        assert_eq!(registry.journal().revision, 2);
    }

    #[test]
    fn a_pruned_authority_leaves_its_root() {
        let mut registry = Registry::formed();
        prepare(&mut registry, "a", roots(&["r1"])).unwrap();
        let ids = vec![(AuthorityKind::X509, AuthorityId::new("a"))];
        registry.accepted(Command::PruneAuthorities { expected_journal: 1, ids });
        is(&registry, &[("r1", false)]);
    }

    #[test]
    fn roots_are_added_tainted_and_then_revoked_each_once() {
        let mut registry = Registry::formed();
        prepare(&mut registry, "a", roots(&["r1"])).unwrap();
        change(&mut registry, RootChange::Add, &["r1", "r2"]).unwrap();
        is(&registry, &[("r1", false), ("r2", false)]);
        assert!(change(&mut registry, RootChange::Revoke, &["r1"]).is_err(), "it is not tainted");
        assert!(change(&mut registry, RootChange::Taint, &["r3"]).is_err(), "there is none");
        change(&mut registry, RootChange::Taint, &["r1"]).unwrap();
        assert!(
            change(&mut registry, RootChange::Taint, &["r1"]).is_err(),
            "it is tainted already"
        );
        let sequence = bundle(&registry).sequence_number;
        change(&mut registry, RootChange::Add, &["r1"]).unwrap();
        is(&registry, &[("r1", true), ("r2", false)]);
        assert_eq!(bundle(&registry).sequence_number, sequence);
        change(&mut registry, RootChange::Revoke, &["r1"]).unwrap();
        is(&registry, &[("r2", false)]);
        assert_eq!(bundle(&registry).sequence_number, sequence + 1);
        assert_eq!(registry.journal().revision, 1, "the journal stays");
    }

    #[test]
    fn a_refused_change_changes_nothing_and_the_last_root_stays() {
        let mut registry = Registry::formed();
        prepare(&mut registry, "a", roots(&["r1", "r2"])).unwrap();
        assert!(change(&mut registry, RootChange::Taint, &["r1", "r3"]).is_err());
        assert!(change(&mut registry, RootChange::Prune, &["r1", "r2"]).is_err());
        is(&registry, &[("r1", false), ("r2", false)]);
        change(&mut registry, RootChange::Prune, &["r1"]).unwrap();
        is(&registry, &[("r2", false)]);

        let stale = Command::ChangeRoots {
            expected_journal: 0,
            change: RootChange::Taint,
            roots: roots(&["r2"]),
        };
        let moved = Rejection::JournalMoved { expected: 0, actual: 1 };
        assert_eq!(registry.rejected(stale), moved);
    }
}

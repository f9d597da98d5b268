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
mod tests {
    use steeple_spiffe_core::bundle::JwtAuthority;

    use crate::apply::testing::{Registry, authority};
    use crate::command::{AppendBundle, Command};

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

    fn published(registry: &Registry) -> Vec<(String, bool)> {
        let name = |one: &X509Authority| String::from_utf8(one.certificate_der.clone()).unwrap();
        registry.bundle().x509_authorities.iter().map(|one| (name(one), one.tainted)).collect()
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
        assert_eq!(registry.bundle().sequence_number, 1);
        prepare(&mut registry, "b", roots(&["r2"])).unwrap();
        is(&registry, &[("r1", false), ("r2", false)]);
        assert_eq!(registry.bundle().sequence_number, 1, "nothing is new in it");
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
        let sequence = registry.bundle().sequence_number;
        change(&mut registry, RootChange::Add, &["r1"]).unwrap();
        is(&registry, &[("r1", true), ("r2", false)]);
        assert_eq!(registry.bundle().sequence_number, sequence);
        change(&mut registry, RootChange::Revoke, &["r1"]).unwrap();
        is(&registry, &[("r2", false)]);
        assert_eq!(registry.bundle().sequence_number, sequence + 1);
        assert_eq!(registry.journal().revision, 1, "the journal stays");
    }

    #[test]
    fn a_refused_change_changes_nothing_and_the_last_root_stays() {
        let mut registry = Registry::formed();
        prepare(&mut registry, "a", roots(&["r1", "r2"])).unwrap();
        assert!(change(&mut registry, RootChange::Taint, &["r1", "r3"]).is_err());
        is(&registry, &[("r1", false), ("r2", false)]);
        change(&mut registry, RootChange::Taint, &["r1", "r2"]).unwrap();
        assert!(change(&mut registry, RootChange::Revoke, &["r1", "r2"]).is_err());
        is(&registry, &[("r1", true), ("r2", true)]);
        change(&mut registry, RootChange::Revoke, &["r1"]).unwrap();
        is(&registry, &[("r2", true)]);

        let stale = Command::ChangeRoots {
            expected_journal: 0,
            change: RootChange::Taint,
            roots: roots(&["r2"]),
        };
        let moved = Rejection::JournalMoved { expected: 0, actual: 1 };
        assert_eq!(registry.rejected(stale), moved);
    }

    #[test]
    fn others_roots_and_keys_are_pruned_and_authorities_of_the_journal_are_not() {
        let mut registry = Registry::formed();
        let own = |kind, id| (authority(kind, id), id);
        for (authority, _) in [own(AuthorityKind::X509, "own"), own(AuthorityKind::Jwt, "key")] {
            let expected_journal = registry.journal().revision;
            registry.accepted(Command::PrepareAuthority { expected_journal, authority });
        }
        let key = |key_id: &str| JwtAuthority {
            key_id: key_id.to_owned(),
            public_key_der: vec![1],
            expires_at: None,
            tainted: false,
        };
        change(&mut registry, RootChange::Add, &["r1", "r2"]).unwrap();
        registry.accepted(Command::AppendBundle(AppendBundle {
            x509_authorities: Vec::new(),
            jwt_authorities: vec![key("k1"), key("k2")],
        }));
        let mut prune = |names: &[&str], ids: &[&str]| {
            let expected_journal = registry.journal().revision;
            let key_ids = ids.iter().map(|id| (*id).to_owned()).collect();
            let roots = roots(names);
            registry.run(Command::PruneBundle { expected_journal, roots, key_ids }).outcome
        };
        let state = |id: &str| Err(Rejection::AuthorityState(id.to_owned()));
        assert_eq!(prune(&["r1", "own"], &[]), state("own"));
        assert_eq!(prune(&["r1"], &["k1", "key"]), state("key"));
        assert_eq!(prune(&["r1"], &["k3"]), state("k3"));
        assert_eq!(prune(&["r1"], &["k1"]), Ok(Outcome::Pruned(2)));
        is(&registry, &[("own", false), ("r2", false)]);
        let left: Vec<_> =
            registry.bundle().jwt_authorities.iter().map(|key| key.key_id.clone()).collect();
        assert_eq!(left, ["key", "k2"]);
    }
}

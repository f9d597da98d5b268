//! What commands about upstream roots promise, as a small model of its own: roots come and go as a
//! whole list or not at all, one goes only if it is tainted or ended, the last one stays, and the
//! bundle's sequence number rises by one with each change.
//!
//! Owns these rules alone; what becomes of authorities is `authorities`'.

use steeple_raft_store::command::RootChange;
use steeple_raft_store::{Change, Command, Outcome, Rejection};
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};

use crate::cluster_keys::Rows;
use crate::kept;

/// The own bundle. One that is not there yet is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    sequence: u64,
    x509: Vec<X509Authority>,
    jwt: Vec<JwtAuthority>,
}

impl Own {
    /// Of its row.
    pub(crate) fn of(row: Option<&Change>) -> Self {
        let Some(bundle) = kept::bundle(row) else { return Self::default() };
        Self {
            sequence: bundle.sequence_number,
            x509: bundle.x509_authorities.clone(),
            jwt: bundle.jwt_authorities.clone(),
        }
    }
}

/// What a command must decide, and what the own bundle is then; `None` if it is about something
/// else.
fn decide(
    before: &Rows,
    bundle: &Own,
    command: &Command,
) -> Option<Result<(Outcome, Own), Rejection>> {
    let (Command::ChangeRoots { expected_journal, .. }
    | Command::PruneBundle { expected_journal, .. }) = command
    else {
        return None;
    };
    let (expected, actual) = (*expected_journal, before.journal.revision);
    if expected != actual {
        return Some(Err(Rejection::JournalMoved { expected, actual }));
    }
    let mut after = bundle.clone();
    let unfit = || Some(Err(Rejection::AuthorityState("upstream root".to_owned())));
    let mut outcome = Outcome::Done;
    if let Command::ChangeRoots { change, roots, .. } = command {
        let all_done = roots.iter().all(|root| match change {
            RootChange::Add => {
                add(&mut after, root);
                true
            }
            RootChange::Taint => taint(&mut after, root),
            RootChange::Revoke => remove(&mut after, root, true),
        });
        let bares = *change == RootChange::Revoke && after.x509.is_empty();
        if !all_done || bares {
            return unfit();
        }
    }
    if let Command::PruneBundle { roots, key_ids, .. } = command {
        let own = before.journal.authorities.iter().find(|one| match one.kind {
            AuthorityKind::X509 => roots.contains(&one.public_der),
            AuthorityKind::Jwt => key_ids.iter().any(|id| id == one.id.as_str()),
            AuthorityKind::Wit => false,
        });
        if let Some(own) = own {
            return Some(Err(Rejection::AuthorityState(own.id.as_str().to_owned())));
        }
        let all_done = roots.iter().all(|root| remove(&mut after, root, false));
        if !all_done || after.x509.is_empty() {
            return unfit();
        }
        outcome = Outcome::Pruned(u32::try_from(roots.len() + key_ids.len()).unwrap_or(u32::MAX));
    }
    if after != *bundle {
        after.sequence += 1;
    }
    Some(Ok((outcome, after)))
}

fn add(bundle: &mut Own, root: &[u8]) {
    if !bundle.x509.iter().any(|known| known.certificate_der == root) {
        let certificate_der = root.to_vec();
        bundle.x509.push(X509Authority { certificate_der, tainted: false });
    }
}

fn taint(bundle: &mut Own, root: &[u8]) -> bool {
    let mut all = bundle.x509.iter_mut();
    let found = all.find(|known| known.certificate_der == root && !known.tainted);
    found.map(|known| known.tainted = true).is_some()
}

fn remove(bundle: &mut Own, root: &[u8], tainted_alone: bool) -> bool {
    let mut all = bundle.x509.iter();
    let fits = |known: &X509Authority| known.tainted || !tainted_alone;
    let found = all.position(|known| known.certificate_der == root && fits(known));
    found.map(|at| bundle.x509.remove(at)).is_some()
}

/// Holds a decision that a client was told against the journal before it, and the own bundle before
/// and after it. An error says what is wrong.
pub(crate) fn judge(
    before: &Rows,
    [bundle, after]: &[Own; 2],
    command: &Command,
    told: &Result<Outcome, Rejection>,
) -> Result<(), String> {
    if let (Command::PrepareChained { roots, .. }, Ok(_)) = (command, told) {
        let mut expected = bundle.clone();
        roots.iter().for_each(|root| add(&mut expected, root));
        expected.sequence += u64::from(expected != *bundle);
        return if expected == *after {
            Ok(())
        } else {
            Err(format!("the bundle was {bundle:?}, is {after:?}, should be {expected:?}"))
        };
    }
    let Some(expected) = decide(before, bundle, command) else { return Ok(()) };
    let right = match (&expected, told) {
        (Ok((outcome, expected)), Ok(told)) => outcome == told && expected == after,
        // What may have been decided and forgotten is decided no more.
        (_, Err(Rejection::RequestForgotten)) => bundle == after,
        (Err(rejection), Err(told)) => rejection == told && bundle == after,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    if right {
        return Ok(());
    }
    Err(format!("told {told:?}, should be {expected:?}; the bundle was {bundle:?}, is {after:?}"))
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::change::Journal;

    use super::*;

    fn bundle(sequence: u64, roots: &[(&str, bool)]) -> Own {
        let root = |(der, tainted): &(&str, bool)| X509Authority {
            certificate_der: der.as_bytes().to_vec(),
            tainted: *tainted,
        };
        Own { sequence, x509: roots.iter().map(root).collect(), jwt: Vec::new() }
    }

    fn change(change: RootChange, roots: &[&str]) -> Command {
        let roots = roots.iter().map(|root| root.as_bytes().to_vec()).collect();
        Command::ChangeRoots { expected_journal: 3, change, roots }
    }

    fn prune(roots: &[&str]) -> Command {
        let roots = roots.iter().map(|root| root.as_bytes().to_vec()).collect();
        Command::PruneBundle { expected_journal: 3, roots, key_ids: Vec::new() }
    }

    #[test]
    fn roots_that_came_or_went_otherwise_than_they_may_are_found() {
        use RootChange::{Add, Revoke, Taint};
        let rows =
            Rows { cluster: None, journal: Journal { revision: 3, authorities: Vec::new() } };
        let before = bundle(7, &[("a", false), ("b", true)]);
        let done = Ok(Outcome::Done);
        let unfit = Err(Rejection::AuthorityState("upstream root".to_owned()));
        let pruned = Ok(Outcome::Pruned(1));
        type Told = Result<Outcome, Rejection>;
        type Case<'a> = (Command, &'a Told, Own);
        let right: [Case<'_>; 7] = [
            (change(Add, &["c"]), &done, bundle(8, &[("a", false), ("b", true), ("c", false)])),
            (change(Add, &["a"]), &done, before.clone()),
            (change(Taint, &["a"]), &done, bundle(8, &[("a", true), ("b", true)])),
            (change(Taint, &["b"]), &unfit, before.clone()),
            (change(Revoke, &["b"]), &done, bundle(8, &[("a", false)])),
            (change(Revoke, &["a"]), &unfit, before.clone()),
            (prune(&["a"]), &pruned, bundle(8, &[("b", true)])),
        ];
        for (command, told, after) in &right {
            judge(&rows, &[before.clone(), after.clone()], command, told).unwrap();
        }
        let wrong: [Case<'_>; 6] = [
            // The number stands still.
            (change(Taint, &["a"]), &done, bundle(7, &[("a", true), ("b", true)])),
            // One of two.
            (change(Revoke, &["b", "a"]), &done, bundle(8, &[("a", false)])),
            // Not tainted, and gone.
            (change(Revoke, &["a"]), &done, bundle(8, &[("b", true)])),
            // The last one.
            (prune(&["a", "b"]), &Ok(Outcome::Pruned(2)), bundle(8, &[])),
            // Refused, and done.
            (change(Taint, &["b"]), &unfit, bundle(8, &[("a", true), ("b", true)])),
            // Done, and nothing changed.
            (change(Add, &["c"]), &done, before.clone()),
        ];
        for (command, told, after) in &wrong {
            judge(&rows, &[before.clone(), after.clone()], command, told).unwrap_err();
        }
    }
}

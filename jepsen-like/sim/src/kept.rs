//! What is promised of sealed values and of the state of fetching, as small models of their own: a
//! value is written from the version that was seen alone, and a fetched bundle takes the place of
//! the one that it was judged by alone.

use steeple_raft_store::change::{RefreshFailure, RefreshStatus};
use steeple_raft_store::command::{BundleDigest, Refreshed, WriteSealed};
use steeple_raft_store::limits::SEALED_BYTES_MAX;
use steeple_raft_store::{Change, Command, Outcome, Rejection, SealedValue};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::time::Timestamp;

use crate::cluster_keys::{Rows, held};
use crate::reference::Reference;
use crate::rows::Key;
use crate::workload::TRUST_DOMAIN;

/// What is kept of one foreign trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    status: Option<RefreshStatus>,
    bundle: Option<Bundle>,
}

type Told = Result<Outcome, Rejection>;

/// Holds a decision that a client was told against the rows around it; `keys` are those before it.
pub(crate) fn judge(
    reference: &Reference,
    [before, after]: [u64; 2],
    keys: &Rows,
    command: &Command,
    (told, now): (&Told, Timestamp),
) -> Result<(), String> {
    if *told == Err(Rejection::RequestForgotten) {
        return Ok(());
    }
    if let Command::WriteSealed(write) = command {
        let key = Key::Sealed(write.name.number());
        let [before, after] = [before, after].map(|at| sealed(reference.row_at(&key, at)));
        return judge_sealed(before, after, keys, write, told);
    }
    if let Command::RecordRefresh { trust_domain, refreshed } = command {
        let name = trust_domain.to_string();
        let [before, after] = [before, after].map(|at| Fetched {
            status: status(reference.row_at(&Key::Refresh(name.clone()), at)),
            bundle: bundle(reference.row_at(&Key::Bundle(name.clone()), at)).cloned(),
        });
        let expected = if name == TRUST_DOMAIN {
            Err(Rejection::OwnRelationship)
        } else {
            fetched(&before, trust_domain.clone(), refreshed, now)
        };
        return held(&before, &after, expected, told);
    }
    Ok(())
}

/// The sealed value of a row.
pub(crate) fn sealed(row: Option<&Change>) -> Option<&SealedValue> {
    let Some(Change::SealedWritten { value, .. }) = row else { return None };
    Some(value)
}

fn status(row: Option<&Change>) -> Option<RefreshStatus> {
    let Some(Change::RefreshWritten(status)) = row else { return None };
    Some(status.as_ref().clone())
}

/// The bundle of a row.
pub(crate) fn bundle(row: Option<&Change>) -> Option<&Bundle> {
    let Some(Change::BundleWritten { bundle, .. }) = row else { return None };
    Some(bundle)
}

fn judge_sealed(
    before: Option<&SealedValue>,
    after: Option<&SealedValue>,
    keys: &Rows,
    write: &WriteSealed,
    told: &Told,
) -> Result<(), String> {
    let WriteSealed { expected, sealed, .. } = write;
    let (expected, actual) = (*expected, before.map_or(0, |value| value.version));
    let limit = SEALED_BYTES_MAX as u64;
    let decided = if sealed.ciphertext.len() > SEALED_BYTES_MAX {
        Err(Rejection::LimitReached { what: "bytes of a sealed value".into(), limit })
    } else if let Some(rejection) = keys.refuses(&sealed.kek_id) {
        Err(rejection)
    } else if expected != actual {
        Err(Rejection::SealedMoved { expected, actual })
    } else {
        Ok(Some(SealedValue { version: actual + 1, sealed: sealed.clone() }))
    };
    held(&before.cloned(), &after.cloned(), decided, told)
}

/// What is kept after a try was recorded.
fn fetched(
    before: &Fetched,
    trust_domain: steeple_spiffe_core::TrustDomain,
    refreshed: &Refreshed,
    now: Timestamp,
) -> Result<Fetched, Rejection> {
    let Fetched { status: old, mut bundle } = before.clone();
    let (succeeded_at, failure) = match refreshed {
        Refreshed::Ended => return Ok(Fetched { status: None, bundle }),
        Refreshed::Succeeded(None) => (Some(now), None),
        Refreshed::Succeeded(Some(fetched)) => {
            if fetched.seen != bundle.as_ref().map(BundleDigest::of) {
                return Err(Rejection::BundleMoved);
            }
            bundle = Some(fetched.bundle.clone());
            (Some(now), None)
        }
        Refreshed::Failed { class, text } => {
            let failing = old.as_ref().and_then(|old| old.failure.as_ref());
            let since = failing.map_or(now, |failure| failure.since);
            let (class, text) = (class.clone(), text.clone());
            let failure = RefreshFailure { since, class, text };
            (old.and_then(|old| old.succeeded_at), Some(failure))
        }
    };
    let status = RefreshStatus { trust_domain, noted_at: now, succeeded_at, failure };
    Ok(Fetched { status: Some(status), bundle })
}

#[cfg(test)]
mod tests {
    use steeple_raft_store::SealedName;
    use steeple_raft_store::change::Journal;
    use steeple_raft_store::command::FetchedBundle;
    use steeple_spiffe_core::TrustDomain;
    use steeple_spiffe_core::authority::SealedKey;

    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::parse("d1.test").unwrap()
    }

    fn numbered(sequence_number: u64) -> Bundle {
        Bundle { sequence_number, ..Bundle::empty(td()) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_s(seconds)
    }

    #[test]
    fn a_bundle_that_took_the_place_of_another_than_it_was_judged_by_is_found() {
        let before = Fetched { status: None, bundle: Some(numbered(1)) };
        let noted = |succeeded_at, failure| {
            let (trust_domain, noted_at) = (td(), at(9));
            Some(RefreshStatus { trust_domain, noted_at, succeeded_at, failure })
        };
        let store = |seen: &Bundle| {
            let (bundle, seen) = (numbered(2), Some(BundleDigest::of(seen)));
            Refreshed::Succeeded(Some(FetchedBundle { bundle, seen }))
        };
        let after = Fetched { status: noted(Some(at(9)), None), bundle: Some(numbered(2)) };
        let done = Ok(Outcome::Done);
        let moved = Err(Rejection::BundleMoved);
        let decide = |refreshed: &Refreshed| fetched(&before, td(), refreshed, at(9));
        held(&before, &after, decide(&store(&numbered(1))), &done).unwrap();
        held(&before, &before, decide(&store(&numbered(7))), &moved).unwrap();
        held(&before, &after, decide(&store(&numbered(7))), &done).unwrap_err();
        held(&before, &before, decide(&store(&numbered(1))), &done).unwrap_err();

        let (class, text) = ("dial".to_owned(), "no answer".to_owned());
        let failed = Refreshed::Failed { class: class.clone(), text: text.clone() };
        let failure = Some(RefreshFailure { since: at(9), class, text });
        let after = Fetched { status: noted(None, failure), bundle: Some(numbered(1)) };
        held(&before, &after, decide(&failed), &done).unwrap();
        held(&before, &before, decide(&Refreshed::Ended), &done).unwrap();
        held(&before, &after, decide(&Refreshed::Ended), &done).unwrap_err();
    }

    #[test]
    fn a_sealed_value_that_was_written_from_another_version_is_found() {
        let sealed = |nonce: u8| SealedKey {
            kek_id: "k".to_owned(),
            version: 1,
            nonce: vec![nonce; 12],
            ciphertext: vec![1],
        };
        let value = |version, nonce| SealedValue { version, sealed: sealed(nonce) };
        let write = |expected| {
            let name = SealedName::AcmeAccount;
            WriteSealed { name, expected, sealed: sealed(2) }
        };
        let keys = Rows { cluster: None, journal: Journal::default() };
        let (before, after) = (value(3, 1), value(4, 2));
        let done = Ok(Outcome::Done);
        let moved = Err(Rejection::SealedMoved { expected: 2, actual: 3 });
        let judge = |after: &SealedValue, expected, told: &Told| {
            judge_sealed(Some(&before), Some(after), &keys, &write(expected), told)
        };
        judge(&after, 3, &done).unwrap();
        judge(&before, 2, &moved).unwrap();
        judge(&after, 2, &done).unwrap_err();
        judge(&value(5, 2), 3, &done).unwrap_err();
        judge(&after, 2, &moved).unwrap_err();
        judge(&before, 3, &done).unwrap_err();
    }
}

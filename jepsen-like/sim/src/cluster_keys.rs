//! What commands about cluster keys promise, as a small model of its own: the key that seals moves only
//! from the one that was seen, an authority changes its sealing once and nothing else, and nothing comes
//! in under a key that was left.
//!
//! Owns these rules alone; what else becomes of authorities is `authorities`'.

use std::sync::Arc;

use steeple_raft_store::change::{ClusterState, Journal};
use steeple_raft_store::command::ResealAuthority;
use steeple_raft_store::{Change, Command, Outcome, Rejection};
use steeple_spiffe_core::authority::{Authority, AuthorityId, AuthorityStatus};

/// The rows that commands about keys read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) cluster: Option<Arc<ClusterState>>,
    pub(crate) journal: Journal,
}

impl Rows {
    /// Of the rows as the change feed shows them.
    pub(crate) fn of(cluster: Option<&Change>, journal: Journal) -> Self {
        let Some(Change::ClusterWritten(cluster)) = cluster else {
            return Self { cluster: None, journal };
        };
        Self { cluster: Some(Arc::clone(cluster)), journal }
    }

    /// The key that was named to seal.
    pub(crate) fn named(&self) -> Option<&str> {
        self.cluster.as_deref().map(|row| row.key_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The key that seals: the one that was named, else the newest authority's; empty: none.
    pub(crate) fn seals(&self) -> &str {
        let mut newest_first = self.journal.authorities.iter().rev();
        let newest = newest_first.find(|one| one.status != AuthorityStatus::Revoked);
        self.named().or(newest.map(|one| one.sealed_key.kek_id.as_str())).unwrap_or_default()
    }

    /// Why a sealing under a key is refused, if it is.
    pub(crate) fn refuses(&self, kek_id: &str) -> Option<Rejection> {
        let actual = self.named().filter(|named| *named != kek_id)?.to_owned();
        Some(Rejection::ClusterKeyMoved { expected: kek_id.to_owned(), actual })
    }
}

/// What a command must decide, and what the rows are then; `None` if it is about something else.
pub(crate) fn decide(before: &Rows, command: &Command) -> Option<Result<Rows, Rejection>> {
    if let Command::MoveClusterKey { expected, to } = command {
        let actual = before.seals().to_owned();
        if actual != *expected {
            let expected = expected.clone();
            return Some(Err(Rejection::ClusterKeyMoved { expected, actual }));
        }
        let mut after = before.clone();
        if let Some(cluster) = after.cluster.as_mut().filter(|row| row.key_id != *to) {
            let cluster = Arc::make_mut(cluster);
            cluster.left_key_ids.retain(|left| left != to && *left != actual);
            cluster
                .left_key_ids
                .extend([actual].into_iter().filter(|id| !id.is_empty() && id != to));
            cluster.key_id.clone_from(to);
        }
        return Some(Ok(after));
    }
    let Command::ResealAuthority(reseal) = command else { return None };
    Some(sealed_anew(before, reseal))
}

fn sealed_anew(before: &Rows, reseal: &ResealAuthority) -> Result<Rows, Rejection> {
    if let Some(rejection) = before.refuses(&reseal.sealed_key.kek_id) {
        return Err(rejection);
    }
    let mut after = before.clone();
    let is_meant = |one: &&mut Authority| {
        let sealed = &one.sealed_key;
        let is_seen = sealed.kek_id == reseal.seen_kek_id && sealed.nonce == reseal.seen_nonce;
        (one.kind, &one.id) == (reseal.kind, &reseal.id)
            && one.status != AuthorityStatus::Revoked
            && is_seen
    };
    let refused = |id: &AuthorityId| Rejection::AuthorityState(id.as_str().to_owned());
    let mut all = after.journal.authorities.iter_mut();
    all.find(is_meant).ok_or_else(|| refused(&reseal.id))?.sealed_key = reseal.sealed_key.clone();
    after.journal.revision += 1;
    Ok(after)
}

/// Holds a decision that a client was told against the rows before it and after it. An error says what is
/// wrong.
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
    held(before, after, expected, told)
}

/// Whether what was told and what is there are what was to be.
pub(crate) fn held<T: PartialEq + std::fmt::Debug>(
    before: &T,
    after: &T,
    expected: Result<T, Rejection>,
    told: &Result<Outcome, Rejection>,
) -> Result<(), String> {
    let right = match (&expected, told) {
        (Ok(expected), Ok(Outcome::Done)) => expected == after,
        (Err(rejection), Err(told)) => rejection == told && before == after,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    };
    if right {
        return Ok(());
    }
    Err(format!("told {told:?}, should be {expected:?}; it was {before:?}, is {after:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_raft_store::testing::cluster_state;
    use steeple_spiffe_core::authority::{AuthorityKind, SealedKey};
    use steeple_spiffe_core::time::Timestamp;

    use super::*;

    fn sealed(kek_id: &str, nonce: u8) -> SealedKey {
        let (kek_id, nonce) = (kek_id.to_owned(), vec![nonce; 12]);
        SealedKey { kek_id, version: 1, nonce, ciphertext: vec![1] }
    }

    fn rows(named: &str, left: &[&str], revision: u64, sealing: SealedKey) -> Rows {
        let now = Timestamp::from_unix_ms(1);
        let cluster = ClusterState {
            key_id: named.to_owned(),
            left_key_ids: left.iter().map(|id| (*id).to_owned()).collect(),
            ..cluster_state()
        };
        let authority = Authority {
            id: AuthorityId::new("a"),
            kind: AuthorityKind::Jwt,
            status: AuthorityStatus::Active,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: sealing,
            issued_at: now,
            not_after: now.plus(Duration::from_secs(1)),
            tainted: false,
        };
        let journal = Journal { revision, authorities: vec![authority] };
        Rows { cluster: Some(Arc::new(cluster)), journal }
    }

    fn reseal(seen: SealedKey, to: SealedKey) -> Command {
        Command::ResealAuthority(Box::new(ResealAuthority {
            kind: AuthorityKind::Jwt,
            id: AuthorityId::new("a"),
            seen_kek_id: seen.kek_id,
            seen_nonce: seen.nonce,
            sealed_key: to,
        }))
    }

    #[test]
    fn a_move_or_a_sealing_that_did_more_or_less_than_it_says_is_found() {
        let done = Ok(Outcome::Done);
        let key = |expected: &str, to: &str| Command::MoveClusterKey {
            expected: expected.to_owned(),
            to: to.to_owned(),
        };
        let moved = |expected: &str, actual: &str| {
            let (expected, actual) = (expected.to_owned(), actual.to_owned());
            Err(Rejection::ClusterKeyMoved { expected, actual })
        };
        let state = Err(Rejection::AuthorityState("a".to_owned()));
        let (fresh, old) =
            (rows("", &[], 3, sealed("k1", 0)), rows("k2", &["k1"], 3, sealed("k1", 0)));
        let new = rows("k2", &["k1"], 4, sealed("k2", 1));
        let to_new = || reseal(sealed("k1", 0), sealed("k2", 1));
        let right = [
            (&fresh, &old, key("k1", "k2"), &done),
            (&fresh, &fresh, key("", "k2"), &moved("", "k1")),
            (&old, &old, key("k1", "k3"), &moved("k1", "k2")),
            (&old, &new, to_new(), &done),
            (&new, &new, to_new(), &state),
            (&old, &old, reseal(sealed("k1", 0), sealed("k1", 1)), &moved("k1", "k2")),
        ];
        for (before, after, command, told) in right {
            judge(before, after, &command, told).unwrap();
        }
        let wrong = [
            // Not what was seen, and done.
            (&old, &new, reseal(sealed("k1", 7), sealed("k2", 1)), &done),
            // Done, and nothing changed.
            (&old, &old, to_new(), &done),
            // Refused, and done.
            (&old, &new, to_new(), &state),
            // Under a key that was left.
            (
                &old,
                &rows("k2", &["k1"], 4, sealed("k1", 1)),
                reseal(sealed("k1", 0), sealed("k1", 1)),
                &done,
            ),
            // The revision stands still.
            (&old, &rows("k2", &["k1"], 3, sealed("k2", 1)), to_new(), &done),
            // The key that was left is forgotten.
            (&fresh, &rows("k2", &[], 3, sealed("k1", 0)), key("k1", "k2"), &done),
            // Someone else had moved it.
            (&old, &rows("k3", &["k1", "k2"], 3, sealed("k1", 0)), key("k1", "k3"), &done),
        ];
        for (before, after, command, told) in wrong {
            judge(before, after, &command, told).unwrap_err();
        }
    }
}

//! The journal as SPIRE's operators know it: a current authority of each kind, and a next one, which
//! is the prepared successor or else the one that signed before.
//!
//! Pure. The journal may hold more of a kind, after forced rotations; which of them an operator means
//! by "current" and "next" is decided here and nowhere else.

use steeple_raft_store::change::Journal;
use steeple_spiffe_core::AuthorityStatus;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};

/// The two places of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    /// The authority that signs.
    pub current: Option<&'a Authority>,
    /// The newest that is prepared to follow it, else the one that it has followed.
    pub next: Option<&'a Authority>,
}

impl<'a> Slots<'a> {
    /// The places of a kind.
    pub fn of(journal: &'a Journal, kind: AuthorityKind) -> Self {
        let of_kind = || journal.authorities.iter().filter(|one| one.kind == kind);
        let current = of_kind().rfind(|one| one.status == AuthorityStatus::Active);
        let signed = |one: &&Authority| match one.status {
            AuthorityStatus::Old | AuthorityStatus::Revoked => true,
            AuthorityStatus::Prepared | AuthorityStatus::Active => false,
        };
        let next = successor(journal, kind).or_else(|| of_kind().rfind(signed));
        Self { current, next }
    }
}

/// The newest prepared authority of a kind. One that was prepared before the active authority was
/// passed over when that one was activated: it would end before it, and never follows it.
pub(crate) fn successor(journal: &Journal, kind: AuthorityKind) -> Option<&Authority> {
    let of_kind = journal.authorities.iter().rev().filter(|one| one.kind == kind);
    let mut newer = of_kind.take_while(|one| one.status != AuthorityStatus::Active);
    newer.find(|one| one.status == AuthorityStatus::Prepared)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::authority::SealedKey;
    use steeple_spiffe_core::{AuthorityId, Timestamp};

    use super::*;

    fn journal(x509: &[(&str, AuthorityStatus)]) -> Journal {
        let authority = |kind, name: &str, status| Authority {
            id: AuthorityId::new(name),
            kind,
            status,
            public_der: Vec::new(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH.plus(Duration::from_secs(3600)),
            tainted: false,
        };
        let x509 = x509.iter().map(|(name, status)| authority(AuthorityKind::X509, name, *status));
        let jwt = authority(AuthorityKind::Jwt, "jwt", AuthorityStatus::Prepared);
        Journal { revision: 1, authorities: x509.chain([jwt]).collect() }
    }

    #[test]
    fn each_history_of_forced_rotations_has_its_current_and_its_next() {
        use AuthorityStatus::{Active, Old, Prepared, Revoked};
        let cases: [(&str, &[(&str, AuthorityStatus)], _, _); 8] = [
            ("nothing yet", &[], None, None),
            ("at formation", &[("a", Prepared)], None, Some("a")),
            ("at work", &[("a", Active)], Some("a"), None),
            ("prepared", &[("a", Active), ("b", Prepared)], Some("a"), Some("b")),
            ("rotated", &[("a", Old), ("b", Active)], Some("b"), Some("a")),
            ("prepared again", &[("a", Old), ("b", Active), ("c", Prepared)], Some("b"), Some("c")),
            (
                "prepared twice, then activated: the first is passed over",
                &[("a", Old), ("b", Prepared), ("c", Active)],
                Some("c"),
                Some("a"),
            ),
            (
                "the last one that signed is revoked",
                &[("a", Old), ("b", Revoked), ("c", Active)],
                Some("c"),
                Some("b"),
            ),
        ];
        for (what, authorities, current, next) in cases {
            let journal = journal(authorities);
            let slots = Slots::of(&journal, AuthorityKind::X509);
            let name = |one: Option<&Authority>| one.map(|one| one.id.to_string());
            assert_eq!(name(slots.current).as_deref(), current, "{what}");
            assert_eq!(name(slots.next).as_deref(), next, "{what}");
        }
    }
}

//! Removes from the own bundle what others put there and what has ended since: roots of an upstream
//! authority, keys of servers above and below. The journal's own authorities are the planner's.

use steeple_raft_store::Command;
use steeple_raft_store::change::Journal;
use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::authority::AuthorityKind;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::certificate_facts;

use super::rotator::{RotateError, Rotator};

impl Rotator {
    /// Prunes once; returns how many roots and keys went. `term` is the term in which this replica
    /// leads.
    pub async fn prune_bundle(&self, term: u64) -> Result<usize, RotateError> {
        let (journal, bundle) = self.views.trust(&self.minter.trust_domain);
        let Some(bundle) = bundle else { return Ok(0) };
        let ended_by = self.now().minus(self.minter.policy.prune_margin());
        let (roots, key_ids) = ended(&journal, &bundle, ended_by);
        let count = roots.len() + key_ids.len();
        if count == 0 {
            return Ok(0);
        }
        let expected_journal = journal.revision;
        let command = Command::PruneBundle { expected_journal, roots, key_ids };
        let applied = self.handle.propose_duty(command, term).await?;
        applied.outcome?;
        Ok(count)
    }
}

/// Roots in DER and ids of keys that ended before a time and are no authority of the journal. Never all
/// roots: a cluster that trusts nothing cannot be mended from outside.
fn ended(journal: &Journal, bundle: &Bundle, ended_by: Timestamp) -> (Vec<Vec<u8>>, Vec<String>) {
    let is_own_root = |der: &[u8]| journal.authorities.iter().any(|one| one.public_der == der);
    let is_own_key = |id: &str| {
        let mut keys = journal.authorities.iter().filter(|one| one.kind == AuthorityKind::Jwt);
        keys.any(|one| one.id.as_str() == id)
    };
    let mut roots: Vec<_> = bundle
        .x509_authorities
        .iter()
        .map(|root| root.certificate_der.as_slice())
        .filter(|der| certificate_facts(der).is_ok_and(|facts| facts.not_after < ended_by))
        .filter(|der| !is_own_root(der))
        .map(<[u8]>::to_vec)
        .collect();
    if roots.len() == bundle.x509_authorities.len() {
        roots.clear();
    }
    let key_ids = bundle
        .jwt_authorities
        .iter()
        .filter(|key| key.expires_at.is_some_and(|expires_at| expires_at < ended_by))
        .map(|key| key.key_id.clone())
        .filter(|id| !is_own_key(id))
        .collect();
    (roots, key_ids)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::authority::{Authority, SealedKey};
    use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};
    use steeple_spiffe_core::svid::x509::self_signed_ca;
    use steeple_spiffe_core::{AuthorityId, AuthorityStatus, KeyType, LocalSigner, TrustDomain};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn td() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn root(hours: u32) -> X509Authority {
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let to = START.plus(HOUR * hours);
        let certificate_der = self_signed_ca(&td(), None, &signer, [1; 16], START, to).unwrap();
        X509Authority { certificate_der, tainted: false }
    }

    fn key(key_id: &str, hours: Option<u32>) -> JwtAuthority {
        let expires_at = hours.map(|hours| START.plus(HOUR * hours));
        JwtAuthority {
            key_id: key_id.to_owned(),
            public_key_der: vec![1],
            expires_at,
            tainted: false,
        }
    }

    fn own(kind: AuthorityKind, id: &str, public_der: &[u8]) -> Authority {
        Authority {
            id: AuthorityId::new(id),
            kind,
            status: AuthorityStatus::Old,
            public_der: public_der.to_vec(),
            upstream_chain: Vec::new(),
            sealed_key: SealedKey::destroyed(),
            issued_at: START,
            not_after: START.plus(HOUR),
            tainted: false,
        }
    }

    #[test]
    fn what_others_published_goes_when_it_has_ended_and_never_the_last_root() {
        let (mine, short, long) = (root(1), root(1), root(9));
        let bundle = Bundle {
            x509_authorities: vec![mine.clone(), short.clone(), long.clone()],
            jwt_authorities: vec![
                key("mine", Some(1)),
                key("short", Some(1)),
                key("long", Some(9)),
                key("endless", None),
            ],
            ..Bundle::empty(td())
        };
        let authorities = vec![
            own(AuthorityKind::X509, "x", &mine.certificate_der),
            own(AuthorityKind::Jwt, "mine", &[1]),
        ];
        let journal = Journal { revision: 1, authorities };
        let at = |hours: u32| ended(&journal, &bundle, START.plus(HOUR * hours));
        assert_eq!(at(1), (Vec::new(), Vec::new()), "at their very end");
        let expected = (vec![short.certificate_der.clone()], vec!["short".to_owned()]);
        assert_eq!(at(2), expected);
        let both = (vec![short.certificate_der, long.certificate_der], vec!["short", "long"]);
        let both = (both.0, both.1.into_iter().map(str::to_owned).collect());
        assert_eq!(at(10), both, "the journal's own is left");
        let (roots, _) = ended(&Journal::default(), &bundle, START.plus(HOUR * 10));
        assert!(roots.is_empty(), "nothing would be left");
    }
}

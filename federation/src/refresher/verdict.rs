//! What a fetched bundle must be to take the place of the one that is stored.
//!
//! Pure. A peer that is authenticated says what its trust domain trusts; what is refused here is
//! what could only be a mistake, or a server that lags.

use std::collections::BTreeSet;

use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{Bundle, SpiffeId, Timestamp, TrustDomain};

/// What becomes of a fetched bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It says what is stored.
    Unchanged,
    /// It is to be stored, as it is here.
    Changed(Bundle),
}

/// Why a fetched bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It trusts nobody. SPIRE would store it, and cut off all that federates.
    #[error("bundle has no authorities")]
    Empty,
    /// The peer had published a later one: its server lags, or it was rebuilt.
    #[error(
        "bundle has sequence number {sequence}, and {known} is stored; if the trust domain was \
         rebuilt, set its bundle by \"bundle set\""
    )]
    Older {
        /// The sequence number of what was fetched.
        sequence: u64,
        /// The one that is stored.
        known: u64,
    },
    /// Its authorities are another trust domain's: the URL is another server's.
    #[error("bundle is of trust domain \"{0}\"")]
    Foreign(TrustDomain),
    /// None of its X.509 authorities verifies anything any more.
    #[error("every X.509 authority of the bundle has expired")]
    Expired,
}

/// Judges a fetched bundle by the one that is stored.
///
/// Peers list authorities in any order (SPIRE's in another one each time), so the order says
/// nothing. A document without sequence number keeps the one that is known.
///
/// # Errors
///
/// [`Refusal`]; what is stored stays.
pub fn judge(
    stored: Option<&Bundle>,
    mut fetched: Bundle,
    now: Timestamp,
) -> Result<Verdict, Refusal> {
    if fetched.x509_authorities.is_empty() && fetched.jwt_authorities.is_empty() {
        return Err(Refusal::Empty);
    }
    check_authorities(&fetched, now)?;
    let Some(stored) = stored else { return Ok(Verdict::Changed(fetched)) };
    let (sequence, known) = (fetched.sequence_number, stored.sequence_number);
    if sequence == 0 {
        fetched.sequence_number = known;
    } else if sequence < known {
        return Err(Refusal::Older { sequence, known });
    }
    Ok(if is_same(stored, &fetched) { Verdict::Unchanged } else { Verdict::Changed(fetched) })
}

fn check_authorities(bundle: &Bundle, now: Timestamp) -> Result<(), Refusal> {
    let ders = bundle.x509_authorities.iter().map(|one| &one.certificate_der);
    let facts: Vec<_> = ders.filter_map(|der| certificate_facts(der).ok()).collect();
    if !facts.is_empty() && facts.iter().all(|one| one.not_after < now) {
        return Err(Refusal::Expired);
    }
    // Roots above SPIFFE's have no SPIFFE id, and say nothing.
    let uris = facts.iter().flat_map(|one| &one.uris);
    let named: BTreeSet<TrustDomain> =
        uris.filter_map(|uri| Some(SpiffeId::parse(uri).ok()?.trust_domain().clone())).collect();
    match named.first() {
        Some(other) if !named.contains(&bundle.trust_domain) => {
            Err(Refusal::Foreign(other.clone()))
        }
        Some(_) | None => Ok(()),
    }
}

fn is_same(one: &Bundle, other: &Bundle) -> bool {
    let x509 = |bundle: &Bundle| bundle.x509_authorities.iter().cloned().collect::<BTreeSet<_>>();
    let jwt = |bundle: &Bundle| bundle.jwt_authorities.iter().cloned().collect::<BTreeSet<_>>();
    (one.refresh_hint_s, one.sequence_number) == (other.refresh_hint_s, other.sequence_number)
        && x509(one) == x509(other)
        && jwt(one) == jwt(other)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};

    use super::*;
    use crate::refresher::peer::{NOW, authority};

    const HOUR: Duration = Duration::from_secs(3600);

    fn td() -> TrustDomain {
        TrustDomain::parse("b.test").unwrap()
    }

    fn x509(id: &str) -> X509Authority {
        X509Authority { certificate_der: authority(id, HOUR).der, tainted: false }
    }

    fn jwt(key_id: &str) -> JwtAuthority {
        JwtAuthority {
            key_id: key_id.to_owned(),
            public_key_der: vec![1],
            expires_at: None,
            tainted: false,
        }
    }

    fn bundle(sequence_number: u64) -> Bundle {
        Bundle {
            x509_authorities: vec![x509("spiffe://b.test"), x509("spiffe://b.test")],
            jwt_authorities: vec![jwt("k1"), jwt("k2")],
            refresh_hint_s: 300,
            sequence_number,
            ..Bundle::empty(td())
        }
    }

    #[test]
    fn what_says_the_same_in_another_order_changes_nothing() {
        let stored = bundle(4);
        let mut fetched = stored.clone();
        fetched.x509_authorities.reverse();
        fetched.jwt_authorities.reverse();
        assert_eq!(judge(Some(&stored), fetched.clone(), NOW), Ok(Verdict::Unchanged));
        let none = Bundle { sequence_number: 0, ..fetched.clone() };
        assert_eq!(judge(Some(&stored), none, NOW), Ok(Verdict::Unchanged), "no sequence number");
        assert_eq!(judge(None, fetched.clone(), NOW), Ok(Verdict::Changed(fetched)));
    }

    #[test]
    fn every_difference_is_a_change() {
        let stored = bundle(4);
        let one_less = |mut bundle: Bundle| {
            bundle.x509_authorities.pop();
            bundle
        };
        let changes = [
            Bundle { refresh_hint_s: 60, ..stored.clone() },
            Bundle { sequence_number: 5, ..stored.clone() },
            Bundle { jwt_authorities: vec![jwt("k1")], ..stored.clone() },
            one_less(stored.clone()),
        ];
        for change in changes {
            let judged = judge(Some(&stored), change.clone(), NOW);
            assert_eq!(judged, Ok(Verdict::Changed(change)));
        }
        let unnumbered = one_less(Bundle { sequence_number: 0, ..stored.clone() });
        let kept = Bundle { sequence_number: 4, ..unnumbered.clone() };
        assert_eq!(judge(Some(&stored), unnumbered, NOW), Ok(Verdict::Changed(kept)));
        // Set by hand from certificates: no number, no hint.
        let by_hand = Bundle { sequence_number: 0, refresh_hint_s: 0, ..stored.clone() };
        assert_eq!(judge(Some(&by_hand), stored.clone(), NOW), Ok(Verdict::Changed(stored)));
    }

    #[test]
    fn what_can_only_be_a_mistake_is_refused() {
        let stored = bundle(4);
        let of = |ids: &[&str]| Bundle {
            x509_authorities: ids.iter().map(|id| x509(id)).collect(),
            ..bundle(5)
        };
        let other = TrustDomain::parse("c.test").unwrap();
        let table = [
            (Bundle::empty(td()), Refusal::Empty),
            (bundle(3), Refusal::Older { sequence: 3, known: 4 }),
            (of(&["spiffe://c.test"]), Refusal::Foreign(other)),
        ];
        for (fetched, expected) in table {
            assert_eq!(judge(Some(&stored), fetched, NOW), Err(expected));
        }
        let later = NOW.plus(2 * HOUR);
        assert_eq!(judge(Some(&stored), bundle(5), later), Err(Refusal::Expired));
        // Roots without an id, and those of a hierarchy that several trust domains share.
        for ids in [&["urn:root"][..], &["spiffe://c.test", "spiffe://b.test"]] {
            let fetched = of(ids);
            assert_eq!(
                judge(Some(&stored), fetched.clone(), NOW),
                Ok(Verdict::Changed(fetched)),
                "{ids:?}"
            );
        }
        let jwt_alone = Bundle { x509_authorities: Vec::new(), ..bundle(5) };
        let taken = judge(Some(&stored), jwt_alone.clone(), later);
        assert_eq!(taken, Ok(Verdict::Changed(jwt_alone)));
    }
}

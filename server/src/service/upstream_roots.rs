//! Which roots of an upstream authority an operator may taint or revoke.
//!
//! Owns SPIRE's checks and words. SPIRE knows the certificate that signed the last authority only; here
//! it may be any earlier one's, and the root above it as well, since it is the root that is marked.

use std::fmt::Display;

use steeple_raft_store::change::Journal;
use steeple_raft_store::command::RootChange;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{AuthorityId, AuthorityStatus};

use crate::authority::successor;
use crate::authority::told::upstream_authority_id;
use crate::status::Failure;

fn authority_key_id(certificate: &[u8]) -> String {
    let facts = certificate_facts(certificate);
    let key_id = facts.map(|facts| facts.authority_key_id).unwrap_or_default();
    AuthorityId::from_subject_key_id(&key_id).to_string()
}

/// Whether the certificate with this key id signed the authority, or is the root above it.
fn is_below(authority: &Authority, id: &str) -> bool {
    let last = authority.upstream_chain.last().unwrap_or(&authority.public_der);
    authority.kind == AuthorityKind::X509
        && (upstream_authority_id(authority) == id || authority_key_id(last) == id)
}

/// SPIRE's words for one step.
struct Words {
    invalid: &'static str,
    failed: &'static str,
    gone: &'static str,
}

const fn words(change: RootChange) -> Words {
    match change {
        RootChange::Revoke => Words {
            invalid: "invalid subject key ID",
            failed: "failed to revoke X.509 upstream authority",
            gone: "no root CA found with provided subject key ID",
        },
        RootChange::Add | RootChange::Taint => Words {
            invalid: "provided subject key id is not valid",
            failed: "failed to taint upstream authority",
            gone: "no ca found with provided subject key ID",
        },
    }
}

/// What a step that was refused by the registry was about.
pub(super) fn failed(change: RootChange) -> &'static str {
    words(change).failed
}

/// The roots with a subject key id, in DER, if they may be tainted or revoked.
pub(super) fn roots_to(
    change: RootChange,
    journal: &Journal,
    bundle: Option<&Bundle>,
    id: &str,
) -> Result<Vec<Vec<u8>>, Failure> {
    let Words { invalid, failed, gone } = words(change);
    let invalid = |why: &str| Failure::invalid_because(invalid, why);
    let refused = |why: &dyn Display| Failure::internal(format!("{failed}: {why}"));
    if id.is_empty() {
        return Err(invalid("no subject key ID provided"));
    }
    let below = |status: AuthorityStatus| {
        journal.authorities.iter().any(|one| one.status == status && is_below(one, id))
    };
    if below(AuthorityStatus::Active) {
        return Err(invalid("unable to use upstream authority singing current authority"));
    }
    if successor(journal, AuthorityKind::X509).is_some_and(|next| is_below(next, id)) {
        return Err(invalid("only upstream authorities signing an old authority can be used"));
    }
    if !below(AuthorityStatus::Old) && !below(AuthorityStatus::Prepared) {
        return Err(invalid("upstream authority didn't sign the old local authority"));
    }
    let known = bundle.map(|bundle| bundle.x509_authorities.as_slice()).unwrap_or_default();
    let has_id = |der: &[u8]| {
        certificate_facts(der).is_ok_and(|facts| {
            AuthorityId::from_subject_key_id(&facts.subject_key_id).as_str() == id
        })
    };
    let roots: Vec<_> = known.iter().filter(|root| has_id(&root.certificate_der)).collect();
    if roots.is_empty() {
        return Err(refused(&gone));
    }
    match change {
        RootChange::Taint if roots.iter().any(|root| root.tainted) => {
            Err(refused(&"root CA is already tainted"))
        }
        RootChange::Revoke if roots.iter().any(|root| !root.tainted) => {
            Err(refused(&"it is not possible to revoke an untainted root CA"))
        }
        RootChange::Add | RootChange::Taint | RootChange::Revoke => {
            Ok(roots.into_iter().map(|root| root.certificate_der.clone()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe_core::authority::SealedKey;
    use steeple_spiffe_core::bundle::X509Authority;
    use steeple_spiffe_core::svid::x509::{
        DownstreamSubject, DownstreamTemplate, IssuerIdentity, self_signed_ca, sign_downstream_ca,
    };
    use steeple_spiffe_core::{KeyType, LocalSigner, Signer as _, Timestamp, TrustDomain};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn td() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    /// A CA certificate and its key.
    type Ca = (Vec<u8>, LocalSigner);

    fn root() -> Ca {
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let to = START.plus(HOUR);
        (self_signed_ca(&td(), None, &signer, [3; 16], START, to).unwrap(), signer)
    }

    fn below((certificate, key): &Ca) -> Ca {
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let template = DownstreamTemplate {
            trust_domain: &td(),
            subject: DownstreamSubject::Depth(1),
            public_key_spki: signer.public_key_spki(),
            serial: [4; 16],
            not_before: START,
            not_after: START.plus(HOUR),
        };
        let issuer = IssuerIdentity::from_certificate(certificate).unwrap();
        (sign_downstream_ca(&issuer, key, &template).unwrap(), signer)
    }

    fn id_of((certificate, _): &Ca) -> String {
        let facts = certificate_facts(certificate).unwrap();
        AuthorityId::from_subject_key_id(&facts.subject_key_id).to_string()
    }

    fn authority(parent: &Ca, above: &[&Ca], status: AuthorityStatus) -> Authority {
        let ca = below(parent);
        Authority {
            id: AuthorityId::new(id_of(&ca)),
            kind: AuthorityKind::X509,
            status,
            public_der: ca.0,
            upstream_chain: above.iter().map(|ca| ca.0.clone()).collect(),
            sealed_key: SealedKey::destroyed(),
            issued_at: START,
            not_after: START.plus(HOUR),
            tainted: false,
        }
    }

    fn bundle(roots: &[(&Ca, bool)]) -> Bundle {
        let root = |(ca, tainted): &(&Ca, bool)| X509Authority {
            certificate_der: ca.0.clone(),
            tainted: *tainted,
        };
        let x509_authorities = roots.iter().map(root).collect();
        Bundle { x509_authorities, ..Bundle::empty(td()) }
    }

    #[test]
    fn each_step_with_a_root_that_is_not_in_the_state_for_it_is_refused_in_spires_words() {
        use AuthorityStatus::{Active, Old, Prepared};
        let (first, second, third) = (root(), root(), root());
        let rotated = Journal {
            revision: 3,
            authorities: vec![authority(&first, &[], Old), authority(&second, &[], Active)],
        };
        let mut preparing = rotated.clone();
        preparing.authorities.push(authority(&first, &[], Prepared));
        let (fresh, tainted) =
            (bundle(&[(&first, false), (&second, false)]), bundle(&[(&first, true)]));
        let gone = bundle(&[(&second, false)]);
        let (one, two, three) = (id_of(&first), id_of(&second), id_of(&third));
        let current = "unable to use upstream authority singing current authority";
        let prepared = "only upstream authorities signing an old authority can be used";
        let unsigned = "upstream authority didn't sign the old local authority";
        let untainted = "failed to revoke X.509 upstream authority: it is not possible to revoke an \
                         untainted root CA";
        let again = "failed to taint upstream authority: root CA is already tainted";
        let missing =
            "failed to taint upstream authority: no ca found with provided subject key ID";
        let unknown = "failed to revoke X.509 upstream authority: no root CA found with provided \
                       subject key ID";
        let (taint, revoke) = (RootChange::Taint, RootChange::Revoke);
        let cases = [
            (taint, &rotated, &fresh, "", "not valid: no subject key ID provided"),
            (revoke, &rotated, &fresh, "", "invalid subject key ID: no subject key ID provided"),
            (taint, &rotated, &fresh, two.as_str(), current),
            (revoke, &rotated, &fresh, &two, current),
            (taint, &rotated, &fresh, &three, unsigned),
            (taint, &preparing, &fresh, &one, prepared),
            (revoke, &rotated, &fresh, &one, untainted),
            (taint, &rotated, &tainted, &one, again),
            (taint, &rotated, &gone, &one, missing),
            (revoke, &rotated, &gone, &one, unknown),
        ];
        for (change, journal, bundle, id, text) in cases {
            let failure = roots_to(change, journal, Some(bundle), id).unwrap_err();
            assert!(failure.message().contains(text), "{failure:?} is not about {text:?}");
        }
        for (change, bundle) in [(taint, &fresh), (revoke, &tainted)] {
            let roots = roots_to(change, &rotated, Some(bundle), &one).unwrap();
            assert_eq!(roots, std::slice::from_ref(&first.0));
        }
    }

    #[test]
    fn below_an_intermediate_the_root_is_named_by_its_own_key_id() {
        use AuthorityStatus::{Active, Old};
        let (first, second) = (root(), root());
        let between = below(&first);
        let old = authority(&between, &[&between], Old);
        assert_eq!(upstream_authority_id(&old), id_of(&between), "as SPIRE shows it");
        let authorities = vec![old, authority(&second, &[], Active)];
        let journal = Journal { revision: 1, authorities };
        let bundle = bundle(&[(&first, false), (&second, false)]);
        let roots = roots_to(RootChange::Taint, &journal, Some(&bundle), &id_of(&first));
        assert_eq!(roots.unwrap(), [first.0]);
        roots_to(RootChange::Taint, &journal, Some(&bundle), &id_of(&between)).unwrap_err();
    }
}

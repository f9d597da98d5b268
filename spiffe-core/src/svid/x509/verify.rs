//! Verifies X.509-SVIDs against a bundle.
//!
//! Path building and signatures are webpki's; the rules of SPIFFE are ours, and so are two things
//! webpki leaves out: it does not look at the lifetime of a trust anchor, and it refuses every chain
//! with a name constraint on URIs. The first is done here (an authority outside its lifetime is no
//! anchor), the second stays: such a chain is not trusted.
//!
//! A tainted authority still verifies: what it signed is to be replaced, not to be cut off.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::error::X509Error;
use super::parse::{X509Svid, certificate_facts};
use crate::bundle::Bundle;
use crate::id::SpiffeId;
use crate::time::Timestamp;

/// Verifies a chain, leaf first, at the given time; returns whom the leaf names.
pub fn verify_chain(
    chain_der: &[Vec<u8>],
    bundle: &Bundle,
    now: Timestamp,
) -> Result<SpiffeId, X509Error> {
    let svid = X509Svid::parse_chain(chain_der)?;
    if !svid.id.is_member_of(&bundle.trust_domain) {
        return Err(X509Error::WrongTrustDomain {
            expected: bundle.trust_domain.to_string(),
            got: svid.id.trust_domain().to_string(),
        });
    }
    let (leaf, above) = chain_der.split_first().ok_or(X509Error::EmptyChain)?;
    let leaf = CertificateDer::from(leaf.as_slice());
    let above: Vec<CertificateDer<'_>> =
        above.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let authorities: Vec<CertificateDer<'_>> = bundle
        .x509_authorities
        .iter()
        .map(|authority| CertificateDer::from(authority.certificate_der.as_slice()))
        .collect();
    let anchors: Vec<TrustAnchor<'_>> =
        authorities.iter().filter_map(|der| anchor(der, now)).collect();

    let end_entity = EndEntityCert::try_from(&leaf).map_err(X509Error::Untrusted)?;
    end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &above,
            unix_time(now),
            AnyUsage,
            None,
            None,
        )
        .map_err(X509Error::Untrusted)?;
    Ok(svid.id)
}

/// The authority as an anchor, unless it is outside its lifetime or of a form that webpki cannot
/// use.
fn anchor<'a>(der: &'a CertificateDer<'a>, now: Timestamp) -> Option<TrustAnchor<'a>> {
    let facts = certificate_facts(der).ok()?;
    if now < facts.not_before || now > facts.not_after {
        return None;
    }
    webpki::anchor_from_trusted_cert(der).ok()
}

pub(crate) fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix_s()).unwrap_or(0)))
}

/// SVIDs serve both ends of a connection, so that the extended key usage decides nothing
/// (go-spiffe: `ExtKeyUsageAny`).
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

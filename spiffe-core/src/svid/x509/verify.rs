//! Verifies X.509-SVIDs against a bundle.
//!
//! Path building and signatures are webpki's; the rules of SPIFFE are ours, and so are two things
//! webpki leaves out: it looks neither at the lifetime of a trust anchor nor at what its certificate
//! says of its key and of the chains below it, and it refuses every chain with a name constraint on
//! URIs. The first is done here, as Go and OpenSSL do it (an authority outside its lifetime, or whose
//! key may not sign certificates, is no anchor; chains are no longer than it lets them be), the second
//! stays: such a chain is not trusted.
//!
//! A tainted authority still verifies: what it signed is to be replaced, not to be cut off.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath,
};

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
    let (anchors, longest): (Vec<TrustAnchor<'_>>, Vec<Option<u32>>) =
        authorities.iter().filter_map(|der| anchor(der, now)).unzip();
    let fits = |path: &VerifiedPath<'_>| {
        let between = path.intermediate_certificates().count();
        let same = |one: &TrustAnchor<'_>| one == path.anchor();
        let mut of_anchor = anchors.iter().zip(&longest).filter(|(one, _)| same(one));
        let is_short = |longest: Option<u32>| longest.is_none_or(|most| between <= most as usize);
        match of_anchor.any(|(_, longest)| is_short(*longest)) {
            true => Ok(()),
            false => Err(webpki::Error::PathLenConstraintViolated),
        }
    };

    let end_entity = EndEntityCert::try_from(&leaf).map_err(X509Error::Untrusted)?;
    end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &above,
            unix_time(now),
            AnyUsage,
            None,
            Some(&fits),
        )
        .map_err(X509Error::Untrusted)?;
    Ok(svid.id)
}

/// An authority that vouches, and how many CA certificates it lets stand below it; `None`: any
/// number.
type Anchor<'a> = (TrustAnchor<'a>, Option<u32>);

/// The authority as an anchor, unless it is outside its lifetime, its key is not for certificates, or
/// it is of a form that webpki cannot use.
fn anchor<'a>(der: &'a CertificateDer<'a>, now: Timestamp) -> Option<Anchor<'a>> {
    let facts = certificate_facts(der).ok()?;
    if now < facts.not_before || now > facts.not_after || !facts.may_sign_certificates {
        return None;
    }
    Some((webpki::anchor_from_trusted_cert(der).ok()?, facts.path_len))
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

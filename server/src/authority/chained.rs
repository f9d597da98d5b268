//! Authorities that an upstream authority signs, and the question whether what one signs will verify.
//!
//! Owns the checks on what came back: a certificate of this trust domain for the key that was asked
//! for, valid now, that signs an SVID which leads to the roots that came with it. Whatever fails them is
//! never published.

use std::time::Duration;

use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::signer::Signer;
use steeple_spiffe_core::svid::x509::{
    CertificateFacts, DownstreamSubject, DownstreamTemplate, IssuerIdentity, LeafSubject,
    LeafTemplate, X509Error, certificate_facts, sign_downstream_ca, sign_leaf, subject_key_id,
    verify_chain,
};
use steeple_spiffe_core::{KeyType, LocalSigner, SpiffeId, Timestamp, TrustDomain};

use super::mint::{MintError, random_serial};
use super::policy::BACKDATE;
use crate::upstream::MintedCa;

/// Signs an SVID that nobody gets, and verifies it: the proof that `chain` (the signer's certificate
/// first; empty if that is a root itself) leads to the bundle.
pub(super) fn check_chain(
    issuer: &IssuerIdentity,
    signer: &dyn Signer,
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: Timestamp,
    random: &dyn Random,
) -> Result<(), X509Error> {
    let spiffe_id = SpiffeId::server(bundle.trust_domain.clone());
    let template = LeafTemplate {
        spiffe_id: &spiffe_id,
        dns_names: &[],
        subject: LeafSubject::Default,
        unique_id: false,
        public_key_spki: signer.public_key_spki(),
        serial: random_serial(random),
        not_before: now.minus(BACKDATE).floor_to_second(),
        not_after: now.plus(Duration::from_secs(60)),
    };
    // webpki does not look at what keys are for; Go and OpenSSL do.
    for der in chain {
        if !certificate_facts(der)?.may_sign_certificates {
            return Err(X509Error::Untrusted(webpki::Error::EndEntityUsedAsCa));
        }
    }
    let leaf = sign_leaf(issuer, signer, &template)?;
    let whole: Vec<_> = std::iter::once(leaf).chain(chain.iter().cloned()).collect();
    verify_chain(&whole, bundle, now).map(drop)
}

/// As [`check_chain`], for an issuer that signs authorities: one that nobody gets is signed, and an SVID
/// below that, so that path lengths which leave it no place are found.
pub(crate) fn check_chain_of_authorities(
    issuer: &IssuerIdentity,
    signer: &dyn Signer,
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: Timestamp,
    random: &dyn Random,
) -> Result<(), X509Error> {
    let (below, _) = LocalSigner::generate(KeyType::EcP256)?;
    let template = DownstreamTemplate {
        trust_domain: &bundle.trust_domain,
        subject: DownstreamSubject::Depth(1),
        public_key_spki: below.public_key_spki(),
        serial: random_serial(random),
        not_before: now.minus(BACKDATE).floor_to_second(),
        not_after: now.plus(Duration::from_secs(60)),
    };
    let authority = sign_downstream_ca(issuer, signer, &template)?;
    let below_issuer = IssuerIdentity::from_certificate(&authority)?;
    let whole: Vec<_> = std::iter::once(authority).chain(chain.iter().cloned()).collect();
    check_chain(&below_issuer, &below, &whole, bundle, now, random)
}

/// The checks on what an upstream authority signed; returns what its certificate says.
pub(super) fn check_minted(
    minted: &MintedCa,
    signer: &dyn Signer,
    trust_domain: &TrustDomain,
    now: Timestamp,
    random: &dyn Random,
) -> Result<CertificateFacts, MintError> {
    let first = minted.chain.first().ok_or(MintError::Invalid("there is none"))?;
    let facts = certificate_facts(first)?;
    if facts.spki != signer.public_key_spki() {
        return Err(MintError::Invalid("it is for another key"));
    }
    if !facts.is_ca {
        return Err(MintError::Invalid("basic constraints do not make it a CA"));
    }
    // SPIRE lets an upstream PKI leave the URI out.
    if !facts.uris.is_empty() && facts.uris != [trust_domain.id_string()] {
        return Err(MintError::Invalid("URI SAN is not the trust domain"));
    }
    if now < facts.not_before || now >= facts.not_after {
        return Err(MintError::Invalid("it is not valid now"));
    }
    if facts.subject_key_id.is_empty() {
        return Err(MintError::Invalid("it has no subject key id"));
    }
    let issuer = IssuerIdentity::from_certificate(first)?;
    let root = |der: &Vec<u8>| X509Authority { certificate_der: der.clone(), tainted: false };
    let bundle = Bundle {
        x509_authorities: minted.roots.iter().map(root).collect(),
        ..Bundle::empty(trust_domain.clone())
    };
    check_chain(&issuer, signer, &minted.chain, &bundle, now, random)
        .map_err(MintError::Unchained)?;
    Ok(facts)
}

/// Whether the certificate at the end of a chain was issued by one of these roots, as far as names and
/// key ids tell. The signature was verified before the chain was published.
pub(super) fn leads_to(last: &[u8], roots: &[X509Authority]) -> bool {
    let Ok(last) = certificate_facts(last) else { return false };
    roots.iter().any(|root| is_issued_by(&last, &root.certificate_der))
}

fn is_issued_by(last: &CertificateFacts, root: &[u8]) -> bool {
    let Ok(root) = certificate_facts(root) else { return false };
    let key_id = if root.subject_key_id.is_empty() {
        subject_key_id(&root.spki).map(|id| id.to_vec()).unwrap_or_default()
    } else {
        root.subject_key_id
    };
    let same_key = last.authority_key_id.is_empty() || last.authority_key_id == key_id;
    last.issuer_der == root.subject_der && same_key
}

#[cfg(test)]
#[path = "chained_tests.rs"]
mod tests;

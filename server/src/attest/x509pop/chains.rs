//! All the ways a presented certificate leads to a trusted root.
//!
//! Selectors name every certificate above the leaf in every verified chain, as Go's verifier lists
//! them; webpki stops at the first chain it likes. So it is asked root by root, and each chain it
//! finds is noted and refused, which makes it look for the next. Any extended key usage is accepted,
//! as in SPIRE. The number of signatures checked has a bound of webpki's own.

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, UnixTime};
use steeple_spiffe_core::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Certificates above the leaf, nearest first, the root last. In DER.
pub(super) type Chain = Vec<Vec<u8>>;

/// Finds every chain from the leaf over some of the intermediates to one of the roots. The error is
/// the reason why there is none, in Go's words where scripts may know them.
pub(super) fn verified_chains(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
    now: Timestamp,
) -> Result<Vec<Chain>, String> {
    if roots.iter().any(|root| root == leaf) {
        // As Go has it: a certificate that is itself trusted is a chain of its own.
        return if is_valid_at(leaf, now) { Ok(vec![Vec::new()]) } else { Err(expired()) };
    }
    let leaf = CertificateDer::from(leaf);
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let mut chains = Vec::new();
    let mut reason = unknown_authority();
    // Trust anchors carry no validity, so roots that have ended are left out here.
    for root in roots.iter().filter(|root| is_valid_at(root, now)) {
        match chains_to(&leaf, &intermediates, root, now) {
            Ok(found) => chains.extend(found),
            Err(webpki::Error::UnknownIssuer) => {}
            Err(error) => reason = text(&error),
        }
    }
    if chains.is_empty() { Err(reason) } else { Ok(chains) }
}

fn chains_to(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    root: &[u8],
    now: Timestamp,
) -> Result<Vec<Chain>, webpki::Error> {
    let root_der = CertificateDer::from(root);
    let anchors = [webpki::anchor_from_trusted_cert(&root_der)?];
    let end_entity = webpki::EndEntityCert::try_from(leaf)?;
    let found = RefCell::new(Vec::new());
    let note = |path: &webpki::VerifiedPath<'_>| {
        let mut chain: Chain =
            path.intermediate_certificates().map(|one| one.der().to_vec()).collect();
        chain.push(root.to_vec());
        found.borrow_mut().push(chain);
        Err(webpki::Error::UnknownIssuer)
    };
    let time = UnixTime::since_unix_epoch(now.since(Timestamp::UNIX_EPOCH));
    let verified = end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        intermediates,
        time,
        AnyUsage,
        None,
        Some(&note),
    );
    let reason = verified.err().unwrap_or(webpki::Error::UnknownIssuer);
    let found = found.into_inner();
    if found.is_empty() { Err(reason) } else { Ok(found) }
}

/// Accepts every extended key usage.
struct AnyUsage;

impl webpki::ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, usages: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // To its end: webpki takes what is left unread for a malformed extension.
        for usage in usages {
            usage?;
        }
        Ok(())
    }
}

fn is_valid_at(certificate: &[u8], now: Timestamp) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let validity = certificate.validity();
    let seconds = now.unix_s();
    validity.not_before.timestamp() <= seconds && seconds <= validity.not_after.timestamp()
}

fn text(error: &webpki::Error) -> String {
    use webpki::Error::{CertExpired, CertNotValidYet, InvalidSignatureForPublicKey};
    if matches!(error, CertExpired { .. } | CertNotValidYet { .. }) {
        return expired();
    }
    if matches!(error, InvalidSignatureForPublicKey) {
        // A namesake of the issuer: to Go, too, an unknown authority.
        return unknown_authority();
    }
    format!("x509: {error}")
}

fn expired() -> String {
    "x509: certificate has expired or is not yet valid".to_owned()
}

fn unknown_authority() -> String {
    "x509: certificate signed by unknown authority".to_owned()
}

//! Whether what a workload was given proves what it says. By webpki and the `spiffe` crate: what issued
//! it must not be what judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its only URI.
    pub(crate) id: String,
    /// Its serial number.
    pub(crate) serial: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) not_after_ms: i64,
}

/// What a token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Whose it is.
    pub(crate) subject: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_ms: i64,
}

/// Reads the first certificate of a chain.
pub(crate) fn leaf(chain: &[u8]) -> Result<Leaf> {
    let (_, certificate) = X509Certificate::from_der(chain).context("read a certificate")?;
    let names = certificate.subject_alternative_name().context("read the names")?;
    let names = names.context("a certificate without names")?;
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        Some((*uri).to_owned())
    });
    let id = uris.next().context("a certificate without a URI")?;
    ensure!(uris.next().is_none(), "a certificate with two URIs");
    Ok(Leaf {
        id,
        serial: certificate.raw_serial_as_string(),
        not_after_ms: certificate.validity().not_after.timestamp().saturating_mul(1_000),
    })
}

/// Verifies a chain against a bundle, both as the Workload API gives them, at a time.
pub(crate) fn verify(chain: &[u8], bundle: &[u8], now_ms: i64) -> Result<()> {
    let chain = certificates(chain)?;
    let roots = certificates(bundle)?;
    let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
    let anchors = anchors.context("read the bundle")?;
    let (first, rest) = chain.split_first().context("an empty chain")?;
    let now = Duration::from_millis(u64::try_from(now_ms).context("a time before 1970")?);
    let end = EndEntityCert::try_from(first).context("read the SVID")?;
    let verified = end.verify_for_usage(
        ALL_VERIFICATION_ALGS,
        &anchors,
        rest,
        UnixTime::since_unix_epoch(now),
        KeyUsage::client_auth(),
        None,
        None,
    );
    verified.context("verify the SVID")?;
    Ok(())
}

/// Verifies a token for an audience against the JWT bundles that a workload holds.
pub(crate) fn verify_token(
    token: &str,
    bundles: &BTreeMap<String, Vec<u8>>,
    audience: &str,
) -> Result<Token> {
    let mut set = JwtBundleSet::new();
    for (trust_domain, keys) in bundles {
        let trust_domain = spiffe::TrustDomain::try_from(trust_domain.as_str())?;
        set.add_bundle(JwtBundle::from_jwt_authorities(trust_domain, keys)?);
    }
    let svid = JwtSvid::parse_and_validate(token, &set, &[audience])?;
    let expires_ms = svid.expiry().unix_timestamp().saturating_mul(1_000);
    Ok(Token { subject: svid.spiffe_id().to_string(), expires_ms })
}

/// The certificates of a concatenation.
pub(crate) fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).context("read a certificate")?;
        let own = der.get(..der.len() - rest.len()).context("cut a certificate out")?;
        found.push(CertificateDer::from(own.to_vec()));
        der = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        SanType,
    };

    use super::*;

    fn authority() -> (Issuer<'static, KeyPair>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        (Issuer::new(params, key), der)
    }

    #[test]
    fn a_chain_is_good_under_its_authority_in_its_time_and_nowhere_else() {
        let (issuer, bundle) = authority();
        let (_, other) = authority();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI("spiffe://example.org/w".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 3);
        let chain = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        let within = rcgen::date_time_ymd(2026, 1, 2).unix_timestamp() * 1_000;
        let after = rcgen::date_time_ymd(2026, 1, 4).unix_timestamp() * 1_000;
        let before = rcgen::date_time_ymd(2025, 12, 31).unix_timestamp() * 1_000;
        assert!(verify(&chain, &bundle, within).is_ok());
        assert!(verify(&chain, &[other.clone(), bundle.clone()].concat(), within).is_ok());
        for (roots, at) in [(&other, within), (&bundle, after), (&bundle, before)] {
            assert!(verify(&chain, roots, at).is_err(), "{at}");
        }
        let read = leaf(&chain).unwrap();
        assert_eq!(read.id, "spiffe://example.org/w");
        assert_eq!(read.not_after_ms, after - 86_400_000);
        assert!(leaf(&bundle).is_err(), "an authority is nobody's identity");
    }
}

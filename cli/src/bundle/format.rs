//! Bundles as text: PEM or SPIFFE's JSON document.
//!
//! Owns the values of the flags that name a format, reading and writing in both; the document itself
//! is `steeple-spiffe-core`'s. The server checks what is sent: here only what cannot be sent is refused.

use std::io::Write;

use steeple_api::convert;
use steeple_api::pb;
use steeple_spiffe_core::bundle::document::{self, DocumentOptions};
use steeple_spiffe_core::{TrustDomain, pem};

use crate::error::Error;
use crate::output::go_quote;

/// A format for bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleFormat {
    /// X.509 authorities alone.
    Pem,
    /// Everything, as a JWKS document.
    Spiffe,
}

impl BundleFormat {
    /// Reads the flag's value in any case; empty is PEM.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text.to_lowercase().as_str() {
            "" | "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            _ => Err(Error::invalid(format!("invalid format: {}", go_quote(text)))),
        }
    }

    /// Reads the bundle of a trust domain.
    pub(crate) fn read(
        self,
        text: &str,
        trust_domain: TrustDomain,
    ) -> Result<pb::types::Bundle, Error> {
        match self {
            Self::Pem => {
                let ders = pem::decode_certificates(text).map_err(|error| {
                    Error::invalid(format!("unable to parse bundle data: {error}"))
                })?;
                let authority = |asn1| pb::types::X509Certificate { asn1, tainted: false };
                Ok(pb::types::Bundle {
                    trust_domain: trust_domain.as_str().to_owned(),
                    x509_authorities: ders.into_iter().map(authority).collect(),
                    ..Default::default()
                })
            }
            Self::Spiffe => {
                let bundle = document::from_json(trust_domain, text).map_err(|error| {
                    Error::invalid(format!("unable to parse to spiffe bundle: {error}"))
                })?;
                Ok(convert::bundle::to_pb(&bundle))
            }
        }
    }
}

/// Writes the bundle in the format.
pub(crate) fn write_bundle(
    out: &mut (dyn Write + Send),
    message: &pb::types::Bundle,
    format: BundleFormat,
) -> Result<(), Error> {
    let bundle = convert::bundle::with_taints_from_pb(message)
        .map_err(|error| Error::invalid(format!("unable to read the server's bundle: {error}")))?;
    match format {
        BundleFormat::Pem => {
            let ders: Vec<Vec<u8>> = bundle
                .x509_authorities
                .into_iter()
                .map(|authority| authority.certificate_der)
                .collect();
            write!(out, "{}", pem::encode_certificates(&ders))?;
        }
        BundleFormat::Spiffe => {
            let options = DocumentOptions { include_sequence: true, jwks_only: false };
            writeln!(out, "{}", document::to_json(&bundle, options).trim_end())?;
        }
    }
    Ok(())
}

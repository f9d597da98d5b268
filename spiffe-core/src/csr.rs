//! Certificate requests (PKCS#10).
//!
//! Owns what a server takes from one: key, subject, URI and DNS names. Everything else a request
//! asks for is ignored. Reading a request and checking its own signature are separate calls, since
//! SPIRE does not check it for agents (`spec/spire-semantics.md` 4.6) and it costs ninety times the
//! parse.

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::ALL_VERIFICATION_ALGS;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension, SubjectAlternativeName};
use x509_parser::prelude::FromDer as _;

use crate::der::{self, Malformed, Reader};
use crate::limits::CSR_BYTES_MAX;
use crate::public_key;

/// Why a certificate request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("certificate request is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    /// Not a request in DER.
    #[error("malformed certificate request: {0}")]
    Malformed(String),
    /// A name in the request is not valid text.
    #[error("certificate request has a malformed subject alternative name")]
    BadName,
    /// The signature's algorithm is not one of those that certificates may have.
    #[error("certificate request has an unsupported signature algorithm")]
    UnsupportedAlgorithm,
    /// The signature is not the key's.
    #[error("certificate request has an invalid signature")]
    BadSignature,
}

impl From<Malformed> for CsrError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What a server takes from a certificate request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The key to certify, as SubjectPublicKeyInfo in DER.
    pub public_key_spki: Vec<u8>,
    /// The requested subject (a Name in DER).
    pub subject_der: Vec<u8>,
    /// Whether the subject has no attribute at all.
    pub subject_is_empty: bool,
    /// Requested URI names, in order, not checked.
    pub uris: Vec<String>,
    /// Requested DNS names, in order, not checked.
    pub dns_names: Vec<String>,
}

impl CertificateRequest {
    /// Reads a request. Does not check its signature.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong);
        }
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed("trailing data".to_owned()));
        }
        let info = &request.certification_request_info;
        public_key::split_spki(info.subject_pki.raw)?;
        let mut parsed = Self {
            public_key_spki: info.subject_pki.raw.to_vec(),
            subject_der: info.subject.as_raw().to_vec(),
            subject_is_empty: info.subject.iter().next().is_none(),
            uris: Vec::new(),
            dns_names: Vec::new(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            parsed.take_names(extension)?;
        }
        Ok(parsed)
    }

    /// Checks that the request is signed by the key it asks to certify.
    pub fn verify_signature(der: &[u8]) -> Result<(), CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong);
        }
        let mut fields = Reader::new(der::read_single(der, der::SEQUENCE)?);
        let info = fields.expect(der::SEQUENCE)?;
        let signature_algorithm = fields.expect(der::SEQUENCE)?.content;
        let signature = der::whole_bits(fields.expect(der::BIT_STRING)?.content)?;
        fields.end()?;

        let mut info_fields = Reader::new(info.content);
        info_fields.expect(der::INTEGER)?;
        info_fields.expect(der::SEQUENCE)?;
        let spki = info_fields.expect(der::SEQUENCE)?.raw;
        let (key_algorithm, key_bits) = public_key::split_spki(spki)?;

        let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
        };
        let algorithm =
            ALL_VERIFICATION_ALGS.iter().find(fits).ok_or(CsrError::UnsupportedAlgorithm)?;
        algorithm
            .verify_signature(key_bits, info.raw, signature)
            .map_err(|_invalid| CsrError::BadSignature)
    }

    fn take_names(&mut self, extension: &ParsedExtension<'_>) -> Result<(), CsrError> {
        if let ParsedExtension::ParseError { .. } = extension {
            return Err(CsrError::BadName);
        }
        let ParsedExtension::SubjectAlternativeName(SubjectAlternativeName { general_names }) =
            extension
        else {
            return Ok(());
        };
        for name in general_names {
            if let GeneralName::URI(uri) = name {
                self.uris.push((*uri).to_owned());
            } else if let GeneralName::DNSName(dns_name) = name {
                self.dns_names.push((*dns_name).to_owned());
            } else if let GeneralName::Invalid(..) = name {
                return Err(CsrError::BadName);
            }
        }
        Ok(())
    }
}

//! Reads certificates.
//!
//! Owns the facts that the server stores and compares about any certificate, and the form that the
//! X509-SVID standard demands of a leaf and of the chain above it (sections 2 to 4). Says nothing of
//! trust: see `verify`.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::error::X509Error;
use crate::agent::Serial;
use crate::id::SpiffeId;
use crate::time::Timestamp;

/// An X.509-SVID of the form that the standard demands. Not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Svid {
    /// Whom the leaf names.
    pub id: SpiffeId,
    /// The certificates in DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's serial number.
    pub serial: Serial,
    /// When the leaf's lifetime begins.
    pub not_before: Timestamp,
    /// When the leaf's lifetime ends.
    pub not_after: Timestamp,
    /// The leaf's DNS names, in order.
    pub dns_names: Vec<String>,
    /// The leaf's AuthorityKeyId; empty = none.
    pub authority_key_id: Vec<u8>,
    /// The leaf's SubjectKeyId; empty = none.
    pub subject_key_id: Vec<u8>,
}

impl X509Svid {
    /// Reads a chain, leaf first, and checks its form.
    pub fn parse_chain(chain_der: &[Vec<u8>]) -> Result<Self, X509Error> {
        let (leaf_der, above) = chain_der.split_first().ok_or(X509Error::EmptyChain)?;
        let leaf = Parsed::read(leaf_der)?;
        let id = leaf.spiffe_id()?;
        leaf.check_leaf()?;
        for der in above {
            Parsed::read(der)?.check_intermediate()?;
        }
        Ok(Self {
            id,
            chain_der: chain_der.to_vec(),
            serial: leaf.facts.serial,
            not_before: leaf.facts.not_before,
            not_after: leaf.facts.not_after,
            dns_names: leaf.dns_names,
            authority_key_id: leaf.facts.authority_key_id,
            subject_key_id: leaf.facts.subject_key_id,
        })
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// SubjectKeyId; empty = none.
    pub subject_key_id: Vec<u8>,
    /// When the lifetime begins.
    pub not_before: Timestamp,
    /// When the lifetime ends.
    pub not_after: Timestamp,
    /// The subject (a Name in DER).
    pub subject_der: Vec<u8>,
    /// The issuer (a Name in DER).
    pub issuer_der: Vec<u8>,
    /// Whether basic constraints are there and say CA.
    pub is_ca: bool,
    /// URI names, in order, not checked.
    pub uris: Vec<String>,
    /// The serial number.
    pub serial: Serial,
    /// The key as SubjectPublicKeyInfo in DER.
    pub spki: Vec<u8>,
    /// AuthorityKeyId; empty = none.
    pub authority_key_id: Vec<u8>,
    /// How many CA certificates may stand between it and a leaf; `None`: any number.
    pub path_len: Option<u32>,
    /// Whether its key may sign certificates: it says so, or says nothing of what the key is for.
    pub may_sign_certificates: bool,
}

/// Reads one certificate in DER.
pub fn certificate_facts(der: &[u8]) -> Result<CertificateFacts, X509Error> {
    Ok(Parsed::read(der)?.facts)
}

/// A certificate as this file reads it.
struct Parsed {
    facts: CertificateFacts,
    dns_names: Vec<String>,
    key_usage: Option<KeyUsage>,
}

impl Parsed {
    fn read(der: &[u8]) -> Result<Self, X509Error> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|error| X509Error::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(X509Error::Malformed("trailing data".to_owned()));
        }
        let mut parsed = Self {
            facts: CertificateFacts {
                subject_key_id: Vec::new(),
                not_before: Timestamp::from_unix_s(certificate.validity().not_before.timestamp()),
                not_after: Timestamp::from_unix_s(certificate.validity().not_after.timestamp()),
                subject_der: certificate.subject().as_raw().to_vec(),
                issuer_der: certificate.issuer().as_raw().to_vec(),
                is_ca: false,
                uris: Vec::new(),
                serial: Serial::from_be_bytes(certificate.raw_serial()),
                spki: certificate.public_key().raw.to_vec(),
                authority_key_id: Vec::new(),
                path_len: None,
                may_sign_certificates: true,
            },
            dns_names: Vec::new(),
            key_usage: None,
        };
        for extension in certificate.extensions() {
            parsed.take(extension.parsed_extension())?;
        }
        Ok(parsed)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is another crate's, and what we do not read we do not judge"
    )]
    fn take(&mut self, extension: &ParsedExtension<'_>) -> Result<(), X509Error> {
        match extension {
            ParsedExtension::SubjectKeyIdentifier(id) => {
                self.facts.subject_key_id = id.0.to_vec();
            }
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                let id = authority.key_identifier.as_ref();
                self.facts.authority_key_id = id.map(|id| id.0.to_vec()).unwrap_or_default();
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.facts.is_ca = constraints.ca;
                self.facts.path_len = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.facts.may_sign_certificates = usage.key_cert_sign();
                self.key_usage = Some(*usage);
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.take_name(name)?;
                }
            }
            ParsedExtension::ParseError { error } => {
                return Err(X509Error::Malformed(format!("extension: {error}")));
            }
            _ => {}
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is another crate's, and what we do not read we do not judge"
    )]
    fn take_name(&mut self, name: &GeneralName<'_>) -> Result<(), X509Error> {
        match name {
            GeneralName::URI(uri) => self.facts.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns_name) => self.dns_names.push((*dns_name).to_owned()),
            GeneralName::Invalid(..) => {
                return Err(X509Error::Malformed("subject alternative name".to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    fn spiffe_id(&self) -> Result<SpiffeId, X509Error> {
        match self.facts.uris.as_slice() {
            [] => Err(X509Error::NoUri),
            [uri] => Ok(SpiffeId::parse(uri)?),
            [_, _, ..] => Err(X509Error::ManyUris),
        }
    }

    fn check_leaf(&self) -> Result<(), X509Error> {
        if self.facts.is_ca {
            return Err(X509Error::LeafIsCa);
        }
        if !self.may(KeyUsage::digital_signature) {
            return Err(X509Error::LeafCannotSign);
        }
        if self.may(KeyUsage::key_cert_sign) {
            return Err(X509Error::LeafSignsCertificates);
        }
        if self.may(KeyUsage::crl_sign) {
            return Err(X509Error::LeafSignsCrls);
        }
        Ok(())
    }

    fn check_intermediate(&self) -> Result<(), X509Error> {
        if !self.facts.is_ca {
            return Err(X509Error::IntermediateNotCa);
        }
        if !self.may(KeyUsage::key_cert_sign) {
            return Err(X509Error::IntermediateCannotSign);
        }
        Ok(())
    }

    fn may(&self, usage: fn(&KeyUsage) -> bool) -> bool {
        self.key_usage.as_ref().is_some_and(usage)
    }
}

//! Writes certificates in SPIRE's profile.
//!
//! Owns the bytes: fields, extensions, their order and criticality as Go's `crypto/x509` emits them
//! (`spec/spire-semantics.md` 4.1, 4.2). Leaves to the caller what goes in: ids, lifetimes (already
//! backdated and capped), serials. Issuer name and public key are copied as raw bytes, so that an
//! upstream CA with an unusual encoding still chains.

use aws_lc_rs::digest;

use super::error::X509Error;
use super::name::Name;
use super::parse::certificate_facts;
use crate::agent::Serial;
use crate::der;
use crate::id::SpiffeId;
use crate::key::KeyType;
use crate::public_key;
use crate::signer::Signer;
use crate::time::Timestamp;
use crate::trust_domain::TrustDomain;

// Contents of AlgorithmIdentifier: OID and parameters.
const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ECDSA_SHA512: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
const RSA_SHA256: &[u8] =
    &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];

// Last arcs of the extensions' OIDs 2.5.29.n.
const SUBJECT_KEY_ID: u8 = 14;
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY_ID: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;

/// digitalSignature, keyEncipherment, keyAgreement: a BIT STRING with three unused bits.
const LEAF_KEY_USAGE: &[u8] = &[der::BIT_STRING, 2, 3, 0b1010_1000];
/// keyCertSign, cRLSign: a BIT STRING with one unused bit.
const CA_KEY_USAGE: &[u8] = &[der::BIT_STRING, 2, 1, 0b0000_0110];
/// serverAuth, clientAuth.
const LEAF_EXTENDED_KEY_USAGE: &[u8] = &[
    der::SEQUENCE,
    20, //
    der::OID,
    8,
    0x2b,
    6,
    1,
    5,
    5,
    7,
    3,
    1, //
    der::OID,
    8,
    0x2b,
    6,
    1,
    5,
    5,
    7,
    3,
    2,
];
const LEAF_CONSTRAINTS: &[u8] = &[der::SEQUENCE, 0];
const CA_CONSTRAINTS: &[u8] = &[der::SEQUENCE, 3, der::BOOLEAN, 1, 0xff];
/// The attribute of a certificate request that holds extensions, 1.2.840.113549.1.9.14.
const EXTENSION_REQUEST: &[u8] =
    &[der::OID, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const CRITICAL: &[u8] = &[der::BOOLEAN, 1, 0xff];

/// What a certificate says of its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerIdentity {
    /// The issuer's subject (a Name in DER), copied byte by byte.
    pub name_der: Vec<u8>,
    /// The issuer's SubjectKeyId.
    pub key_id: Vec<u8>,
}

impl IssuerIdentity {
    /// Takes it from a CA certificate in DER. A certificate without a SubjectKeyId gets the one
    /// that SPIRE would have given it.
    pub fn from_certificate(der: &[u8]) -> Result<Self, X509Error> {
        let facts = certificate_facts(der)?;
        let key_id = if facts.subject_key_id.is_empty() {
            subject_key_id(&facts.spki)?.to_vec()
        } else {
            facts.subject_key_id
        };
        Ok(Self { name_der: facts.subject_der, key_id })
    }
}

/// What goes into a leaf certificate.
#[derive(Clone, Debug)]
pub struct LeafTemplate<'a> {
    /// The one URI name.
    pub spiffe_id: &'a SpiffeId,
    /// DNS names, in order; the first also becomes the common name.
    pub dns_names: &'a [String],
    /// The subject, before its common name is set.
    pub subject: LeafSubject<'a>,
    /// Whether the subject also names the SPIFFE id, as SPIRE's composer "uniqueid" has it.
    pub unique_id: bool,
    /// The certified key as SubjectPublicKeyInfo in DER.
    pub public_key_spki: &'a [u8],
    /// Big-endian serial number; not zero.
    pub serial: [u8; 16],
    /// When the lifetime begins; rounded down to a second.
    pub not_before: Timestamp,
    /// When the lifetime ends; rounded down to a second.
    pub not_after: Timestamp,
}

/// The subject of a leaf certificate.
#[derive(Clone, Copy, Debug)]
pub enum LeafSubject<'a> {
    /// C=US, O=SPIRE.
    Default,
    /// A Name in DER, as a certificate request brought it; an empty one means the default.
    Given(&'a [u8]),
}

/// The configured subject of a self-signed CA (`ca_subject`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaSubject {
    /// Values of C.
    pub country: Vec<String>,
    /// Values of O.
    pub organization: Vec<String>,
    /// CN; empty = none.
    pub common_name: String,
}

/// What goes into a CA certificate below another.
#[derive(Clone, Debug)]
pub struct DownstreamTemplate<'a> {
    /// The trust domain; becomes the one URI name.
    pub trust_domain: &'a TrustDomain,
    /// The subject.
    pub subject: DownstreamSubject<'a>,
    /// The certified key as SubjectPublicKeyInfo in DER.
    pub public_key_spki: &'a [u8],
    /// Big-endian serial number; not zero.
    pub serial: [u8; 16],
    /// When the lifetime begins; rounded down to a second.
    pub not_before: Timestamp,
    /// When the lifetime ends; rounded down to a second.
    pub not_after: Timestamp,
}

/// The subject of a CA certificate below another.
#[derive(Clone, Copy, Debug)]
pub enum DownstreamSubject<'a> {
    /// The issuer's, with the organizational unit `DOWNSTREAM-n`: a server's CA below a server. The n
    /// is the length of the issuing CA's own chain, 1 when it is self-signed.
    Depth(usize),
    /// A Name in DER, as the certificate request brought it.
    Given(&'a [u8]),
}

/// SHA-1 of the key bits: SPIRE's SubjectKeyId.
pub fn subject_key_id(spki: &[u8]) -> Result<[u8; 20], X509Error> {
    public_key::key_id(spki).map_err(|_malformed| X509Error::BadPublicKey)
}

/// The X.500 unique identifier of a SPIFFE id: the first half of its SHA-256, in hex.
fn unique_id(id: &SpiffeId) -> String {
    let hash = digest::digest(&digest::SHA256, id.to_string().as_bytes());
    hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes and signs an X.509-SVID; returns the certificate in DER.
pub fn sign_leaf(
    issuer: &IssuerIdentity,
    signer: &dyn Signer,
    template: &LeafTemplate<'_>,
) -> Result<Vec<u8>, X509Error> {
    let mut subject = match template.subject {
        LeafSubject::Default => Name::default(),
        LeafSubject::Given(name_der) => Name::parse(name_der)?,
    };
    if subject == Name::default() {
        subject = Name::of("US", "SPIRE");
    }
    if let Some(first) = template.dns_names.first() {
        subject.common_name = Some(first.clone());
    }
    if template.unique_id {
        subject.unique_identifier = Some(unique_id(template.spiffe_id));
    }
    let subject_key_id = subject_key_id(template.public_key_spki)?;
    let extensions = [
        extension(KEY_USAGE, true, LEAF_KEY_USAGE),
        extension(EXTENDED_KEY_USAGE, false, LEAF_EXTENDED_KEY_USAGE),
        extension(BASIC_CONSTRAINTS, true, LEAF_CONSTRAINTS),
        key_id_extension(&subject_key_id),
        authority_key_id_extension(&issuer.key_id),
        alt_name_extension(template.dns_names, &template.spiffe_id.to_string()),
    ];
    Certificate {
        issuer_der: &issuer.name_der,
        subject_der: &subject.encode(),
        public_key_spki: template.public_key_spki,
        serial: template.serial,
        not_before: template.not_before,
        not_after: template.not_after,
        extensions: &extensions,
    }
    .sign(signer)
}

/// Writes and signs a CA certificate below another; returns it in DER.
pub fn sign_downstream_ca(
    issuer: &IssuerIdentity,
    signer: &dyn Signer,
    template: &DownstreamTemplate<'_>,
) -> Result<Vec<u8>, X509Error> {
    let subject_der = match template.subject {
        DownstreamSubject::Depth(depth) => {
            let mut subject = Name::parse(&issuer.name_der)?;
            subject.organizational_unit = vec![format!("DOWNSTREAM-{depth}")];
            subject.encode()
        }
        DownstreamSubject::Given(name_der) => name_der.to_vec(),
    };
    let subject_key_id = subject_key_id(template.public_key_spki)?;
    let extensions = [
        extension(KEY_USAGE, true, CA_KEY_USAGE),
        extension(BASIC_CONSTRAINTS, true, CA_CONSTRAINTS),
        key_id_extension(&subject_key_id),
        authority_key_id_extension(&issuer.key_id),
        alt_name_extension(&[], &template.trust_domain.id_string()),
    ];
    Certificate {
        issuer_der: &issuer.name_der,
        subject_der: &subject_der,
        public_key_spki: template.public_key_spki,
        serial: template.serial,
        not_before: template.not_before,
        not_after: template.not_after,
        extensions: &extensions,
    }
    .sign(signer)
}

/// Writes and self-signs the CA certificate of a server; returns it in DER. Without a configured
/// subject (or with an empty one) its name is C=US, O=SPIFFE; either way the serial number in decimal
/// is added, which keeps the names of successive authorities apart.
pub fn self_signed_ca(
    trust_domain: &TrustDomain,
    subject: Option<&CaSubject>,
    signer: &dyn Signer,
    serial: [u8; 16],
    not_before: Timestamp,
    not_after: Timestamp,
) -> Result<Vec<u8>, X509Error> {
    let subject_der = ca_name(subject, serial).encode();
    let spki = signer.public_key_spki();
    let extensions = [
        extension(KEY_USAGE, true, CA_KEY_USAGE),
        extension(BASIC_CONSTRAINTS, true, CA_CONSTRAINTS),
        key_id_extension(&subject_key_id(spki)?),
        // No AuthorityKeyId: Go's encoder omits it where issuer and subject are the same.
        alt_name_extension(&[], &trust_domain.id_string()),
    ];
    Certificate {
        issuer_der: &subject_der,
        subject_der: &subject_der,
        public_key_spki: spki,
        serial,
        not_before,
        not_after,
        extensions: &extensions,
    }
    .sign(signer)
}

/// Writes and signs the request for a CA certificate of this trust domain, with the names that
/// [`self_signed_ca`] would give it; returns it in DER.
pub fn ca_request(
    trust_domain: &TrustDomain,
    subject: Option<&CaSubject>,
    signer: &dyn Signer,
    serial: [u8; 16],
) -> Result<Vec<u8>, X509Error> {
    let subject_der = ca_name(subject, serial).encode();
    let names = der::sequence(&[&alt_name_extension(&[], &trust_domain.id_string())]);
    let values = der::element(der::SET, &[&names]);
    let attribute = der::sequence(&[EXTENSION_REQUEST, &values]);
    let attributes = der::element(der::context_constructed(0), &[&attribute]);
    let version = [der::INTEGER, 1, 0];
    let spki = signer.public_key_spki();
    let to_be_signed = der::sequence(&[&version, &subject_der, spki, &attributes]);
    let algorithm = der::sequence(&[signature_algorithm(signer.key_type())]);
    let signature = signer.sign_x509(&to_be_signed)?;
    Ok(der::sequence(&[&to_be_signed, &algorithm, &der::bit_string(0, &signature)]))
}

/// What a Name in DER says of what [`CaSubject`] has, and its serial number.
pub fn read_ca_subject(name_der: &[u8]) -> Result<(CaSubject, Option<String>), X509Error> {
    let Name { country, organization, common_name, serial_number, .. } = Name::parse(name_der)?;
    let common_name = common_name.unwrap_or_default();
    Ok((CaSubject { country, organization, common_name }, serial_number))
}

fn ca_name(subject: Option<&CaSubject>, serial: [u8; 16]) -> Name {
    let named = match subject {
        Some(given) if *given != CaSubject::default() => Name {
            country: given.country.clone(),
            organization: given.organization.clone(),
            common_name: Some(given.common_name.clone()).filter(|name| !name.is_empty()),
            ..Name::default()
        },
        Some(_) | None => Name::of("US", "SPIFFE"),
    };
    Name { serial_number: Some(Serial::from_be_bytes(&serial).to_string()), ..named }
}

/// The fields of a certificate to be written.
struct Certificate<'a> {
    issuer_der: &'a [u8],
    subject_der: &'a [u8],
    public_key_spki: &'a [u8],
    serial: [u8; 16],
    not_before: Timestamp,
    not_after: Timestamp,
    extensions: &'a [Vec<u8>],
}

impl Certificate<'_> {
    fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, X509Error> {
        let algorithm = der::sequence(&[signature_algorithm(signer.key_type())]);
        let to_be_signed = self.encode(&algorithm)?;
        let signature = signer.sign_x509(&to_be_signed)?;
        Ok(der::sequence(&[&to_be_signed, &algorithm, &der::bit_string(0, &signature)]))
    }

    fn encode(&self, algorithm: &[u8]) -> Result<Vec<u8>, X509Error> {
        if self.serial == [0; 16] {
            return Err(X509Error::ZeroSerial);
        }
        if self.not_after.unix_s() <= self.not_before.unix_s() {
            return Err(X509Error::BadLifetime);
        }
        let not_before = der::time(self.not_before).ok_or(X509Error::BadLifetime)?;
        let not_after = der::time(self.not_after).ok_or(X509Error::BadLifetime)?;
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        Ok(der::sequence(&[
            &[0xa0, 3, der::INTEGER, 1, 2], // [0] version 3
            &der::unsigned_integer(&self.serial),
            algorithm,
            self.issuer_der,
            &der::sequence(&[&not_before, &not_after]),
            self.subject_der,
            self.public_key_spki,
            &der::element(der::context_constructed(3), &[&der::sequence(&extensions)]),
        ]))
    }
}

fn signature_algorithm(key_type: KeyType) -> &'static [u8] {
    match key_type {
        KeyType::EcP256 => ECDSA_SHA256,
        KeyType::EcP384 => ECDSA_SHA384,
        KeyType::EcP521 => ECDSA_SHA512,
        KeyType::Rsa2048 | KeyType::Rsa4096 => RSA_SHA256,
    }
}

fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let oid = [der::OID, 3, 0x55, 0x1d, number];
    let critical = if critical { CRITICAL } else { &[] };
    der::sequence(&[&oid, critical, &der::element(der::OCTET_STRING, &[value])])
}

fn key_id_extension(key_id: &[u8]) -> Vec<u8> {
    extension(SUBJECT_KEY_ID, false, &der::element(der::OCTET_STRING, &[key_id]))
}

fn authority_key_id_extension(key_id: &[u8]) -> Vec<u8> {
    let value = der::sequence(&[&der::element(der::context(0), &[key_id])]);
    extension(AUTHORITY_KEY_ID, false, &value)
}

/// DNS names before the URI, as Go orders them. Never critical: no certificate of ours has an empty
/// subject.
fn alt_name_extension(dns_names: &[String], uri: &str) -> Vec<u8> {
    let mut names = Vec::new();
    for dns_name in dns_names {
        names.extend(der::element(der::context(2), &[dns_name.as_bytes()]));
    }
    names.extend(der::element(der::context(6), &[uri.as_bytes()]));
    extension(SUBJECT_ALT_NAME, false, &der::sequence(&[&names]))
}

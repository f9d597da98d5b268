//! What a presented certificate says, as far as attestation uses it.
//!
//! Pure parsing. Whether the certificate is to be trusted is decided in `chains`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use steeple_spiffe_core::Serial;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use crate::attest::path_template::Value;

/// A parsed certificate.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// SHA-1 of the DER form in lower-case hex: SPIRE's fingerprint.
    pub(super) fingerprint: String,
    /// The serial in lower-case hex with an even number of digits.
    pub(super) serial_hex: String,
    /// The serial in decimal.
    pub(super) serial: Serial,
    /// The subject's common name; empty when there is none.
    pub(super) common_name: String,
    /// URI SANs, as they stand.
    pub(super) uris: Vec<String>,
    /// DNS SANs.
    pub(super) dns_names: Vec<String>,
    /// IP SANs.
    pub(super) ip_addresses: Vec<IpAddr>,
    /// Whether the key may make digital signatures.
    pub(super) may_sign: bool,
    /// The key.
    pub(super) key: Key,
    subject: Value,
    issuer: Value,
}

/// A public key that can answer a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// RSA: `RSAPublicKey` in DER, and the modulus' size.
    Rsa { der: Vec<u8>, bits: usize },
    /// ECDSA: an uncompressed point.
    Ec { curve: Curve, point: Vec<u8> },
    /// Anything else.
    Unsupported,
}

/// Curves of ECDSA keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Certificate {
    /// Parses a certificate in DER.
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("trailing data".to_owned());
        }
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|extension| extension.value.general_names.as_slice());
        let names = names.unwrap_or_default();
        let usage = certificate.key_usage().map_err(|error| error.to_string())?;
        let serial = significant(certificate.raw_serial());
        Ok(Self {
            fingerprint: fingerprint(der),
            serial_hex: if serial.is_empty() { "00".to_owned() } else { hex(serial) },
            serial: Serial::from_be_bytes(serial),
            common_name: common_name(certificate.subject()),
            uris: names.iter().filter_map(uri).collect(),
            dns_names: names.iter().filter_map(dns_name).collect(),
            ip_addresses: names.iter().filter_map(ip_address).collect(),
            may_sign: usage.is_some_and(|extension| extension.value.digital_signature()),
            key: key(&certificate),
            subject: name_fields(certificate.subject()),
            issuer: name_fields(certificate.issuer()),
        })
    }

    /// The size of an RSA modulus; `None` for other keys.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        match self.key {
            Key::Rsa { bits, .. } => Some(bits),
            Key::Ec { .. } | Key::Unsupported => None,
        }
    }

    /// The fields that agent path templates may use, with Go's names.
    pub(super) fn template_fields(&self) -> BTreeMap<String, Value> {
        let list = |texts: &[String]| {
            Value::List(texts.iter().map(|text| Value::from(text.as_str())).collect())
        };
        let addresses: Vec<String> = self.ip_addresses.iter().map(ToString::to_string).collect();
        let fields = [
            ("Subject", self.subject.clone()),
            ("Issuer", self.issuer.clone()),
            ("SerialNumber", Value::from(self.serial.as_str())),
            ("SerialNumberHex", Value::from(self.serial_hex.as_str())),
            ("Fingerprint", Value::from(self.fingerprint.as_str())),
            ("DNSNames", list(&self.dns_names)),
            ("URIs", list(&self.uris)),
            ("IPAddresses", list(&addresses)),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// SHA-1 of a certificate's DER form in lower-case hex.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

/// Lower-case hex.
pub(in crate::attest) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number's bytes without leading zeroes.
fn significant(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

fn common_name(name: &X509Name<'_>) -> String {
    // Go keeps the last one when a name has several.
    texts(name.iter_common_name()).pop().unwrap_or_default()
}

fn texts<'a>(
    attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Vec<String> {
    attributes.filter_map(|one| one.as_str().ok()).map(str::to_owned).collect()
}

fn name_fields(name: &X509Name<'_>) -> Value {
    let list = |texts: Vec<String>| Value::List(texts.into_iter().map(Value::from).collect());
    let fields = [
        ("CommonName", Value::from(common_name(name))),
        ("Country", list(texts(name.iter_country()))),
        ("Organization", list(texts(name.iter_organization()))),
        ("OrganizationalUnit", list(texts(name.iter_organizational_unit()))),
        ("Locality", list(texts(name.iter_locality()))),
        ("Province", list(texts(name.iter_state_or_province()))),
    ];
    Value::Map(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
}

fn key(certificate: &X509Certificate<'_>) -> Key {
    let spki = certificate.public_key();
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => Key::Rsa {
            der: spki.subject_public_key.data.to_vec(),
            bits: bit_length(significant(rsa.modulus)),
        },
        Ok(PublicKey::EC(point)) => {
            let parameters = spki.algorithm.parameters.as_ref();
            let curve = parameters.and_then(|any| any.as_oid().ok()).and_then(|oid| {
                let known = [
                    (OID_EC_P256, Curve::P256),
                    (OID_NIST_EC_P384, Curve::P384),
                    (OID_NIST_EC_P521, Curve::P521),
                ];
                known.into_iter().find(|(id, _)| *id == oid).map(|(_, curve)| curve)
            });
            match curve {
                Some(curve) => Key::Ec { curve, point: point.data().to_vec() },
                None => Key::Unsupported,
            }
        }
        Ok(_) | Err(_) => Key::Unsupported,
    }
}

fn bit_length(bytes: &[u8]) -> usize {
    let Some(first) = bytes.first() else { return 0 };
    let leading = usize::try_from(first.leading_zeros()).unwrap_or(0);
    bytes.len() * 8 - leading
}

fn uri(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }
}

fn ip_address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_length| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
}

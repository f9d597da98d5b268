//! Bundles and the authorities in them, both ways.
//!
//! Owns the check of certificates and keys at the border: an authority that no verifier could read
//! never enters the state. Requests may not taint (`from_pb`); an agent takes the taints of its
//! server's answer (`with_taints_from_pb`). WIT authorities are checked and dropped: only the cluster's
//! own are ever kept, and they go one way.

use steeple_spiffe_core::Timestamp;
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::entry_mask::keep;
use super::error::AuthorityError;
use super::{ConvertError, id};
use crate::pb;

/// The mask that stands for an absent one: every field.
pub const ALL: pb::types::BundleMask = pb::types::BundleMask {
    x509_authorities: true,
    jwt_authorities: true,
    refresh_hint: true,
    sequence_number: true,
    wit_authorities: true,
};

/// A bundle of a request. Taints are dropped: only the server itself taints.
pub fn from_pb(message: &pb::types::Bundle) -> Result<Bundle, ConvertError> {
    let mut bundle = with_taints_from_pb(message)?;
    for authority in &mut bundle.x509_authorities {
        authority.tainted = false;
    }
    for authority in &mut bundle.jwt_authorities {
        authority.tainted = false;
    }
    Ok(bundle)
}

/// A bundle of a server's answer, with its taints.
pub fn with_taints_from_pb(message: &pb::types::Bundle) -> Result<Bundle, ConvertError> {
    let trust_domain =
        id::trust_domain(&message.trust_domain).map_err(ConvertError::BundleTrustDomain)?;
    let x509_authorities = x509_authorities_from_pb(&message.x509_authorities)?;
    let jwt_authorities = jwt_authorities_from_pb(&message.jwt_authorities)?;
    for key in &message.wit_authorities {
        check_key(&key.public_key, &key.key_id).map_err(ConvertError::WitAuthority)?;
    }
    Ok(Bundle {
        trust_domain,
        x509_authorities,
        jwt_authorities,
        wit_authorities: Vec::new(),
        refresh_hint_s: message.refresh_hint,
        sequence_number: message.sequence_number,
    })
}

/// The stored bundle with the fields of a request's mask taken from the request, the others as they
/// were. SPIRE's mask of WIT authorities does nothing, ours neither.
pub fn apply_update(stored: &mut Bundle, update: Bundle, mask: Option<&pb::types::BundleMask>) {
    let mask = mask.unwrap_or(&ALL);
    if mask.x509_authorities {
        stored.x509_authorities = update.x509_authorities;
    }
    if mask.jwt_authorities {
        stored.jwt_authorities = update.jwt_authorities;
    }
    if mask.refresh_hint {
        stored.refresh_hint_s = update.refresh_hint_s;
    }
    if mask.sequence_number {
        stored.sequence_number = update.sequence_number;
    }
}

/// X.509 authorities with the taints of the message. One message may hold several certificates, one
/// after the other; each becomes an authority of its own.
pub fn x509_authorities_from_pb(
    messages: &[pb::types::X509Certificate],
) -> Result<Vec<X509Authority>, ConvertError> {
    let mut authorities = Vec::with_capacity(messages.len());
    for message in messages {
        let ders = split_certificates(&message.asn1).map_err(ConvertError::X509Authority)?;
        authorities.extend(
            ders.into_iter().map(|der| X509Authority {
                certificate_der: der.to_vec(),
                tainted: message.tainted,
            }),
        );
    }
    Ok(authorities)
}

/// JWT authorities with the taints of the messages.
pub fn jwt_authorities_from_pb(
    messages: &[pb::types::JwtKey],
) -> Result<Vec<JwtAuthority>, ConvertError> {
    messages.iter().map(jwt_authority_from_pb).collect()
}

/// One JWT authority with the taint of the message.
pub fn jwt_authority_from_pb(message: &pb::types::JwtKey) -> Result<JwtAuthority, ConvertError> {
    check_key(&message.public_key, &message.key_id).map_err(ConvertError::JwtAuthority)?;
    Ok(JwtAuthority {
        key_id: message.key_id.clone(),
        public_key_der: message.public_key.clone(),
        expires_at: (message.expires_at != 0).then(|| Timestamp::from_unix_s(message.expires_at)),
        tainted: message.tainted,
    })
}

/// The message of a bundle, every field filled.
pub fn to_pb(bundle: &Bundle) -> pb::types::Bundle {
    pb::types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        x509_authorities: bundle.x509_authorities.iter().map(x509_authority_to_pb).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt_authority_to_pb).collect(),
        refresh_hint: bundle.refresh_hint_s,
        sequence_number: bundle.sequence_number,
        wit_authorities: bundle.wit_authorities.iter().map(wit_authority_to_pb).collect(),
    }
}

/// The message of an X.509 authority.
pub fn x509_authority_to_pb(authority: &X509Authority) -> pb::types::X509Certificate {
    pb::types::X509Certificate {
        asn1: authority.certificate_der.clone(),
        tainted: authority.tainted,
    }
}

/// The message of a JWT authority.
pub fn jwt_authority_to_pb(authority: &JwtAuthority) -> pb::types::JwtKey {
    pb::types::JwtKey {
        public_key: authority.public_key_der.clone(),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at.map_or(0, Timestamp::unix_s),
        tainted: authority.tainted,
    }
}

/// The message of a WIT authority.
fn wit_authority_to_pb(authority: &JwtAuthority) -> pb::types::WitKey {
    let pb::types::JwtKey { public_key, key_id, expires_at, tainted } =
        jwt_authority_to_pb(authority);
    pb::types::WitKey { public_key, key_id, expires_at, tainted }
}

/// Empties the fields that the mask leaves out; without a mask all stay.
pub fn apply_mask(bundle: &mut pb::types::Bundle, mask: Option<&pb::types::BundleMask>) {
    let Some(mask) = mask else { return };
    // Without `..`: a new field of the mask does not compile until it is treated here.
    let pb::types::BundleMask {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
        wit_authorities,
    } = *mask;
    keep(x509_authorities, &mut bundle.x509_authorities);
    keep(jwt_authorities, &mut bundle.jwt_authorities);
    keep(refresh_hint, &mut bundle.refresh_hint);
    keep(sequence_number, &mut bundle.sequence_number);
    keep(wit_authorities, &mut bundle.wit_authorities);
}

/// Cuts concatenated certificates. No certificate at all is fine, as it is in Go.
fn split_certificates(mut ders: &[u8]) -> Result<Vec<&[u8]>, AuthorityError> {
    let mut certificates = Vec::new();
    while !ders.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(ders).map_err(|_why| AuthorityError::Certificate)?;
        let length = ders.len() - rest.len();
        let (certificate, rest) =
            ders.split_at_checked(length).ok_or(AuthorityError::Certificate)?;
        certificates.push(certificate);
        ders = rest;
    }
    Ok(certificates)
}

fn check_key(public_key_der: &[u8], key_id: &str) -> Result<(), AuthorityError> {
    let parsed = SubjectPublicKeyInfo::from_der(public_key_der);
    let (rest, key) = parsed.map_err(|_why| AuthorityError::PublicKey)?;
    if !rest.is_empty() || key.parsed().is_err() {
        return Err(AuthorityError::PublicKey);
    }
    if key_id.is_empty() { Err(AuthorityError::MissingKeyId) } else { Ok(()) }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;

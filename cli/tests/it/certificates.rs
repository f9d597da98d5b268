//! Certificates for the fakes: lifetimes are fixed, keys are new each time.
//!
//! Owns their making through the crate that verifies them; the tests compare texts, not keys.

use steeple_spiffe_core::svid::x509::{
    IssuerIdentity, LeafSubject, LeafTemplate, self_signed_ca, sign_leaf,
};
use steeple_spiffe_core::{KeyType, LocalSigner, Secret, Signer as _, SpiffeId, Timestamp};

use crate::driver::NOW;

/// An authority.
pub(crate) struct Ca {
    pub(crate) der: Vec<u8>,
    signer: LocalSigner,
}

/// A leaf and its key.
pub(crate) struct Leaf {
    pub(crate) der: Vec<u8>,
    pub(crate) key: Secret,
}

impl Ca {
    /// An authority from an hour ago to in a day.
    pub(crate) fn new(trust_domain: &str) -> Self {
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).expect("keys can be made");
        let trust_domain = trust_domain.parse().expect("a trust domain");
        let (from, to) = (at(-3600), at(24 * 3600));
        let der = self_signed_ca(&trust_domain, None, &signer, [1; 16], from, to);
        Self { der: der.expect("a valid template"), signer }
    }

    /// A leaf from ten seconds ago to in an hour.
    pub(crate) fn leaf(&self, id: &str) -> Leaf {
        let (signer, key) = LocalSigner::generate(KeyType::EcP256).expect("keys can be made");
        let template = LeafTemplate {
            spiffe_id: &SpiffeId::parse(id).expect("a SPIFFE id"),
            dns_names: &[],
            subject: LeafSubject::Default,
            unique_id: false,
            public_key_spki: signer.public_key_spki(),
            serial: [2; 16],
            not_before: at(-10),
            not_after: at(3600),
        };
        let issuer = IssuerIdentity::from_certificate(&self.der).expect("a certificate");
        let der = sign_leaf(&issuer, &self.signer, &template).expect("a valid template");
        Leaf { der, key }
    }
}

fn at(offset_s: i64) -> Timestamp {
    Timestamp::from_unix_s(NOW + offset_s)
}

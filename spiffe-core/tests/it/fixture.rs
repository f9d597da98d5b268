//! What the tests share: a trust domain, authorities and leaves made by the crate itself.

use std::sync::Arc;

use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::svid::x509::{
    IssuerIdentity, LeafSubject, LeafTemplate, self_signed_ca, sign_leaf,
};
use steeple_spiffe_core::{KeyType, LocalSigner, Secret, Signer, SpiffeId, Timestamp, TrustDomain};

/// 2025-11-21T23:59:59Z: the time at which the tests play.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_s(1_763_769_599)
}

pub(crate) fn seconds(count: u64) -> std::time::Duration {
    std::time::Duration::from_secs(count)
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(trust_domain(), path).expect("a SPIFFE id")
}

pub(crate) fn key(key_type: KeyType) -> (LocalSigner, Secret) {
    LocalSigner::generate(key_type).expect("a key")
}

/// A self-signed authority.
#[derive(Debug)]
pub(crate) struct Ca {
    pub(crate) signer: LocalSigner,
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) issuer: IssuerIdentity,
}

impl Ca {
    pub(crate) fn new(key_type: KeyType, serial: u8) -> Self {
        Self::valid(key_type, serial, now().minus(seconds(10)), now().plus(seconds(86_400)))
    }

    pub(crate) fn valid(
        key_type: KeyType,
        serial: u8,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Self {
        let (signer, _) = key(key_type);
        let mut number = [0; 16];
        number[15] = serial;
        let certificate_der =
            self_signed_ca(&trust_domain(), None, &signer, number, not_before, not_after)
                .expect("a CA certificate");
        let issuer = IssuerIdentity::from_certificate(&certificate_der).expect("an issuer");
        Self { signer, certificate_der, issuer }
    }

    pub(crate) fn authority(&self) -> X509Authority {
        X509Authority { certificate_der: self.certificate_der.clone(), tainted: false }
    }

    /// A leaf of an hour for the path, and its key.
    pub(crate) fn leaf(&self, path: &str) -> (Vec<u8>, Secret) {
        let (signer, secret) = key(KeyType::EcP256);
        let workload = id(path);
        let template = template_of(&workload, signer.public_key_spki(), &[]);
        (sign_leaf(&self.issuer, &self.signer, &template).expect("a leaf"), secret)
    }
}

/// The arguments of a leaf of one hour.
pub(crate) fn template_of<'a>(
    spiffe_id: &'a SpiffeId,
    public_key_spki: &'a [u8],
    dns_names: &'a [String],
) -> LeafTemplate<'a> {
    LeafTemplate {
        spiffe_id,
        dns_names,
        subject: LeafSubject::Default,
        unique_id: false,
        public_key_spki,
        serial: [0x8f; 16],
        not_before: now().minus(seconds(10)),
        not_after: now().plus(seconds(3600)),
    }
}

pub(crate) fn bundle(x509: Vec<X509Authority>, jwt: Vec<JwtAuthority>) -> Arc<Bundle> {
    let mut bundle = Bundle::empty(trust_domain());
    bundle.x509_authorities = x509;
    bundle.jwt_authorities = jwt;
    Arc::new(bundle)
}

pub(crate) fn jwt_authority(key_id: &str, signer: &LocalSigner) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.to_owned(),
        public_key_der: signer.public_key_spki().to_vec(),
        expires_at: None,
        tainted: false,
    }
}

//! A small authority: signs servers, agents, workloads and tokens of one trust domain.

use std::sync::Arc;
use std::time::Duration;

use steeple_api::convert;
use steeple_api::pb;
use steeple_spiffe_core::bundle::{Bundle, JwtAuthority, X509Authority};
use steeple_spiffe_core::random::{Random as _, SystemRandom};
use steeple_spiffe_core::svid::jwt::{JwtClaims, sign_jwt_svid};
use steeple_spiffe_core::svid::x509::{
    IssuerIdentity, LeafSubject, LeafTemplate, self_signed_ca, sign_leaf,
};
use steeple_spiffe_core::time::SystemClock;
use steeple_spiffe_core::tls::Identity;
use steeple_spiffe_core::{
    CertificateRequest, Clock as _, KeyType, LocalSigner, Signer as _, SpiffeId, Timestamp,
    TrustDomain,
};

#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    signer: LocalSigner,
    root_der: Vec<u8>,
    token_signer: LocalSigner,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Arc<Self> {
        let trust_domain = TrustDomain::parse(trust_domain).expect("trust domain");
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).expect("key");
        let (token_signer, _) = LocalSigner::generate(KeyType::EcP256).expect("key");
        let (from, until) = validity(Duration::from_secs(3600));
        let root_der = self_signed_ca(&trust_domain, None, &signer, serial(), from, until);
        let root_der = root_der.expect("root");
        Arc::new(Self { trust_domain, signer, root_der, token_signer })
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        bundle.x509_authorities =
            vec![X509Authority { certificate_der: self.root_der.clone(), tainted: false }];
        bundle.jwt_authorities = vec![JwtAuthority {
            key_id: "token-key".to_owned(),
            public_key_der: self.token_signer.public_key_spki().to_vec(),
            expires_at: None,
            tainted: false,
        }];
        bundle
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(self.trust_domain.clone(), path).expect("id")
    }

    pub(crate) fn server_identity(&self) -> Arc<Identity> {
        let (signer, key) = LocalSigner::generate(KeyType::EcP256).expect("key");
        let id = SpiffeId::server(self.trust_domain.clone());
        let leaf = self.leaf(&id, signer.public_key_spki(), Duration::from_secs(3600));
        Identity::new(vec![leaf], &key).expect("identity")
    }

    pub(crate) fn svid(&self, id: &SpiffeId, csr: &[u8], ttl: Duration) -> pb::types::X509svid {
        CertificateRequest::verify_signature(csr).expect("CSR signature");
        let request = CertificateRequest::parse(csr).expect("CSR");
        pb::types::X509svid {
            cert_chain: vec![self.leaf(id, &request.public_key_spki, ttl)],
            id: Some(convert::id::to_pb(id)),
            expires_at: validity(ttl).1.unix_s(),
            hint: String::new(),
        }
    }

    pub(crate) fn token(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
    ) -> pb::types::Jwtsvid {
        let now = SystemClock.now();
        let claims = JwtClaims {
            subject: id,
            audience,
            issued_at: now,
            expires_at: now.plus(ttl),
            issuer: Some("test"),
            jwt_id: None,
        };
        let token = sign_jwt_svid(&self.token_signer, "token-key", &claims).expect("token");
        let id = Some(convert::id::to_pb(id));
        pb::types::Jwtsvid { token, id, ..Default::default() }
    }

    fn leaf(&self, id: &SpiffeId, spki: &[u8], ttl: Duration) -> Vec<u8> {
        let (not_before, not_after) = validity(ttl);
        let template = LeafTemplate {
            spiffe_id: id,
            dns_names: &[],
            subject: LeafSubject::Default,
            unique_id: false,
            public_key_spki: spki,
            serial: serial(),
            not_before,
            not_after,
        };
        let issuer = IssuerIdentity::from_certificate(&self.root_der).expect("issuer");
        sign_leaf(&issuer, &self.signer, &template).expect("leaf")
    }
}

fn validity(ttl: Duration) -> (Timestamp, Timestamp) {
    let now = SystemClock.now().floor_to_second();
    (now.minus(Duration::from_secs(10)), now.plus(ttl))
}

fn serial() -> [u8; 16] {
    let mut serial = [0; 16];
    SystemRandom.fill(&mut serial);
    serial
}

//! An upstream authority in memory, for tests: it signs, lies or fails as it is told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::bundle::JwtAuthority;
use steeple_spiffe_core::signer::{LocalSigner, Signer as _};
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, self_signed_ca, sign_downstream_ca,
};
use steeple_spiffe_core::{CertificateRequest, KeyType, Timestamp, TrustDomain};

use super::authority::{MintedCa, UpstreamAuthority, UpstreamError, UpstreamTrust};

/// What the fake does next.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    /// Signs for so long.
    Signs(Duration),
    /// Is not there.
    Fails,
    /// Signs, and changes what it answers.
    Lies(fn(&mut MintedCa)),
    /// Certifies a key of its own.
    OtherKey,
    /// Signs for another trust domain.
    OtherTrustDomain,
}

/// A root and an intermediate, which signs.
#[derive(Debug)]
pub(crate) struct Fake {
    signer: LocalSigner,
    issuer: IssuerIdentity,
    pub(crate) intermediate: Vec<u8>,
    pub(crate) root: Vec<u8>,
    start: Timestamp,
    mood: Mutex<Mood>,
    /// What it publishes; `None`: it does not say.
    pub(crate) trust: Mutex<Option<UpstreamTrust>>,
}

impl Fake {
    pub(crate) fn new(start: Timestamp, mood: Mood) -> Self {
        let pki = TrustDomain::parse("pki.example").unwrap();
        let (from, to) = (start.minus(LONG), start.plus(LONG));
        let (root_key, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let root = self_signed_ca(&pki, None, &root_key, [3; 16], from, to).unwrap();
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).unwrap();
        let template = DownstreamTemplate {
            trust_domain: &pki,
            subject: DownstreamSubject::Depth(1),
            public_key_spki: signer.public_key_spki(),
            serial: [4; 16],
            not_before: from,
            not_after: to,
        };
        let above = IssuerIdentity::from_certificate(&root).unwrap();
        let intermediate = sign_downstream_ca(&above, &root_key, &template).unwrap();
        let issuer = IssuerIdentity::from_certificate(&intermediate).unwrap();
        let (mood, trust) = (Mutex::new(mood), Mutex::new(None));
        Self { signer, issuer, intermediate, root, start, mood, trust }
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }
}

const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

#[tonic::async_trait]
impl UpstreamAuthority for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn mint(&self, csr: &[u8], _: Duration) -> Result<MintedCa, UpstreamError> {
        let mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut ttl, mut name, mut change): (_, _, fn(&mut MintedCa)) =
            (Duration::from_secs(24 * 3600), "example.org", |_| {});
        let mut request = CertificateRequest::parse(csr).unwrap();
        match mood {
            Mood::Signs(wanted) => ttl = wanted,
            Mood::Fails => return Err(UpstreamError::Timeout(Duration::ZERO)),
            Mood::Lies(lie) => change = lie,
            Mood::OtherKey => request.public_key_spki = self.signer.public_key_spki().to_vec(),
            Mood::OtherTrustDomain => name = "other.org",
        }
        let template = DownstreamTemplate {
            trust_domain: &TrustDomain::parse(name).unwrap(),
            subject: DownstreamSubject::Given(&request.subject_der),
            public_key_spki: &request.public_key_spki,
            serial: [5; 16],
            not_before: self.start.minus(Duration::from_secs(10)),
            not_after: self.start.plus(ttl),
        };
        let certificate = sign_downstream_ca(&self.issuer, &self.signer, &template).unwrap();
        let mut minted = MintedCa {
            chain: vec![certificate, self.intermediate.clone()],
            roots: vec![self.root.clone()],
        };
        change(&mut minted);
        Ok(minted)
    }

    async fn publish_jwt_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Option<Vec<JwtAuthority>>, UpstreamError> {
        if let Mood::Fails = *self.mood.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(UpstreamError::Timeout(Duration::ZERO));
        }
        let mut trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(trust.as_mut().map(|trust| {
            trust.jwt_authorities.push(key.clone());
            trust.jwt_authorities.clone()
        }))
    }

    async fn trust(&self) -> Result<Option<UpstreamTrust>, UpstreamError> {
        Ok(self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

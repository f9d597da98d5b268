//! `UpstreamAuthority "disk"`: a CA certificate and its key in files.
//!
//! Owns SPIRE's three keys and its checks and texts. The files are read at the start and again for each
//! certificate, so that a new pair needs no restart; a pair that cannot be used leaves the one before in
//! place. Each member signs with its own copy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::bundle::{Bundle, X509Authority};
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::signer::{LocalSigner, SignError, Signer};
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, X509Error, certificate_facts,
    sign_downstream_ca,
};
use steeple_spiffe_core::{CertificateRequest, Clock, Timestamp, TrustDomain, pem};

use super::authority::{MintedCa, UpstreamAuthority, UpstreamError};
use super::files::{certificates, read};
use super::standing::Standing;
use crate::authority::{BACKDATE, check_chain_of_authorities, random_serial};

/// Lifetime of a certificate for which none is asked (SPIRE: 1 h).
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// The plugin's configuration keys, as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSettings {
    /// `cert_file_path`.
    pub cert_file_path: PathBuf,
    /// `key_file_path`.
    pub key_file_path: PathBuf,
    /// `bundle_file_path`; without it the certificate is its own root.
    pub bundle_file_path: Option<PathBuf>,
}

/// The files cannot be used, or nothing can be signed with them. Texts are SPIRE's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The key's file cannot be used.
    #[error("unable to load upstream CA key: {0}")]
    Key(String),
    /// The certificate's file cannot be used.
    #[error("unable to load upstream CA cert: {0}")]
    Certificate(String),
    /// The file of roots cannot be used.
    #[error("unable to load upstream CA bundle: {0}")]
    Bundle(String),
    /// A chain without its root.
    #[error(
        "with no bundle_file_path configured only self-signed CAs are supported; put the root into a \
         file of its own and name it in bundle_file_path"
    )]
    NotSelfSigned,
    /// Two halves of different pairs.
    #[error(
        "unable to load upstream CA: certificate and private key do not match; put a certificate and \
         its own key into cert_file_path and key_file_path"
    )]
    Mismatch,
    /// The first certificate may sign no certificates.
    #[error(
        "unable to load upstream CA: certificate is no CA: {0}; put a CA certificate into \
         cert_file_path"
    )]
    NotCa(&'static str),
    /// The first certificate is not valid now.
    #[error(
        "unable to load upstream CA: certificate {0}; put one that is valid now, with its key, into \
         cert_file_path and key_file_path, or mend this machine's clock"
    )]
    NotValidNow(&'static str),
    /// The first certificate leads to no root.
    #[error(
        "unable to load upstream CA: certificate cannot be validated with the provided bundle or is \
         not self-signed: {0}; put the root that it leads to into bundle_file_path, and what stands \
         between into cert_file_path"
    )]
    Untrusted(String),
    /// The request is not one for this trust domain's CA.
    #[error("unable to sign CSR: {0}")]
    Request(String),
    /// The certificate could not be written.
    #[error("unable to sign CSR")]
    Sign(#[from] X509Error),
    /// The thread that signed was cancelled.
    #[error("process is shutting down")]
    ShuttingDown,
}

/// Signs with a key from a file.
#[derive(Clone, Debug)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: DiskSettings,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// What was read last and could be used.
    pair: Mutex<Arc<Pair>>,
}

/// What the files hold, checked.
#[derive(Debug)]
struct Pair {
    signer: LocalSigner,
    issuer: IssuerIdentity,
    not_after: Timestamp,
    /// The first end among the certificate, those above it and its root, and how long that one lives.
    first_end: (Timestamp, Duration),
    /// The certificate and those above it; nothing if it is the root.
    chain: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
}

impl Disk {
    /// Reads the files and checks them.
    pub fn configure(
        settings: DiskSettings,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, DiskError> {
        let pair = Pair::load(&settings, &trust_domain, clock.now(), random.as_ref())?;
        let pair = Mutex::new(Arc::new(pair));
        Ok(Self { inner: Arc::new(Inner { settings, trust_domain, clock, random, pair }) })
    }
}

#[tonic::async_trait]
impl UpstreamAuthority for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn look(&self) -> Option<Standing> {
        let (pair, refused) = self.inner.reload(self.inner.clock.now());
        let (not_after, lifetime) = pair.first_end;
        Some(Standing { not_after, lifetime, refused: refused.map(|error| error.to_string()) })
    }

    async fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        let (inner, csr) = (Arc::clone(&self.inner), csr.to_vec());
        // Files and perhaps an RSA key: not on the threads that serve connections.
        let minted = tokio::task::spawn_blocking(move || inner.mint(&csr, preferred_ttl)).await;
        Ok(minted.map_err(|_cancelled| DiskError::ShuttingDown)??)
    }
}

impl Inner {
    fn mint(&self, csr: &[u8], preferred_ttl: Duration) -> Result<MintedCa, DiskError> {
        let request = self.check_request(csr)?;
        let now = self.clock.now();
        let (pair, refused) = self.reload(now);
        if let Some(error) = refused {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "Upstream CA files cannot be used; the CA before them signs");
        }
        let ttl = if preferred_ttl.is_zero() { DEFAULT_TTL } else { preferred_ttl };
        let template = DownstreamTemplate {
            trust_domain: &self.trust_domain,
            subject: DownstreamSubject::Given(&request.subject_der),
            public_key_spki: &request.public_key_spki,
            serial: random_serial(self.random.as_ref()),
            not_before: now.minus(BACKDATE).floor_to_second(),
            not_after: now.plus(ttl).min(pair.not_after).floor_to_second(),
        };
        let certificate = sign_downstream_ca(&pair.issuer, &pair.signer, &template)?;
        let mut chain = vec![certificate];
        chain.extend(pair.chain.iter().cloned());
        Ok(MintedCa { chain, roots: pair.roots.clone() })
    }

    /// What the files hold now, or what they held when they could last be used, and why.
    fn reload(&self, now: Timestamp) -> (Arc<Pair>, Option<DiskError>) {
        let loaded = Pair::load(&self.settings, &self.trust_domain, now, self.random.as_ref());
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match loaded {
            Ok(loaded) => {
                *pair = Arc::new(loaded);
                None
            }
            Err(error) => Some(error),
        };
        (Arc::clone(&pair), refused)
    }

    /// A request that proves its key and asks for the CA of this trust domain.
    fn check_request(&self, csr: &[u8]) -> Result<CertificateRequest, DiskError> {
        let refuse = |text: String| DiskError::Request(text);
        let request = CertificateRequest::parse(csr)
            .map_err(|error| refuse(format!("unable to parse CSR: {error}")))?;
        CertificateRequest::verify_signature(csr)
            .map_err(|error| refuse(format!("CSR signature check failed: {error}")))?;
        let [uri] = request.uris.as_slice() else {
            return Err(refuse("CSR must have exactly one URI SAN".to_owned()));
        };
        if *uri != self.trust_domain.id_string() {
            return Err(refuse(format!(
                "CSR with SPIFFE ID {uri:?} is invalid: must use the trust domain ID for trust \
                 domain {:?}",
                self.trust_domain.as_str()
            )));
        }
        Ok(request)
    }
}

impl Pair {
    fn load(
        settings: &DiskSettings,
        trust_domain: &TrustDomain,
        now: Timestamp,
        random: &dyn Random,
    ) -> Result<Self, DiskError> {
        let key = read(&settings.key_file_path).map_err(DiskError::Key)?;
        let key = pem::decode_private_key(&key).map_err(|error| {
            DiskError::Key(format!("{}: {error}", settings.key_file_path.display()))
        })?;
        let signer = LocalSigner::from_pkcs8(key.expose()).map_err(|error: SignError| {
            DiskError::Key(format!("{}: {error}", settings.key_file_path.display()))
        })?;
        let certificates =
            certificates(&settings.cert_file_path).map_err(DiskError::Certificate)?;
        let (chain, roots) = match (&settings.bundle_file_path, certificates.as_slice()) {
            (None, [_]) => (Vec::new(), certificates.clone()),
            (None, _) => return Err(DiskError::NotSelfSigned),
            (Some(path), _) => {
                (certificates.clone(), super::files::certificates(path).map_err(DiskError::Bundle)?)
            }
        };
        let first = certificates.first().ok_or(DiskError::NotSelfSigned)?;
        let facts =
            certificate_facts(first).map_err(|error| DiskError::Certificate(error.to_string()))?;
        if facts.spki != signer.public_key_spki() {
            return Err(DiskError::Mismatch);
        }
        if !facts.is_ca {
            return Err(DiskError::NotCa("its basic constraints do not say so"));
        }
        if !facts.may_sign_certificates {
            return Err(DiskError::NotCa("its key usage lacks keyCertSign"));
        }
        if facts.path_len == Some(0) {
            return Err(DiskError::NotCa(
                "its path length constraint of 0 lets no CA stand below it, and the server's would",
            ));
        }
        if now < facts.not_before {
            return Err(DiskError::NotValidNow("is not valid yet"));
        }
        if now >= facts.not_after {
            return Err(DiskError::NotValidNow("has expired"));
        }
        let issuer = IssuerIdentity::from_certificate(first)?;
        let bundle = bundle(trust_domain, &roots);
        check_chain_of_authorities(&issuer, &signer, &chain, &bundle, now, random)
            .map_err(|error| DiskError::Untrusted(error.to_string()))?;
        // Of several roots those that verify what is signed.
        let verifies = |root: &&Vec<u8>| {
            let alone = self::bundle(trust_domain, std::slice::from_ref(*root));
            check_chain_of_authorities(&issuer, &signer, &chain, &alone, now, random).is_ok()
        };
        let used: Vec<_> = roots.iter().filter(verifies).cloned().collect();
        let first_end = first_end(&certificates, &used)?;
        Ok(Self { signer, issuer, not_after: facts.not_after, first_end, chain, roots })
    }
}

/// The end of the certificate that ends first, and its life in all. Of several roots that verify the
/// others one is enough, so the one that ends last counts.
fn first_end(
    certificates: &[Vec<u8>],
    roots: &[Vec<u8>],
) -> Result<(Timestamp, Duration), DiskError> {
    let lives = |ders: &[Vec<u8>]| -> Result<Vec<_>, DiskError> {
        let life = |der: &Vec<u8>| {
            let facts = certificate_facts(der)?;
            Ok((facts.not_after, facts.not_after.since(facts.not_before)))
        };
        ders.iter().map(life).collect::<Result<_, X509Error>>().map_err(DiskError::from)
    };
    let root = lives(roots)?.into_iter().max();
    let first = lives(certificates)?.into_iter().chain(root).min();
    first.ok_or(DiskError::NotSelfSigned)
}

fn bundle(trust_domain: &TrustDomain, roots: &[Vec<u8>]) -> Bundle {
    let root = |der: &Vec<u8>| X509Authority { certificate_der: der.clone(), tainted: false };
    Bundle {
        x509_authorities: roots.iter().map(root).collect(),
        ..Bundle::empty(trust_domain.clone())
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;

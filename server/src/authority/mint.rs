//! Makes new authorities: key, certificate or key id, sealed private half.
//!
//! Owns what a fresh authority looks like; that it becomes one is decided by the log
//! (`PrepareAuthority`). Generating RSA keys takes up to a second: call on a blocking thread.

use std::sync::Arc;

use steeple_raft_store::{ClusterId, ClusterKeys};
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::signer::{LocalSigner, SignError, Signer};
use steeple_spiffe_core::svid::x509::{X509Error, certificate_facts, self_signed_ca};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus, Timestamp, TrustDomain};

use super::policy::{AuthorityPolicy, BACKDATE};
use crate::keys::{SealContext, SealKeyError, seal_key};

/// Letters of a JWT key id, as SPIRE draws them.
const KEY_ID_ALPHABET: &[u8; 62] =
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Length of a JWT key id: 32 letters of 62 are 190 bits.
const KEY_ID_LENGTH: usize = 32;

/// An authority cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// No key could be generated.
    #[error("generate authority key")]
    Key(#[from] SignError),
    /// The CA certificate could not be written, or does not pass the checks on CA certificates.
    #[error("write CA certificate")]
    Certificate(#[from] X509Error),
    /// What was signed is no CA certificate of this trust domain.
    #[error("minted CA certificate is invalid: {0}")]
    Invalid(&'static str),
    /// The private key could not be sealed.
    #[error("seal authority key")]
    Seal(#[from] SealKeyError),
    /// The thread that made it was cancelled.
    #[error("process is shutting down")]
    ShuttingDown,
}

/// Makes authorities of one trust domain.
#[derive(Clone, Debug)]
pub struct Minter {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Key types, lifetimes and subject.
    pub policy: Arc<AuthorityPolicy>,
    /// What private keys are sealed with.
    pub keys: Arc<ClusterKeys>,
    /// Serials, key ids and nonces.
    pub random: Arc<dyn Random>,
}

impl Minter {
    /// As [`Self::mint`], on a thread that may block.
    pub async fn mint_in_background(
        &self,
        kind: AuthorityKind,
        cluster_id: ClusterId,
        now: Timestamp,
    ) -> Result<Authority, MintError> {
        let minter = self.clone();
        let minted = tokio::task::spawn_blocking(move || minter.mint(kind, cluster_id, now)).await;
        minted.map_err(|_cancelled| MintError::ShuttingDown)?
    }

    /// Makes an authority that is to be prepared. Blocks while a key is generated.
    pub fn mint(
        &self,
        kind: AuthorityKind,
        cluster_id: ClusterId,
        now: Timestamp,
    ) -> Result<Authority, MintError> {
        let not_after = now.plus(self.policy.ca_ttl).floor_to_second();
        let (id, public_der, pkcs8) = match kind {
            AuthorityKind::X509 => {
                let (signer, pkcs8) = LocalSigner::generate(self.policy.ca_key_type)?;
                let certificate = self.certificate(&signer, now, not_after)?;
                let id = check_ca(&certificate, &self.trust_domain, now)?;
                (id, certificate, pkcs8)
            }
            AuthorityKind::Jwt => {
                let (signer, pkcs8) = LocalSigner::generate(self.policy.jwt_key_type)?;
                (self.key_id(), signer.public_key_spki().to_vec(), pkcs8)
            }
        };
        let context = SealContext { cluster_id, kind, authority_id: &id };
        let sealed_key = seal_key(&self.keys, self.random.as_ref(), &context, &pkcs8)?;
        Ok(Authority {
            id,
            kind,
            status: AuthorityStatus::Prepared,
            public_der,
            upstream_chain: Vec::new(),
            sealed_key,
            issued_at: now,
            not_after,
            tainted: false,
        })
    }

    fn certificate(
        &self,
        signer: &LocalSigner,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<Vec<u8>, X509Error> {
        let not_before = now.minus(BACKDATE).floor_to_second();
        let serial = random_serial(self.random.as_ref());
        let subject = self.policy.ca_subject.as_ref();
        self_signed_ca(&self.trust_domain, subject, signer, serial, not_before, not_after)
    }

    fn key_id(&self) -> AuthorityId {
        let mut drawn = [0u8; KEY_ID_LENGTH];
        self.random.fill(&mut drawn);
        let letter = |byte: u8| KEY_ID_ALPHABET.get(usize::from(byte) % KEY_ID_ALPHABET.len());
        let text: String =
            drawn.into_iter().filter_map(letter).map(|letter| char::from(*letter)).collect();
        AuthorityId::new(text)
    }
}

/// A certificate serial: 128 random bits, never zero.
pub(super) fn random_serial(random: &dyn Random) -> [u8; 16] {
    let mut serial = [0; 16];
    while serial == [0; 16] {
        random.fill(&mut serial);
    }
    serial
}

/// The checks on a CA certificate before it is published; returns its authority id.
fn check_ca(
    certificate: &[u8],
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<AuthorityId, MintError> {
    let facts = certificate_facts(certificate)?;
    if !facts.is_ca {
        return Err(MintError::Invalid("basic constraints do not make it a CA"));
    }
    if facts.uris != [trust_domain.id_string()] {
        return Err(MintError::Invalid("URI SAN is not the trust domain"));
    }
    if now < facts.not_before || now >= facts.not_after {
        return Err(MintError::Invalid("it is not valid now"));
    }
    Ok(AuthorityId::from_subject_key_id(&facts.subject_key_id))
}

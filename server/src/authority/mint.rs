//! Makes new authorities: key, certificate or key id, sealed private half.
//!
//! Owns what a fresh authority looks like; that it becomes one is decided by the log
//! (`PrepareAuthority`, below an upstream authority `PrepareChained`). Generating RSA keys takes up to a second: call on a blocking thread.

use std::sync::Arc;

use steeple_raft_store::{ClusterId, ClusterKeys, Command};
use steeple_spiffe_core::authority::{Authority, AuthorityKind, SealedKey};
use steeple_spiffe_core::bundle::JwtAuthority;
use steeple_spiffe_core::random::Random;
use steeple_spiffe_core::signer::{LocalSigner, SignError, Signer};
use steeple_spiffe_core::svid::x509::{X509Error, ca_request, certificate_facts, self_signed_ca};
use steeple_spiffe_core::{AuthorityId, AuthorityStatus, KeyType, Secret, Timestamp, TrustDomain};

use super::chained::check_minted;
use super::policy::{AuthorityPolicy, BACKDATE};
use super::told::go_time;
use crate::keys::{SealContext, SealKeyError, seal_key};
use crate::upstream::{Upstream, UpstreamError};

/// Letters of a JWT or WIT key id, as SPIRE draws them.
const KEY_ID_ALPHABET: &[u8; 62] =
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Length of a JWT or WIT key id: 32 letters of 62 are 190 bits.
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
    /// What the upstream authority signed does not lead to the roots that it named.
    #[error("X509 CA minted by upstream authority is invalid")]
    Unchained(#[source] X509Error),
    /// The upstream authority signed nothing.
    #[error("upstream authority {name:?} signed no CA certificate")]
    Upstream {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: UpstreamError,
    },
    /// The upstream authority did not publish a JWT key.
    #[error("upstream authority {name:?} did not publish the JWT key")]
    Unpublished {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: UpstreamError,
    },
    /// The cluster cannot publish what an upstream authority signs.
    #[error(
        "an upstream authority needs feature level {needs}, the cluster is at {level}: finalize the \
         upgrade (spire-server cluster upgrade finalize)"
    )]
    NeedsLevel {
        /// What is needed.
        needs: u32,
        /// What there is.
        level: u32,
    },
    /// What the upstream authority signed would end before what signs now.
    #[error(
        "upstream authority signs nothing that ends after {}, when the present authority ends too; \
         renew the upstream CA certificate",
        go_time(*.ends)
    )]
    EndsTooSoon {
        /// When the present authority ends.
        ends: Timestamp,
    },
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
    /// Who signs X.509 authorities; `None`: they are self-signed.
    pub upstream: Option<Upstream>,
}

/// A fresh authority.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The authority, prepared.
    pub authority: Authority,
    /// The upstream roots that it chains to, in DER; none for what stands for itself.
    pub roots: Vec<Vec<u8>>,
}

impl Minted {
    /// The command that publishes it, for the journal of a revision.
    pub fn prepare(&self, expected_journal: u64) -> Command {
        let authority = Box::new(self.authority.clone());
        if self.roots.is_empty() {
            return Command::PrepareAuthority { expected_journal, authority };
        }
        Command::PrepareChained { expected_journal, authority, roots: self.roots.clone() }
    }
}

impl Minter {
    /// Makes an authority that is to be prepared, for an operator.
    pub async fn mint_in_background(
        &self,
        kind: AuthorityKind,
        cluster_id: ClusterId,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        if let (AuthorityKind::X509, Some(upstream)) = (kind, &self.upstream) {
            return self.mint_below(upstream, cluster_id, now).await;
        }
        let minter = self.clone();
        let minted = tokio::task::spawn_blocking(move || minter.mint(kind, cluster_id, now)).await;
        let authority = minted.map_err(|_cancelled| MintError::ShuttingDown)??;
        if let (AuthorityKind::Jwt, Some(upstream)) = (kind, &self.upstream) {
            let key = JwtAuthority {
                key_id: authority.id.as_str().to_owned(),
                public_key_der: authority.public_der.clone(),
                expires_at: Some(authority.not_after),
                tainted: false,
            };
            // Whoever looks above must know it before it signs; the others' keys come with the next look.
            let published = upstream.publish_jwt_key(&key).await;
            published.map_err(|source| MintError::Unpublished { name: upstream.name(), source })?;
        }
        Ok(Minted { authority, roots: Vec::new() })
    }

    /// As [`Self::mint_in_background`], for a rotation: what an upstream authority signs must end after
    /// the authority that it is to follow.
    pub async fn mint_longer(
        &self,
        kind: AuthorityKind,
        cluster_id: ClusterId,
        now: Timestamp,
        active: Option<&Authority>,
    ) -> Result<Minted, MintError> {
        let minted = self.mint_in_background(kind, cluster_id, now).await?;
        let is_chained = !minted.roots.is_empty();
        let ends_no_later =
            |active: &&Authority| is_chained && minted.authority.not_after <= active.not_after;
        match active.filter(ends_no_later) {
            Some(active) => Err(MintError::EndsTooSoon { ends: active.not_after }),
            None => Ok(minted),
        }
    }

    /// As [`Self::mint_longer`], by schedule: an upstream authority that failed is left alone for a
    /// while.
    pub async fn mint_successor(
        &self,
        kind: AuthorityKind,
        cluster_id: ClusterId,
        now: Timestamp,
        active: Option<&Authority>,
    ) -> Result<Minted, MintError> {
        let Some(upstream) = self.upstream.as_ref().filter(|_| kind == AuthorityKind::X509) else {
            return self.mint_in_background(kind, cluster_id, now).await;
        };
        upstream.check_pause().map_err(|source| upstream_failed(upstream, source))?;
        let minted = self.mint_longer(kind, cluster_id, now, active).await;
        upstream.note(minted.is_ok());
        minted
    }

    /// Makes a key and has its certificate signed.
    async fn mint_below(
        &self,
        upstream: &Upstream,
        cluster_id: ClusterId,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let minter = self.clone();
        let requested = tokio::task::spawn_blocking(move || minter.request()).await;
        let (signer, pkcs8, csr) = requested.map_err(|_cancelled| MintError::ShuttingDown)??;
        let minted = upstream
            .mint(&csr, self.policy.ca_ttl)
            .await
            .map_err(|source| upstream_failed(upstream, source))?;
        let random = self.random.as_ref();
        let facts = check_minted(&minted, &signer, &self.trust_domain, now, random)?;
        if facts.not_after < now.plus(self.policy.ca_ttl / 2) {
            let ends = facts.not_after.unix_s();
            tracing::warn!(
                ends,
                "Upstream authority gave less than half of ca_ttl; its own CA certificate may end soon"
            );
        }
        let id = AuthorityId::from_subject_key_id(&facts.subject_key_id);
        let (kind, mut chain) = (AuthorityKind::X509, minted.chain.into_iter());
        let authority = Authority {
            sealed_key: self.seal(kind, &id, cluster_id, &pkcs8)?,
            id,
            kind,
            status: AuthorityStatus::Prepared,
            public_der: chain.next().unwrap_or_default(),
            upstream_chain: chain.collect(),
            issued_at: now,
            not_after: facts.not_after,
            tainted: false,
        };
        Ok(Minted { authority, roots: minted.roots })
    }

    /// A key and the request for its certificate. Blocks while the key is generated.
    fn request(&self) -> Result<(LocalSigner, Secret, Vec<u8>), MintError> {
        let (signer, pkcs8) = LocalSigner::generate(self.policy.ca_key_type)?;
        let serial = random_serial(self.random.as_ref());
        let subject = self.policy.ca_subject.as_ref();
        let csr = ca_request(&self.trust_domain, subject, &signer, serial)?;
        Ok((signer, pkcs8, csr))
    }

    /// Makes an authority that stands for itself. Blocks while a key is generated.
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
            AuthorityKind::Jwt => self.key(self.policy.jwt_key_type)?,
            AuthorityKind::Wit => self.key(self.policy.wit_key_type)?,
        };
        Ok(Authority {
            sealed_key: self.seal(kind, &id, cluster_id, &pkcs8)?,
            id,
            kind,
            status: AuthorityStatus::Prepared,
            public_der,
            upstream_chain: Vec::new(),
            issued_at: now,
            not_after,
            tainted: false,
        })
    }

    /// A key that is published by its id: the id, the public half and the private one.
    fn key(&self, key_type: KeyType) -> Result<(AuthorityId, Vec<u8>, Secret), SignError> {
        let (signer, pkcs8) = LocalSigner::generate(key_type)?;
        Ok((self.key_id(), signer.public_key_spki().to_vec(), pkcs8))
    }

    fn seal(
        &self,
        kind: AuthorityKind,
        authority_id: &AuthorityId,
        cluster_id: ClusterId,
        pkcs8: &Secret,
    ) -> Result<SealedKey, SealKeyError> {
        let context = SealContext { cluster_id, kind, authority_id };
        seal_key(&self.keys, self.random.as_ref(), &context, pkcs8)
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

fn upstream_failed(upstream: &Upstream, source: UpstreamError) -> MintError {
    MintError::Upstream { name: upstream.name(), source }
}

/// A certificate serial: 128 random bits, never zero.
pub(crate) fn random_serial(random: &dyn Random) -> [u8; 16] {
    let mut serial = [0; 16];
    while serial == [0; 16] {
        random.fill(&mut serial);
    }
    serial
}

/// The checks on a CA certificate that was signed here, before anyone sees it; returns its authority id.
pub(super) fn check_ca(
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

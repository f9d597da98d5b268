//! The server's own X509-SVID, `spiffe://TRUST_DOMAIN/spire/server`.
//!
//! Owns its key (in memory only, new with each rotation) and its renewal at half of its life, or at
//! once when its authority is tainted; under an authority that agents may not know yet not before most of
//! its life is over, since they could not come to fetch it. The identity is one atomic pointer that the listeners read;
//! a renewal that fails leaves the old one in place and is tried again.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use steeple_spiffe_core::signer::{LocalSigner, SignError, Signer};
use steeple_spiffe_core::tls::{Identity, TlsError};
use steeple_spiffe_core::{Clock, SpiffeId, Timestamp, TrustDomain};
use tokio_util::sync::CancellationToken;

use super::chained::leads_to;
use super::evidence::Survey;
use super::issuer::{IssueError, IssuedX509, Issuer, X509Params};
use super::planner::Evidence;
use crate::view::Views;

/// How often renewal is considered (SPIRE: 5 s).
const TICK: Duration = Duration::from_secs(5);

/// The server's SVID cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ServerSvidError {
    /// No key could be made.
    #[error("generate server key")]
    Key(#[from] SignError),
    /// The issuer refused.
    #[error("sign server SVID")]
    Sign(#[from] IssueError),
    /// The TLS library refused key or certificate.
    #[error("load server SVID")]
    Load(#[from] TlsError),
    /// The process is ending.
    #[error("process is shutting down")]
    ShuttingDown,
}

/// When a server replaces its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Not yet.
    No,
    /// As soon as those who call know the authority that would sign the next one.
    OnceKnown,
    /// At once.
    Now,
}

/// When a server replaces a certificate that it has now; `is_left` says that its authority is tainted
/// and that another one signs.
pub(crate) fn due(current: &IssuedX509, now: Timestamp, is_left: bool) -> Due {
    let life = current.not_after.since(current.not_before);
    if is_left || now > current.not_before.plus(life / 6 * 5) {
        return Due::Now;
    }
    // Strictly after half of the certificate's life, as in SPIRE.
    if now > current.not_before.plus(life / 2) { Due::OnceKnown } else { Due::No }
}

/// Keeps the server's own SVID fresh.
#[derive(Debug)]
pub struct ServerSvid {
    issuer: Issuer,
    views: Views,
    clock: Arc<dyn Clock>,
    trust_domain: TrustDomain,
    identity: Arc<ArcSwap<Identity>>,
    survey: Survey,
    current: IssuedX509,
}

impl ServerSvid {
    /// Makes the first SVID, and gives the pointer to it together with the task that renews it. The
    /// issuer must be ready.
    pub async fn start(
        issuer: Issuer,
        views: Views,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
        survey: Survey,
    ) -> Result<(Arc<ArcSwap<Identity>>, Self), ServerSvidError> {
        let (identity, current) = make(&issuer, &trust_domain).await?;
        let identity = Arc::new(ArcSwap::new(identity));
        let task = Self {
            issuer,
            views,
            clock,
            trust_domain,
            identity: Arc::clone(&identity),
            survey,
            current,
        };
        Ok((identity, task))
    }

    /// Renews until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            if self.is_due().await {
                self.renew().await;
            }
        }
    }

    pub(crate) async fn is_due(&self) -> bool {
        let now = self.clock.now();
        match due(&self.current, now, self.authority_is_tainted()) {
            Due::No => false,
            Due::OnceKnown => self.authority_is_known(now).await,
            Due::Now => true,
        }
    }

    /// Whether those who call this server know the authority that would sign a new certificate.
    async fn authority_is_known(&self, now: Timestamp) -> bool {
        let active = self.issuer.active_x509_authority();
        if active.as_ref() == Some(&self.current.authority_id) {
            return true;
        }
        let journal = self.views.journal();
        let found = journal.authorities.iter().find(|one| Some(&one.id) == active.as_ref());
        match found {
            Some(active) => self.survey.of(active).await.judge(now) == Evidence::Complete,
            // The issuer is ahead of the views for a moment.
            None => false,
        }
    }

    /// Whether the certificate chains to an authority or to an upstream root that is marked tainted,
    /// while the active authority is another (else a renewal would change nothing).
    fn authority_is_tainted(&self) -> bool {
        let (journal, bundle) = self.views.trust(&self.trust_domain);
        let signer = &self.current.authority_id;
        let last = self.current.chain_der.last();
        let below_tainted_root = || {
            let mut known = bundle.iter().flat_map(|bundle| &bundle.x509_authorities);
            known.any(|root| {
                let root_is = |last: &Vec<u8>| leads_to(last, std::slice::from_ref(root));
                root.tainted && last.is_some_and(root_is)
            })
        };
        let tainted = journal.authorities.iter().any(|one| one.id == *signer && one.tainted);
        (tainted || below_tainted_root())
            && self.issuer.active_x509_authority().is_some_and(|active| active != *signer)
    }

    async fn renew(&mut self) {
        match make(&self.issuer, &self.trust_domain).await {
            Ok((identity, issued)) => {
                let expires_at = issued.not_after.unix_s();
                tracing::info!(expires_at, "Server SVID rotated");
                self.identity.store(identity);
                self.current = issued;
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "Could not rotate server SVID");
            }
        }
    }
}

/// Makes key and certificate. The key is generated on a blocking thread: RSA takes its time.
async fn make(
    issuer: &Issuer,
    trust_domain: &TrustDomain,
) -> Result<(Arc<Identity>, IssuedX509), ServerSvidError> {
    let key_type = issuer.policy().ca_key_type;
    let (signer, pkcs8) = tokio::task::spawn_blocking(move || LocalSigner::generate(key_type))
        .await
        .map_err(|_cancelled| ServerSvidError::ShuttingDown)??;
    let issued = issuer.sign_x509(X509Params {
        spiffe_id: SpiffeId::server(trust_domain.clone()),
        dns_names: Vec::new(),
        subject: None,
        public_key_spki: signer.public_key_spki().to_vec(),
        ttl: Duration::ZERO,
    })?;
    let identity = Identity::new(issued.chain_der.clone(), &pkcs8)?;
    Ok((identity, issued))
}

//! From a cold start to an agent with a certificate and a trusted bundle.
//!
//! Owns the order of `spire-semantics` 8.1: what the data folder still has is used; else trust comes
//! from the configured source, then the agent attests and fetches the bundle over the same
//! connection. Failures, a bundle file or a token that isn't there among them, are tried again for a
//! minute; a refusal ends the start at once.

use std::sync::Arc;

use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::tls::{
    Identity, TlsError, client_config, insecure_bootstrap_client_config,
};
use steeple_spiffe_core::{Clock, Random, SpiffeId, TrustDomain};
use tokio::time::Instant;
use tonic::Code;
use tracing::{info, warn};

use crate::attest::node::{JoinToken, NodeAttestor};
use crate::backoff::Backoff;
use crate::bootstrap::{BootstrapError, first_bundle, of_roots};
use crate::config::{Config, KeyManagerKind, NodeAttestorKind};
use crate::disk::{AgentFile, DiskError, KeyStore};
use crate::limits::{START_BACKOFF, START_BACKOFF_MAX, START_GIVE_UP};
use crate::rotate::{Files, OwnSvid, OwnSvidError};
use crate::store::OwnBundle;
use crate::upstream::{AttestError, CallError, Upstream, attest, fetch_bundle};

/// The start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No first trust.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate.
    #[error("failed to get SVID")]
    Attest(#[source] OwnSvidError),
    /// No bundle after attestation.
    #[error("failed to get updated bundle")]
    Bundle(#[source] CallError),
}

/// Time and randomness, as arguments.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

/// An agent that may talk to the servers as itself.
#[derive(Debug)]
pub struct Started {
    /// Its certificate.
    pub own: Arc<OwnSvid>,
    /// The bundle it trusts.
    pub bundle: Arc<OwnBundle>,
    /// The servers, authenticated both ways.
    pub upstream: Arc<Upstream>,
    /// For connections on which only the servers are authenticated.
    pub servers_only: Arc<rustls::ClientConfig>,
    /// How it attests.
    pub attestor: Arc<NodeAttestor>,
}

/// Starts up.
pub async fn start(config: &Config, seams: &Seams) -> Result<Started, StartError> {
    let attestor = Arc::new(match &config.node_attestor {
        NodeAttestorKind::JoinToken => {
            NodeAttestor::JoinToken(JoinToken::new(config.join_token.clone()))
        }
        NodeAttestorKind::X509Pop(method) => NodeAttestor::X509Pop(method.clone()),
    });
    let keys = match &config.key_manager {
        KeyManagerKind::Memory => KeyStore::memory(),
        KeyManagerKind::Disk(directory) => KeyStore::disk(directory)?,
    };
    let mut files = Files::new(AgentFile::open(&config.data_dir)?, keys);
    let attempt = async || attempt(config, seams, &attestor, &mut files).await;
    let joined = retry(&*seams.random, attempt).await?;
    let own = Arc::new(OwnSvid::new(joined.identity, joined.can_reattest, files));
    let bundle = Arc::new(OwnBundle::new(joined.bundle));
    let tls = client_config(
        Some(own.identity()),
        Arc::clone(&bundle) as Arc<_>,
        only_the_server(&config.trust_domain),
        Arc::clone(&seams.clock),
    )?;
    let servers_only = client_config(
        None,
        Arc::clone(&bundle) as Arc<_>,
        only_the_server(&config.trust_domain),
        Arc::clone(&seams.clock),
    )?;
    let upstream = Upstream::new(config.servers.clone(), tls, Arc::clone(&seams.random));
    Ok(Started { own, bundle, upstream: Arc::new(upstream), servers_only, attestor })
}

struct Joined {
    identity: Arc<Identity>,
    can_reattest: bool,
    bundle: Bundle,
}

/// Takes what the data folder has, or attests. The source of the first trust is read each time.
async fn attempt(
    config: &Config,
    seams: &Seams,
    attestor: &NodeAttestor,
    files: &mut Files,
) -> Result<Joined, StartError> {
    let kept = files.data.load()?.bundle;
    let trusted = match kept.is_empty() {
        false => Some(of_roots(&config.trust_domain, kept)),
        true => first_bundle(&config.bootstrap, &config.trust_domain).await?,
    };
    let usable = files.usable(seams.clock.now())?;
    match (usable, trusted) {
        (Some((identity, can_reattest)), Some(bundle)) => {
            info!(spiffe_id = %identity.svid().id, subsystem_name = "attestor", "SVID loaded");
            Ok(Joined { identity, can_reattest, bundle })
        }
        (_, trusted) => join(config, seams, attestor, files, trusted).await,
    }
}

/// Attests over a connection on which only the server is authenticated, if at all.
async fn join(
    config: &Config,
    seams: &Seams,
    attestor: &NodeAttestor,
    files: &mut Files,
    trusted: Option<Bundle>,
) -> Result<Joined, StartError> {
    info!(subsystem_name = "attestor", "SVID is not found. Starting node attestation");
    let tls = match &trusted {
        Some(bundle) => client_config(
            None,
            Arc::new(OwnBundle::new(bundle.clone())),
            only_the_server(&config.trust_domain),
            Arc::clone(&seams.clock),
        )?,
        None => {
            warn!(
                subsystem_name = "attestor",
                "Insecure bootstrap enabled; skipping server certificate verification",
            );
            insecure_bootstrap_client_config(SpiffeId::server(config.trust_domain.clone()))?
        }
    };
    let upstream = Upstream::new(config.servers.clone(), tls, Arc::clone(&seams.random));
    let (identity, can_reattest) =
        attest_once(&upstream, attestor, files).await.map_err(StartError::Attest)?;
    let fetch =
        || async { upstream.call(|channel| fetch_bundle(channel, &config.trust_domain)).await };
    let bundle = match (retry_calls(&*seams.random, fetch).await, trusted) {
        (Ok(bundle), _) => bundle,
        // What the operator gave is trusted already; the first sync brings the rest.
        (Err(failure), Some(trusted)) => {
            warn!(error = %failure, "Failed to get updated bundle after attestation");
            trusted
        }
        (Err(failure), None) => return Err(StartError::Bundle(failure)),
    };
    let roots = bundle.x509_authorities.iter().map(|root| root.certificate_der.clone());
    let mut data = files.data.load()?;
    data.bundle = roots.collect();
    files.data.store(&data)?;
    info!(
        spiffe_id = %identity.svid().id,
        reattestable = can_reattest,
        subsystem_name = "attestor",
        trust_domain_id = %config.trust_domain.id_string(),
        "Node attestation was successful",
    );
    Ok(Joined { identity, can_reattest, bundle })
}

async fn attest_once(
    upstream: &Upstream,
    attestor: &NodeAttestor,
    files: &mut Files,
) -> Result<(Arc<Identity>, bool), OwnSvidError> {
    let key = files.new_key()?;
    let payload = attestor.payload().map_err(AttestError::from)?;
    let call = |channel| attest(channel, attestor, payload.clone(), key.csr.clone());
    let admitted = upstream.call(call).await.map_err(AttestError::from)?;
    let identity = files.keep(&admitted, &key)?;
    Ok((identity, admitted.can_reattest))
}

/// Whether another attempt is of no use. As in SPIRE all but a refusal may get better: files are put
/// in place, evidence is made. A bundle after attestation was tried for as long already.
fn is_final(failure: &StartError) -> bool {
    match failure {
        StartError::Attest(failure) => {
            failure.call_error().is_some_and(|call| call.status.code() == Code::PermissionDenied)
        }
        StartError::Bundle(_) => true,
        StartError::Disk(_) | StartError::Bootstrap(_) | StartError::Tls(_) => false,
    }
}

/// Tries again for a while.
async fn retry<T>(
    random: &dyn Random,
    mut attempt: impl AsyncFnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let mut backoff = Backoff::new(START_BACKOFF, START_BACKOFF_MAX);
    let give_up = Instant::now() + START_GIVE_UP;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let pause = backoff.pause(random.unit_f64());
        if is_final(&failure) || Instant::now() + pause > give_up {
            return Err(failure);
        }
        let text = crate::upstream::chain(&failure);
        warn!(error = text, retry_interval = ?pause, "Failed to retrieve attestation result");
        tokio::time::sleep(pause).await;
    }
}

async fn retry_calls<T, F>(random: &dyn Random, attempt: impl Fn() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let mut backoff = Backoff::new(START_BACKOFF, START_BACKOFF_MAX);
    let give_up = Instant::now() + START_GIVE_UP;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let pause = backoff.pause(random.unit_f64());
        if Instant::now() + pause > give_up {
            return Err(failure);
        }
        tokio::time::sleep(pause).await;
    }
}

fn only_the_server(trust_domain: &TrustDomain) -> steeple_spiffe_core::tls::AcceptId {
    let server = SpiffeId::server(trust_domain.clone());
    Arc::new(move |id| *id == server)
}

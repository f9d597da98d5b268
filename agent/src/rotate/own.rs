//! The agent's own certificate: kept, renewed, lost.
//!
//! Owns the certificate with its key on disk and in the TLS configuration, and the two ways to a new
//! one: renewal, or attestation again where the method allows it, which needs no certificate. A new key
//! is safe on disk before it is used; the certificate follows; then connections are opened anew. An
//! agent whose certificate has expired goes on serving from its cache while it keeps trying.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::tls::Identity;
use steeple_spiffe_core::{Clock, KeyType, LocalSigner, Random, Secret, SpiffeId, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::condition::{Condition, check_interval};
use super::verdict::{Verdict, verdict};
use crate::attest::node::NodeAttestor;
use crate::backoff::Backoff;
use crate::disk::{AgentFile, DiskError, KeySlot, KeyStore};
use crate::limits::{ROTATE_BACKOFF_MAX, ROTATE_CHECK_INTERVAL, SVID_SKEW};
use crate::store::{OwnBundle, has_root};
use crate::upstream::{
    Admitted, AttestError, CallError, CsrError, Upstream, attest, certificate_request,
    fetch_bundle, renew,
};

/// The own certificate could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum OwnSvidError {
    /// No key.
    #[error("generate key")]
    Key(#[from] steeple_spiffe_core::signer::SignError),
    /// No request.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The files can't be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What the server sent is no certificate for our key.
    #[error("server sent an unusable certificate")]
    Unusable(#[from] steeple_spiffe_core::tls::TlsError),
    /// No evidence, or the server refused it.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The server refused the renewal.
    #[error(transparent)]
    Server(#[from] CallError),
}

impl OwnSvidError {
    /// The server's answer, if it is one.
    pub fn call_error(&self) -> Option<&CallError> {
        match self {
            Self::Server(error) | Self::Attest(AttestError::Server(error)) => Some(error),
            Self::Key(_)
            | Self::Request(_)
            | Self::Disk(_)
            | Self::Unusable(_)
            | Self::Attest(AttestError::Evidence(_)) => None,
        }
    }
}

/// The files behind the certificate.
#[derive(Debug)]
pub struct Files {
    /// Certificate and bundle.
    pub data: AgentFile,
    /// Private keys.
    pub keys: KeyStore,
    /// Where the key in use is.
    slot: KeySlot,
}

impl Files {
    /// Files as they were opened; which key is in use comes out when the certificate is read.
    pub fn new(data: AgentFile, keys: KeyStore) -> Self {
        Self { data, keys, slot: KeySlot::B }
    }

    /// A new key in the free slot, safe on disk, with its request.
    pub fn new_key(&mut self) -> Result<NewKey, OwnSvidError> {
        let (_, key) = LocalSigner::generate(KeyType::EcP256)?;
        let csr = certificate_request(&key, None)?;
        let slot = self.slot.other();
        self.keys.store(slot, key.clone())?;
        Ok(NewKey { slot, key, csr })
    }

    /// Keeps a certificate; its key is in use from now on.
    pub fn keep(
        &mut self,
        admitted: &Admitted,
        key: &NewKey,
    ) -> Result<Arc<Identity>, OwnSvidError> {
        let identity = Identity::new(admitted.chain_der.clone(), &key.key)?;
        let mut data = self.data.load()?;
        data.svid = admitted.chain_der.clone();
        data.can_reattest = admitted.can_reattest;
        self.data.store(&data)?;
        self.slot = key.slot;
        Ok(identity)
    }

    /// The kept certificate, if there is one that is not expired and whose key is there.
    pub fn usable(&mut self, now: Timestamp) -> Result<Option<(Arc<Identity>, bool)>, DiskError> {
        let data = self.data.load()?;
        if data.svid.is_empty() {
            return Ok(None);
        }
        for slot in KeySlot::ALL {
            let Some(key) = self.keys.load(slot) else { continue };
            // A key of another certificate is the normal state of the free slot.
            let Ok(identity) = Identity::new(data.svid.clone(), &key) else { continue };
            self.slot = slot;
            let expires = identity.svid().not_after;
            if now.plus(SVID_SKEW) >= expires {
                warn!(%expires, "Agent SVID on disk has expired");
                return Ok(None);
            }
            return Ok(Some((identity, data.can_reattest)));
        }
        warn!("No private key for the agent SVID on disk");
        Ok(None)
    }
}

/// A key that no certificate has been made for yet.
pub struct NewKey {
    slot: KeySlot,
    key: Secret,
    /// The certificate request for it.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// The certificate in use, shared with the TLS configuration.
#[derive(Debug)]
pub struct OwnSvid {
    identity: Arc<ArcSwap<Identity>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: Files,
    can_reattest: bool,
}

impl OwnSvid {
    /// The certificate and the files it is kept in.
    pub fn new(identity: Arc<Identity>, can_reattest: bool, files: Files) -> Self {
        let identity = Arc::new(ArcSwap::new(identity));
        Self { identity, state: Mutex::new(State { files, can_reattest }) }
    }

    /// For the TLS configuration.
    pub fn identity(&self) -> Arc<ArcSwap<Identity>> {
        Arc::clone(&self.identity)
    }

    /// This agent's id.
    pub fn id(&self) -> SpiffeId {
        self.identity.load().svid().id.clone()
    }

    /// The subject key id of the root that the certificate hangs below, if it names one.
    fn root_key_id(&self) -> Option<Vec<u8>> {
        let identity = self.identity.load();
        let last = identity.svid().chain_der.last()?;
        let key_id = certificate_facts(last).ok()?.authority_key_id;
        (!key_id.is_empty()).then_some(key_id)
    }

    /// Whether it may attest again.
    pub fn can_reattest(&self) -> bool {
        self.lock().can_reattest
    }

    /// Forgets the certificate; the keys and the bundle stay.
    pub fn delete(&self) -> Result<(), DiskError> {
        let state = self.lock();
        let mut data = state.files.data.load()?;
        data.svid = Vec::new();
        state.files.data.store(&data)
    }

    /// Keeps the X.509 authorities for the next start.
    pub fn keep_bundle(&self, authorities_der: &[Vec<u8>]) -> Result<(), DiskError> {
        let state = self.lock();
        let mut data = state.files.data.load()?;
        if data.bundle == authorities_der {
            return Ok(());
        }
        data.bundle = authorities_der.to_vec();
        state.files.data.store(&data)
    }

    fn new_key(&self) -> Result<NewKey, OwnSvidError> {
        self.lock().files.new_key()
    }

    fn install(&self, admitted: &Admitted, key: &NewKey) -> Result<(), OwnSvidError> {
        let mut state = self.lock();
        let identity = state.files.keep(admitted, key)?;
        state.can_reattest = admitted.can_reattest;
        self.identity.store(identity);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the own certificate fresh.
#[derive(Debug)]
pub struct Rotator {
    /// The certificate.
    pub own: Arc<OwnSvid>,
    /// The servers.
    pub upstream: Arc<Upstream>,
    /// For connections to them without the certificate.
    pub servers_only: Arc<ClientConfig>,
    /// To see whether our root is tainted.
    pub bundle: Arc<OwnBundle>,
    /// How to attest again.
    pub attestor: Arc<NodeAttestor>,
    /// When to renew.
    pub condition: Condition,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
}

impl Rotator {
    /// Runs until the shutdown. Returns the answer of a server that ends this agent's life.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), CallError> {
        let mut backoff = Backoff::new(ROTATE_CHECK_INTERVAL, ROTATE_BACKOFF_MAX);
        let mut pause = self.check_interval();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = self.check_interval();
            if !self.is_due() {
                continue;
            }
            match self.rotate(self.upstream.generation()).await {
                Ok(()) => {
                    backoff.reset();
                    pause = self.check_interval();
                }
                Err(failure) => {
                    let text = crate::upstream::chain(&failure);
                    error!(error = %text, "Could not rotate agent SVID");
                    if self.has_ended() {
                        error!("Agent SVID has expired; workloads are served from the cache only");
                    }
                    let OwnSvidError::Server(call) = failure else {
                        pause = self.after_failure(&mut backoff);
                        continue;
                    };
                    match verdict(&call, self.upstream.generation()) {
                        Verdict::Reattest | Verdict::Banned => return Err(call),
                        // Unknown authorities are told of at each sync.
                        Verdict::Retry | Verdict::Distrusted => {
                            pause = self.after_failure(&mut backoff);
                        }
                    }
                }
            }
        }
    }

    /// Gets a new certificate in whichever way this agent may. Nothing happens if it was replaced
    /// since `generation`.
    pub async fn rotate(&self, generation: u64) -> Result<(), OwnSvidError> {
        let pause = self.upstream.pause().await;
        if self.upstream.generation() != generation {
            return Ok(());
        }
        let key = self.new_key().await?;
        if self.own.can_reattest() {
            let attestor = &*self.attestor;
            let payload = attestor.payload().map_err(AttestError::from)?;
            let call = |channel| attest(channel, attestor, payload.clone(), key.csr.clone());
            // As in SPIRE without the certificate, with which servers may let nobody in any more.
            let servers = self.upstream.with_tls(Arc::clone(&self.servers_only));
            let generation = self.upstream.generation();
            // Of the certificate that is being replaced, so that a ban is taken for what it is.
            let admitted =
                servers.call(call).await.map_err(|error| CallError { generation, ..error });
            self.own.install(&admitted.map_err(AttestError::from)?, &key)?;
            pause.finish_with_new_identity();
            info!("Successfully reattested node");
        } else {
            let call = |channel| renew(channel, key.csr.clone());
            let admitted = self.upstream.call_during(&pause, call).await?;
            self.own.install(&admitted, &key)?;
            pause.finish_with_new_identity();
            info!("Successfully rotated agent SVID");
        }
        Ok(())
    }

    /// Whether the root of the certificate has left the servers' bundle. They let nobody in with it then,
    /// not even to fetch that bundle: they are asked without.
    pub async fn is_root_gone(&self) -> Result<bool, CallError> {
        let trust_domain = self.bundle.load().trust_domain.clone();
        let servers = self.upstream.with_tls(Arc::clone(&self.servers_only));
        let bundle = servers.call(|channel| fetch_bundle(channel, &trust_domain)).await?;
        let root = self.own.root_key_id();
        Ok(root.is_some_and(|root| !has_root(&bundle, &root)))
    }

    /// Makes and syncs a key off the reactor.
    async fn new_key(&self) -> Result<NewKey, OwnSvidError> {
        let own = Arc::clone(&self.own);
        let made = tokio::task::spawn_blocking(move || own.new_key()).await;
        made.unwrap_or(Err(OwnSvidError::Key(steeple_spiffe_core::signer::SignError::Generate)))
    }

    /// While seconds are left of the certificate it is tried at each look; pauses grow from when it has
    /// ended, so that the first tries after it come soon.
    fn after_failure(&self, backoff: &mut Backoff) -> Duration {
        let soon = self.check_interval();
        if soon < ROTATE_CHECK_INTERVAL && !self.has_ended() {
            return soon;
        }
        backoff.pause(self.random.unit_f64())
    }

    fn has_ended(&self) -> bool {
        self.clock.now() >= self.own.identity.load().svid().not_after
    }

    fn check_interval(&self) -> Duration {
        check_interval(self.own.identity.load().svid().not_after.since(self.clock.now()))
    }

    fn is_due(&self) -> bool {
        let identity = self.own.identity.load();
        let svid = identity.svid();
        let root = self.own.root_key_id();
        if root.is_some_and(|root| self.bundle.is_tainted_root(&root)) {
            warn!("Agent SVID is tainted by a root authority, forcing rotation");
            return true;
        }
        let (now, unit) = (self.clock.now(), self.random.unit_f64());
        self.condition.is_due(svid.not_before, svid.not_after, now, unit)
    }
}

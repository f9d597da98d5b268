//! A workload of one side: streams that it holds open on its agent's Workload API, and what it holds by
//! them of both trust domains.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use steeple_api::pb::workload as pb;
use steeple_spiffe_core::Secret;
use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_testkit::client::unix_channel;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::ledger::{Keys, Kind, View, hex, keys_of};
use super::side::Which;
use super::{Shared, lock};
use crate::agents::proof;
use crate::agents::seen::now_ms;
use crate::agents::workload::marked;

type Api = pb::spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel>;

/// Between the end of a stream and the next one.
const PAUSE: Duration = Duration::from_millis(200);

/// A workload. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) which: Which,
    socket: PathBuf,
    ledger: Shared,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    svid: Option<Presented>,
    /// Keys of both trust domains as they were given, by the ids of these.
    jwt: BTreeMap<String, Vec<u8>>,
    breaks: usize,
}

/// What the workload presents.
#[derive(Clone)]
pub(super) struct Presented {
    /// Certificates in DER, leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    /// Its key.
    pub(super) key: Secret,
    /// When it ends, in milliseconds since 1970.
    pub(super) not_after_ms: i64,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// A workload that has not begun.
    pub(super) fn new(which: Which, socket: &Path, ledger: Shared) -> Self {
        Self { which, socket: socket.to_owned(), ledger, inner: Arc::default() }
    }

    /// Holds its streams open until told to stop.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        tokio::join!(
            self.follow(&stop, Self::open_x509, Self::take_x509),
            self.follow(&stop, Self::open_jwt, Self::take_jwt),
            self.follow(&stop, Self::open_svids, Self::take_svids),
        );
    }

    /// What it presents now, if that has not ended.
    pub(super) fn presents(&self) -> Option<Presented> {
        self.lock().svid.clone().filter(|svid| svid.not_after_ms > now_ms())
    }

    /// How often a stream has ended.
    pub(super) fn breaks(&self) -> usize {
        self.lock().breaks
    }

    /// Verifies a token by all that it holds.
    pub(super) fn verify_token(&self, token: &str, audience: &str) -> Result<()> {
        let bundles = self.lock().jwt.clone();
        proof::verify_token(token, &bundles, audience).map(drop)
    }

    async fn follow<M, Fut>(
        &self,
        stop: &watch::Receiver<bool>,
        open: impl Fn(Api) -> Fut,
        take: impl Fn(&Self, M) -> Result<()>,
    ) where
        Fut: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let (mut stop, channel) = (stop.clone(), unix_channel(&self.socket));
        loop {
            let followed = async {
                let mut messages = open(Api::new(channel.clone())).await?.into_inner();
                while let Some(message) = messages.message().await? {
                    if let Err(error) = take(self, message) {
                        let name = self.which.name();
                        lock(&self.ledger).wrong(format!("a workload of {name}: {error:#}"));
                    }
                }
                Err::<(), Status>(Status::new(Code::Unknown, "the stream has ended"))
            };
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                _ended = followed => self.lock().breaks += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open_x509(
        mut api: Api,
    ) -> Result<Response<Streaming<pb::X509BundlesResponse>>, Status> {
        api.fetch_x509_bundles(marked(pb::X509BundlesRequest {})).await
    }

    async fn open_jwt(mut api: Api) -> Result<Response<Streaming<pb::JwtBundlesResponse>>, Status> {
        api.fetch_jwt_bundles(marked(pb::JwtBundlesRequest {})).await
    }

    async fn open_svids(mut api: Api) -> Result<Response<Streaming<pb::X509svidResponse>>, Status> {
        api.fetch_x509svid(marked(pb::X509svidRequest {})).await
    }

    fn take_x509(&self, message: pb::X509BundlesResponse) -> Result<()> {
        for of in Which::BOTH {
            let Some(ders) = message.bundles.get(&id_of(of)) else { continue };
            let roots = proof::certificates(ders)?;
            let keys = keys_of(roots.iter().map(AsRef::as_ref))?;
            self.note(of, Kind::X509, keys);
        }
        Ok(())
    }

    fn take_jwt(&self, message: pb::JwtBundlesResponse) -> Result<()> {
        for of in Which::BOTH {
            let Some(document) = message.bundles.get(&id_of(of)) else { continue };
            self.note(of, Kind::Jwt, key_ids(document)?);
        }
        self.lock().jwt = message.bundles.into_iter().collect();
        Ok(())
    }

    fn take_svids(&self, message: pb::X509svidResponse) -> Result<()> {
        let svid = message.svids.first().context("an answer without an SVID")?;
        let chain = proof::certificates(&svid.x509_svid)?;
        let facts = certificate_facts(chain.first().context("an empty chain")?)?;
        let (now, end) = (Instant::now(), facts.not_after.unix_ms());
        let left = Duration::from_millis(u64::try_from(end - now_ms()).unwrap_or(0));
        let key = (Kind::X509, hex(&facts.authority_key_id));
        lock(&self.ledger).note_svid(self.which, key, (now, now + left));
        let presented = Presented {
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            key: Secret::new(svid.x509_svid_key.clone()),
            not_after_ms: end,
        };
        self.lock().svid = Some(presented);
        Ok(())
    }

    fn note(&self, of: Which, kind: Kind, keys: Keys) {
        lock(&self.ledger).note_held(View { of, by: self.which, kind }, keys);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trust domain's id, by which the Workload API names bundles.
fn id_of(which: Which) -> String {
    format!("spiffe://{}", which.name())
}

/// Key ids of a set of keys (RFC 7517).
fn key_ids(document: &[u8]) -> Result<Keys> {
    let document: Value = serde_json::from_slice(document).context("read a set of keys")?;
    let keys = document.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let ids = keys.iter().map(|key| {
        let id = key.get("kid").and_then(Value::as_str).context("a key without an id")?;
        Ok((id.to_owned(), Vec::new()))
    });
    ids.collect()
}

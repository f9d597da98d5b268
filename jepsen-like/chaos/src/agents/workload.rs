//! A workload: streams that it holds open, tokens that it asks for, and newcomers beside it.
//!
//! Everything that fails is noted, and tried again: one failure is enough to judge by, and what comes
//! after it is worth seeing too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use steeple_api::pb;
use steeple_testkit::client::unix_channel;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::proof;
use super::seen::{Notebook, Svid, What, now_ms};

type Api = pb::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel>;

/// Between two tokens, and between two newcomers.
const TOKEN_EVERY: Duration = Duration::from_millis(500);
const NEWCOMER_EVERY: Duration = Duration::from_millis(1_500);

/// How long a call may take: a machine that is busy with other things answers late too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between a failure and another attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// A workload of an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    agent: usize,
    number: usize,
    socket: PathBuf,
    audiences: Audiences,
    notes: Notebook,
    held: Arc<Mutex<Held>>,
}

/// For whom tokens are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audiences {
    /// Always the same one: what an agent has at hand serves while no server answers.
    Same,
    /// Each time another: a server has to sign each.
    Fresh,
}

/// The bundles that it holds.
#[derive(Debug, Default)]
struct Held {
    x509: BTreeMap<String, Vec<u8>>,
    jwt: BTreeMap<String, Vec<u8>>,
}

impl Workload {
    /// A workload that has not begun.
    pub(crate) fn new(
        agent: usize,
        number: usize,
        socket: &Path,
        audiences: Audiences,
        notes: Notebook,
    ) -> Self {
        let held = Arc::default();
        Self { agent, number, socket: socket.to_owned(), audiences, notes, held }
    }

    /// Does all that it does until told to stop.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        tokio::join!(
            self.follow(
                "FetchX509Bundles",
                &stop,
                Self::open_x509_bundles,
                Self::take_x509_bundles
            ),
            self.follow("FetchJWTBundles", &stop, Self::open_jwt_bundles, Self::take_jwt_bundles),
            self.follow("FetchX509SVID", &stop, Self::open_svids, Self::take_svids),
            self.ask_for_tokens(stop.clone()),
            self.come_anew(stop.clone()),
        );
    }

    /// Holds a stream open.
    async fn follow<M, Fut>(
        &self,
        call: &'static str,
        stop: &watch::Receiver<bool>,
        open: impl Fn(Api) -> Fut,
        take: impl Fn(&Self, M) -> Result<What>,
    ) where
        Fut: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let mut stop = stop.clone();
        let channel = unix_channel(&self.socket);
        loop {
            let followed = async {
                let mut messages = open(Api::new(channel.clone())).await?.into_inner();
                while let Some(message) = messages.message().await? {
                    match take(self, message) {
                        Ok(what) => self.note(what),
                        Err(error) => self.fail(call, format!("{error:#}")),
                    }
                }
                Err::<(), Status>(Status::new(Code::Unknown, "the stream has ended"))
            };
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                ended = followed => if let Err(status) = ended { self.fail(call, said(&status)) },
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open_svids(
        mut api: Api,
    ) -> Result<Response<Streaming<pb::workload::X509svidResponse>>, Status> {
        api.fetch_x509svid(marked(pb::workload::X509svidRequest {})).await
    }

    async fn open_x509_bundles(
        mut api: Api,
    ) -> Result<Response<Streaming<pb::workload::X509BundlesResponse>>, Status> {
        api.fetch_x509_bundles(marked(pb::workload::X509BundlesRequest {})).await
    }

    async fn open_jwt_bundles(
        mut api: Api,
    ) -> Result<Response<Streaming<pb::workload::JwtBundlesResponse>>, Status> {
        api.fetch_jwt_bundles(marked(pb::workload::JwtBundlesRequest {})).await
    }

    fn take_x509_bundles(&self, message: pb::workload::X509BundlesResponse) -> Result<What> {
        ensure!(!message.bundles.is_empty(), "no bundle");
        self.lock().x509 = message.bundles.into_iter().collect();
        Ok(What::Bundles { stream: "x509" })
    }

    fn take_jwt_bundles(&self, message: pb::workload::JwtBundlesResponse) -> Result<What> {
        ensure!(!message.bundles.is_empty(), "no bundle");
        self.lock().jwt = message.bundles.into_iter().collect();
        Ok(What::Bundles { stream: "jwt" })
    }

    fn take_svids(&self, message: pb::workload::X509svidResponse) -> Result<What> {
        let svids = read(&message)?;
        for svid in &message.svids {
            // Once against what came with it, once against what the other stream has shown.
            proof::verify(&svid.x509_svid, &svid.bundle, now_ms())?;
            let held = self.lock();
            for bundle in held.x509.values() {
                proof::verify(&svid.x509_svid, bundle, now_ms())?;
            }
        }
        Ok(What::Svids { svids })
    }

    async fn ask_for_tokens(&self, mut stop: watch::Receiver<bool>) {
        let channel = unix_channel(&self.socket);
        let mut asked_for = 0_u64;
        let mut ticks = tokio::time::interval(TOKEN_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                _due = ticks.tick() => {}
            }
            // Without bundles there is nothing to verify by; their stream is judged by itself.
            if self.lock().jwt.is_empty() {
                continue;
            }
            let audience = match self.audiences {
                Audiences::Same => "chaos".to_owned(),
                Audiences::Fresh => format!("chaos-{}-{asked_for}", self.number),
            };
            asked_for += 1;
            let asked = self.token(Api::new(channel.clone()), &audience);
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(what)) => self.note(what),
                Ok(Err(error)) => self.fail("FetchJWTSVID", format!("{error:#}")),
                Err(_elapsed) => self.fail("FetchJWTSVID", format!("no answer in {PATIENCE:?}")),
            }
        }
    }

    async fn token(&self, mut api: Api, audience: &str) -> Result<What> {
        let body = pb::workload::JwtsvidRequest {
            audience: vec![audience.to_owned()],
            ..pb::workload::JwtsvidRequest::default()
        };
        let asked = Instant::now();
        let reply = api.fetch_jwtsvid(marked(body)).await;
        let reply = reply.map_err(|status| anyhow::anyhow!(said(&status)))?.into_inner();
        let took_ms = millis(asked.elapsed());
        let mut last = None;
        for svid in reply.svids {
            let token = proof::verify_token(&svid.svid, &self.lock().jwt, audience)?;
            ensure!(
                token.subject == svid.spiffe_id,
                "{} in a token of {}",
                token.subject,
                svid.spiffe_id
            );
            last = Some(token);
        }
        let Some(token) = last else { anyhow::bail!("an answer without a token") };
        Ok(What::Token { subject: token.subject, expires_ms: token.expires_ms, took_ms })
    }

    /// Someone who was not there before: a new connection, the first message, gone.
    async fn come_anew(&self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(NEWCOMER_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _stopped = stop.wait_for(|stop| *stop) => return,
                _due = ticks.tick() => {}
            }
            let asked = Instant::now();
            match tokio::time::timeout(PATIENCE, fetch(&self.socket)).await {
                Ok(Ok(svids)) => {
                    let took_ms = millis(asked.elapsed());
                    self.note(What::Fetched { svids: svids.len(), took_ms });
                }
                Ok(Err(error)) => self.fail("a newcomer", format!("{error:#}")),
                Err(_elapsed) => self.fail("a newcomer", format!("no answer in {PATIENCE:?}")),
            }
        }
    }

    fn note(&self, what: What) {
        self.notes.note(self.agent, self.number, what);
    }

    fn fail(&self, call: &'static str, text: String) {
        self.note(What::Failed { call, text });
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The X.509-SVIDs that a new connection is given, verified.
pub(crate) async fn fetch(socket: &Path) -> Result<Vec<Svid>> {
    let opened = Workload::open_svids(Api::new(unix_channel(socket))).await;
    let mut messages = opened.map_err(|status| anyhow::anyhow!(said(&status)))?.into_inner();
    let message = messages.message().await.map_err(|status| anyhow::anyhow!(said(&status)))?;
    let Some(message) = message else { anyhow::bail!("a stream without a message") };
    for svid in &message.svids {
        proof::verify(&svid.x509_svid, &svid.bundle, now_ms())?;
    }
    read(&message)
}

fn read(message: &pb::workload::X509svidResponse) -> Result<Vec<Svid>> {
    let mut svids = Vec::new();
    for svid in &message.svids {
        let leaf = proof::leaf(&svid.x509_svid)?;
        ensure!(leaf.id == svid.spiffe_id, "{} in an SVID of {}", leaf.id, svid.spiffe_id);
        svids.push(Svid { id: leaf.id, serial: leaf.serial, not_after_ms: leaf.not_after_ms });
    }
    Ok(svids)
}

/// A request as the Workload API wants it.
pub(crate) fn marked<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

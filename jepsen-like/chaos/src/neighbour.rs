//! An attested agent on a member's own machine, which reaches that member whatever the links do.
//!
//! A thread that lives in the member's namespace; calls go to it one at a time.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use steeple_api::pb::server::svid::v1 as svids;
use steeple_testkit::client::{AttestedClient, request_key};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::clients::call::revision;

/// How long a call may take: longer than a member tries to confirm a read.
const CALL_MAX: Duration = Duration::from_secs(2);

/// Where it is and as whom it attests.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The member's namespace.
    pub(crate) namespace: PathBuf,
    /// The member's server API.
    pub(crate) address: SocketAddr,
    /// A join token that nobody has used.
    pub(crate) token: String,
    /// The entry that it asks an SVID for.
    pub(crate) entry_id: String,
}

/// A call for an SVID.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// When it was made.
    pub(crate) began: Instant,
    /// What came of it.
    pub(crate) told: Told,
}

/// What came of a call for an SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// An SVID.
    Issued {
        /// Whether it was said to rest on an older state.
        is_stale: bool,
    },
    /// The member cannot say: it asks to try again later or elsewhere.
    Unavailable(String),
    /// A refusal.
    Refused(String),
    /// No answer of the member's.
    Silence(String),
}

/// The agent. Its thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Neighbour {
    calls: mpsc::Sender<oneshot::Sender<Asked>>,
}

impl Neighbour {
    /// Moves in and attests. With it comes what the attestation said.
    pub(crate) async fn attest(place: Place) -> Result<(Self, Result<Option<u64>>)> {
        let (calls, asked) = mpsc::channel(1);
        let (ready, attested) = oneshot::channel();
        let work = move || live(place, ready, asked);
        let thread = std::thread::Builder::new().name("neighbour".to_owned()).spawn(work);
        thread.context("start a neighbour")?;
        let attested = attested.await.context("a neighbour has ended")?;
        Ok((Self { calls }, attested))
    }

    /// Asks the member for an SVID, once.
    pub(crate) async fn ask(&self) -> Result<Asked> {
        let (reply, asked) = oneshot::channel();
        self.calls.send(reply).await.context("a neighbour has ended")?;
        asked.await.context("a neighbour has ended")
    }
}

/// The thread: in the namespace for good, with a runtime of its own.
fn live(
    place: Place,
    ready: oneshot::Sender<Result<Option<u64>>>,
    mut asked: mpsc::Receiver<oneshot::Sender<Asked>>,
) {
    let moved_in = || -> Result<_> {
        let namespace = File::open(&place.namespace).context("open a namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a namespace")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start a neighbour's runtime")?;
        let addresses = [place.address];
        let attested = AttestedClient::attest_at(&addresses, &place.token);
        let attested = runtime.block_on(attested).context("attest a neighbour")?;
        Ok((runtime, attested))
    };
    // Nobody listens any more where a reply cannot be sent: the fault was given up.
    let (runtime, attested) = match moved_in() {
        Ok((runtime, attested)) => {
            ready.send(Ok(revision(&attested.told))).ok();
            (runtime, attested)
        }
        Err(error) => {
            ready.send(Err(error)).ok();
            return;
        }
    };
    runtime.block_on(async {
        while let Some(reply) = asked.recv().await {
            let began = Instant::now();
            let told = match attested.channels().first() {
                Some(channel) => issue(channel.clone(), &place.entry_id).await,
                None => Told::Silence("no channel".to_owned()),
            };
            reply.send(Asked { began, told }).ok();
        }
    });
}

async fn issue(channel: Channel, entry_id: &str) -> Told {
    let Ok((_key, csr)) = request_key() else { return Told::Silence("no key".to_owned()) };
    let params = svids::NewX509svidParams { entry_id: entry_id.to_owned(), csr };
    let mut request = Request::new(svids::BatchNewX509svidRequest { params: vec![params] });
    request.set_timeout(CALL_MAX);
    let mut client = svids::svid_client::SvidClient::new(channel);
    let limit = CALL_MAX + Duration::from_millis(250);
    match tokio::time::timeout(limit, client.batch_new_x509svid(request)).await {
        Err(_elapsed) => Told::Silence("no answer in time".to_owned()),
        Ok(Err(status)) => {
            let text = format!("{:?}: {}", status.code(), status.message());
            // Only a server names the revision of its state.
            match revision(status.metadata()) {
                None => Told::Silence(text),
                Some(_) if status.code() == Code::Unavailable => Told::Unavailable(text),
                Some(_) => Told::Refused(text),
            }
        }
        Ok(Ok(reply)) => {
            let is_stale = reply.metadata().contains_key("steeple-staleness");
            let result = reply.into_inner().results.into_iter().next().unwrap_or_default();
            match result.svid.filter(|svid| !svid.cert_chain.is_empty()) {
                Some(_) => Told::Issued { is_stale },
                None => Told::Refused(result.status.unwrap_or_default().message),
            }
        }
    }
}

//! Issuance on a schedule beside the clients, in runs of planned work alone: none of it may fail.
//!
//! `MintX509SVID` as an administrator, `BatchNewX509SVID` as an attested agent; what agents ask for
//! their workloads is judged with the workloads. A call may be tried again elsewhere for five seconds.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use steeple_api::pb::server::svid::v1 as svids;
use steeple_checker::history as h;
use steeple_testkit::client::{AttestedClient, unix_channel};
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::issuing::{issue, retry};
use steeple_testkit::load::{self, Attempts, Report};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::clients::Ask;
use crate::clients::ask::{NewEntry, agent_path};
use crate::clients::call::revision;
use crate::record::Recorder;

/// One call of each kind every so often.
const EVERY: Duration = Duration::from_millis(100);

/// What one kind of call came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issued {
    /// The RPC.
    pub(crate) kind: String,
    /// Calls that were due.
    pub(crate) calls: u64,
    /// Those that nobody answered in five seconds.
    pub(crate) failed: u64,
    /// Attempts that were made for them.
    pub(crate) attempts: u64,
    /// The longest time between two that succeeded.
    pub(crate) longest_gap_ms: u64,
    /// The longest time from when a call was due to its answer.
    pub(crate) slowest_ms: u64,
    /// What the first failure said.
    pub(crate) first_failure: Option<String>,
}

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    /// Admin sockets.
    pub(crate) sockets: Vec<PathBuf>,
    /// Ports of the server API on loopback.
    pub(crate) ports: Vec<u16>,
    /// A join token that nobody has used.
    pub(crate) token: String,
    /// The number of the client that uses it, in the history.
    pub(crate) client: u64,
}

/// The callers, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Issuers {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Vec<Report>>>,
}

/// The entry that the attested client asks for.
pub(crate) fn entry(token: &str) -> NewEntry {
    NewEntry {
        id: format!("issued-{token}"),
        path: "/issued".to_owned(),
        parent: agent_path(token),
        selector: ("unix".to_owned(), "uid:1".to_owned()),
        ttl_s: 60,
    }
}

impl Issuers {
    /// Starts them.
    pub(crate) fn start(targets: Targets, recorder: Recorder) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("start the issuers' runtime")?;
            LocalSet::new().block_on(&runtime, call_all(targets, recorder, stopped))
        };
        let thread = std::thread::Builder::new().name("issuers".to_owned()).spawn(work);
        Ok(Self { stop, thread: thread.context("start the issuers")? })
    }

    /// Ends them, when what is under way has ended.
    pub(crate) async fn stop(self) -> Result<Vec<Issued>> {
        self.stop.send_replace(true);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let reports = ended.context("wait for the issuers")?;
        let reports = reports.map_err(|_panic| anyhow!("the issuers panicked"))?;
        Ok(reports.context("issue")?.into_iter().map(Issued::of).collect())
    }
}

impl Issued {
    fn of(report: Report) -> Self {
        let ms = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        Self {
            kind: report.kind,
            calls: report.scheduled,
            failed: report.failed,
            attempts: report.attempts,
            longest_gap_ms: ms(report.longest_gap),
            slowest_ms: ms(report.slowest),
            first_failure: report.first_failure,
        }
    }

    /// What is wrong with it in a run of planned work.
    pub(crate) fn wrong(&self) -> Option<String> {
        let why = self.first_failure.as_deref().unwrap_or_default();
        (self.failed > 0).then(|| {
            format!("{} of {} calls of {} failed: {why}", self.failed, self.calls, self.kind)
        })
    }
}

async fn call_all(
    targets: Targets,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
) -> Result<Vec<Report>> {
    let attested = attest(&targets, &recorder).await?;
    let admin: Vec<Channel> = targets.sockets.iter().map(|socket| unix_channel(socket)).collect();
    let (channels, entry_id) = (attested.channels().to_vec(), entry(&targets.token).id);
    let csr = csr_of("/minted")?;
    let minting = load::run("MintX509SVID", EVERY, stop.clone(), |number, deadline, attempts| {
        mint(admin.clone(), csr.clone(), number, deadline, attempts)
    });
    let issuing = load::run("BatchNewX509SVID", EVERY, stop, |number, deadline, attempts| {
        let (channels, entry_id) = (channels.clone(), entry_id.clone());
        async move { issue(&channels, &entry_id, number, deadline, &attempts).await }
    });
    let (minted, issued) = tokio::join!(minting, issuing);
    Ok(vec![minted, issued])
}

/// Attests by the token; the history has it as any other attestation.
async fn attest(targets: &Targets, recorder: &Recorder) -> Result<AttestedClient> {
    let ask = Ask::Attest { token: targets.token.clone(), client: targets.client };
    let call = recorder.invoke(targets.client, "m0", None, ask.operation());
    let attested = AttestedClient::attest(&targets.ports, &targets.token).await;
    let told = attested.as_ref().ok().and_then(|attested| revision(&attested.told));
    recorder.complete(call, self::attested(told));
    attested.context("attest an issuer")
}

/// What an attestation came to that the history does not see: its revision, if it told one.
pub(crate) fn attested(revision: Option<u64>) -> h::Outcome {
    match revision {
        Some(revision) => {
            h::Outcome::Ok { revision, time_ms: None, stale: false, reply: h::Reply::Done }
        }
        None => h::Outcome::Unknown { text: "no revision".to_owned() },
    }
}

async fn mint(
    channels: Vec<Channel>,
    csr: Vec<u8>,
    number: u64,
    deadline: Instant,
    attempts: Attempts,
) -> Result<()> {
    retry(&channels, number, deadline, &attempts, async |channel| {
        let mut client = svids::svid_client::SvidClient::new(channel);
        let request = svids::MintX509svidRequest { csr: csr.clone(), ttl: 60 };
        let reply = client.mint_x509svid(request).await?.into_inner();
        ensure!(reply.svid.is_some_and(|svid| !svid.cert_chain.is_empty()), "no certificate");
        Ok(())
    })
    .await
}

/// A request for a certificate of an id.
fn csr_of(path: &str) -> Result<Vec<u8>> {
    let key = rcgen::KeyPair::generate().context("generate a key")?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).context("a request")?;
    let id = format!("spiffe://{TRUST_DOMAIN}{path}");
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().context("an id")?)];
    Ok(params.serialize_request(&key).context("sign the request")?.der().to_vec())
}

//! Attested agents that ask one server for SVIDs: the same calls to ours, to the echo and to SPIRE.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use steeple_api::pb;
use steeple_api::pb::server::agent::v1::CreateJoinTokenRequest;
use steeple_api::pb::server::agent::v1::agent_client::AgentClient;
use steeple_api::pb::server::bundle::v1::GetBundleRequest;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::entry::v1::BatchCreateEntryRequest;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_api::pb::server::svid::v1 as rpc;
use steeple_api::pb::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe_core::SpiffeId;
use steeple_testkit::client::{AttestedClient, request_key, unix_channel};
use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::process::wait_for;
use tonic::transport::Channel;

use super::work::Work;
use crate::closed_loop::Caller;

/// Entries of a call that creates them.
const CREATED_AT_ONCE: usize = 500;

/// Keys and requests that are made; of more entries some share one.
const REQUESTS_MAX: usize = 1_000;

/// Until a server gives a token, and until a new entry is signed for. SPIRE reads its database anew
/// every five seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds that the join token may be used.
const TOKEN_TTL: i32 = 600;

/// Calls that were made a second time, and why the last of them was. Servers ask each connection to
/// leave after three minutes.
static AGAIN: Mutex<(u64, String)> = Mutex::new((0, String::new()));

/// Numbers audiences, so that no token is asked for twice.
static AUDIENCES: AtomicU64 = AtomicU64::new(0);

/// How many calls were made a second time so far.
pub(crate) fn calls_made_again() -> u64 {
    AGAIN.lock().unwrap_or_else(PoisonError::into_inner).0
}

/// What a report says of the calls that were made a second time, beside so many before.
pub(crate) fn again_since(before: u64) -> String {
    let (now, why) = AGAIN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let why = if now > before { format!(" (the last because of: {why})") } else { String::new() };
    format!("- calls that were made a second time: {}{why}", now - before)
}

/// One agent with many connections and entries.
#[derive(Clone, Debug)]
pub(crate) struct Agents {
    channels: Vec<Channel>,
    requests: Arc<Vec<rpc::NewX509svidParams>>,
}

/// Answers as a server gives them, encoded.
#[derive(Debug)]
pub(crate) struct Samples {
    /// One result of BatchNewX509SVID.
    pub(crate) x509: Vec<u8>,
    /// The whole answer of NewJWTSVID.
    pub(crate) jwt: Vec<u8>,
}

impl Agents {
    /// Attests an agent by join token, makes entries below it and requests for them, and waits
    /// until they are signed for. There is one connection for each of the API's ports.
    pub(crate) async fn register(socket: &Path, ports: &[u16], entries: usize) -> Result<Self> {
        let admin = unix_channel(socket);
        let request = CreateJoinTokenRequest { ttl: TOKEN_TTL, ..Default::default() };
        // A server that was just started may not have its first authority yet.
        let token = wait_for("a join token", PATIENCE, async || {
            Ok(AgentClient::new(admin.clone()).create_join_token(request.clone()).await?)
        });
        let token = token.await?.into_inner();
        let client = AttestedClient::attest(ports, &token.value).await?;
        create_entries(admin, &client.id, entries).await?;
        let made = tokio::task::spawn_blocking(move || {
            (0..entries.min(REQUESTS_MAX))
                .map(|_| anyhow::Ok(request_key()?.1))
                .collect::<Result<Vec<_>>>()
        });
        let made = made.await.context("the requests' thread")??;
        let requests = made.iter().cycle().take(entries).enumerate();
        let requests = requests.map(|(number, csr)| rpc::NewX509svidParams {
            entry_id: entry_id(number),
            csr: csr.clone(),
        });
        let agents =
            Self { channels: client.channels().to_vec(), requests: Arc::new(requests.collect()) };
        let last = agents.requests.last().context("an entry")?.clone();
        wait_for("a signature for the last entry", PATIENCE, async || {
            agents.sign(agents.channel(0)?, vec![last.clone()]).await.map(drop)
        })
        .await?;
        Ok(agents)
    }

    /// The same requests over other connections.
    pub(crate) fn over(&self, channels: Vec<Channel>) -> Self {
        Self { channels, requests: Arc::clone(&self.requests) }
    }

    /// One connection.
    pub(crate) fn channel(&self, index: usize) -> Result<Channel> {
        self.channels.get(index).cloned().context("a connection")
    }

    /// Callers for a piece of work, one a connection, each beginning at entries of its own.
    pub(crate) fn callers(&self, work: Work) -> Vec<Agent> {
        let wanted = self.channels.iter().take(work.connections()).enumerate();
        let share = self.requests.len() / work.connections();
        let agent = |(index, channel): (usize, &Channel)| Agent {
            svids: SvidClient::new(channel.clone()),
            requests: Arc::clone(&self.requests),
            work,
            next: index * share,
        };
        wanted.map(agent).collect()
    }

    /// A caller at one of the connections.
    pub(crate) fn caller(&self, connection: usize, work: Work) -> Result<Agent> {
        Ok(Agent {
            svids: SvidClient::new(self.channel(connection)?),
            requests: Arc::clone(&self.requests),
            work,
            next: 0,
        })
    }

    /// What the server answers.
    pub(crate) async fn samples(&self) -> Result<Samples> {
        let first = self.requests.first().context("an entry")?.clone();
        let entry_id = first.entry_id.clone();
        let results = self.sign(self.channel(0)?, vec![first]).await?;
        let x509 = results.first().context("a result")?.encode_to_vec();
        let request = rpc::NewJwtsvidRequest { entry_id, audience: vec![audience()] };
        let jwt = SvidClient::new(self.channel(0)?).new_jwtsvid(request).await?.into_inner();
        Ok(Samples { x509, jwt: jwt.encode_to_vec() })
    }

    /// The certificate, in DER, of the entry with a number.
    pub(crate) async fn certificate(&self, number: usize) -> Result<Vec<u8>> {
        let params = self.requests.get(number).context("an entry")?.clone();
        let results = self.sign(self.channel(0)?, vec![params]).await?;
        let svid = results.into_iter().next().and_then(|result| result.svid).context("an SVID")?;
        svid.cert_chain.into_iter().next().context("a certificate")
    }

    /// Fetches the bundle as the agent, by which the servers know what it has.
    pub(crate) async fn fetch_bundle(&self) -> Result<()> {
        let request = GetBundleRequest { output_mask: None };
        BundleClient::new(self.channel(0)?).get_bundle(request).await?;
        Ok(())
    }

    async fn sign(
        &self,
        channel: Channel,
        params: Vec<rpc::NewX509svidParams>,
    ) -> Result<Vec<rpc::batch_new_x509svid_response::Result>> {
        sign(&mut SvidClient::new(channel), params).await
    }
}

fn entry_id(number: usize) -> String {
    format!("bench-{number}")
}

fn audience() -> String {
    format!("audience-{}", AUDIENCES.fetch_add(1, Ordering::Relaxed))
}

async fn create_entries(admin: Channel, parent: &SpiffeId, count: usize) -> Result<()> {
    let mut client = EntryClient::new(admin);
    let id = |path: String| pb::types::Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path };
    let entry = |number: usize| pb::types::Entry {
        id: entry_id(number),
        spiffe_id: Some(id(format!("/ns/bench/sa/workload-{number}"))),
        parent_id: Some(id(parent.path().to_owned())),
        selectors: vec![pb::types::Selector {
            r#type: "k8s".to_owned(),
            value: format!("sa:workload-{number}"),
        }],
        ..pb::types::Entry::default()
    };
    for first in (0..count).step_by(CREATED_AT_ONCE) {
        let entries: Vec<_> = (first..count.min(first + CREATED_AT_ONCE)).map(entry).collect();
        let wanted = entries.len();
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        let reply = client.batch_create_entry(request).await?.into_inner();
        ensure!(reply.results.len() == wanted, "{} answers", reply.results.len());
        for status in reply.results.into_iter().filter_map(|result| result.status) {
            ensure!(status.code == 0, "{}", status.message);
        }
    }
    Ok(())
}

async fn sign(
    svids: &mut SvidClient<Channel>,
    params: Vec<rpc::NewX509svidParams>,
) -> Result<Vec<rpc::batch_new_x509svid_response::Result>> {
    let wanted = params.len();
    let request = rpc::BatchNewX509svidRequest { params };
    let results = svids.batch_new_x509svid(request).await?.into_inner().results;
    ensure!(results.len() == wanted, "{} answers", results.len());
    for result in &results {
        if result.svid.is_none() {
            let message = result.status.as_ref().map(|status| status.message.as_str());
            anyhow::bail!("no SVID: {}", message.unwrap_or_default());
        }
    }
    Ok(results)
}

/// One connection's caller.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    svids: SvidClient<Channel>,
    requests: Arc<Vec<rpc::NewX509svidParams>>,
    work: Work,
    next: usize,
}

impl Agent {
    /// Asks for the SVIDs of a full batch from an entry on.
    pub(crate) async fn batch_from(&mut self, first: usize) -> Result<()> {
        self.next = first;
        self.call().await
    }

    async fn once(&mut self) -> Result<()> {
        let count = self.requests.len().max(1);
        match self.work {
            Work::Batch | Work::Single => {
                let wanted = self.next..self.next + self.work.items();
                let params = wanted.filter_map(|number| self.requests.get(number % count).cloned());
                sign(&mut self.svids, params.collect()).await.map(drop)
            }
            Work::Jwt => {
                let params = self.requests.get(self.next % count).context("an entry")?;
                let entry_id = params.entry_id.clone();
                let request = rpc::NewJwtsvidRequest { entry_id, audience: vec![audience()] };
                let reply = self.svids.new_jwtsvid(request).await?.into_inner();
                ensure!(reply.svid.is_some(), "no token in the answer");
                Ok(())
            }
        }
    }
}

impl Caller for Agent {
    async fn call(&mut self) -> Result<()> {
        if let Err(error) = self.once().await {
            {
                let mut again = AGAIN.lock().unwrap_or_else(PoisonError::into_inner);
                *again = (again.0 + 1, format!("{error:#}"));
            }
            self.once().await?;
        }
        self.next += self.work.items();
        Ok(())
    }
}

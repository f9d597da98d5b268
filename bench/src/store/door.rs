//! One way into a system, and the calls that are made through it: the same work in each system's words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message as _;
use steeple_api::pb;
use steeple_api::pb::server::bundle::v1::bundle_client::BundleClient;
use steeple_api::pb::server::entry::v1 as rpc;
use steeple_api::pb::server::entry::v1::entry_client::EntryClient;
use steeple_testkit::cluster::TRUST_DOMAIN;
use tonic::transport::Channel;

use super::etcd::rpc as etcd;
use crate::closed_loop::{self, Caller, Pids, Round};

/// Entries (keys) that reads pick from.
pub(crate) const READABLE: u64 = 1000;

/// A connection to one member of a system.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// To a replica of ours.
    Steeple(Channel),
    /// To a member of etcd. `Work::ReadLocal` reads a value of so many bytes.
    Etcd(Channel),
}

/// What is done in one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One entry is created; one key is put, whose value is the same entry.
    Create,
    /// So many in one call; one transaction.
    CreateBatch(usize),
    /// One of the readable entries under an id that is known is created.
    CreateReadable,
    /// One entry is read, confirmed by a quorum; a linearizable range of one key.
    Read,
    /// The own bundle is read from what the replica has; a serializable range of one key as large.
    ReadLocal,
}

impl Work {
    /// Operations in one call.
    pub(crate) fn items(self) -> usize {
        match self {
            Self::CreateBatch(items) => items,
            Self::Create | Self::CreateReadable | Self::Read | Self::ReadLocal => 1,
        }
    }
}

impl Door {
    /// One call, ended by its answer; an answer that refuses is an error.
    pub(crate) async fn call(&mut self, work: Work, number: u64) -> Result<()> {
        match self {
            Self::Steeple(channel) => steeple(channel.clone(), work, number).await,
            Self::Etcd(channel) => etcd(channel.clone(), work, number).await,
        }
    }
}

/// Numbers everything that is ever written in this process, so that no name comes twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A caller who does one kind of work at a door.
struct Worker {
    door: Door,
    work: Work,
}

impl Caller for Worker {
    async fn call(&mut self) -> Result<()> {
        self.door.call(self.work, next_number()).await
    }
}

/// Lets every door's caller work until the time is over. `pids` are all processes of the system.
pub(crate) async fn load(
    doors: Vec<Door>,
    work: Work,
    slice: Duration,
    pids: &[u32],
) -> Result<Round> {
    let workers = doors.into_iter().map(|door| Worker { door, work }).collect();
    closed_loop::run(workers, work.items(), slice, Pids::whole(pids)).await
}

async fn steeple(channel: Channel, work: Work, number: u64) -> Result<()> {
    match work {
        Work::Create => create(channel, vec![entry(number, 0)]).await,
        Work::CreateBatch(items) => {
            create(channel, (0..items).map(|item| entry(number, item)).collect()).await
        }
        Work::CreateReadable => {
            let id = readable(number);
            create(channel, vec![pb::types::Entry { id, ..entry(number, 0) }]).await
        }
        Work::Read => {
            let request = rpc::GetEntryRequest { id: readable(number), output_mask: None };
            let found = EntryClient::new(channel).get_entry(request).await?.into_inner();
            ensure!(!found.id.is_empty(), "no entry in the answer");
            Ok(())
        }
        Work::ReadLocal => own_bundle(channel).await.map(drop),
    }
}

/// The cluster's own bundle, as one replica has it.
pub(crate) async fn own_bundle(channel: Channel) -> Result<pb::types::Bundle> {
    let request = pb::server::bundle::v1::GetBundleRequest { output_mask: None };
    Ok(BundleClient::new(channel).get_bundle(request).await?.into_inner())
}

async fn create(channel: Channel, entries: Vec<pb::types::Entry>) -> Result<()> {
    let count = entries.len();
    let request = rpc::BatchCreateEntryRequest { entries, output_mask: None };
    let reply = EntryClient::new(channel).batch_create_entry(request).await?.into_inner();
    ensure!(reply.results.len() == count, "{} answers", reply.results.len());
    for status in reply.results.into_iter().filter_map(|result| result.status) {
        ensure!(status.code == 0, "{}", status.message);
    }
    Ok(())
}

async fn etcd(channel: Channel, work: Work, number: u64) -> Result<()> {
    let mut kv = etcd::kv_client::KvClient::new(channel);
    match work {
        Work::Create => kv.put(put(number, 0)).await.map(drop)?,
        Work::CreateReadable => {
            let key = readable(number).into_bytes();
            kv.put(etcd::PutRequest { key, ..put(number, 0) }).await.map(drop)?;
        }
        Work::CreateBatch(items) => {
            let success = (0..items).map(|item| etcd::RequestOp {
                request: Some(etcd::request_op::Request::RequestPut(put(number, item))),
            });
            let request = etcd::TxnRequest { success: success.collect() };
            ensure!(kv.txn(request).await?.into_inner().succeeded, "the transaction did nothing");
        }
        Work::Read => range(kv, readable(number), false).await?,
        Work::ReadLocal => range(kv, BUNDLE_KEY.to_owned(), true).await?,
    }
    Ok(())
}

/// Under which etcd has a value of the own bundle's size.
pub(crate) const BUNDLE_KEY: &str = "bundle";

async fn range(
    mut kv: etcd::kv_client::KvClient<Channel>,
    key: String,
    serializable: bool,
) -> Result<()> {
    let request = etcd::RangeRequest { key: key.into_bytes(), serializable };
    ensure!(kv.range(request).await?.into_inner().count == 1, "the key is not there");
    Ok(())
}

fn put(number: u64, item: usize) -> etcd::PutRequest {
    let entry = entry(number, item);
    let path = entry.spiffe_id.as_ref().map(|id| id.path.clone()).unwrap_or_default();
    etcd::PutRequest { key: path.into_bytes(), value: entry.encode_to_vec() }
}

fn readable(number: u64) -> String {
    format!("readable-{}", number % READABLE)
}

/// An entry with two selectors, as most have.
fn entry(number: u64, item: usize) -> pb::types::Entry {
    let id = |path: String| pb::types::Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path };
    let selector = |value: String| pb::types::Selector { r#type: "k8s".to_owned(), value };
    pb::types::Entry {
        spiffe_id: Some(id(format!("/ns/bench/sa/workload-{number}-{item}"))),
        // A hundred workloads an agent.
        parent_id: Some(id(format!("/spire/agent/node-{}", number / 100))),
        selectors: vec![
            selector("ns:bench".to_owned()),
            selector(format!("sa:workload-{number}-{item}")),
        ],
        x509_svid_ttl: 3600,
        ..pb::types::Entry::default()
    }
}

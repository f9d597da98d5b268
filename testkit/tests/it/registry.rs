//! Writers that remember what was acknowledged, and the check that nothing of it was lost.
//!
//! An outcome is acknowledged, refused or unknown. What is unknown may have happened or not, so its
//! entry is left out of the check; everything else must be exactly as it was said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steeple_api::pb;
use steeple_testkit::client::unix_channel;
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, cluster};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Exists,
    Gone,
    Unknown,
}

/// Everything that writers were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<String, Known>>>);

impl Ledger {
    fn set(&self, id: &str, known: Known) {
        self.0.lock().unwrap().insert(id.to_owned(), known);
    }

    /// How many outcomes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.0.lock().unwrap().values().filter(|known| **known != Known::Unknown).count()
    }

    /// Each of these members has all that was acknowledged, which is more than so many outcomes.
    pub(crate) async fn is_kept_by(
        &self,
        cluster: &Cluster,
        members: impl IntoIterator<Item = usize>,
        more_than: usize,
    ) {
        let acknowledged = self.acknowledged();
        assert!(acknowledged > more_than, "only {acknowledged} acknowledged outcomes");
        for member in members {
            let listed = listed(cluster, member).await;
            self.check(&listed).unwrap_or_else(|wrong| panic!("member {member}:\n{wrong}"));
        }
    }

    /// Compares what a replica lists with what was acknowledged.
    pub(crate) fn check(&self, listed: &BTreeSet<String>) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (id, known) in self.0.lock().unwrap().iter() {
            match (known, listed.contains(id)) {
                (Known::Exists, false) => {
                    wrong.push(format!("{id}: created and acknowledged, but lost"))
                }
                (Known::Gone, true) => {
                    wrong.push(format!("{id}: deleted and acknowledged, but back"))
                }
                (Known::Exists, true) | (Known::Gone, false) | (Known::Unknown, _) => {}
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

/// Writers that create entries one after the other and delete every third again.
#[derive(Debug)]
pub(crate) struct Writers {
    ledger: Ledger,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts so many; a ledger may have gone through earlier ones.
    pub(crate) fn start(cluster: &Cluster, count: usize, prefix: &str, ledger: &Ledger) -> Self {
        let mut writers =
            Self { ledger: ledger.clone(), stop: watch::channel(false).0, tasks: Vec::new() };
        writers.more(cluster, count, prefix);
        writers
    }

    /// Starts more of them, which know the members of now. Their ids start with the prefix.
    pub(crate) fn more(&mut self, cluster: &Cluster, count: usize, prefix: &str) {
        let channels: Vec<Channel> =
            cluster.members().iter().map(|member| unix_channel(&member.socket())).collect();
        self.tasks.extend((0..count).map(|writer| {
            let (channels, stop) = (channels.clone(), self.stop.subscribe());
            let prefix = format!("{prefix}w{writer}");
            tokio::spawn(write(writer, prefix, channels, self.ledger.clone(), stop))
        }));
    }

    /// Has them end after the call they are in.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn write(
    writer: usize,
    prefix: String,
    channels: Vec<Channel>,
    ledger: Ledger,
    stop: watch::Receiver<bool>,
) {
    for number in 0.. {
        if *stop.borrow() {
            return;
        }
        let id = format!("{prefix}-{number}");
        let channel = channels[(writer + number) % channels.len()].clone();
        let created = create(channel.clone(), &id).await;
        ledger.set(&id, created);
        if created == Known::Exists && number % 3 == 0 {
            ledger.set(&id, Known::Unknown);
            ledger.set(&id, delete(channel, &id).await);
        }
        if created == Known::Unknown {
            // The replica is gone or has no quorum: do not spin.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How long a writer waits for an answer before it calls the outcome unknown.
const ANSWER: Duration = Duration::from_secs(5);

async fn create(channel: Channel, id: &str) -> Known {
    let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel);
    let spiffe_id =
        |path: String| pb::types::Spiffeid { trust_domain: cluster::TRUST_DOMAIN.to_owned(), path };
    let entry = pb::types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(spiffe_id(format!("/load/{id}"))),
        parent_id: Some(spiffe_id("/parent".to_owned())),
        selectors: vec![pb::types::Selector {
            r#type: "unix".to_owned(),
            value: format!("user:{id}"),
        }],
        ..pb::types::Entry::default()
    };
    let request =
        pb::server::entry::v1::BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    match tokio::time::timeout(ANSWER, entries.batch_create_entry(request)).await {
        Ok(Ok(reply)) => {
            match reply.into_inner().results[0].status.as_ref().map(|status| status.code) {
                Some(0) => Known::Exists,
                _ => Known::Unknown,
            }
        }
        Ok(Err(_)) | Err(_) => Known::Unknown,
    }
}

async fn delete(channel: Channel, id: &str) -> Known {
    let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel);
    let request = pb::server::entry::v1::BatchDeleteEntryRequest { ids: vec![id.to_owned()] };
    match tokio::time::timeout(ANSWER, entries.batch_delete_entry(request)).await {
        Ok(Ok(reply)) => {
            match reply.into_inner().results[0].status.as_ref().map(|status| status.code) {
                Some(0) => Known::Gone,
                _ => Known::Unknown,
            }
        }
        Ok(Err(_)) | Err(_) => Known::Unknown,
    }
}

/// Every entry id that a member lists, once it has a quorum.
pub(crate) async fn listed(cluster: &Cluster, index: usize) -> BTreeSet<String> {
    let channel = unix_channel(&cluster.member(index).unwrap().socket());
    wait_for("a member to list entries", Duration::from_secs(30), async || {
        let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel.clone())
            .max_decoding_message_size(64 * 1024 * 1024);
        let mask = pb::types::EntryMask::default();
        let request = pb::server::entry::v1::ListEntriesRequest {
            output_mask: Some(mask),
            ..Default::default()
        };
        let reply = tokio::time::timeout(ANSWER, entries.list_entries(request)).await??;
        Ok(reply.into_inner().entries.into_iter().map(|entry| entry.id).collect())
    })
    .await
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_returns_are_found_and_unknown_outcomes_are_not_judged() {
        let ledger = Ledger::default();
        ledger.set("kept", Known::Exists);
        ledger.set("gone", Known::Gone);
        ledger.set("maybe", Known::Unknown);
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        assert!(ledger.check(&set(&["kept"])).is_ok());
        assert!(ledger.check(&set(&["kept", "maybe"])).is_ok());
        assert!(ledger.check(&set(&[])).unwrap_err().contains("kept: created"));
        assert!(ledger.check(&set(&["kept", "gone"])).unwrap_err().contains("gone: deleted"));
    }
}

//! The four kinds of work that go on while the leader dies.
//!
//! Each operation retries until its deadline and turns to the next replica when one does not answer,
//! as real clients do.

use anyhow::{Context, Result, ensure};
use spiffe::WorkloadApiClient;
use steeple_api::pb;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use steeple_testkit::cluster::TRUST_DOMAIN;
use steeple_testkit::issuing::{self, again, retry};
use steeple_testkit::load::Attempts;

/// What the operations work on.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    /// Channels of an attested client, one a replica.
    pub(super) issuers: Vec<Channel>,
    /// The id of the entry that the attested client may ask for.
    pub(super) entry_id: String,
    /// The agent's Workload API.
    pub(super) endpoint: String,
    /// The admin socket's channel of each replica.
    pub(super) admin: Vec<Channel>,
}

impl Targets {
    /// The same work, with issuance asked of the given replicas only.
    pub(super) fn on(mut self, channels: &[Channel]) -> Self {
        self.issuers = channels.to_vec();
        self
    }

    /// BatchNewX509SVID with a new key.
    pub(super) async fn issue(
        self,
        number: u64,
        deadline: Instant,
        attempts: Attempts,
    ) -> Result<()> {
        issuing::issue(&self.issuers, &self.entry_id, number, deadline, &attempts).await
    }

    /// A JWT-SVID for an audience that nobody has asked for, so that no cache can answer.
    pub(super) async fn jwt(
        self,
        number: u64,
        deadline: Instant,
        attempts: Attempts,
    ) -> Result<()> {
        let audience = format!("audience-{number}");
        again(deadline, &attempts, async || {
            let client = WorkloadApiClient::connect_to(&self.endpoint).await?;
            let svid = client.fetch_jwt_svid([audience.as_str()], None).await?;
            ensure!(svid.audience().contains(&audience), "token for another audience");
            Ok(())
        })
        .await
    }

    /// A new Workload API connection and a fetch on it.
    pub(super) async fn fetch(
        self,
        _number: u64,
        deadline: Instant,
        attempts: Attempts,
    ) -> Result<()> {
        again(deadline, &attempts, async || {
            let client = WorkloadApiClient::connect_to(&self.endpoint).await?;
            let context = client.fetch_x509_context().await?;
            ensure!(context.default_svid().is_some(), "no SVID");
            Ok(())
        })
        .await
    }

    /// Creates an entry (even numbers) or deletes the one before (odd numbers).
    pub(super) async fn entry(
        self,
        number: u64,
        deadline: Instant,
        attempts: Attempts,
    ) -> Result<()> {
        if number.is_multiple_of(2) {
            self.create_entry(number, deadline, &attempts).await
        } else {
            self.delete_entry(number, deadline, &attempts).await
        }
    }

    async fn create_entry(
        &self,
        number: u64,
        deadline: Instant,
        attempts: &Attempts,
    ) -> Result<()> {
        let entry = load_entry(number);
        let request_id = request_id();
        retry(&self.admin, number, deadline, attempts, async |channel| {
            let body = pb::server::entry::v1::BatchCreateEntryRequest {
                entries: vec![entry.clone()],
                output_mask: None,
            };
            let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel);
            let reply = entries.batch_create_entry(with_id(body, &request_id)?).await?.into_inner();
            let status = reply.results.into_iter().next().and_then(|result| result.status);
            let status = status.context("no status")?;
            ensure!(status.code == 0, "{}: {}", status.code, status.message);
            Ok(())
        })
        .await
    }

    async fn delete_entry(
        &self,
        number: u64,
        deadline: Instant,
        attempts: &Attempts,
    ) -> Result<()> {
        // The create of the number before may still be under way: then there is nothing to delete
        // yet, and asking again is right until the deadline.
        let id = load_entry(number - 1).id;
        let mut request_id = request_id();
        retry(&self.admin, number, deadline, attempts, async |channel| {
            let body = pb::server::entry::v1::BatchDeleteEntryRequest { ids: vec![id.clone()] };
            let mut entries = pb::server::entry::v1::entry_client::EntryClient::new(channel);
            let reply = entries.batch_delete_entry(with_id(body, &request_id)?).await?.into_inner();
            let status = reply.results.into_iter().next().and_then(|result| result.status);
            let status = status.context("no status")?;
            if status.code == Code::NotFound as i32 {
                // That was an answer; a new question needs a new id.
                request_id = self::request_id();
            }
            ensure!(status.code == 0, "{}: {}", status.code, status.message);
            Ok(())
        })
        .await
    }
}

/// An entry of the load: many ids, one parent that no agent has.
fn load_entry(number: u64) -> pb::types::Entry {
    let id = |path: String| pb::types::Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path };
    pb::types::Entry {
        id: format!("load-{number}"),
        spiffe_id: Some(id(format!("/load/{number}"))),
        parent_id: Some(id("/load-parent".to_owned())),
        selectors: vec![pb::types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{}", 100_000 + number),
        }],
        ..pb::types::Entry::default()
    }
}

/// Eight bytes for the revision seen (none), eight drawn.
fn request_id() -> String {
    use steeple_spiffe_core::random::{Random as _, SystemRandom};
    let drawn = SystemRandom.u64().to_be_bytes();
    [[0; 8], drawn].concat().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_id<T>(body: T, request_id: &str) -> Result<Request<T>> {
    let mut request = Request::new(body);
    request.metadata_mut().insert("steeple-request-id", MetadataValue::try_from(request_id)?);
    Ok(request)
}
